package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/server"
	"registry-module/server/admin"
	"registry-module/server/admin/dashboard"
)

// operatorToken is what lets one change something.
const operatorToken = "correct-horse-battery-staple-0123456789"

// shown is a module of which everything but the admin address is made up.
type shown struct {
	*httptest.Server
	admin    *admin.Server
	recorder *admin.Recorder

	mu      sync.Mutex // guards what follows
	remotes []admin.Remote
	fills   []cache.FillStats
	images  []cache.Image
	mode    string
	done    []string
}

// newShown starts one with so many images.
func newShown(t *testing.T, images int) *shown {
	t.Helper()
	s := &shown{mode: "auto", recorder: admin.NewRecorder(admin.RecorderOptions{})}
	s.remotes = []admin.Remote{{Host: "registry-1.docker.io", State: "online", Good: true, Since: time.Now().Add(-time.Hour), Fetched: 5 << 30}}
	for i := range images {
		repo := fmt.Sprintf("team/app-%05d", i)
		s.images = append(s.images, cache.Image{
			Repository: repo, Remote: "registry-1.docker.io", Name: repo, Tag: "1.0", Digest: digest.FromString(repo),
			Platforms: []string{"linux/amd64", "linux/arm64"}, Size: int64(i*7919%images) << 10, Complete: true,
			Used: time.Now().Add(-time.Duration(i) * time.Minute),
		})
	}
	s.admin = admin.New(admin.Options{
		Version: "0.0.0-test", Host: "gateway-7",
		Recorder: s.recorder,
		Remotes:  func() []admin.Remote { s.mu.Lock(); defer s.mu.Unlock(); return slices.Clone(s.remotes) },
		Offline: func() admin.Offline {
			s.mu.Lock()
			defer s.mu.Unlock()
			return admin.Offline{On: s.mode == "on", Mode: s.mode}
		},
		Stats: func(context.Context) (cache.Stats, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return cache.Stats{Fills: slices.Clone(s.fills), Space: cache.SpaceStats{Known: true, Used: 12 << 30, Limit: 20 << 30, Free: 30 << 30, Total: 64 << 30}}, nil
		},
		Images:  s.list,
		Actions: (*shownActions)(s),
		Token:   func(context.Context) (string, error) { return operatorToken, nil },
		Page: func(a *admin.Server) http.Handler {
			return dashboard.New(dashboard.Options{Source: a})
		},
	})
	s.recorder.Answered(server.Answer{Kind: "blob", Result: server.Hit, Bytes: 1 << 30})
	s.Server = httptest.NewServer(s.admin)
	t.Cleanup(func() {
		s.admin.Close()
		s.Server.CloseClientConnections()
		s.Server.Close()
	})
	return s
}

func (s *shown) list(context.Context) iter.Seq2[cache.Image, error] {
	s.mu.Lock()
	all := slices.Clone(s.images)
	s.mu.Unlock()
	return func(yield func(cache.Image, error) bool) {
		for _, i := range all {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// change changes what the site is.
func (s *shown) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// acted returns what was done so far.
func (s *shown) acted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.done)
}

// shownActions change what is shown.
type shownActions shown

func (s *shownActions) note(format string, args ...any) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	s.done = append(s.done, text)
	return "Done: " + text + ".", nil
}

// with changes the image that clients call so.
func (s *shownActions) with(name string, f func(i int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.images {
		if s.images[i].Name+":"+s.images[i].Tag == name {
			f(i)
			return nil
		}
	}
	return fmt.Errorf("%s: %w", name, cache.ErrNotFound)
}

func (s *shownActions) Pin(_ context.Context, name string) (string, error) {
	pin := []cache.Pin{{Pattern: name, Reason: cache.PinnedByOperator}}
	if err := s.with(name, func(i int) { s.images[i].Pins = pin }); err != nil {
		return "", err
	}
	return s.note("pin %s", name)
}

func (s *shownActions) Unpin(_ context.Context, name string) (string, error) {
	if err := s.with(name, func(i int) { s.images[i].Pins = nil }); err != nil {
		return "", err
	}
	return s.note("unpin %s", name)
}

func (s *shownActions) Remove(_ context.Context, r admin.Removal) (string, error) {
	if err := s.with(r.Image, func(i int) { s.images = slices.Delete(s.images, i, i+1) }); err != nil {
		return "", err
	}
	return s.note("remove %s, forced: %v", r.Image, r.Force)
}

func (s *shownActions) Refresh(_ context.Context, name string) (string, error) {
	return s.note("refresh %s", name)
}

func (s *shownActions) Seed(_ context.Context, job admin.SeedJob) (string, error) {
	return s.note("seed %v for %v", job.Images, job.Platforms)
}

func (s *shownActions) SetOffline(_ context.Context, mode string) (string, error) {
	s.mu.Lock()
	s.mode = mode
	s.mu.Unlock()
	return s.note("offline %s", mode)
}

func (s *shownActions) Reload(context.Context) (string, error) { return s.note("reload") }

// still is an admin address that always tells the same, and at /empty/ what there is before
// anything is. Nothing that it tells is cleaned: the page has to do without that.
type still struct {
	state admin.State
	page  admin.ImagePage
}

func (s still) State(context.Context) admin.State { return s.state }

func (s still) Images(context.Context, admin.ImageQuery) (admin.ImagePage, error) { return s.page, nil }

func (still) Said(string) (admin.Said, bool) { return admin.Said{}, false }

// serve starts a server.
func (s still) serve(t *testing.T) string {
	t.Helper()
	nothing := still{state: admin.State{Now: s.state.Now, Ready: true, Actions: s.state.Actions}}
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(v)
		}
	}
	mux := http.NewServeMux()
	ended := make(chan struct{})
	for prefix, shown := range map[string]still{"": s, "/empty": nothing} {
		mux.Handle(prefix+"/", http.StripPrefix(prefix, dashboard.New(dashboard.Options{Source: shown})))
		mux.Handle("GET "+prefix+"/images", answer(s.page))
		mux.HandleFunc("GET "+prefix+"/events", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			text, _ := json.Marshal(s.state)
			fmt.Fprintf(w, "event: state\ndata: %s\n\n", text)
			http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-ended:
			}
		})
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		close(ended)
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}
