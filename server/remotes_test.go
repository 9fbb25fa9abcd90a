package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	stockauth "github.com/distribution/distribution/v3/registry/auth"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/internal/via"
	"registry-module/server"
	"registry-module/upstream/router"
)

// addSecond gives the second remote an image with a layer of its own.
func (s *site) addSecond(repo, tag string) (manifest []byte, layer digest.Digest) {
	text := []byte("layer of " + repo)
	layer = s.up2.AddBlob(repo, text)
	manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":%d}]}`,
		v1.MediaTypeImageManifest, s.up2.AddBlob(repo, []byte("{}")), layer, len(text))
	s.up2.AddManifest(repo, tag, v1.MediaTypeImageManifest, manifest)
	return manifest, layer
}

// query is the query with the namespace parameter, if there is one.
func query(ns string) string {
	if ns == "" {
		return ""
	}
	return "?ns=" + ns
}

// A namespace that cannot be understood is not taken for none.
func TestMalformedNamespace(t *testing.T) {
	s := newSite(t)
	for _, query := range []string{"?ns=", "?ns", "?ns=two;x", "?ns=%zz", "?ns=alias&ns=two", "?ns=two&x=%"} {
		if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1"+query); r.status != 400 || r.code(t) != "NAME_INVALID" {
			t.Errorf("%s: status %d\n%s", query, r.status, r.body)
		}
	}
	if n := s.up.Calls(""); n != 0 {
		t.Errorf("%d requests to the remote", n)
	}
}

// One name, two remotes, all ways to say which one is meant.
func TestRemoteIsChosen(t *testing.T) {
	for _, tt := range []struct {
		path, ns string
		second   bool
	}{
		{"a/b", "", false},
		{"a/b", "upstream.test", false},
		{"a/b", "UPSTREAM.test:443", false},
		{"a/b", "alias", false},
		{"upstream.test/a/b", "", false},
		{"alias/a/b", "", false},
		{"a/b", "second.test:5000", true},
		{"a/b", "two", true},
		{"two/a/b", "", true},
	} {
		s := newSite(t)
		manifest, layer := s.addSecond("a/b", "v1")
		want, blob, wrong := s.manifest, s.layerDigest, s.up2
		if tt.second {
			want, blob, wrong = manifest, layer, s.up
		}
		query := query(tt.ns)
		for range 2 { // cold, stored
			r := do(t, http.MethodGet, s.url+"/v2/"+tt.path+"/manifests/v1"+query)
			if r.status != 200 || string(r.body) != string(want) || r.header.Get("OCI-Namespace") != tt.ns {
				t.Errorf("%s%s: status %d, OCI-Namespace %q, body %.100q", tt.path, query, r.status, r.header.Get("OCI-Namespace"), r.body)
			}
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				if r := do(t, method, s.url+"/v2/"+tt.path+"/blobs/"+blob.String()+query); r.status != 200 || r.err != nil {
					t.Errorf("%s of a blob of %s%s: status %d, %v", method, tt.path, query, r.status, r.err)
				}
			}
			if r := do(t, http.MethodGet, s.url+"/v2/"+tt.path+"/tags/list"+query); r.status != 200 || !strings.Contains(string(r.body), `"v1"`) {
				t.Errorf("tags of %s%s: status %d, %s", tt.path, query, r.status, r.body)
			}
		}
		if n := wrong.Calls(""); n != 0 {
			t.Errorf("%s%s: %d requests to the other remote", tt.path, query, n)
		}
	}
}

