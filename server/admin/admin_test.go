package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

// What is there is there, and nothing else, by the right methods only.
func TestRoutes(t *testing.T) {
	text := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) })
	}
	full := New(Options{
		Health: text("well"), Metrics: text("metrics"), MetricsPath: "/prometheus", Pprof: true, SeedJobs: text("seed"),
		Page: func(s *Server) http.Handler {
			if s == nil {
				t.Error("the page gets no server")
			}
			return text("page")
		},
	})
	defer full.Close()
	bare := New(Options{})
	defer bare.Close()
	tests := []struct {
		server       *Server
		method, path string
		status       int
		body         string // in it
	}{
		{full, "GET", "/", 200, "page"},
		{full, "GET", "/assets/app.js", 200, "page"},
		{full, "POST", "/", 405, ""},
		{full, "GET", "/healthz", 200, "well"},
		{full, "HEAD", "/healthz", 200, ""},
		{full, "POST", "/healthz", 405, ""},
		{full, "GET", "/readyz", 200, "ready\n"},
		{full, "GET", "/prometheus", 200, "metrics"},
		{full, "GET", "/metrics", 404, ""},
		{full, "GET", "/state", 200, `"actions":false`},
		{full, "PUT", "/state", 405, ""},
		{full, "GET", "/images", 200, `"images":[]`},
		{full, "GET", "/images?sort=colour", 400, "name, size, used, pinned"},
		{full, "HEAD", "/events", 200, ""},
		{full, "DELETE", "/events", 405, ""},
		{full, "POST", "/seed", 200, "seed"},
		{full, "GET", "/seed", 405, ""},
		{full, "GET", "/actions/pin", 405, ""},
		{full, "POST", "/actions/destroy", 404, ""},
		{full, "POST", "/actions/pin", 403, "REGISTRY_ADMIN_TOKENFILE"},
		{full, "GET", "/debug/pprof/", 200, "goroutine"},
		{full, "GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{full, "GET", "/debug/pprof/cmdline", 404, ""},
		{full, "GET", "/debug/pprof/profile?seconds=61", 400, "from 1 to 60"},
		{full, "GET", "/debug/pprof/profile?seconds=x", 400, ""},
		{full, "GET", "/v2/", 404, ""},
		{full, "GET", "/.git/config", 404, ""},
		{bare, "GET", "/", 404, ""},
		{bare, "GET", "/healthz", 200, "ok\n"},
		{bare, "GET", "/metrics", 404, ""},
		{bare, "GET", "/debug/pprof/", 404, ""},
		{bare, "GET", "/debug/pprof/heap", 404, ""},
		{bare, "POST", "/seed", 404, ""},
		{bare, "GET", "/state", 200, `"remotes":[]`},
	}
	for _, tt := range tests {
		w := send(t, tt.server, tt.method, tt.path, "")
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s %s: status %d, %q, want %d with %q", tt.method, tt.path, w.Code, w.Body, tt.status, tt.body)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": contentSecurityPolicy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s %s: %s: %s", tt.method, tt.path, name, got)
			}
		}
		if got := w.Header().Get("Cache-Control"); got == "" && !strings.HasPrefix(tt.path, "/assets/") {
			t.Errorf("%s %s may be kept", tt.method, tt.path)
		}
	}
	if strings.Contains(contentSecurityPolicy, "unsafe") {
		t.Error(contentSecurityPolicy)
	}
}

// One profile is made at a time.
func TestProfilesOneAtATime(t *testing.T) {
	s := New(Options{Pprof: true})
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	begun, done := make(chan struct{}), make(chan struct{})
	w := &firstWrite{ResponseRecorder: httptest.NewRecorder(), begun: begun}
	go func() {
		defer close(done)
		s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/debug/pprof/trace?seconds=60", nil))
	}()
	<-begun
	if w := get(t, s, "/debug/pprof/heap"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, %v", w.Code, w.Header())
	}
	cancel()
	<-done
	if w := get(t, s, "/debug/pprof/heap"); w.Code != http.StatusOK {
		t.Errorf("status %d", w.Code)
	}
}

