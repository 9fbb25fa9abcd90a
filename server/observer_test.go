package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream/router"
)

// told is an observer that remembers.
type told struct {
	mu       sync.Mutex
	began    []server.Answer
	answered []server.Answer
	news     chan struct{} // one for each answer
}

func newTold() *told { return &told{news: make(chan struct{}, 1000)} }

func (t *told) Began(a server.Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began = append(t.began, a)
}

func (t *told) Answered(a server.Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered = append(t.answered, a)
	select {
	case t.news <- struct{}{}:
	default: // nobody waits
	}
}

// last waits for an answer, and returns the last one.
func (t *told) last() (began, answered server.Answer) {
	<-t.news
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.began[len(t.began)-1], t.answered[len(t.answered)-1]
}

// observe has all observers told.
func observe(all ...server.Observer) func(*server.Options) {
	return func(o *server.Options) { o.Observer = server.Observers(all) }
}

// deaf is an observer that does not want to know what is under way.
type deaf struct{ n atomic.Int64 }

func (d *deaf) Answered(server.Answer) { d.n.Add(1) }

// Each request is told of, with what has become of it, by whichever way it is answered.
func TestObserver(t *testing.T) {
	seen, other := newTold(), new(deaf)
	hook := newWebhook(t)
	for _, way := range []struct {
		name   string
		adjust func(*server.Options)
	}{{"short", func(*server.Options) {}}, {"app", hook.configure(nil)}} {
		t.Run(way.name, func(t *testing.T) {
			s := newSite(t, way.adjust, observe(seen, other))
			place := cache.Place{Host: s.up.Host(), Repo: "a/b"}
			tag, image := "/v2/a/b/manifests/v1", "/v2/a/b/manifests/"+s.image.String()
			layer := "/v2/a/b/blobs/" + s.layerDigest.String()
			absent := digest.FromString("absent").String()
			for _, tt := range []struct {
				method, path string
				want         server.Answer
			}{
				{"GET", "/v2/", server.Answer{Kind: "other", Route: "base", Status: 200, Result: server.Hit, Bytes: 2}},
				{"GET", "/", server.Answer{Kind: "other", Status: 200, Result: server.Hit}},
				{"GET", "/v2/_catalog", server.Answer{Kind: "catalog", Route: "catalog", Status: 200, Result: server.Hit, Bytes: -1}},
				{"GET", tag, server.Answer{Kind: "manifest", Route: "manifest", Name: "a/b", Reference: "v1", Place: place, Status: 200,
					Bytes: int64(len(s.manifest)), Fetched: true, Result: server.Miss, Parts: 2}},
				{"GET", tag, server.Answer{Kind: "manifest", Route: "manifest", Name: "a/b", Reference: "v1", Place: place, Status: 200,
					Bytes: int64(len(s.manifest)), Result: server.Hit, Parts: 2}},
				{"HEAD", image + "?ns=alias", server.Answer{Kind: "manifest", Route: "manifest", Name: "alias/a/b", Reference: s.image.String(), Place: place,
					Status: 200, Result: server.Hit, Parts: 2, Age: -1}},
				{"GET", layer, server.Answer{Kind: "blob", Route: "blob", Name: "a/b", Reference: s.layerDigest.String(), Place: place, Status: 200,
					Bytes: int64(len(s.layer)), Fetched: true, Result: server.Miss, Age: -1}},
				{"GET", layer, server.Answer{Kind: "blob", Route: "blob", Name: "a/b", Reference: s.layerDigest.String(), Place: place, Status: 200,
					Bytes: int64(len(s.layer)), Result: server.Hit, Age: -1}},
				{"GET", "/v2/a/b/blobs/" + absent, server.Answer{Kind: "blob", Route: "blob", Name: "a/b", Reference: absent, Place: place, Status: 404,
					Bytes: -1, Result: server.Absent, Age: -1}},
				{"GET", "/v2/A/manifests/v1", server.Answer{Kind: "other", Status: 400, Bytes: -1, Result: server.Refused}},
				{"GET", "/v2/two/secret/a/manifests/v1", server.Answer{Kind: "manifest", Route: "manifest", Name: "two/secret/a", Reference: "v1", Status: 403,
					Bytes: -1, Result: server.Refused, Age: -1}},
				{"GET", tag + "?ns=elsewhere.test", server.Answer{Kind: "manifest", Route: "manifest", Name: "elsewhere.test/a/b", Reference: "v1", Status: 404,
					Bytes: -1, Result: server.Refused, Age: -1}},
				{"POST", "/v2/a/b/blobs/uploads/", server.Answer{Kind: "other", Route: "blob_upload", Name: "a/b", Place: place, Status: 405, Bytes: -1, Result: server.Refused}},
				{"GET", "/v2/a/b/tags/list", server.Answer{Kind: "tags", Route: "tags", Name: "a/b", Place: place, Status: 200, Bytes: -1, Fetched: true, Result: server.Miss, Age: -1}},
			} {
				if tt.want.Kind == "blob" && tt.want.Result == server.Hit {
					s.stored(t, s.layerDigest)
				}
				do(t, tt.method, s.url+tt.path, "User-Agent", "test/1")
				began, a := seen.last()
				if a.Begun.IsZero() || a.Waited <= 0 || a.Took < a.Waited || a.RequestSize < 50 || a.Agent != "test/1" || a.Client != "127.0.0.1" {
					t.Errorf("%s %s: %+v", tt.method, tt.path, a)
				}
				if tt.want.Parts > 0 && (a.Manifest.Digest != s.image || a.Manifest.Size != int64(len(s.manifest))) {
					t.Errorf("%s %s: manifest %+v", tt.method, tt.path, a.Manifest)
				}
				if tt.want.Bytes == -1 && a.Bytes > 0 {
					a.Bytes = -1
				}
				if tt.want.Age == 0 && (tt.want.Kind != "manifest" && a.Age == -1 || a.Age > 0 && a.Age < time.Minute) {
					a.Age = 0
				}
				same := server.Answer{
					Begun: a.Begun, Method: a.Method, Kind: a.Kind, Route: a.Route, Name: a.Name, Reference: a.Reference, Client: a.Client, Agent: a.Agent,
				}
				began.RequestSize = 0
				if fmt.Sprint(began) != fmt.Sprint(same) {
					t.Errorf("%s %s: began as %+v", tt.method, tt.path, began)
				}
				got := a
				got.Begun, got.Waited, got.Took, got.RequestSize, got.Client, got.Agent = time.Time{}, 0, 0, 0, "", ""
				got.Manifest, got.Err, got.Method = cache.Descriptor{}, nil, ""
				if fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("%s %s:\n%+v, want\n%+v", tt.method, tt.path, got, tt.want)
				}
			}
		})
	}
	if len(seen.began) != len(seen.answered) || other.n.Load() != int64(len(seen.answered)) {
		t.Errorf("%d have begun, %d were answered, and another was told of %d", len(seen.began), len(seen.answered), other.n.Load())
	}
}

