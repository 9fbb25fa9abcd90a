package server_test

import (
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/metrics"
	"registry-module/server"
	"registry-module/server/pulls"
)

// nowhere takes an answer and keeps nothing of it.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n nowhere) WriteHeader(int)             {}

func (n nowhere) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkStoredManifest answers from the store: by tag and by digest, with and without
// a line in the log for each request, and with and without observers. On a machine that does
// other things as well, cpu-ns/op is the figure to compare.
func BenchmarkStoredManifest(b *testing.B) {
	none := func(*server.Options) {}
	for _, bb := range []struct {
		name     string
		byDigest bool
		logging  bool
		adjust   func(*server.Options)
	}{
		{"tag", false, false, none},
		{"tag, observed", false, false, observed},
		{"digest", true, false, none},
		{"digest, observed", true, false, observed},
		{"tag, logged", false, true, none},
		{"tag, logged, observed", false, true, observed},
	} {
		b.Run(bb.name, func(b *testing.B) { benchmarkManifest(b, bb.byDigest, bb.logging, bb.adjust) })
	}
}

// observed has the observers of a program.
func observed(o *server.Options) {
	o.Observer = server.Observers{
		metrics.NewAnswers(metrics.AnswersOptions{Remotes: []string{"upstream.test", "second.test:5000"}}),
		pulls.New(pulls.Options{}), // it has nothing to close but a timer
	}
}

// cpuTime is how much of the processors this process has had.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmarkManifest(b *testing.B, byDigest, logging bool, adjust ...func(*server.Options)) {
	s := newSite(b)
	h := s.newHandler(b, append(adjust, func(o *server.Options) {
		o.Config = new(configuration.Configuration)
		o.Config.Log.AccessLog.Disabled = !logging
	})...)
	path := "/v2/a/b/manifests/v1"
	if byDigest {
		path = "/v2/a/b/manifests/" + s.image.String()
	}
	warm := httptest.NewRecorder()
	h.ServeHTTP(warm, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v2/a/b/manifests/v1", nil))
	if warm.Code != http.StatusOK {
		b.Fatalf("status %d", warm.Code)
	}
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil)
	r.Header.Set("User-Agent", "containerd/v2.1.0")
	w := nowhere{make(http.Header)}
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}
