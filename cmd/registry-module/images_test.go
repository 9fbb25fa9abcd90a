package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/upstream/breaker"
	"registry-module/upstream/router"
)

// fakeStore is an imageStore in memory.
type fakeStore struct {
	images  []cache.Image
	details map[string]cache.ImageDetail // by name, of those that have more than is in images
	failing error                        // at the end of lists

	collection cache.Collection
	verify     func(context.Context, cache.VerifyOptions) (cache.VerifyReport, error)
	listing    func(at int) error // before each image of a list
	ready      func(context.Context) error

	mu        sync.Mutex // guards what follows
	pins      []cache.Pin
	removed   []string
	collected []cache.CollectOptions
}

func (f *fakeStore) Ready(ctx context.Context) error {
	if f.ready == nil {
		return nil
	}
	return f.ready(ctx)
}

func (f *fakeStore) Images(context.Context) iter.Seq2[cache.Image, error] {
	return func(yield func(cache.Image, error) bool) {
		for at, i := range f.images {
			if f.listing != nil {
				if err := f.listing(at); err != nil {
					yield(cache.Image{}, err)
					return
				}
			}
			if !yield(i, nil) {
				return
			}
		}
		if f.failing != nil {
			yield(cache.Image{}, f.failing)
		}
	}
}

func (f *fakeStore) InspectImage(_ context.Context, repository, ref string) (cache.ImageDetail, error) {
	if d, ok := f.details[imageName(repository, ref)]; ok {
		return d, nil
	}
	for _, i := range f.images {
		if i.Repository == repository && (i.Tag == ref || i.Digest.String() == ref) {
			return cache.ImageDetail{Image: i}, nil
		}
	}
	return cache.ImageDetail{}, fmt.Errorf("image %s: %w", imageName(repository, ref), cache.ErrNotFound)
}

// Explain says which places it was asked about.
func (f *fakeStore) Explain(_ context.Context, _, _ string, places ...cache.Place) (cache.Explanation, error) {
	e := cache.Explanation{Verdict: cache.Fetched, Among: places}
	if len(places) == 1 {
		e.Place, e.Among = places[0], nil
	}
	return e, nil
}

func (f *fakeStore) PinImages(_ context.Context, p cache.Pin) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pins = append(f.pins, p)
	n := 0
	for _, i := range f.images {
		if imageName(i.Repository, i.Tag) == p.Pattern || i.Repository == p.Pattern {
			n++
		}
	}
	return n, nil
}

func (f *fakeStore) UnpinImages(_ context.Context, pattern string, reason cache.PinReason) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := len(f.pins)
	f.pins = slices.DeleteFunc(f.pins, func(p cache.Pin) bool { return p.Pattern == pattern && p.Reason == reason })
	return len(f.pins) < before, nil
}

func (f *fakeStore) Pins(context.Context) ([]cache.Pin, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pins), nil
}

// RemoveImage refuses what is pinned by its exact name.
func (f *fakeStore) RemoveImage(_ context.Context, repository, ref string) (cache.Removed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := imageName(repository, ref)
	if slices.ContainsFunc(f.pins, func(p cache.Pin) bool { return p.Pattern == name }) {
		return cache.Removed{}, fmt.Errorf("%s: %w", name, cache.ErrPinned)
	}
	f.removed = append(f.removed, name)
	return cache.Removed{Tags: 1, Manifests: 1, Blobs: 2, Bytes: 3 << 20, Remaining: []string{"team/app:other"}}, nil
}

func (f *fakeStore) Collect(_ context.Context, o cache.CollectOptions) (cache.Collection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.collected = append(f.collected, o)
	return f.collection, nil
}

func (f *fakeStore) Verify(ctx context.Context, o cache.VerifyOptions) (cache.VerifyReport, error) {
	return f.verify(ctx, o)
}

// fakeBindings say what names mean.
type fakeBindings map[string]string

func (f fakeBindings) Bindings(context.Context) iter.Seq2[cache.Binding, error] {
	return func(yield func(cache.Binding, error) bool) {
		for name, host := range f {
			if !yield(cache.Binding{Name: name, Host: host}, nil) {
				return
			}
		}
	}
}

