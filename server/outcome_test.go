package server_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/server"
	"registry-module/upstream/upstreamtest"
)

// explained is an answer, and what is told of it to the client and to who observes.
type explained struct {
	status int
	cache  string
	result server.Result
	// fetched tells that bytes were, joined that others were waited with.
	fetched, joined bool
}

// explain asks for something, and returns how it was answered.
func (l *lab) explain(method, path string, header ...string) explained {
	l.Helper()
	r := httptest.NewRequestWithContext(l.Context(), method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	func() {
		defer func() { _ = recover() }() // of answers that are broken off
		l.handler.ServeHTTP(w, r)
	}()
	return l.explainedBy(w)
}

func (l *lab) explainedBy(w *httptest.ResponseRecorder) explained {
	l.told.mu.Lock()
	defer l.told.mu.Unlock()
	a := l.told.answered[len(l.told.answered)-1]
	return explained{w.Code, response{header: w.Header()}.cacheStatus(l.T), a.Result, a.Fetched, a.Joined}
}

// What a request has cost, from the first to that of a remote that is gone.
func TestExplained(t *testing.T) {
	inLab(t, func(l *lab) {
		image := l.AddRandomImage("a/b", "v1", 1, 100<<10)
		tag, layer := "/v2/a/b/manifests/v1", "/v2/a/b/blobs/"+image.Layers[0].String()
		step := func(what string, got, want explained) {
			l.Helper()
			if got != want {
				l.Errorf("%s:\n%+v, want\n%+v", what, got, want)
			}
		}
		step("a tag", l.explain("GET", tag), explained{200, "registry-module; fwd=uri-miss; stored; ttl=N", server.Miss, true, false})
		step("once more", l.explain("GET", tag), explained{200, "registry-module; hit; ttl=N", server.Hit, false, false})
		step("for who insists", l.explain("GET", tag, "Cache-Control", "no-cache"), explained{200, "registry-module; fwd=request; ttl=N", server.Revalidated, false, false})
		step("a layer's size", l.explain("HEAD", layer), explained{200, "registry-module; hit", server.Hit, false, false})
		step("a layer", l.explain("GET", layer), explained{200, "registry-module; fwd=uri-miss", server.Miss, true, false})
		synctest.Wait()
		step("once more", l.explain("GET", layer), explained{200, "registry-module; hit", server.Hit, false, false})
		time.Sleep(tagLifetime)
		step("a tag that is stale", l.explain("GET", tag), explained{200, "registry-module; fwd=stale; ttl=N", server.Revalidated, false, false})
		absent := explained{404, `registry-module; fwd=uri-miss; fwd-status=404; detail="not found"`, server.Absent, false, false}
		step("an absent tag", l.explain("GET", "/v2/a/b/manifests/none"), absent)
		absent.cache = `registry-module; hit; detail="negative memory"`
		step("once more", l.explain("GET", "/v2/a/b/manifests/none"), absent)

		time.Sleep(tagLifetime + time.Second)
		heal := l.Script(upstreamtest.Fault{Status: 503})
		step("a remote that fails", l.explain("GET", tag), explained{200, `registry-module; fwd=stale; fwd-status=503; ttl=-N; detail="remote away"`, server.Stale, false, false})
		step("once more", l.explain("GET", tag), explained{200, `registry-module; hit; ttl=-N; detail="remote away"`, server.Stale, false, false})
		heal()
		time.Sleep(time.Hour)
		l.explain("GET", tag) // so that it is known that the remote is back
		time.Sleep(time.Minute)
		step("a remote that is back", l.explain("GET", tag), explained{200, "registry-module; hit; ttl=N", server.Hit, false, false})
		time.Sleep(tagLifetime)
		l.network.drop()
		l.setDial(hangs(os.ErrDeadlineExceeded))
		step("a remote that does not answer", l.explain("GET", tag), explained{200, `registry-module; fwd=stale; ttl=-N; detail="remote away"`, server.Stale, false, false})
		step("what is not stored", l.explain("GET", "/v2/a/b/manifests/v2"), explained{503, `registry-module; fwd=uri-miss; detail="remote away"`, server.Failed, false, false})
	})
}

// Who waits with others for a manifest is told, and who waits for a blob is not: it may have
// been asked for by a name that is none of his business.
func TestExplainedTogether(t *testing.T) {
	inLab(t, func(l *lab) {
		image := l.AddRandomImage("a/b", "v1", 1, 100<<10)
		l.SetLatency(time.Second)
		for path, joined := range map[string]string{
			"/v2/a/b/manifests/v1":                   "registry-module; fwd=uri-miss; stored; collapsed; ttl=N",
			"/v2/a/b/blobs/" + image.Config.String(): "registry-module; fwd=uri-miss",
		} {
			var all sync.WaitGroup
			answers := make([]*httptest.ResponseRecorder, 3)
			for i := range answers {
				all.Go(func() { answers[i], _ = l.get(path) })
				synctest.Wait()
			}
			all.Wait()
			collapsed := 0
			for _, w := range answers {
				got := response{header: w.Header()}.cacheStatus(t)
				if got == joined && strings.Contains(got, "collapsed") {
					collapsed++
				} else if got != strings.Replace(joined, "; collapsed", "", 1) {
					t.Errorf("%s: %q", path, got)
				}
			}
			n := 0
			l.told.mu.Lock()
			for _, a := range l.told.answered[len(l.told.answered)-3:] {
				if a.Joined && a.Fetched && a.Result == server.Miss {
					n++
				}
			}
			l.told.mu.Unlock()
			if n != 2 || strings.Contains(joined, "collapsed") && collapsed != 2 {
				t.Errorf("%s: %d are told to have waited, and %d were", path, collapsed, n)
			}
		}
	})
}

// The first answer about a blob is the same, whether it is stored for another repository or
// for nobody, to who may have it and to who may not.
func TestCacheStatusIsNoOracle(t *testing.T) {
	s := newSite(t)
	theirs := s.up.AddBlob("private", []byte("of somebody else"))
	if r := do(t, http.MethodGet, s.url+"/v2/private/blobs/"+theirs.String()); r.status != 200 {
		t.Fatalf("status %d", r.status)
	}
	nobodys := digest.FromString("of which nobody has heard")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		a, b := do(t, method, s.url+"/v2/a/b/blobs/"+theirs.String()), do(t, method, s.url+"/v2/a/b/blobs/"+nobodys.String())
		if a.status != 404 || b.status != 404 || a.header.Get("Cache-Status") != b.header.Get("Cache-Status") {
			t.Errorf("%s: status %d and %d, %q and %q", method, a.status, b.status, a.header.Get("Cache-Status"), b.header.Get("Cache-Status"))
		}
	}
	for i, method := range []string{http.MethodGet, http.MethodHead} {
		content := [][]byte{[]byte("shared, for GET"), []byte("shared, for HEAD")}[i]
		shared, own := s.up.AddBlob("private", content), s.up.AddBlob("a/b", append(content, '!'))
		s.up.AddBlob("a/b", content)
		do(t, http.MethodGet, s.url+"/v2/private/blobs/"+shared.String())
		a, b := do(t, method, s.url+"/v2/a/b/blobs/"+shared.String()), do(t, method, s.url+"/v2/a/b/blobs/"+own.String())
		if a.status != 200 || b.status != 200 || a.header.Get("Cache-Status") != b.header.Get("Cache-Status") {
			t.Errorf("%s: status %d and %d, %q and %q", method, a.status, b.status, a.header.Get("Cache-Status"), b.header.Get("Cache-Status"))
		}
	}
}
