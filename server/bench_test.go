package server_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/server"
)

// nowhere takes an answer and keeps nothing of it.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n nowhere) WriteHeader(int)             {}

// BenchmarkStoredManifest answers from the store: by tag and by digest, with and without
// a line in the log for each request.
func BenchmarkStoredManifest(b *testing.B) {
	for _, bb := range []struct {
		name    string
		digest  bool
		logging bool
	}{{"tag", false, false}, {"digest", true, false}, {"tag, logged", false, true}} {
		b.Run(bb.name, func(b *testing.B) { benchmarkManifest(b, bb.digest, bb.logging) })
	}
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
	for b.Loop() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
}
