package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseWrk(t *testing.T) {
	const head = `Running 2s test @ http://127.0.0.1:1/v2/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    65.53ms   15.32ms 100.60ms   80.00%
    Req/Sec   248.35     48.12   323.00     60.00%
  507 requests in 2.04s, 121.04KB read
`
	const tail = `Requests/sec:    248.21
Transfer/sec:     59.26KB
`
	for _, c := range []struct {
		name, out string
		want      wrkResult
	}{
		{"good", head + tail, wrkResult{Rate: 248.21, Requests: 507}},
		{"errors", head + "  Non-2xx or 3xx responses: 251\n" + tail, wrkResult{248.21, 507, 251}},
		{"broken connections", head + "  Socket errors: connect 1, read 2, write 3, timeout 4\n" + tail, wrkResult{248.21, 507, 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parseWrk(c.out); err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
	if got, err := parseWrk("unable to connect to 127.0.0.1:1 Connection refused\n"); err == nil {
		t.Errorf("got %+v from a run that failed, want an error", got)
	}
}

func TestTurns(t *testing.T) {
	a, b, c := &server{name: "a"}, &server{name: "b"}, &server{name: "c"}
	f := fleet{a, b, c}
	for repetition, want := range []fleet{{a, b, c}, {b, c, a}, {c, a, b}, {a, b, c}} {
		if got := f.turns(repetition); !slices.Equal(got, want) {
			t.Errorf("repetition %d begins with %s, want %s", repetition, got[0].name, want[0].name)
		}
	}
}

func TestStrippedSize(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(exe)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strippedSize(exe); err != nil || n <= 0 || n > info.Size() {
		t.Errorf("got %d, %v; want some of %d bytes", n, err, info.Size())
	}
}

func TestModifiedSince(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, modified := range map[string]time.Time{"old": now.Add(-time.Hour), "new": now.Add(time.Hour)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, modified, modified); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(dir, now.Add(-time.Hour), now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n, err := modifiedSince(dir, now); err != nil || n != 1 {
		t.Errorf("got %d, %v; want 1", n, err)
	}
}

func TestZotConfig(t *testing.T) {
	raw, err := zotConfig("127.0.0.1:8000", "/data", "http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		HTTP       struct{ Address, Port string }
		Extensions struct {
			Sync struct {
				Registries []struct {
					URLs     []string
					OnDemand bool
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	if c.HTTP.Port != "8000" || len(c.Extensions.Sync.Registries) != 1 || !c.Extensions.Sync.Registries[0].OnDemand {
		t.Errorf("got %s", raw)
	}
}

// TestWatcher has an admin address with metrics and without a dashboard.
func TestWatcher(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
		}
	}))
	defer admin.Close()
	w := &watcher{}
	ctx, cancel := context.WithCancel(t.Context())
	scraped := make(chan error)
	go func() { scraped <- w.scrape(ctx, admin.URL+"/metrics") }()
	for w.scrapes.Load() == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-scraped; err != nil {
		t.Errorf("reading metrics: %v", err)
	}
	err := w.look(t.Context(), admin.URL+"/events")
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("the error is %v, want one that says that there is no dashboard", err)
	}
}
