package server_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	stockauth "github.com/distribution/distribution/v3/registry/auth"

	"registry-module/cache"
	"registry-module/server"
)

// controlled is access control by one of distribution's access controllers alone.
type controlled struct{ stockauth.AccessController }

func (c controlled) Authorize(r *http.Request, asked server.Asked) (server.Caller, error) {
	var access []stockauth.Access
	switch {
	case asked.Resource != "":
		access = append(access, stockauth.Access{Resource: stockauth.Resource{Type: "repository", Name: asked.Resource}, Action: "pull"})
	case asked.Catalog:
		access = append(access, stockauth.Access{Resource: stockauth.Resource{Type: "registry", Name: "catalog"}, Action: "*"})
	}
	grant, err := c.Authorized(r, access...)
	if err != nil {
		return nil, err
	}
	return caller{name: grant.User.Name, may: func(cache.Place) bool { return true }}, nil
}

type caller struct {
	name string
	may  func(cache.Place) bool
}

func (c caller) Name() string               { return c.name }
func (c caller) MayPull(p cache.Place) bool { return c.may(p) }

// asking is access control that notes what it is asked, and answers by a function.
type asking struct {
	answer func(server.Asked) (server.Caller, error)

	mu    sync.Mutex
	asked []server.Asked
}

func (a *asking) Authorize(_ *http.Request, asked server.Asked) (server.Caller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, asked)
	return a.answer(asked)
}

// What is asked about each request, once, and before the remote or the store are.
func TestAsked(t *testing.T) {
	refuse := func(server.Asked) (server.Caller, error) { return nil, server.ErrForbidden }
	s := newSite(t)
	place := []cache.Place{{Host: "upstream.test", Repo: "a/b"}}
	for path, want := range map[string]server.Asked{
		"/v2/":                 {},
		"/v2/_catalog":         {Catalog: true},
		"/v2/a/b/manifests/v1": {Resource: "a/b", Places: place, Content: server.ManifestContent, Reference: "v1"},
		"/v2/a/b/tags/list":    {Resource: "a/b", Places: place, Content: server.TagsContent},
		"/v2/a/b/blobs/" + s.layerDigest.String(): {Resource: "a/b", Places: place, Content: server.BlobContent, Reference: s.layerDigest.String()},
		"/v2/a/b/referrers/" + s.image.String():   {Resource: "a/b", Places: place, Content: server.ReferrersContent, Reference: s.image.String()},
		"/v2/a/b/manifests/v1?ns=upstream.test":   {Resource: "upstream.test/a/b", Places: place, Content: server.ManifestContent, Reference: "v1"},
		"/v2/a/b/manifests/v1?ns=elsewhere.test":  {Resource: "a/b", Content: server.ManifestContent, Reference: "v1"},
		"/v2/two/secret/a/manifests/v1":           {Resource: "two/secret/a", Content: server.ManifestContent, Reference: "v1"},
		"/v2/a/b/blobs/uploads/":                  {Resource: "a/b", Places: place},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete} {
			access := &asking{answer: refuse}
			url := s.serve(t, func(o *server.Options) { o.Access = access })
			r := do(t, method, url+path)
			if r.status != http.StatusForbidden || method != http.MethodHead && r.code(t) != "DENIED" {
				t.Errorf("%s %s: status %d\n%s", method, path, r.status, r.body)
			}
			if strings.Contains(string(r.body), "configur") {
				t.Errorf("%s %s: who is not let in is told %s", method, path, r.body)
			}
			if len(access.asked) != 1 || !same(access.asked[0], want) {
				t.Errorf("%s %s: asked %+v\nwant %+v", method, path, access.asked, want)
			}
		}
	}
	if n := s.up.Calls(""); n != 0 {
		t.Errorf("the remote was asked %d times", n)
	}
}

func same(a, b server.Asked) bool {
	return a.Resource == b.Resource && a.Content == b.Content && a.Reference == b.Reference && a.Catalog == b.Catalog &&
		slices.Equal(a.Places, b.Places)
}

// Of a mistake in a file of the operator's, clients are told nothing.
func TestAccessFails(t *testing.T) {
	s := newSite(t, func(o *server.Options) {
		o.Access = &asking{answer: func(server.Asked) (server.Caller, error) { return nil, errors.New("/etc/secret: line 3") }}
	})
	for _, path := range []string{"/v2/", "/v2/_catalog", "/v2/a/b/manifests/v1", "/v2/a/b/blobs/" + s.layerDigest.String(), "/v2/a/b/tags/list"} {
		if r := do(t, http.MethodGet, s.url+path); r.status != http.StatusInternalServerError || strings.Contains(string(r.body), "secret") {
			t.Errorf("%s: status %d\n%s", path, r.status, r.body)
		}
	}
}

// The catalog has what who asks may pull, and its pages are full.
func TestCatalogIsOfWhatMayBePulled(t *testing.T) {
	s := newSite(t)
	s.addSecond("x/y", "v1")
	for _, path := range []string{"a/b", "two/x/y"} {
		if r := do(t, http.MethodGet, s.url+"/v2/"+path+"/manifests/v1"); r.status != 200 {
			t.Fatalf("%s: status %d", path, r.status)
		}
	}
	for name, tt := range map[string]struct {
		may  func(cache.Place) bool
		want string
	}{
		"all":     {func(cache.Place) bool { return true }, `{"repositories":["a/b","two/x/y"]}`},
		"one":     {func(p cache.Place) bool { return p.Host == "second.test:5000" }, `{"repositories":["two/x/y"]}`},
		"paged":   {func(p cache.Place) bool { return p.Host == "second.test:5000" }, `{"repositories":["two/x/y"]}`},
		"nothing": {func(cache.Place) bool { return false }, `{"repositories":[]}`},
	} {
		url := s.serve(t, func(o *server.Options) {
			o.Access = &asking{answer: func(server.Asked) (server.Caller, error) { return caller{"somebody", tt.may}, nil }}
		})
		query := ""
		if name == "paged" {
			query = "?n=1"
		}
		r := do(t, http.MethodGet, url+"/v2/_catalog"+query)
		if got := strings.TrimSpace(string(r.body)); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if r.header.Get("Link") != "" {
			t.Errorf("%s: there is more: %s", name, r.header.Get("Link"))
		}
	}
}
