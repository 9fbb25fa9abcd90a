package server_test

import (
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"

	"registry-module/metrics"
	"registry-module/server"
	"registry-module/server/pulls"
)

// BenchmarkOverLoopback is [BenchmarkStoredManifest] over real connections: wrk asks as
// fast as it can on 16, from a process of its own. Each variant takes turns with one that
// nobody looks at. The figures are what the server alone has used of the processors
// (cpu-µs/req), and how much that is more than without (more-%). Of several measurements
// it is the least: what else runs on the machine makes them larger, and never smaller. It
// is skipped where there is no wrk:
//
//	go test ./server -run '^$' -bench OverLoopback -benchtime 9x
func BenchmarkOverLoopback(b *testing.B) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Skip("there is no wrk to send requests with")
	}
	counted := metrics.NewAnswers(metrics.AnswersOptions{Remotes: []string{"upstream.test", "second.test:5000"}})
	pulled := pulls.New(pulls.Options{})
	b.Cleanup(func() { must(b, pulled.Close()) })
	for _, bb := range []struct {
		name     string
		byDigest bool
		observer server.Observer
		logging  bool
	}{
		{"digest, nobody", true, nil, false}, // what is noise
		{"digest, metrics", true, counted, false},
		{"digest, pulls", true, pulled, false},
		{"digest, both", true, server.Observers{counted, pulled}, false},
		{"digest, both, logged", true, server.Observers{counted, pulled}, true},
		{"tag, both", false, server.Observers{counted, pulled}, false},
		{"tag, both, logged", false, server.Observers{counted, pulled}, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := newSite(b)
			path := "/v2/a/b/manifests/v1"
			answer := httpGet(b, s.url+path)
			if bb.byDigest {
				path = "/v2/a/b/manifests/" + answer.Get("Docker-Content-Digest")
			}
			plain := overLoopback(b, s.newHandler(b, logRequests(b, false))) + path
			looked := overLoopback(b, s.newHandler(b, logRequests(b, bb.logging), func(o *server.Options) { o.Observer = bb.observer })) + path
			with, without := math.Inf(1), math.Inf(1)
			for b.Loop() {
				without = min(without, costOf(b, wrk, plain))
				with = min(with, costOf(b, wrk, looked))
			}
			b.ReportMetric(with, "cpu-µs/req")
			b.ReportMetric(100*(with/without-1), "more-%")
			b.ReportMetric(0, "ns/op") // it is as long as it is told to be
		})
	}
}

// logRequests has requests logged to a file, or not.
func logRequests(b *testing.B, on bool) func(*server.Options) {
	return func(o *server.Options) {
		o.Config = new(configuration.Configuration)
		if o.Config.Log.AccessLog.Disabled = !on; !on {
			return
		}
		file, err := os.Create(filepath.Join(b.TempDir(), "log"))
		must(b, err)
		b.Cleanup(func() { must(b, file.Close()) })
		log := logrus.New()
		log.SetOutput(file)
		log.SetFormatter(&logrus.TextFormatter{TimestampFormat: time.RFC3339Nano, FullTimestamp: true}) // as the program has it
		o.Log = logrus.NewEntry(log)
	}
}

// overLoopback has h reached at the returned URL.
func overLoopback(b *testing.B, h http.Handler) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	srv, done := &http.Server{Handler: h}, make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	b.Cleanup(func() {
		must(b, srv.Close())
		<-done
	})
	return "http://" + l.Addr().String()
}

func httpGet(b *testing.B, url string) http.Header {
	resp, err := http.Get(url)
	must(b, err)
	must(b, resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		b.Fatal(resp.Status)
	}
	return resp.Header
}

// costOf is how many µs of the processors this process needs for a request, of many.
func costOf(b *testing.B, wrk, url string) float64 {
	before := cpuTime(b)
	out, err := exec.CommandContext(b.Context(), wrk, "-t1", "-c16", "-d1s", url).CombinedOutput()
	cpu := cpuTime(b) - before
	found := regexp.MustCompile(`(?m)^\s*(\d+) requests in `).FindSubmatch(out)
	if err != nil || found == nil || regexp.MustCompile(`Non-2xx|Socket errors`).Match(out) {
		b.Fatalf("wrk: %v\n%s", err, out)
	}
	n, err := strconv.Atoi(string(found[1]))
	must(b, err)
	return float64(cpu.Microseconds()) / float64(n)
}