// The next page of a list is one of the same list.
func TestTagsOfRemoteInPages(t *testing.T) {
	s := newSite(t)
	for _, tag := range []string{"v1", "v2", "v3"} {
		s.addSecond("a/b", tag)
	}
	access := s.serve(t, func(o *server.Options) {
		controller(func() (*stockauth.Grant, error) { return &stockauth.Grant{}, nil }).configure(o)
	})
	for _, url := range []string{s.url, access} {
		for _, start := range []string{"/v2/a/b/tags/list?n=1&ns=second.test:5000", "/v2/a/b/tags/list?ns=two&n=1", "/v2/two/a/b/tags/list?n=1"} {
			var got []string
			for path, pages := start, 0; path != "" && pages < 5; pages++ {
				r := do(t, http.MethodGet, url+path)
				var page struct{ Tags []string }
				if err := json.Unmarshal(r.body, &page); err != nil || r.status != 200 {
					t.Fatalf("%s: status %d, %s", path, r.status, r.body)
				}
				got = append(got, page.Tags...)
				link := r.header.Get("Link")
				path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
			}
			if !slices.Equal(got, []string{"v1", "v2", "v3"}) {
				t.Errorf("%s: %q", start, got)
			}
		}
	}
}

// What is not found at the first of two defaults is looked for at the second, unless
// the first cannot say so.
func TestDefaultRemotes(t *testing.T) {
	s := newSite(t)
	manifest, _ := s.addSecond("only/second", "v1")
	url := s.serve(t, func(o *server.Options) {
		o.Router = routes(t, router.Remote{Host: s.up.Host(), Default: true}, router.Remote{Host: s.up2.Host(), Default: true})
	})
	s.up.Fail(&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: s.up.Host(), Op: "asking"})
	r := do(t, http.MethodGet, url+"/v2/only/second/manifests/v1")
	if r.status != 503 || r.header.Get("Retry-After") == "" || s.up2.Calls("") != 0 {
		t.Errorf("with the first away: status %d, %d requests to the second", r.status, s.up2.Calls(""))
	}
	s.up.Fail(nil)
	for range 2 {
		if r := do(t, http.MethodGet, url+"/v2/only/second/manifests/v1"); r.status != 200 || string(r.body) != string(manifest) {
			t.Errorf("status %d, %s", r.status, r.body)
		}
	}
	if r := do(t, http.MethodGet, url+"/v2/no/body/manifests/v1"); r.status != 404 || r.code(t) != "MANIFEST_UNKNOWN" ||
		!strings.Contains(string(r.body), "upstream.test has no repository no/body, second.test:5000 has no") {
		t.Errorf("what nobody has: status %d, %s", r.status, r.body)
	}
}

// What the operator rules out is not served, though it is stored, by no name, and
// costs no request.
func TestDeniedRepositories(t *testing.T) {
	s := newSite(t)
	manifest, layer := s.addSecond("secret/a", "v1")
	all := routes(t, router.Remote{Host: s.up.Host(), Default: true}, router.Remote{Host: s.up2.Host(), Alias: "two", Default: true})
	open := s.serve(t, func(o *server.Options) { o.Router = all })
	mDigest := digest.FromBytes(manifest)
	paths := func(name string) []string {
		return []string{
			"/v2/" + name + "/manifests/v1", "/v2/" + name + "/manifests/" + mDigest.String(),
			"/v2/" + name + "/blobs/" + layer.String(), "/v2/" + name + "/tags/list",
		}
	}
	for _, name := range []string{"two/secret/a", "secret/a"} {
		for _, path := range paths(name) {
			if r := do(t, http.MethodGet, open+path); r.status != 200 {
				t.Fatalf("%s: status %d before it is ruled out", path, r.status)
			}
		}
	}
	if r := do(t, http.MethodGet, open+"/v2/_catalog"); !strings.Contains(string(r.body), `"two/secret/a"`) {
		t.Errorf("catalog %s", r.body)
	}
	first, second := s.up.Calls(""), s.up2.Calls("")
	for _, ways := range []struct{ name, ns string }{{"two/secret/a", ""}, {"secret/a", "two"}, {"secret/a", "second.test:5000"}} {
		for _, path := range append(paths(ways.name), "/v2/"+ways.name+"/referrers/"+mDigest.String()) {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				r := do(t, method, s.url+path+query(ways.ns))
				if r.status != 403 || method == http.MethodGet && r.code(t) != "DENIED" || r.header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s %s?ns=%s: status %d", method, path, ways.ns, r.status)
				}
			}
		}
	}
	if n := s.up.Calls("") + s.up2.Calls("") - first - second; n != 0 {
		t.Errorf("%d requests to the remotes", n)
	}
	if r := do(t, http.MethodGet, s.url+"/v2/_catalog"); r.status != 200 || strings.Contains(string(r.body), "secret") {
		t.Errorf("catalog %s", r.body)
	}
	// As a default it is none for this name: the other one is asked.
	url := s.serve(t, func(o *server.Options) {
		o.Router = routes(t, router.Remote{Host: s.up.Host(), Default: true},
			router.Remote{Host: s.up2.Host(), Default: true, Deny: []string{"secret/**"}})
	})
	if r := do(t, http.MethodGet, url+"/v2/secret/b/manifests/v1"); r.status != 404 || s.up.Calls("") == first || s.up2.Calls("") != second {
		t.Errorf("by default: status %d", r.status)
	}
}