func (f fakeBindings) Unbind(context.Context, string) (bool, error) { return false, nil }

// sum is a digest that begins with digit.
func sum(digit string) digest.Digest { return digest.Digest("sha256:" + strings.Repeat(digit, 64)) }

const hubHost = "registry-1.docker.io"

// threeRemotes are one whose names are stored bare, which rules something out, Docker
// Hub, and a registry with a port.
func threeRemotes() (remotes []cache.Remote, routes []router.Remote) {
	bare := cache.Naming{Others: []string{"ours.test:5000/", hubHost + "/"}, Aside: "@mcr.test/"}
	return []cache.Remote{
			{Host: "mcr.test", Naming: bare},
			{Host: hubHost, Naming: cache.Naming{Prefix: hubHost + "/"}},
			{Host: "ours.test:5000", Naming: cache.Naming{Prefix: "ours.test:5000/"}},
		}, []router.Remote{
			{Host: "mcr.test", Default: true, Deny: []string{"denied", "alpine"}},
			{Host: hubHost, Default: true},
			{Host: "ours.test:5000", Alias: "ours", Namespaces: []string{"quay.test"}},
		}
}

func named(t *testing.T, store imageStore, b bindings) *namedImages {
	t.Helper()
	remotes, routes := threeRemotes()
	n, err := newNamedImages(store, b, remotes, routes)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Names as people write them lead to those that things are stored under.
func TestKeys(t *testing.T) {
	n := named(t, &fakeStore{}, fakeBindings{"bound/app": hubHost, "elsewhere/app": "gone.test"})
	for name, tt := range map[string]struct {
		image  string
		keys   string
		listed string
	}{
		"of the defaults":                 {"team/app", "team/app registry-1.docker.io/team/app", ""},
		"of the defaults, in the library": {"nginx", "nginx registry-1.docker.io/library/nginx", ""},
		"not served by the first":         {"alpine", "registry-1.docker.io/library/alpine alpine", ""},
		"bound":                           {"bound/app", "registry-1.docker.io/bound/app", "bound/app"},
		"bound to what is not configured": {"elsewhere/app", "elsewhere/app registry-1.docker.io/elsewhere/app", ""},
		"by the host":                     {"mcr.test/team/app", "team/app", "mcr.test/team/app"},
		"ruled out, by the host":          {"mcr.test/denied", "denied", "mcr.test/denied"},
		"by another name of the host":     {"docker.io/nginx", "registry-1.docker.io/library/nginx", "docker.io/nginx"},
		"by the host, as listed":          {"registry-1.docker.io/library/nginx", "registry-1.docker.io/library/nginx", ""},
		"by the host with its port":       {"ours.test:5000/team/app", "ours.test:5000/team/app", ""},
		"by the alias":                    {"ours/team/app", "ours.test:5000/team/app", "ours/team/app"},
		"by a namespace":                  {"quay.test/team/app", "ours.test:5000/quay.test/team/app", "quay.test/team/app"},
		"behind the address":              {"localhost:8000/team/app", "team/app registry-1.docker.io/team/app", "localhost:8000/team/app"},
		"behind the address, bound":       {"localhost:8000/bound/app", "registry-1.docker.io/bound/app", "localhost:8000/bound/app"},
		"behind localhost":                {"localhost/ours/app", "ours.test:5000/app", "localhost/ours/app"},
		"behind a variable":               {"$upstream:8000/ours/app", "ours.test:5000/app", ""},
		"behind an IPv6 address":          {"[::1]:8000/ours/app", "ours.test:5000/app", "[::1]:8000/ours/app"},
		"set aside":                       {"@mcr.test/quay.test/a", "", "@mcr.test/quay.test/a"},
		"of nobody":                       {"other.test/team/app", "other.test/team/app registry-1.docker.io/other.test/team/app", ""},
		"upper case":                      {"Team/App", "", ""},
		"up and away":                     {"../../etc", "", ""},
		"away behind the address":         {"localhost:1/../etc", "", ""},
		"nothing":                         {"", "", ""},
		"control characters":              {"a\x1b/b", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			places, listed, err := n.names.keys(t.Context(), tt.image)
			var keys []string
			for _, p := range places {
				keys = append(keys, n.names.key(p))
			}
			if got := strings.Join(keys, " "); err != nil || got != tt.keys || listed != tt.listed {
				t.Errorf("%q, %q, %v, want %q, %q", got, listed, err, tt.keys, tt.listed)
			}
		})
	}
}