// What is not answered to its end is told of, too, with the reason.
func TestObserverOfFailures(t *testing.T) {
	seen := newTold()
	s := newSite(t, observe(seen))
	layer := "/v2/a/b/blobs/" + s.layerDigest.String()

	feed := cachetest.NewFeed()
	s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+layer, nil)
	must(t, err)
	go func() { _ = feed.Send(s.layer[:500_000]) }() // the response tells
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	must(t, err)
	_, err = io.CopyN(io.Discard, resp.Body, 1000)
	must(t, err)
	cancel()
	_ = resp.Body.Close() // it is cut off
	if _, a := seen.last(); a.Result != server.Left || a.Err == nil || a.Status != 200 || a.Bytes < 1000 || a.Took < a.Waited {
		t.Errorf("a client that leaves: %+v", a)
	}
	feed.End(errors.New("the link is down"))

	s.up.Fail(&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: s.up.Host(), Op: "asking"})
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v2")
	if _, a := seen.last(); a.Result != server.Failed || a.Status != 503 || !errors.Is(a.Err, cache.ErrUnavailable) || a.Fetched {
		t.Errorf("a remote that is away: %+v", a)
	}
	s.up.Fail(cache.ErrDenied)
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v3")
	if _, a := seen.last(); a.Result != server.Failed || a.Status != 403 {
		t.Errorf("a remote that refuses us: %+v", a)
	}
	s.up.Fail(errors.New("a disk"))
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v4")
	if _, a := seen.last(); a.Result != server.Failed || a.Status != 500 {
		t.Errorf("a disk that fails: %+v", a)
	}
	if len(seen.began) != len(seen.answered) {
		t.Errorf("%d have begun, %d were answered", len(seen.began), len(seen.answered))
	}
}