// The names in the catalog can be pulled, all of them are in it, and in order.
func TestCatalogOfRemotes(t *testing.T) {
	s := newSite(t)
	want := []string{"a/b", "two/a/b", "two/c", "two/d/e", "upstream.test/two/c"}
	for _, repo := range []string{"c", "d/e", "a/b"} {
		s.addSecond(repo, "v1")
		do(t, http.MethodGet, s.url+"/v2/two/"+repo+"/manifests/v1")
	}
	s.up.AddManifest("two/c", "v1", v1.MediaTypeImageManifest, s.manifest) // a repository of the first that is called so
	do(t, http.MethodGet, s.url+"/v2/upstream.test/two/c/manifests/v1")
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	for n := 1; n <= len(want)+1; n++ {
		var got []string
		path := fmt.Sprintf("/v2/_catalog?n=%d", n)
		for path != "" {
			r := do(t, http.MethodGet, s.url+path)
			var page struct{ Repositories []string }
			if err := json.Unmarshal(r.body, &page); err != nil || r.status != 200 || len(page.Repositories) > n {
				t.Fatalf("%s: status %d, %s", path, r.status, r.body)
			}
			got = append(got, page.Repositories...)
			path = ""
			if link := r.header.Get("Link"); link != "" {
				path = strings.TrimPrefix(strings.SplitN(link, ">", 2)[0], "<")
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q, want %q", n, got, want)
		}
	}
	for _, name := range want {
		if r := do(t, http.MethodGet, s.url+"/v2/"+name+"/manifests/v1"); r.status != 200 {
			t.Errorf("%s: status %d", name, r.status)
		}
	}
}

// A request that comes back is refused before anything is asked because of it; one
// that does not is passed on with its way.
func TestLoops(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex
	var passed []string
	s.up.Asked = func(ctx context.Context, _ string) {
		mu.Lock()
		defer mu.Unlock()
		passed = via.From(ctx)
	}
	url := s.url + "/v2/a/b/manifests/v1"
	long := strings.TrimSuffix(strings.Repeat("1.1 x, ", via.MaxHops+1), ", ")
	for name, header := range map[string]string{
		"directly":       "1.1 registry-module-this",
		"after others":   "1.1 below, 1.1 registry-module-this, HTTP/1.1 registry-module-above, 1.0 nginx (proxy)",
		"without an end": long,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := do(t, method, url, "Via", header)
			if r.status != 508 {
				t.Errorf("%s: status %d, want 508", name, r.status)
			}
			if method == http.MethodGet && (r.code(t) == "" || name == "after others" && !strings.Contains(string(r.body), "registry-module-this, then registry-module-above, then nginx, then registry-module-this")) {
				t.Errorf("%s: %s", name, r.body)
			}
		}
	}
	if n := s.up.Calls(""); n != 0 {
		t.Errorf("%d requests to the remote", n)
	}
	// With access control as well.
	locked := s.serve(t, func(o *server.Options) {
		controller(func() (*stockauth.Grant, error) { return &stockauth.Grant{}, nil }).configure(o)
	})
	if r := do(t, http.MethodGet, locked+"/v2/a/b/manifests/v1", "Via", "1.1 registry-module-this"); r.status != 508 || !strings.Contains(string(r.body), "registry-module-this, then") {
		t.Errorf("with access control: status %d, %s", r.status, r.body)
	}
	if r := do(t, http.MethodGet, url, "Via", "1.1 registry-module-below, 1.1 proxy.internal.test:3128"); r.status != 200 || !slices.Equal(passed, []string{"registry-module-below", "proxy"}) {
		t.Errorf("status %d, passed on %q", r.status, passed)
	}
	s.up.Fail(&cache.UpstreamError{Kind: cache.ErrLoop, Remote: "above.test", Op: "fetching", Status: 508, Err: errors.New("further.test: the way")})
	if r := do(t, http.MethodGet, s.url+"/v2/a/c/manifests/v1"); r.status != 508 || !strings.Contains(string(r.body), `"above.test: further.test: the way"`) {
		t.Errorf("refused by the remote: status %d, %s", r.status, r.body)
	}
}

