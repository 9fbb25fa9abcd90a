package router_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"registry-module/cache"
	"registry-module/upstream/router"
)

func TestNames(t *testing.T) {
	r := site(t)
	for name, tt := range map[string]struct {
		place cache.Place
		want  []string
	}{
		"default":             {cache.Place{Host: "mcr.microsoft.com", Repo: "team/app"}, []string{"mcr.microsoft.com/team/app", "mcr/team/app", "team/app"}},
		"default, root":       {cache.Place{Host: "mcr.microsoft.com", Repo: "app"}, []string{"app", "mcr.microsoft.com/app", "mcr/app"}},
		"called like another": {cache.Place{Host: "mcr.microsoft.com", Repo: "private/app"}, []string{"mcr.microsoft.com/private/app", "mcr/private/app"}},
		"ruled out":           {cache.Place{Host: "private.test:5000", Repo: "secret/a"}, []string{"private.test:5000/secret/a", "private/secret/a", "secret/a"}},
		"Docker Hub": {cache.Place{Host: hub, Repo: "library/alpine"}, []string{
			"docker.io/alpine", "docker.io/library/alpine", "hub/alpine", "hub/library/alpine", "index.docker.io/alpine",
			"index.docker.io/library/alpine", hub + "/alpine", hub + "/library/alpine"}},
		"namespace":    {cache.Place{Host: "upper.test:8000", Repo: "quay.io/team/app"}, []string{"quay.io/team/app", "upper.test:8000/quay.io/team/app"}},
		"no namespace": {cache.Place{Host: "upper.test:8000", Repo: "team/app"}, []string{"upper.test:8000/team/app"}},
		"nobody's":     {cache.Place{Host: "elsewhere.test", Repo: "team/app"}, nil},
	} {
		if got := r.Names(tt.place); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q\nwant %q", name, got, tt.want)
		}
	}
}

// Images of Docker Hub that another remote serves have all of its names there, too: who
// denies one of them denies the image.
func TestNamesOfDockerHubElsewhere(t *testing.T) {
	for name, remote := range map[string]router.Remote{
		"as a namespace": {Host: "upper.test", Namespaces: []string{"docker.io"}},
		"by default":     {Host: "upper.test", Default: true},
	} {
		r := newRouter(t, remote)
		for _, path := range []string{
			"docker.io/alpine", "docker.io/library/alpine", "index.docker.io/alpine", "index.docker.io/library/alpine", hub + "/alpine", hub + "/library/alpine",
		} {
			places, err := r.Route("", path)
			if err != nil {
				t.Fatal(err)
			}
			names := r.Names(places[0])
			for _, want := range []string{
				"docker.io/alpine", "docker.io/library/alpine", "index.docker.io/alpine", "index.docker.io/library/alpine",
				hub + "/alpine", hub + "/library/alpine", "upper.test/docker.io/library/alpine",
			} {
				if !slices.Contains(names, want) {
					t.Errorf("%s: %s is called %q, and not %s", name, path, names, want)
				}
			}
		}
	}
}

// Whatever name leads to a repository is one of its names, and no name leads elsewhere
// only: a rule about one name holds for all.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"alpine", "hub/alpine", "quay.io/a", "docker.io/library/x", "private/secret/a", "mcr/mcr/a", "ghcr.io/a"} {
		f.Add("", name)
		f.Add("docker.io", name)
		f.Add("quay.io", name)
		f.Add("PRIVATE.test:5000", name)
	}
	r, err := router.New([]router.Remote{
		{Host: "mcr.microsoft.com", Alias: "mcr", Default: true},
		{Host: "private.test:5000", Alias: "private", Default: true},
		{Host: hub, Alias: "hub", Default: true},
		{Host: "upper.test:8000", Namespaces: []string{"quay.io", "ghcr.io:443"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	grammar := regexp.MustCompile(`^[a-z0-9._-]+(/[a-z0-9._-]+)*$`) // names have passed one
	f.Fuzz(func(t *testing.T, ns, name string) {
		if !grammar.MatchString(name) {
			return
		}
		places, err := r.Route(ns, name)
		if err != nil {
			return
		}
		for _, p := range places {
			names := r.Names(p)
			if !slices.Contains(names, p.Host+"/"+p.Repo) || ns == "" && !slices.Contains(names, name) {
				t.Fatalf("%q, %q: %v is called %q", ns, name, p, names)
			}
			for _, n := range names {
				if first, _, _ := strings.Cut(n, "/"); strings.Contains(first, ":") {
					continue // no name in a path
				}
				// An image of Docker Hub has two names at a remote that serves it, too.
				same := func(q cache.Place) bool { return slices.Equal(r.Names(q), names) }
				if again, err := r.Route("", n); err != nil || !slices.ContainsFunc(again, same) {
					t.Fatalf("%q leads to %v, not to %v", n, again, p)
				}
			}
		}
	})
}
