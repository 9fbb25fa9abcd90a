package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// images is a list of so many images; reads counts how often it is read.
func images(n int, reads *atomic.Int64) func(context.Context) iter.Seq2[cache.Image, error] {
	return func(context.Context) iter.Seq2[cache.Image, error] {
		if reads != nil {
			reads.Add(1)
		}
		return func(yield func(cache.Image, error) bool) {
			for i := range n {
				repo := fmt.Sprintf("team/app-%03d", i/10)
				image := cache.Image{
					Repository: repo, Remote: "registry.example.com", Name: repo, Tag: fmt.Sprintf("v%d", i%10),
					Digest: digest.FromString(fmt.Sprint(i)), MediaType: "application/vnd.oci.image.index.v1+json",
					Platforms: []string{"linux/amd64", "linux/arm64"}, Size: int64(i) % 1000 * 1000, Complete: true,
					Used: time.Unix(1_000_000_000+int64(i), 0),
				}
				if i%100 == 0 {
					image.Pins = []cache.Pin{{Pattern: repo, Reason: cache.PinnedByOperator}}
				}
				if !yield(image, nil) {
					return
				}
			}
		}
	}
}

// get asks s without a network.
func get(t *testing.T, s http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return send(t, s, http.MethodGet, path, "", header...)
}

func send(t *testing.T, s http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r, w := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)), httptest.NewRecorder()
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	s.ServeHTTP(w, r)
	return w
}

func decode[T any](t *testing.T, text []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// fakeActions notes what it is asked for, and fails with err.
type fakeActions struct {
	mu   sync.Mutex
	done []string
	err  error
}

func (a *fakeActions) note(format string, args ...any) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	a.done = append(a.done, text)
	return "done: " + text, a.err
}

func (a *fakeActions) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.done) == 0 {
		return ""
	}
	return a.done[len(a.done)-1]
}

func (a *fakeActions) Pin(_ context.Context, p string) (string, error) { return a.note("pin %s", p) }
func (a *fakeActions) Unpin(_ context.Context, p string) (string, error) {
	return a.note("unpin %s", p)
}
func (a *fakeActions) Remove(_ context.Context, r Removal) (string, error) {
	return a.note("remove %s %v %v", r.Image, r.All, r.Force)
}
func (a *fakeActions) Refresh(_ context.Context, i string) (string, error) {
	return a.note("refresh %s", i)
}
func (a *fakeActions) Seed(_ context.Context, j SeedJob) (string, error) {
	return a.note("seed %q %q", j.Images, j.Platforms)
}
func (a *fakeActions) SetOffline(_ context.Context, m string) (string, error) {
	return a.note("offline %s", m)
}
func (a *fakeActions) Reload(context.Context) (string, error) { return a.note("reload") }

const goodToken = "0123456789abcdefgood"

func token(context.Context) (string, error) { return goodToken, nil }

// stream is who reads a stream of events. Where it is stuck it takes nothing.
type stream struct {
	header http.Header
	status atomic.Int64
	stuck  atomic.Bool

	mu       sync.Mutex
	text     strings.Builder
	deadline time.Time
}

func newStream() *stream { return &stream{header: http.Header{}} }

func (s *stream) Header() http.Header    { return s.header }
func (s *stream) WriteHeader(status int) { s.status.Store(int64(status)) }
func (s *stream) Flush()                 {}
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	if !s.stuck.Load() {
		defer s.mu.Unlock()
		return s.text.Write(p)
	}
	wait := time.Until(s.deadline)
	s.mu.Unlock()
	if wait > time.Hour || wait < 0 {
		return 0, errors.New("no deadline")
	}
	time.Sleep(wait)
	return 0, os.ErrDeadlineExceeded
}

// events are those that have come, and how many comments.
func (s *stream) events(t *testing.T) (states []State, comments int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for block := range strings.SplitSeq(s.text.String(), "\n\n") {
		block = strings.TrimPrefix(block, "retry: 3000\n")
		switch data, ok := strings.CutPrefix(block, "event: state\ndata: "); {
		case ok:
			states = append(states, decode[State](t, []byte(data)))
		case strings.HasPrefix(block, ":"):
			comments++
		case block != "":
			t.Errorf("%q is no event", block)
		}
	}
	return states, comments
}

// watch has a stream read events until the returned function is called, or the stream ends.
func watch(t *testing.T, s *Server, to *stream) (leave func(), done chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/events", nil)
	done = make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(to, r)
	}()
	return cancel, done
}