// resources is an access controller that lets everybody pull what is not of the
// second remote, and notes what it is asked for.
type resources struct {
	mu    sync.Mutex
	names []string
}

func (c *resources) Authorized(_ *http.Request, access ...stockauth.Access) (*stockauth.Grant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range access {
		c.names = append(c.names, a.Name)
		if strings.HasPrefix(a.Name, "second.test") || strings.HasPrefix(a.Name, "two/") {
			return nil, fmt.Errorf("%s: %w", a.Name, server.ErrForbidden)
		}
	}
	return &stockauth.Grant{}, nil
}

// Who may pull a repository of one remote may not pull the one of the same name of
// another, whatever it is called.
func TestAccessIsByRemote(t *testing.T) {
	access := new(resources)
	s := newSite(t)
	_, layer := s.addSecond("a/b", "v1")
	url := s.serve(t, func(o *server.Options) {
		o.Access = controlled{access}
	})
	for _, state := range []string{"cold", "stored"} {
		for _, way := range []struct{ path, ns string }{{"a/b", "second.test:5000"}, {"a/b", "two"}, {"two/a/b", ""}} {
			for _, what := range []string{"manifests/v1", "blobs/" + layer.String(), "tags/list"} {
				r := do(t, http.MethodGet, url+"/v2/"+way.path+"/"+what+query(way.ns))
				if r.status != 403 {
					t.Errorf("%s, %s?ns=%s, %s: status %d\n%s", state, way.path, way.ns, what, r.status, r.body)
				}
				want := "second.test:5000/a/b"
				if way.ns == "" {
					want = way.path
				}
				if got := access.names[len(access.names)-1]; got != want {
					t.Errorf("%s, %s?ns=%s, %s: access to %q was asked for", state, way.path, way.ns, what, got)
				}
			}
		}
		for _, path := range []string{"a/b", "alias/a/b"} {
			if r := do(t, http.MethodGet, url+"/v2/"+path+"/manifests/v1"); r.status != 200 {
				t.Errorf("%s, %s: status %d", state, path, r.status)
			}
		}
		// Now it is stored, by way of a server without access control.
		for _, what := range []string{"manifests/v1", "blobs/" + layer.String()} {
			if r := do(t, http.MethodGet, s.url+"/v2/two/a/b/"+what); r.status != 200 {
				t.Fatalf("status %d", r.status)
			}
		}
	}
	if !slices.Contains(access.names, "a/b") || !slices.Contains(access.names, "alias/a/b") {
		t.Errorf("access was asked for to %q", access.names)
	}
	// Who is not let in does not learn what is configured.
	for _, path := range []string{"two/a/b/manifests/v1?ns=elsewhere.test", "two/secret/a/manifests/v1", "two/secret/a/tags/list"} {
		r := do(t, http.MethodGet, url+"/v2/"+path)
		if r.status != 403 || strings.Contains(string(r.body), "configur") {
			t.Errorf("%s: status %d\n%s", path, r.status, r.body)
		}
	}
	if r := do(t, http.MethodGet, url+"/v2/a/b/manifests/v1?ns=elsewhere.test"); r.status != 404 || r.code(t) != "NAME_UNKNOWN" {
		t.Errorf("a registry that is not configured, for who is let in: status %d\n%s", r.status, r.body)
	}
}
