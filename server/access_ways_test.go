package server_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/server"
)

// What who is not let in gets is the same, header for header, whatever is configured or
// stored.
func TestRefusalsAreAlike(t *testing.T) {
	s := newSite(t)
	s.addSecond("x/y", "v1")
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1"); r.status != 200 {
		t.Fatalf("status %d", r.status)
	}
	url := s.serve(t, func(o *server.Options) {
		o.Access = &asking{answer: func(server.Asked) (server.Caller, error) { return nil, server.ErrForbidden }}
	})
	stored := s.up.Calls("")
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch} {
		first := ""
		for _, path := range []string{
			"a/b/manifests/v1", "a/c/manifests/v1", "a/b/tags/list", "a/c/tags/list", "a/b/manifests/v1?ns=upstream.test",
			"a/b/blobs/" + s.layerDigest.String(), "a/c/blobs/" + s.layerDigest.String(), "a/b/referrers/" + s.image.String(),
			"a/b/manifests/v1?ns=alias", "a/b/manifests/v1?ns=elsewhere.test", "a/b/manifests/v1?ns=UPSTREAM.test", "a/b/manifests/v1?ns=second.test:5000",
			"x/y/manifests/v1?ns=two", "secret/a/manifests/v1?ns=two", "two/x/y/tags/list", "two/secret/a/tags/list", "_catalog",
			"a/b/blobs/uploads/", "a/b/blobs/uploads/?from=a%2Fb&mount=" + s.layerDigest.String(),
		} {
			r := do(t, method, url+"/v2/"+path)
			r.header.Del("Date")
			got := fmt.Sprintf("%d %v %s", r.status, r.header, r.body)
			if first == "" {
				first = got
			}
			if got != first {
				t.Errorf("%s %s: %s\nwant %s", method, path, got, first)
			}
		}
	}
	if n := s.up.Calls("") - stored; n != 0 {
		t.Errorf("the remote was asked %d times", n)
	}
}

// However a path is written, nothing gets by who decides: neither content nor the catalog
// is sent to who may only know that this is a registry.
func TestNoWayAround(t *testing.T) {
	s := newSite(t)
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1"); r.status != 200 {
		t.Fatalf("status %d", r.status)
	}
	for _, prefix := range []string{"", "/", "/p", "/p/", "/a b", "/v2", "/v2/", "/p//", "/p/../q"} {
		handler := s.newHandler(t, func(o *server.Options) {
			o.Config = &configuration.Configuration{}
			o.Config.HTTP.Prefix = prefix
			o.Access = &asking{answer: func(a server.Asked) (server.Caller, error) {
				if a.Resource == "" && !a.Catalog && len(a.Places) == 0 {
					return caller{}, nil
				}
				return nil, server.ErrForbidden
			}}
		})
		for _, before := range []string{"", "/", "/p", "/p/", "/p//", "//p", "/a%20b", "/v2", "/v2/", "/.", "/..", "/p/..", "/q", "/%70", "/x/../p"} {
			for _, root := range []string{"/v2/", "//v2/", "/v2//", "/./v2/", "/v2/./", "/%76%32/", "/v2%2f", "/V2/", "/x/../v2/", "/v2/../v2/"} {
				for _, what := range []string{
					"_catalog", "_catalog/", "_catalog?n=1", "_catalog;x", "%5fcatalog", "x/../_catalog", "a/b/../../_catalog",
					"a/b/manifests/v1", "a/b/manifests/v1/", "a/b/tags/list", "a/b/tags/list/", "a%2fb/manifests/v1", "a/b/manifests/%76%31",
					"a/b/blobs/" + s.layerDigest.String(), "a/b/blobs/" + s.layerDigest.String() + "/", "A/b/manifests/v1", "a/b/referrers/" + s.image.String(),
				} {
					target := before + root + what
					if !strings.HasPrefix(target, "/") {
						continue
					}
					r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://registry.test"+target, nil)
					if err != nil {
						continue // net/http does not take it either
					}
					w := httptest.NewRecorder()
					handler.ServeHTTP(w, r)
					body, _ := io.ReadAll(w.Body) // of a buffer
					if w.Code < 300 || strings.Contains(string(body), "a/b\"") || w.Code >= 500 {
						t.Errorf("prefix %q, %s: status %d\n%.200s", prefix, target, w.Code, body)
					}
				}
			}
		}
	}
}
