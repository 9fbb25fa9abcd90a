package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"registry-module/config"
	"registry-module/upstream/upstreamtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Of the embedded app, one for each, or for each of its endpoints, which cannot be
		// stopped.
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"),
		goleak.IgnoreAnyFunction("github.com/distribution/distribution/v3/notifications.(*eventQueue).run"),
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*RetryingSink).Write"))
}

// command runs the program with args and returns what it printed.
func command(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestDemo(t *testing.T) {
	out, _, err := command(t, "demo", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []demoRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(rows) < 3 {
		t.Errorf("%d images", len(rows))
	}
	for _, r := range rows {
		if r.WarmRequests != 0 || r.ColdRequests == 0 || !r.OfflineAvailable {
			t.Errorf("%+v", r)
		}
		// Manifests and error bodies come on top of layers and configuration.
		if r.UpstreamBytes < r.Bytes || r.UpstreamBytes > r.Bytes+64<<10 || r.ServedBytes != 3*r.Bytes {
			t.Errorf("%s: %d bytes from upstream and %d served, for %d a pull", r.Image, r.UpstreamBytes, r.ServedBytes, r.Bytes)
		}
	}
	out, progress, err := command(t, "demo")
	if err != nil || !strings.Contains(out, "upstream requests cold") || !strings.Contains(progress, "remote off") {
		t.Errorf("%v, printed\n%s\n%s", err, out, progress)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"serve", "a", "b"}, {"serve", "--no-such-flag"}, {"demo", "x"}, {"demo", "-o", "xml"},
		{"version", "x"}, {"version", "-o", "xml"}, {"no-such-command"},
	} {
		_, _, err := command(t, args...)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%v: error %v, want one of usage", args, err)
		}
	}
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"demo", "--help"}, {"version", "--help"}, {"doctor", "--help"}, {"bindings", "--help"}, {"bindings", "rm", "--help"}} {
		out, _, err := command(t, args...)
		if err != nil || len(args) == 2 && !strings.Contains(out, "Examples:") {
			t.Errorf("%v: %v, printed\n%s", args, err, out)
		}
	}
}

func TestVersion(t *testing.T) {
	out, _, err := command(t, "version", "-o", "json")
	var v map[string]string
	if err != nil || json.Unmarshal([]byte(out), &v) != nil || v["version"] != version {
		t.Errorf("%v, %s", err, out)
	}
}

// All mistakes of a configuration come at once.
func TestServeRefusesBadConfiguration(t *testing.T) {
	t.Setenv("REGISTRY_PROXY_REMOTEURL", "ftp://registry.test")
	t.Setenv("REGISTRY_PROXY_TAGTTL", "soon")
	t.Setenv("REGISTRY_CACHE_MAXSIZE", "lots")
	_, _, err := command(t, "serve")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"REGISTRY_PROXY_REMOTEURL", "REGISTRY_PROXY_TAGTTL", "REGISTRY_CACHE_MAXSIZE"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in: %v", want, err)
		}
	}
}

// testConfig is a configuration in a directory of the test's, for the remote at
// host if that is not empty.
func testConfig(t *testing.T, dir, host string) *config.Config {
	t.Helper()
	addr := freeAddr(t)
	cfg := &config.Config{
		Stock:     &configuration.Configuration{},
		DataDir:   dir,
		Net:       "tcp",
		Addr:      addr,
		AdminAddr: freeAddr(t, addr),
	}
	if host != "" {
		cfg.Remotes = []config.Remote{{URL: &url.URL{Scheme: "http", Host: host}, Default: true, TagTTL: time.Hour}}
	}
	return cfg
}

// freeAddr is an address that nobody listens at, and none of taken. It is none of those that
// the kernel gives to who connects (ip_local_port_range), or it might be taken before we
// listen.
func freeAddr(t *testing.T, taken ...string) string {
	t.Helper()
	const first, below = 10_000, 32_768
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(below-first))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue // it is taken
		}
		_ = ln.Close() // only its number is of interest
		if !slices.Contains(taken, addr) {
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// serving runs the program until stop is called.
func serving(t *testing.T, cfg *config.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, cfg, reloading{}) }()
	waitUntilServing(t, cfg.AdminAddr, done)
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// waitUntilServing tries to connect until it succeeds: the kernel answers for a
// listener before anything is served.
func waitUntilServing(t *testing.T, addr string, done <-chan error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + addr + "/healthz")
		if err == nil {
			_ = resp.Body.Close() // nothing of it is of interest
			http.DefaultClient.CloseIdleConnections()
			return
		}
		select {
		case err := <-done:
			t.Fatalf("the program has ended: %v", err)
		case <-tick.C:
		}
	}
}