// firstWrite tells when something is written.
type firstWrite struct {
	*httptest.ResponseRecorder
	once  sync.Once
	begun chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	return len(p), nil
}

// What remotes do never makes it unready.
func TestReady(t *testing.T) {
	var reasons, warnings []string
	s := New(Options{
		Ready:   func() ([]string, []string) { return reasons, warnings },
		Remotes: func() []Remote { return []Remote{{Host: "a.example.com", State: "offline"}} },
	})
	defer s.Close()
	check := func(status int, text, body string) {
		t.Helper()
		w := get(t, s, "/readyz")
		if w.Code != status || w.Body.String() != text {
			t.Errorf("status %d, %q, want %d, %q", w.Code, w.Body, status, text)
		}
		if w := get(t, s, "/readyz", "Accept", "application/json"); w.Code != status || strings.TrimSpace(w.Body.String()) != body {
			t.Errorf("status %d, %q, want %d, %q", w.Code, w.Body, status, body)
		}
	}
	check(200, "ready\n", `{"ready":true}`)
	warnings = []string{"the storage is read-only"}
	check(200, "ready\nwarning: the storage is read-only\n", `{"ready":true,"warnings":["the storage is read-only"]}`)
	reasons = []string{"the store\nis not open"}
	check(503, "the store is not open\nwarning: the storage is read-only\n", `{"ready":false,"reasons":["the store is not open"],"warnings":["the storage is read-only"]}`)
	reasons, warnings = nil, nil
	s.Stop()
	check(503, "the module is stopping\n", `{"ready":false,"reasons":["the module is stopping"]}`)
	if state := s.State(t.Context()); state.Ready || !slices.Equal(state.NotReady, []string{"the module is stopping"}) {
		t.Errorf("%+v", state)
	}
	if w := get(t, s, "/healthz"); w.Code != http.StatusOK {
		t.Errorf("status %d", w.Code)
	}
}

// A State has what the parts say, and what is built once serves all who look within a second.
func TestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, fetched, looked := time.Now(), int64(0), 0
		place := cache.Place{Host: "a.example.com", Repo: "team/app"}
		rec := NewRecorder(RecorderOptions{})
		s := New(Options{
			Version: "1.2.3", Host: "gateway", Recorder: rec,
			Remotes: func() []Remote { return []Remote{{Host: "a.example.com", State: "online", Good: true, Fetched: 7}} },
			Offline: func() Offline { return Offline{Mode: "auto"} },
			Config:  func() Config { return Config{Source: "config.yml", Error: "see http://me:secret@a.example.com/x?y=z"} },
			Seed:    func() *Seed { return &Seed{File: "seed.yml", Images: 3} },
			Name:    func(p cache.Place) string { return "mirror/" + p.Repo },
			Stats: func(context.Context) (cache.Stats, error) {
				looked++
				return cache.Stats{
					Space:     cache.SpaceStats{Used: 10, Limit: 20, Known: true, Room: cache.Room{Short: true, Reason: "cache.maxsize"}},
					Evictions: map[cache.EvictionCause]cache.Count{cache.EvictedForRoom: {Times: 1, Bytes: 5}, cache.EvictedByAge: {Times: 1, Bytes: 6}},
					Kept:      cache.Count{Times: 1, Bytes: 9},
					Fills:     []cache.FillStats{{Place: place, Digest: "sha256:1", Size: 1000, Fetched: fetched, Have: fetched, Begun: begun, Failure: errors.New("reset")}},
				}, nil
			},
		})
		defer s.Close()
		state := s.State(t.Context())
		switch {
		case state.Version != "1.2.3" || state.Host != "gateway" || !state.Ready || state.Actions || state.Images != -1:
			t.Errorf("%+v", state)
		case state.Config.Error != "see http://a.example.com/x" || state.Seed.Images != 3 || state.Offline.Mode != "auto":
			t.Errorf("%+v", state)
		case state.Disk != Disk{Used: 10, Limit: 20, Known: true, Short: "cache.maxsize", Evicted: 11, Kept: 9}:
			t.Errorf("%+v", state.Disk)
		case len(state.Downloads) != 1 || state.Downloads[0].Image != "mirror/team/app" || state.Downloads[0].Failure != "reset":
			t.Errorf("%+v", state.Downloads)
		}
		for range 100 {
			s.State(t.Context())
		}
		if looked != 1 {
			t.Errorf("looked %d times", looked)
		}
		// 100 bytes a second, then nothing.
		for range 4 {
			time.Sleep(time.Second)
			fetched += 100
			if got := s.State(t.Context()).Downloads[0].Rate; got != 100 {
				t.Errorf("rate %d", got)
			}
		}
		for range 10 {
			time.Sleep(time.Second)
			state = s.State(t.Context())
		}
		if got := state.Downloads[0].Rate; got != 0 {
			t.Errorf("rate %d of what has stopped", got)
		}
		if len(s.looker.rates) != 1 {
			t.Error(s.looker.rates)
		}
	})
}