func FuzzKeys(f *testing.F) {
	f.Add("localhost:8000/team/app")
	f.Add("@a/b")
	remotes, routes := threeRemotes()
	names, err := newImageNames(fakeBindings{}, remotes, routes)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		places, listed, err := names.keys(t.Context(), name)
		if err != nil {
			t.Error(err)
		}
		keys := []string{listed}
		for _, p := range places {
			keys = append(keys, names.key(p))
		}
		for _, k := range keys {
			if strings.Contains(k, "..") && strings.Contains(k, "../") || strings.HasPrefix(k, "/") || strings.ContainsAny(k, " \n\x00*?") {
				t.Errorf("%q can be stored as %q", name, k)
			}
		}
	})
}

// Patterns as people write them lead to patterns of names as they are stored.
func TestExpand(t *testing.T) {
	n := named(t, &fakeStore{}, fakeBindings{}).names
	for pattern, want := range map[string]string{
		"team/app:1":                      "team/app:1 registry-1.docker.io/team/app:1",
		"team/**:{a,b}":                   "team/**:{a,b} registry-1.docker.io/team/**:{a,b}",
		"*":                               "* registry-1.docker.io/library/*",
		"**":                              "** registry-1.docker.io/**",
		"docker.io/nginx:1.*":             "registry-1.docker.io/library/nginx:1.*",
		"docker.io/**":                    "registry-1.docker.io/**",
		"docker.io/{a,b}/*":               "registry-1.docker.io/{a,b}/*",
		"mcr.test/denied":                 "denied",
		"ours/team/*:latest":              "ours.test:5000/team/*:latest",
		"ours.test:5000/team/*":           "ours.test:5000/team/*",
		"quay.test/**":                    "ours.test:5000/quay.test/**",
		"localhost:8000/ours/team/*":      "ours.test:5000/team/*",
		"$upstream:8000/team/*":           "team/* registry-1.docker.io/team/*",
		"@mcr.test/quay.test/a:1":         "@mcr.test/quay.test/a:1",
		"team/app:1@" + sum("a").String(): "team/app@" + sum("a").String() + " registry-1.docker.io/team/app@" + sum("a").String(),
		"{ours,team}/app":                 "{ours,team}/app registry-1.docker.io/{ours,team}/app",
		"ours/a:1@" + sum("b").String():   "ours.test:5000/a@" + sum("b").String(),
	} {
		if got := strings.Join(n.expand(pattern), " "); got != want {
			t.Errorf("%q is %q, want %q", pattern, got, want)
		}
	}
	if got := strings.Join(n.expandAll([]string{"ours/a", "ours/b"}), " "); got != "ours.test:5000/a ours.test:5000/b" {
		t.Errorf("all: %q", got)
	}

	// Where the bare names are no default's, and where there is no default.
	remotes, routes := threeRemotes()
	routes[0].Default = false
	n, err := newImageNames(fakeBindings{}, remotes, routes)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.expand("team/*"), " "); got != "registry-1.docker.io/team/* team/*" {
		t.Errorf("with bare names of another: %q", got)
	}
	routes[1].Default = false
	if n, err = newImageNames(fakeBindings{}, remotes, routes); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.expand("team/*"), " "); got != "team/*" {
		t.Errorf("without default: %q", got)
	}
}