// Who has said who he is is told, and who was not let in was refused.
func TestObserverIsToldWho(t *testing.T) {
	seen := newTold()
	name := strings.Repeat("x", 10)
	allowed := true
	s := newSite(t, observe(seen), func(o *server.Options) {
		o.Access = &asking{answer: func(server.Asked) (server.Caller, error) {
			if !allowed {
				return nil, server.ErrForbidden
			}
			return caller{name: name}, nil
		}}
	})
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	if began, a := seen.last(); a.User != name || began.User != "" {
		t.Errorf("user %q, before %q", a.User, began.User)
	}
	allowed = false
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	if _, a := seen.last(); a.User != "" || a.Result != server.Refused || a.Status != 403 {
		t.Errorf("%+v", a)
	}
}

// A share of the requests gets a line, and each that has failed.
func TestSampledRequestLog(t *testing.T) {
	for _, tt := range []struct {
		share     float64
		disabled  bool
		good, bad int // lines
	}{{1, false, 100, 1}, {0, false, 0, 1}, {1, true, 0, 0}, {0, true, 0, 0}} {
		log := make(entries, 1000)
		sample, err := server.SampleOf(tt.share)
		must(t, err)
		s := newSite(t)
		h := s.newHandler(t, logTo(log), func(o *server.Options) {
			o.Sample = sample
			o.Config = new(configuration.Configuration)
			o.Config.Log.AccessLog.Disabled = tt.disabled
		})
		lines := func(times int, path string) (n int) {
			for range times {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			}
			for len(log) > 0 {
				if e := <-log; e.Message == "request" {
					n++
				}
			}
			return n
		}
		if n := lines(100, "/v2/a/b/manifests/v1"); n != tt.good {
			t.Errorf("%v: %d lines of 100 requests", tt, n)
		}
		s.up.Fail(cache.ErrUnavailable)
		if n := lines(1, "/v2/a/b/manifests/v2"); n != tt.bad {
			t.Errorf("%v: %d lines of a failure", tt, n)
		}
	}
	for _, share := range []float64{-0.1, 1.1} {
		if _, err := server.SampleOf(share); err == nil {
			t.Errorf("a share of %v", share)
		}
	}
}

// Where a name can mean several remotes, it is told which one was meant, also of what is
// stored.
func TestObserverOfSeveralRemotes(t *testing.T) {
	seen := newTold()
	s := newSite(t)
	s.url = s.serve(t, observe(seen), func(o *server.Options) {
		o.Router = routes(t, router.Remote{Host: s.up.Host(), Default: true}, router.Remote{Host: s.up2.Host(), Default: true})
	})
	_, layer := s.addSecond("only/second", "v1")
	want := cache.Place{Host: s.up2.Host(), Repo: "only/second"}
	for _, path := range []string{"manifests/v1", "blobs/" + layer.String()} {
		for _, method := range []string{"GET", "GET", "HEAD"} {
			if r := do(t, method, s.url+"/v2/only/second/"+path); r.status != 200 {
				t.Fatalf("%s %s: status %d", method, path, r.status)
			}
			if _, a := seen.last(); a.Place != want {
				t.Errorf("%s %s: a %s of %+v, want %+v", method, path, a.Result, a.Place, want)
			}
		}
	}
}