// Without stats there is a State, which says so.
func TestStateWithoutStats(t *testing.T) {
	s := New(Options{Stats: func(context.Context) (cache.Stats, error) { return cache.Stats{}, cache.ErrClosed }})
	defer s.Close()
	state := s.State(t.Context())
	if len(state.Warnings) != 1 || state.Disk.Known {
		t.Errorf("%+v", state)
	}
}

// At most MaxDownloads are told of, and how many there are.
func TestStateIsBounded(t *testing.T) {
	s := New(Options{Stats: func(context.Context) (cache.Stats, error) {
		return cache.Stats{Fills: make([]cache.FillStats, 3*MaxDownloads)}, nil
	}})
	defer s.Close()
	if state := s.State(t.Context()); len(state.Downloads) != MaxDownloads || state.AllDownloads != 3*MaxDownloads {
		t.Errorf("%d of %d", len(state.Downloads), state.AllDownloads)
	}
}

// Names that others have chosen come through JSON as they are, and never as markup.
func TestHostileNames(t *testing.T) {
	const name = `</script><script>alert("1")</script><img src=x onerror=alert(1)>` + "\u2028&\n\x00'\"`"
	rec := NewRecorder(RecorderOptions{})
	s := New(Options{
		Recorder: rec,
		Images:   imagesOf(cache.Image{Repository: name, Name: name, Tag: name, Digest: "sha256:1"}),
		Stats: func(context.Context) (cache.Stats, error) {
			return cache.Stats{Fills: []cache.FillStats{{Place: cache.Place{Repo: name}}}}, nil
		},
	})
	defer s.Close()
	rec.Problem(name, "")
	w := get(t, s, "/images?q=onerror")
	if page := decode[ImagePage](t, w.Body.Bytes()); len(page.Images) != 1 || page.Images[0].Tag != name || page.Images[0].Asked != name+":"+name {
		t.Errorf("%+v", page)
	}
	for _, path := range []string{"/images", "/state"} {
		if text := get(t, s, path).Body.String(); strings.ContainsAny(text, "<>&\u2028\x00") {
			t.Errorf("%s: %s", path, text)
		}
	}
	if state := decode[State](t, get(t, s, "/state").Body.Bytes()); state.Downloads[0].Image != name || strings.ContainsAny(state.Problems[0].Text, "\n\x00\u2028") {
		t.Errorf("%+v", state)
	}
}

// Storage that hangs does not hold up the end of the module, and what was asked of it before
// is not shown afterwards.
func TestStopWhileStorageHangs(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := New(Options{Stats: func(context.Context) (cache.Stats, error) {
		asked <- struct{}{}
		<-answer
		return cache.Stats{}, nil
	}})
	before := make(chan State, 1)
	go func() { before <- s.State(t.Context()) }()
	<-asked
	s.Close()
	close(answer)
	if !(<-before).Ready {
		t.Error("it was not ready before")
	}
	go func() { <-asked }()
	if s.State(t.Context()).Ready {
		t.Error("what was so before Close is shown")
	}
}