func storedImages() []cache.Image {
	return []cache.Image{
		{Repository: "both/app", Remote: "mcr.test", Tag: "v1", Digest: sum("1")},
		{Repository: "ours.test:5000/team/app", Remote: "ours.test:5000", Tag: "v1", Digest: sum("2")},
		{Repository: "registry-1.docker.io/bound/app", Remote: hubHost, Tag: "v1", Digest: sum("3")},
		{Repository: "registry-1.docker.io/both/app", Remote: hubHost, Tag: "v1", Digest: sum("4")},
		{Repository: "bound/app", Remote: "mcr.test", Tag: "v1", Digest: sum("5")},
		{Repository: "team/app", Remote: "mcr.test", Tag: "latest", Digest: sum("6")},
		{Repository: "team/app", Remote: "mcr.test", Tag: "same", Digest: sum("6")},
		{Repository: "team/app", Remote: "mcr.test", Digest: "sha256:6666667" + digest.Digest(strings.Repeat("0", 57))},
	}
}

func TestInspectByName(t *testing.T) {
	n := named(t, &fakeStore{images: storedImages()}, fakeBindings{"bound/app": hubHost})
	for name, tt := range map[string]struct {
		image string
		want  string // repository and digest, or what the error says
		kind  error
	}{
		"latest":                   {"team/app", "team/app sha256:66666666", nil},
		"first default":            {"both/app:v1", "both/app sha256:1111", nil},
		"second, by host":          {"docker.io/both/app:v1", "registry-1.docker.io/both/app sha256:4444", nil},
		"by the address":           {"gateway:8000/ours/team/app:v1", "ours.test:5000/team/app sha256:2222", nil},
		"tag and digest":           {"team/app:nonsense@" + sum("6").String(), "team/app sha256:6666", nil},
		"abbreviated":              {"team/app@sha256:66666670", "team/app sha256:66666670", nil},
		"abbreviated, of two":      {"team/app@sha256:666666", "beginning of several digests", errBadPattern},
		"abbreviated, of others":   {"team/app@sha256:111111", "nothing is stored in that repository", cache.ErrNotFound},
		"abbreviated too much":     {"team/app@sha256:66", "is not a digest", errBadPattern},
		"bound, and listed":        {"bound/app:v1", "write registry-1.docker.io/bound/app:v1 or mcr.test/bound/app:v1", errBadPattern},
		"the way out of that":      {"mcr.test/bound/app:v1", "bound/app sha256:5555", nil},
		"the other way out":        {"registry-1.docker.io/bound/app:v1", "registry-1.docker.io/bound/app sha256:3333", nil},
		"not stored":               {"team/app:v9", "`registry-module ls` lists", cache.ErrNotFound},
		"no name":                  {"Team/App:v1", "is not the name of an image", errBadPattern},
		"what is not to be shown":  {"a\x1b[31m:v1", `"a\x1b[31m:v1" is not the name`, errBadPattern},
		"tag that is not possible": {"team/app:\x1b", `"team/app:\x1b" is not stored`, cache.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := n.Inspect(t.Context(), tt.image)
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			if got := d.Repository + " " + d.Digest.String(); err != nil || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestUnpinByName(t *testing.T) {
	store := &fakeStore{images: storedImages()}
	n := named(t, store, fakeBindings{})
	pin := func(pattern string, reason cache.PinReason) {
		store.pins = append(store.pins, cache.Pin{Pattern: pattern, Reason: reason})
	}
	pin("team/app", cache.PinnedByOperator)
	pin("team/app", cache.PinnedByPolicy)
	pin("registry-1.docker.io/team/app", cache.PinnedBySeed)
	pin("team/app:v1", cache.PinnedByOperator)
	u, err := n.Unpin(t.Context(), "localhost:8000/team/app")
	if err != nil || len(u.Removed) != 2 || len(u.Remaining) != 1 || u.Remaining[0].Reason != cache.PinnedByPolicy {
		t.Errorf("%+v, %v", u, err)
	}
	if len(store.pins) != 2 {
		t.Errorf("left: %v", store.pins)
	}
	// As they are listed, which clients would call something else.
	pin("ours.test:5000/team/*", cache.PinnedByOperator)
	if u, err = n.Unpin(t.Context(), "ours.test:5000/team/*"); err != nil || len(u.Removed) != 1 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err = n.Unpin(t.Context(), "Team"); !errors.Is(err, errBadPattern) {
		t.Error(err)
	}
}

func TestRemoveByName(t *testing.T) {
	exact := cache.Pin{Pattern: "team/app:latest", Reason: cache.PinnedByOperator}
	seeded := cache.Pin{Pattern: "team/app:latest", Reason: cache.PinnedBySeed}
	wide := cache.Pin{Pattern: "team/**", Reason: cache.PinnedByOperator}
	policy := cache.Pin{Pattern: "team/app:latest", Reason: cache.PinnedByPolicy}
	for name, tt := range map[string]struct {
		o        removeOptions
		pins     []cache.Pin
		removed  string // what the store was asked for
		left     int    // pins
		says     string
		kind     error
		unpinned int
	}{
		"by tag":                {o: removeOptions{Image: "localhost:8000/team/app:same"}, removed: "team/app:same"},
		"by digest":             {o: removeOptions{Image: "team/app@sha256:66666666"}, removed: "team/app@" + sum("6").String()},
		"all":                   {o: removeOptions{Image: "team/app", All: true}, removed: "team/app"},
		"all of the second":     {o: removeOptions{Image: "docker.io/both/app", All: true}, removed: "registry-1.docker.io/both/app"},
		"all, with a tag":       {o: removeOptions{Image: "team/app:same", All: true}, says: "leave it out", kind: errBadPattern},
		"all of nothing":        {o: removeOptions{Image: "team/none", All: true}, says: "not stored", kind: cache.ErrNotFound},
		"without tag":           {o: removeOptions{Image: "team/app"}, says: "neither tag nor digest", kind: errBadPattern},
		"not stored":            {o: removeOptions{Image: "team/app:v9"}, says: "not stored", kind: cache.ErrNotFound},
		"pinned":                {o: removeOptions{Image: "team/app:latest"}, pins: []cache.Pin{exact}, says: "`registry-module unpin 'team/app:latest'` first", kind: cache.ErrPinned, left: 1},
		"pinned, forced":        {o: removeOptions{Image: "team/app:latest", Force: true}, pins: []cache.Pin{exact, seeded}, removed: "team/app:latest", unpinned: 1},
		"pinned wide, forced":   {o: removeOptions{Image: "team/app:latest", Force: true}, pins: []cache.Pin{exact, wide}, says: "`registry-module unpin 'team/**'` first", kind: cache.ErrPinned, left: 2},
		"policy, forced":        {o: removeOptions{Image: "team/app:latest", Force: true}, pins: []cache.Pin{policy}, says: "REGISTRY_CACHE_PINS", kind: cache.ErrPinned, left: 1},
		"all pinned, forced":    {o: removeOptions{Image: "team/app", All: true, Force: true}, pins: []cache.Pin{exact}, removed: "team/app", unpinned: 1},
		"all, wide pin, forced": {o: removeOptions{Image: "team/app", All: true, Force: true}, pins: []cache.Pin{wide}, says: "'team/**'", kind: cache.ErrPinned, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			store := &fakeStore{images: storedImages(), pins: tt.pins}
			for i := range store.images {
				if imageName(store.images[i].Repository, store.images[i].Tag) == "team/app:latest" {
					store.images[i].Pins = slices.Clone(tt.pins)
				}
			}
			r, err := named(t, store, fakeBindings{}).Remove(t.Context(), tt.o)
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v, want %q", err, tt.says)
				}
			} else if err != nil || r.Image != tt.removed || len(r.Unpinned) != tt.unpinned {
				t.Errorf("%+v, %v", r, err)
			}
			if got := strings.Join(store.removed, " "); got != tt.removed || len(store.pins) != tt.left {
				t.Errorf("removed %q, left %v", got, store.pins)
			}
		})
	}
}

// controlledImages serves commands about store at the socket of a data directory, until the
// test ends or stop is called, and has commands find it.
func controlledImages(t *testing.T, store *fakeStore, b fakeBindings) (client *controlClient, stop context.CancelFunc) {
	t.Helper()
	dir, err := os.MkdirTemp("", "images") // short enough for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
	ln, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	log, _ := test.NewNullLogger()
	srv := newControlServer(ctx, controlHandler(b, named(t, store, b), nil, func() []breaker.Status { return nil }), log)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		stop()
		_ = srv.Close() // what matters is that Serve returns
		<-done
	})
	return newControlClient(controlPath(dir)), stop
}
