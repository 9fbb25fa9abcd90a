package notify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/notifications"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"registry-module/cache"
	"registry-module/server/notify"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(new(bytes.Buffer)) // of distribution's package
	goleak.VerifyTestMain(m,
		// They try for ever what an endpoint does not take.
		goleak.IgnoreAnyFunction("github.com/distribution/distribution/v3/notifications.(*eventQueue).run"),
		goleak.IgnoreAnyFunction("github.com/distribution/distribution/v3/notifications.(*eventQueue).Close"))
}

// receiver is a webhook. It refuses what comes while refuse says so.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	refuse int // the next ones
	events []notifications.Event
	types  map[string]bool
	tokens map[string]bool
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{types: make(map[string]bool), tokens: make(map[string]bool)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var envelope struct{ Events []notifications.Event }
		err := json.NewDecoder(req.Body).Decode(&envelope)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.refuse > 0 || err != nil {
			r.refuse--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.types[req.Header.Get("Content-Type")] = true
		r.tokens[req.Header.Get("Authorization")] = true
		r.events = append(r.events, envelope.Events...)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) endpoint(adjust ...func(*configuration.Endpoint)) configuration.Endpoint {
	e := configuration.Endpoint{
		Name: "hook", URL: r.URL, Headers: http.Header{"Authorization": {"Bearer secret"}},
		Timeout: time.Minute, Threshold: 10, Backoff: time.Millisecond,
	}
	for _, a := range adjust {
		a(&e)
	}
	return e
}

// tellAll tells of one thing of each kind.
func tellAll(n *notify.Notifier) {
	n.Evicted(cache.Eviction{
		Cause: cache.EvictedForRoom, Image: "docker.io/library/alpine:3.22", Digest: digest.FromString("x"), Bytes: 1234,
		Used: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
	})
	n.RemoteChanged("docker.io", "online", "offline", "connection refused")
	n.RoomChanged(cache.Room{Short: true, Reason: "20 GiB are used up"})
	n.FillEnded(cache.FillEnd{})
}

func TestEvents(t *testing.T) {
	r := newReceiver(t)
	r.refuse = 2 // it is tried again
	n := notify.New(notify.Options{Endpoints: []configuration.Endpoint{r.endpoint()}, Source: "gateway:8000", Drain: time.Minute})
	tellAll(n)
	n.RemoteChanged("docker.io", "offline", "online", "")
	n.RoomChanged(cache.Room{})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	tellAll(n) // of which nobody hears
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.types) != 1 || !r.types[notifications.EventsMediaType] || !r.tokens["Bearer secret"] {
		t.Errorf("types %v, tokens %v", r.types, r.tokens)
	}
	var got []string
	ids := make(map[string]bool)
	for _, e := range r.events {
		target := e.Target
		got = append(got, fmt.Sprintf("%s %s:%s %v", e.Action, target.Repository, target.Tag, target.Annotations))
		if e.Source.Addr != "gateway:8000" || e.Source.InstanceID == "" || e.Timestamp.IsZero() || target.MediaType != notify.MediaType || ids[e.ID] {
			t.Errorf("event %+v", e)
		}
		ids[e.ID] = true
	}
	want := []string{
		"evict docker.io/library/alpine:3.22 map[registry-module.cause:room registry-module.freed:1234 registry-module.used:2026-01-31T12:00:00Z]",
		"remote : map[registry-module.from:online registry-module.reason:connection refused registry-module.remote:docker.io registry-module.to:offline]",
		"space : map[registry-module.reason:20 GiB are used up registry-module.short:true]",
		"remote : map[registry-module.from:offline registry-module.remote:docker.io registry-module.to:online]",
		"space : map[registry-module.short:false]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if r.events[0].Target.Digest != digest.FromString("x") {
		t.Errorf("digest %s", r.events[0].Target.Digest)
	}
}

func TestNames(t *testing.T) {
	r := newReceiver(t)
	n := notify.New(notify.Options{Endpoints: []configuration.Endpoint{r.endpoint()}, Drain: time.Minute})
	images := []string{"", "app", "app:1", "host:5000/app", "host:5000/team/app:1", "host:5000/app@sha256:abc"}
	for _, image := range images {
		n.Evicted(cache.Eviction{Image: image})
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{" ", "app ", "app 1", "host:5000/app ", "host:5000/team/app 1", "host:5000/app "} {
		if got := r.events[i].Target.Repository + " " + r.events[i].Target.Tag; got != want {
			t.Errorf("%q is %q, want %q", images[i], got, want)
		}
	}
}

func TestIgnored(t *testing.T) {
	for name, tt := range map[string]struct {
		adjust func(*configuration.Endpoint)
		want   int
	}{
		"nothing":         {func(*configuration.Endpoint) {}, 3},
		"an action":       {func(e *configuration.Endpoint) { e.Ignore.Actions = []string{"pull", "evict"} }, 2},
		"the type":        {func(e *configuration.Endpoint) { e.Ignore.MediaTypes = []string{notify.MediaType} }, 0},
		"the type, older": {func(e *configuration.Endpoint) { e.IgnoredMediaTypes = []string{notify.MediaType} }, 0},
		"disabled":        {func(e *configuration.Endpoint) { e.Disabled = true }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t)
			n := notify.New(notify.Options{Endpoints: []configuration.Endpoint{r.endpoint(tt.adjust)}, Drain: time.Minute})
			tellAll(n)
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			if len(r.events) != tt.want {
				t.Errorf("%d events, want %d", len(r.events), tt.want)
			}
		})
	}
}

// TestNotTaken shows that an endpoint that takes nothing holds up nobody.
func TestNotTaken(t *testing.T) {
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer srv.Close()
	defer close(hang)
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	n := notify.New(notify.Options{
		Endpoints: []configuration.Endpoint{{Name: "hook", URL: srv.URL, Timeout: time.Hour}},
		Queue:     10, Drain: time.Millisecond, Log: log,
	})
	for range 100 {
		tellAll(n)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, "are dropped") != 1 || !strings.Contains(text, "has not taken 10 notifications") {
		t.Errorf("the log says\n%s", text)
	}
}
