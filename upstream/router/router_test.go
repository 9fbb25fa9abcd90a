package router_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"

	"registry-module/cache"
	"registry-module/upstream"
	"registry-module/upstream/router"
)

const hub = "registry-1.docker.io"

func newRouter(t *testing.T, remotes ...router.Remote) *router.Router {
	t.Helper()
	r, err := router.New(remotes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// site is what a gateway could have.
func site(t *testing.T) *router.Router {
	return newRouter(t,
		router.Remote{Host: "mcr.microsoft.com", Alias: "mcr", Default: true},
		router.Remote{Host: "private.test:5000", Alias: "private", Default: true, Deny: []string{"secret/**", "*-internal"}},
		router.Remote{Host: hub, Alias: "hub", Allow: []string{"library/*", "team/**"}, Deny: []string{"library/evil"}},
		router.Remote{Host: "upper.test:8000", Namespaces: []string{"quay.io", "ghcr.io:443"}},
	)
}

func TestRoute(t *testing.T) {
	r := site(t)
	for _, tt := range []struct {
		ns, name string
		places   string // host and repository of each
	}{
		// By namespace.
		{"mcr.microsoft.com", "azureiotedge-agent", "mcr.microsoft.com azureiotedge-agent"},
		{"MCR.microsoft.com:443", "a", "mcr.microsoft.com a"},
		{"mcr", "a", "mcr.microsoft.com a"},
		{"private.test:5000", "a/b", "private.test:5000 a/b"},
		{"docker.io", "library/nginx", hub + " library/nginx"},
		{"docker.io", "nginx", hub + " library/nginx"},
		{"index.docker.io", "team/a", hub + " team/a"},
		{hub, "nginx", hub + " library/nginx"},
		{"quay.io", "a/b", "upper.test:8000 quay.io/a/b"},
		// The namespace wins over the name.
		{"private.test:5000", "mcr/a", "private.test:5000 mcr/a"},

		// By the first component.
		{"", "mcr.microsoft.com/azureiotedge-agent", "mcr.microsoft.com azureiotedge-agent"},
		{"", "mcr/a/b", "mcr.microsoft.com a/b"},
		{"", "docker.io/nginx", hub + " library/nginx"},
		{"", "docker.io/library/nginx", hub + " library/nginx"},
		{"", "hub/nginx", hub + " library/nginx"},
		{"", "registry-1.docker.io/team/a/b", hub + " team/a/b"},
		{"", "quay.io/a/b", "upper.test:8000 quay.io/a/b"},

		// By default.
		{"", "azureiotedge-agent", "mcr.microsoft.com azureiotedge-agent, private.test:5000 azureiotedge-agent"},
		{"", "mcr", "mcr.microsoft.com mcr, private.test:5000 mcr"}, // a name, not a remote
		{"", "elsewhere.test/a", "mcr.microsoft.com elsewhere.test/a, private.test:5000 elsewhere.test/a"},
		// What one must not have can be the other's.
		{"", "secret/a", "mcr.microsoft.com secret/a"},
		{"", "x-internal", "mcr.microsoft.com x-internal"},
	} {
		places, err := r.Route(tt.ns, tt.name)
		var got []string
		for _, p := range places {
			got = append(got, p.Host+" "+p.Repo)
		}
		if err != nil || strings.Join(got, ", ") != tt.places {
			t.Errorf("ns %q, name %q: %q, %v; want %q", tt.ns, tt.name, got, err, tt.places)
		}
	}
}

func TestRouteRefuses(t *testing.T) {
	r := site(t)
	onlyHub := newRouter(t, router.Remote{Host: hub, Default: true, Deny: []string{"library/**"}})
	upper := newRouter(t, router.Remote{Host: "upper.test", Alias: "up", Default: true, Namespaces: []string{"docker.io"}, Deny: []string{"docker.io/library/evil"}})
	short := newRouter(t, router.Remote{Host: hub, Deny: []string{"evil"}},
		router.Remote{Host: "upper.test", Alias: "up", Deny: []string{"docker.io/evil"}})
	noDefault := newRouter(t, router.Remote{Host: "a.test"})
	for _, tt := range []struct {
		router   *router.Router
		ns, name string
		kind     error
		says     string
	}{
		{r, "elsewhere.test", "a", cache.ErrNotServed, "configured: mcr.microsoft.com, private.test:5000"},
		{r, "http://mcr.microsoft.com", "a", cache.ErrNotServed, ""},
		{r, "mcr.microsoft.com/", "a", cache.ErrNotServed, ""},
		{r, " mcr.microsoft.com", "a", cache.ErrNotServed, ""},
		{r, "mcr.microsoft.com:8443", "a", cache.ErrNotServed, ""},
		{r, "user@mcr.microsoft.com", "a", cache.ErrNotServed, ""},
		{r, strings.Repeat("x", 10000), "a", cache.ErrNotServed, ""},
		{noDefault, "", "a", cache.ErrNotServed, "no remote registry is the default"},

		{r, "private.test:5000", "secret/a", cache.ErrRefused, "secret/a of private.test:5000"},
		{r, "private", "secret/a/b", cache.ErrRefused, ""},
		{r, "", "private/secret/a", cache.ErrRefused, ""},
		{r, "", "private/x-internal", cache.ErrRefused, ""},
		// All names of an image of Docker Hub.
		{r, "docker.io", "evil", cache.ErrRefused, ""},
		{r, "", "docker.io/evil", cache.ErrRefused, ""},
		{r, "", "hub/library/evil", cache.ErrRefused, ""},
		{r, "", "hub/other/a", cache.ErrRefused, ""},
		{onlyHub, "", "nginx", cache.ErrRefused, ""},
		{short, "docker.io", "library/evil", cache.ErrRefused, ""},
		{short, "", "docker.io/evil", cache.ErrRefused, ""},
		{short, "", "up/docker.io/library/evil", cache.ErrRefused, ""},
		{short, "", "up/index.docker.io/evil", cache.ErrRefused, ""},
		// And of one of Docker Hub that another remote serves.
		{upper, "docker.io", "evil", cache.ErrRefused, ""},
		{upper, "index.docker.io", "library/evil", cache.ErrRefused, ""},
		{upper, "", "docker.io/evil", cache.ErrRefused, ""},
		{upper, "", "up/docker.io/evil", cache.ErrRefused, ""},
		{upper, "", "up/registry-1.docker.io/library/evil", cache.ErrRefused, ""},
		{upper, "upper.test", "index.docker.io/library/evil", cache.ErrRefused, ""},
		{onlyHub, "", "library/nginx", cache.ErrRefused, ""},
	} {
		places, err := tt.router.Route(tt.ns, tt.name)
		if !errors.Is(err, tt.kind) || len(places) > 0 || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 500 {
			t.Errorf("ns %.50q, name %q: %v, %v; want %v with %q", tt.ns, tt.name, places, err, tt.kind, tt.says)
		}
	}
}

// What is listed can be asked for by the name that it is listed by.
func TestListed(t *testing.T) {
	r := site(t)
	for _, tt := range []struct{ host, repo, want string }{
		{"mcr.microsoft.com", "a", "a"},
		{"mcr.microsoft.com", "quay.io/a", "mcr.microsoft.com/quay.io/a"},
		{"mcr.microsoft.com", "hub/a", "mcr.microsoft.com/hub/a"},
		{"private.test:5000", "a", "private/a"},
		{"private.test:5000", "secret/a", ""},
		{hub, "library/nginx", hub + "/library/nginx"},
		{hub, "library/evil", ""},
		{"upper.test:8000", "quay.io/a", "quay.io/a"},
		{"upper.test:8000", "a", ""}, // by namespace only
		{"elsewhere.test", "a", ""},
	} {
		got, ok := r.Listed(cache.Place{Host: tt.host, Repo: tt.repo})
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s of %s is listed as %q, %v; want %q", tt.repo, tt.host, got, ok, tt.want)
		}
	}
	mirror := newRouter(t, router.Remote{Default: true}) // adopted, and nobody knows whose
	if got, ok := mirror.Listed(cache.Place{Repo: "a"}); !ok || got != "a" {
		t.Errorf("without a host: %q, %v", got, ok)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, remotes := range map[string][]router.Remote{
		"two of a host":                         {{Host: "a.test"}, {Host: "a.test"}},
		"an alias is a host":                    {{Host: "a.test"}, {Host: "b.test", Alias: "a.test"}},
		"two of an alias":                       {{Host: "a.test", Alias: "x"}, {Host: "b.test", Alias: "x"}},
		"a namespace is the remote's own host":  {{Host: "a.test", Namespaces: []string{"a.test"}}},
		"a namespace is the remote's own alias": {{Host: "a.test", Alias: "b.test", Namespaces: []string{"b.test"}}},
		"a namespace is taken":                  {{Host: "a.test"}, {Host: "b.test", Namespaces: []string{"a.test"}}},
		"pattern":                               {{Host: "a.test", Deny: []string{"[a"}}},
	} {
		if _, err := router.New(remotes); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Not a conflict: one remote, by two names that are the same.
	if _, err := router.New([]router.Remote{{Host: "a.test", Alias: "a.test"}}); err != nil {
		t.Error(err)
	}
}

// FuzzRoute looks for names by which something that is ruled out can be had.
func FuzzRoute(f *testing.F) {
	for _, seed := range [][2]string{{"docker.io", "evil"}, {"", "hub/evil"}, {"upper.test", "docker.io/evil"}, {"", "up/index.docker.io/library/evil"}, {"quay.io", "a"}, {"", "a"}, {"[::1]", "a"}, {"%zz", "a"}} {
		f.Add(seed[0], seed[1])
	}
	r, err := router.New([]router.Remote{
		{Host: "a.test", Alias: "a", Default: true, Deny: []string{"evil/**", "**/evil"}},
		{Host: hub, Alias: "hub", Default: true, Allow: []string{"library/*"}, Deny: []string{"library/evil"}},
		{Host: "upper.test", Alias: "up", Namespaces: []string{"quay.io"}, Deny: []string{"docker.io/library/evil"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ns, name string) {
		if _, err := reference.WithName(name); err != nil {
			return // the server refuses it
		}
		places, err := r.Route(ns, name)
		if err != nil {
			if !errors.Is(err, cache.ErrNotServed) && !errors.Is(err, cache.ErrRefused) || len(places) > 0 {
				t.Errorf("%q, %q: %v, %v", ns, name, places, err)
			}
			return
		}
		if len(places) == 0 {
			t.Fatalf("%q, %q: nothing, and no error", ns, name)
		}
		for _, p := range places {
			parts := strings.Split(p.Repo, "/")
			if p.Host == "a.test" && (parts[0] == "evil" || parts[len(parts)-1] == "evil") ||
				p.Host == hub && (p.Repo == "library/evil" || len(parts) != 2 || parts[0] != "library") ||
				p.Host == "upper.test" && upstream.HostOf(parts[0]) == hub && slices.Contains([]string{"evil", "library/evil"}, strings.Join(parts[1:], "/")) ||
				!slices.Contains([]string{"a.test", hub, "upper.test"}, p.Host) {
				t.Errorf("%q, %q: %+v", ns, name, p)
			}
		}
	})
}
