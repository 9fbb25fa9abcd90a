package server_test

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream/router"
)

// TestAppsAreShared follows one server by others, with the same and other settings: headers
// and routing are each server's own, and nothing piles up.
func TestAppsAreShared(t *testing.T) {
	blobs := new(cachetest.Blobs)
	remote := new(cachetest.Upstream)
	remote.AddManifest("a/b", "v1", "application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
	c, err := cache.New(t.Context(), cache.Options{
		Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
		Remotes: []cache.Remote{{Host: remote.Host(), Upstream: remote, TagTTL: time.Hour}},
	})
	must(t, err)
	defer func() { must(t, c.Close()) }()
	apps := new(server.Apps)
	reg := prometheus.NewRegistry()
	with := func(change func(*configuration.Configuration), routing ...router.Remote) *server.Server {
		t.Helper()
		stock := new(configuration.Configuration)
		change(stock)
		s, err := server.New(t.Context(), server.Options{Cache: c, Router: routes(t, routing...), Config: stock, Apps: apps, Metrics: reg})
		must(t, err)
		return s
	}
	get := func(s *server.Server, target string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
		return w
	}
	plain := router.Remote{Host: remote.Host(), Default: true}
	before := runtime.NumGoroutine()
	first := with(func(*configuration.Configuration) {}, plain)
	for i := range 100 {
		last := with(func(s *configuration.Configuration) {
			s.HTTP.Headers = http.Header{"X-Site": {"here"}}
			s.HTTP.Debug.Prometheus.Enabled = i%2 == 0
			s.Log.AccessLog.Disabled = i%3 == 0
		}, router.Remote{Host: remote.Host(), Alias: "only"})
		if w := get(last, "/v2/only/a/b/manifests/v1"); w.Code != 200 || w.Header().Get("X-Site") != "here" {
			t.Fatalf("status %d, %v", w.Code, w.Header())
		}
		if w := get(last, "/v2/"); w.Code != 200 || len(w.Header().Values("X-Site")) != 1 {
			t.Fatalf("status %d, %v", w.Code, w.Header())
		}
		if w := get(last, "/v2/a/b/manifests/v1"); w.Code != 404 {
			t.Fatalf("status %d", w.Code)
		}
		if w := get(last, "/v2/_catalog"); w.Code != 200 || !strings.Contains(w.Body.String(), `["upstream.test/a/b"]`) {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		must(t, last.Close())
	}
	if w := get(first, "/v2/a/b/manifests/v1"); w.Code != 200 || w.Header().Get("X-Site") != "" {
		t.Errorf("the first one: status %d, %v", w.Code, w.Header())
	}
	if w := get(first, "/v2/_catalog"); !strings.Contains(w.Body.String(), `["a/b"]`) {
		t.Errorf("the first one: %s", w.Body)
	}
	if n := runtime.NumGoroutine() - before; n > 3 {
		t.Errorf("%d goroutines more", n)
	}
	var refused error
	for i := range 70 {
		stock := new(configuration.Configuration)
		stock.Catalog.MaxEntries = 2 + i
		if _, err := server.New(t.Context(), server.Options{Cache: c, Router: routes(t, plain), Config: stock, Apps: apps}); err != nil {
			refused = err
		}
	}
	if refused == nil || !strings.Contains(refused.Error(), "restart") {
		t.Errorf("after 70 others: %v", refused)
	}
	must(t, apps.Close())
}