// The whole program on its real parts: a cold pull, a warm one, a restart
// without the remote, and one without any configured.
func TestServe(t *testing.T) {
	quiet(t)
	up := upstreamtest.New(t)
	image := up.AddRandomImage("team/app", "v1", 3, 100<<10)
	dir := t.TempDir()
	cfg := testConfig(t, dir, up.Host())

	pull := func() error {
		ref, err := name.ParseReference(cfg.Addr+"/team/app:v1", name.Insecure)
		if err != nil {
			return err
		}
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		img, err := remote.Image(ref, remote.WithContext(t.Context()), remote.WithTransport(tr))
		if err != nil {
			return err
		}
		if dgst, err := img.Digest(); err != nil || dgst.String() != image.Digest.String() {
			t.Errorf("digest %s, %v, want %s", dgst, err, image.Digest)
		}
		return validate.Image(img)
	}

	stop := serving(t, cfg)
	for range 2 {
		if err := pull(); err != nil {
			t.Fatal(err)
		}
	}
	if n := up.Requests(upstreamtest.BlobGet); n != 4 {
		t.Errorf("%d downloads, want those of three layers and the configuration", n)
	}
	cold := up.Requests()
	wantMetric(t, cfg.AdminAddr, `registry_module_upstream_requests_total{op="blob",remote="`+up.Host()+`",result="ok"} 4`)
	stop()

	up.Offline()
	stop = serving(t, cfg)
	if err := pull(); err != nil {
		t.Errorf("without network: %v", err)
	}
	stop()

	stop = serving(t, testConfigAt(t, cfg, func(c *config.Config) { c.Remotes = nil }))
	if err := pull(); err != nil {
		t.Errorf("without a remote: %v", err)
	}
	stop()
	if up.Requests() != cold {
		t.Errorf("%d requests to the remote, want the %d of the cold pull", up.Requests(), cold)
	}

	stop = serving(t, testConfigAt(t, cfg, func(c *config.Config) {
		c.Remotes[0].URL = &url.URL{Scheme: "http", Host: "elsewhere.test"}
		c.Offline = true
	}))
	defer stop()
	if err := pull(); err == nil {
		t.Error("the images of one remote are served as those of another")
	}
}

// wantMetric checks that the admin address serves line.
func wantMetric(t *testing.T, addr, line string) {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), line+"\n") {
		t.Errorf("%v, %q is not in\n%s", err, line, body)
	}
}

// testConfigAt is cfg with a change.
func testConfigAt(t *testing.T, cfg *config.Config, change func(*config.Config)) *config.Config {
	t.Helper()
	c := *cfg
	change(&c)
	return &c
}

// quiet keeps the program's log, which goes to standard output, out of the
// test's.
func quiet(t *testing.T) {
	t.Helper()
	out := os.Stdout
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = null
	t.Cleanup(func() {
		os.Stdout = out
		logrus.SetOutput(io.Discard)
		_ = null.Close() // nothing is in it
	})
}

// A program that cannot work ends with the reason, and leaves nothing behind.
func TestServeCannotStart(t *testing.T) {
	quiet(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"address taken":       {func(c *config.Config) { c.Addr = taken.Addr().String() }, "REGISTRY_HTTP_ADDR"},
		"admin address taken": {func(c *config.Config) { c.AdminAddr = taken.Addr().String() }, "REGISTRY_HTTP_DEBUG_ADDR"},
		"data directory":      {func(c *config.Config) { c.DataDir = filepath.Join(file, "x") }, "data directory"},
		"no certificate":      {func(c *config.Config) { c.Stock.HTTP.TLS.Certificate = file }, "http.tls.certificate"},
		"no htpasswd": {func(c *config.Config) {
			c.Stock.Auth = configuration.Auth{"htpasswd": {"realm": "x", "path": file + "x"}}
		}, "htpasswd"},
		"client authority": {func(c *config.Config) {
			c.Remotes = []config.Remote{{URL: &url.URL{Scheme: "https", Host: "x.test"}, Default: true, CAFile: file}}
		}, "x.test"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir(), "")
			tt.change(cfg)
			err := serve(t.Context(), cfg, reloading{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that names %s", err, tt.want)
			}
		})
	}
}
