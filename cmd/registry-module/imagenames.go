package main

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/upstream"
	"registry-module/upstream/router"
)

// imageNames knows under which names is stored what people call differently.
type imageNames struct {
	now      atomic.Pointer[namesNow]
	bindings bindings
}

// namesNow is what [imageNames] knows until another remote is added.
type namesNow struct {
	// asked answers as clients are, and all also for what is ruled out, which can be
	// stored nevertheless.
	asked, all *router.Router
	// namings are those of the remotes, by host.
	namings map[string]cache.Naming
}

func newImageNames(b bindings, remotes []cache.Remote, routes []router.Remote) (*imageNames, error) {
	n := &imageNames{bindings: b}
	return n, n.replace(remotes, routes)
}

// replace has names mean what they do with other remotes.
func (n *imageNames) replace(remotes []cache.Remote, routes []router.Remote) error {
	now := &namesNow{namings: make(map[string]cache.Naming, len(remotes))}
	for _, r := range remotes {
		now.namings[r.Host] = r.Naming
	}
	var err error
	if now.asked, err = router.New(routes); err != nil {
		return err
	}
	open := slices.Clone(routes)
	for i := range open {
		open[i].Allow, open[i].Deny = nil, nil
	}
	if now.all, err = router.New(open); err != nil {
		return err
	}
	n.now.Store(now)
	return nil
}

// What names may look like: as clients ask for them (OCI distribution specification,
// "Pulling manifests"), and as they are stored, with a host in front.
var (
	askedName  = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	storedName = regexp.MustCompile(`^(@?[a-z0-9[][a-z0-9.:\[\]_-]*/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
)

// patternMarks are what patterns have and names do not.
const patternMarks = `*?[]{}\`

// keys returns the names under which a repository can be stored that is called name: in
// order those of what clients get, and then name itself, as it may have been read off a
// list, if that is something else.
func (n *imageNames) keys(ctx context.Context, name string) (asClients []cache.Place, asListed string, err error) {
	asClients, asked := n.places(name)
	if len(asClients) > 1 {
		host, err := n.boundTo(ctx, asked)
		if err != nil {
			return nil, "", err
		}
		if i := slices.IndexFunc(asClients, func(p cache.Place) bool { return p.Host == host }); i >= 0 {
			asClients = asClients[i : i+1]
		}
	}
	if storedName.MatchString(name) && !slices.ContainsFunc(asClients, func(p cache.Place) bool { return n.key(p) == name }) {
		asListed = name
	}
	return asClients, asListed, nil
}

// places are what clients mean by name, which can have the address of this server in
// front, and what is left of the name without that.
func (n *imageNames) places(name string) ([]cache.Place, string) {
	if first, rest, ok := cutHost(name); ok {
		if places := n.route(first, rest); len(places) > 0 {
			return places, name
		}
		name = rest // it is the address of this server, and no registry's
	}
	return n.route("", name), name
}

// cutHost cuts off a first component that cannot be one of a repository's name: a host
// with its port, or localhost.
func cutHost(name string) (first, rest string, ok bool) {
	first, rest, ok = strings.Cut(name, "/")
	return first, rest, ok && (strings.Contains(first, ":") || first == "localhost") && !strings.ContainsAny(first, "*?{}")
}

func (n *imageNames) route(ns, name string) []cache.Place {
	if !askedName.MatchString(name) {
		return nil
	}
	now := n.now.Load()
	var places []cache.Place
	for _, r := range []*router.Router{now.asked, now.all} {
		more, err := r.Route(ns, name)
		if err != nil {
			continue // it is ruled out, or not served
		}
		for _, p := range more {
			if !slices.Contains(places, p) {
				places = append(places, p)
			}
		}
	}
	return places
}

// key is the name under which p is stored.
func (n *imageNames) key(p cache.Place) string { return n.now.Load().namings[p.Host].Key(p.Repo) }

// boundTo is the host of the remote that a name has turned out to mean, empty where
// that is not known.
func (n *imageNames) boundTo(ctx context.Context, name string) (string, error) {
	for b, err := range n.bindings.Bindings(ctx) {
		if err != nil {
			return "", err
		}
		if b.Name == name {
			return b.Host, nil
		}
	}
	return "", nil
}

// expand returns the patterns, of names as they are stored, that a pattern of names as
// clients write them comes to: one, or one for each default remote where it says nothing
// of a remote.
func (n *imageNames) expand(pattern string) []string {
	repository, suffix := cutPattern(pattern)
	if first, rest, ok := cutHost(repository); ok {
		if _, ok := n.below(first); !ok {
			repository = rest
		}
	}
	if first, rest, ok := strings.Cut(repository, "/"); ok {
		if p, ok := n.below(first); ok {
			return []string{n.key(inLibrary(p, rest)) + suffix}
		}
	}
	defaults, err := n.now.Load().all.Route("", anyName)
	if err != nil || strings.HasPrefix(repository, "@") {
		return []string{repository + suffix} // none is a default: it can only be as listed
	}
	var patterns []string
	bare := false
	for _, p := range defaults {
		p.Repo = strings.TrimSuffix(p.Repo, anyName)
		patterns = append(patterns, n.key(inLibrary(p, repository))+suffix)
		bare = bare || n.now.Load().namings[p.Host].Prefix == ""
	}
	// What is listed without a host may be of a remote that is no default any more.
	if !bare {
		patterns = append(patterns, repository+suffix)
	}
	return patterns
}

// anyName is the name of a repository, to find out what stands before names.
const anyName = "a/b"

// below returns the remote that clients call first, with what stands before names there.
func (n *imageNames) below(first string) (cache.Place, bool) {
	places, err := n.now.Load().all.Route(first, anyName)
	if err != nil {
		return cache.Place{}, false
	}
	p := places[0]
	p.Repo = strings.TrimSuffix(p.Repo, anyName)
	return p, true
}

// inLibrary is the place of the pattern for names below p. On Docker Hub what has no
// owner is in library.
func inLibrary(p cache.Place, pattern string) cache.Place {
	if p.Host == upstream.DockerHub && !strings.Contains(pattern, "/") && !strings.Contains(pattern, "**") {
		pattern = "library/" + pattern
	}
	p.Repo += pattern
	return p
}

// expandAll is expand for all patterns of the configuration.
func (n *imageNames) expandAll(patterns []string) []string {
	var all []string
	for _, p := range patterns {
		all = append(all, n.expand(p)...)
	}
	return all
}

// cutPattern cuts a pattern for images into that for repositories and what follows: a
// tag, or a digest, which says more where there are both.
func cutPattern(pattern string) (repository, suffix string) {
	repository, tag, dgst := config.CutReference(pattern)
	switch {
	case dgst != "":
		suffix = "@" + dgst
	case tag != "":
		suffix = ":" + tag
	}
	return repository, suffix
}
