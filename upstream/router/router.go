// Package router finds out which repositories of which remote registries a request
// can mean, by rules that the operator has set.
//
// In this order, what the request says decides:
//   - the ns parameter (OCI distribution specification, "Registry Proxying"): the
//     remote with that host or alias;
//   - the first component of the repository's name, if it is the host or the alias
//     of a remote;
//   - the default remotes, in their order.
//
// It promises that a repository that is ruled out by a pattern is in no answer, by
// whichever of its names it is asked for, and that no remote is named that is not
// configured. It makes no connection and has no state.
//
// It trusts the operator's configuration, and nobody for names, which must have
// passed the grammar of the specification. It imports, of this module, cache for
// the terms in which it answers, and upstream, which knows what registries are
// called.
package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"registry-module/cache"
	"registry-module/upstream"
)

// Remote says which requests are for a remote registry.
type Remote struct {
	// Host is the remote's, as in [cache.Remote]. An empty one, for content of
	// which nobody knows whose it was, can only be a default.
	Host string
	// Alias is another name for it; empty for none.
	Alias string
	// Namespaces are hosts of registries that the remote serves as well, below
	// their hosts: repository a of quay.io is the remote's quay.io/a.
	Namespaces []string
	// Default tells that the remote is asked for names that say nothing of a
	// remote.
	Default bool
	// Allow and Deny are patterns for the remote's own names of repositories, with
	// * within a component and ** over components. What matches none of Allow,
	// unless that is empty, is ruled out, and what matches one of Deny.
	Allow, Deny []string
}

// Router answers for a fixed list of remotes.
type Router struct {
	remotes []Remote
	// names are what requests can call a remote: as from [upstream.HostOf], and the
	// other names of Docker Hub.
	names map[string]meaning
}

// meaning is a remote, and what stands before the names of its repositories.
type meaning struct {
	remote *Remote
	prefix string
}

// New returns a router for remotes, of which no two may go by the same name.
func New(remotes []Remote) (*Router, error) {
	r := &Router{remotes: slices.Clone(remotes), names: make(map[string]meaning)}
	var errs []error
	add := func(name string, m meaning) {
		name = upstream.HostOf(name)
		if other, taken := r.names[name]; taken && other != m {
			errs = append(errs, fmt.Errorf("routing: both %s and %s are called %s", other.remote.Host, m.remote.Host, name))
		}
		r.names[name] = m
	}
	for i := range r.remotes {
		remote := &r.remotes[i]
		for _, pattern := range slices.Concat(remote.Allow, remote.Deny) {
			if !doublestar.ValidatePattern(pattern) {
				errs = append(errs, fmt.Errorf("routing: %q is not a pattern for names", pattern))
			}
		}
		for _, name := range []string{remote.Host, remote.Alias} {
			if name != "" {
				add(name, meaning{remote: remote})
			}
		}
		for _, ns := range remote.Namespaces {
			// The port of HTTPS is in no name.
			add(ns, meaning{remote, strings.TrimSuffix(ns, ":443") + "/"})
		}
	}
	if hub, ok := r.names[upstream.DockerHub]; ok {
		for _, name := range []string{"docker.io", "index.docker.io"} {
			r.names[name] = hub
		}
	}
	return r, errors.Join(errs...)
}

// Route returns the places that the repository name can mean, in order of
// preference, at least one. Ns is the namespace parameter, or empty. Errors are
// [cache.ErrNotServed] and [cache.ErrRefused].
func (r *Router) Route(ns, name string) (places []cache.Place, err error) {
	m, rest, ok := r.explicit(ns, name)
	if ok {
		p := r.place(m, rest)
		if !m.remote.admits(p.Repo) {
			return nil, fmt.Errorf("repository %s of %s: %w", p.Repo, p.Host, cache.ErrRefused)
		}
		return []cache.Place{p}, nil
	}
	if ns != "" {
		return nil, fmt.Errorf("registry %.100q: %w; configured: %s", ns, cache.ErrNotServed, r.list())
	}
	refused := false
	for i := range r.remotes {
		remote := &r.remotes[i]
		if !remote.Default {
			continue
		}
		if p := r.place(meaning{remote: remote}, name); remote.admits(p.Repo) {
			places = append(places, p)
		} else {
			refused = true
		}
	}
	switch {
	case len(places) > 0:
		return places, nil
	case refused:
		return nil, fmt.Errorf("repository %s: %w", name, cache.ErrRefused)
	}
	return nil, fmt.Errorf("repository %s: %w, because no remote registry is the default: write one in front of the name; configured: %s",
		name, cache.ErrNotServed, r.list())
}

// explicit returns the remote that a request names, and what is left of the name.
func (r *Router) explicit(ns, name string) (m meaning, rest string, ok bool) {
	if ns != "" {
		m, ok = r.names[upstream.HostOf(ns)]
		return m, name, ok
	}
	first, rest, ok := strings.Cut(name, "/")
	if ok {
		m, ok = r.names[first] // which is in lower case and has no port
	}
	return m, rest, ok
}

// place is the repository name of what m stands for. The images of Docker Hub that
// have no owner are in library.
func (r *Router) place(m meaning, name string) cache.Place {
	if m.remote.Host == upstream.DockerHub {
		name = inLibrary(name)
	}
	return cache.Place{Host: m.remote.Host, Repo: m.prefix + name}
}

// inLibrary is the full name of a repository of Docker Hub.
func inLibrary(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return "library/" + name
}

// admits tells whether a repository is not ruled out, by whichever of its names: images
// of Docker Hub have several, there and at a remote that serves them beside its own, as
// another registry-module does.
func (m *Remote) admits(repo string) bool {
	if len(m.Allow) == 0 && len(m.Deny) == 0 {
		return true
	}
	names := m.names(repo)
	matches := func(pattern string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return doublestar.MatchUnvalidated(pattern, name) })
	}
	return !slices.ContainsFunc(m.Deny, matches) && (len(m.Allow) == 0 || slices.ContainsFunc(m.Allow, matches))
}

// names are all that a repository of the remote is called.
func (m *Remote) names(repo string) []string {
	before, image := "", repo
	if m.Host != upstream.DockerHub {
		first, rest, ok := strings.Cut(repo, "/")
		if !ok || upstream.HostOf(first) != upstream.DockerHub {
			return []string{repo}
		}
		before, image = "docker.io/", rest
	}
	full := inLibrary(image)
	short := strings.TrimPrefix(full, "library/")
	names := []string{repo, before + full, before + short}
	if before != "" {
		for _, hub := range []string{"index.docker.io/", upstream.DockerHub + "/"} {
			names = append(names, hub+full, hub+short)
		}
	}
	return names
}

// Listed returns the name by which clients can ask for what is at p without
// naming a namespace. It returns false where there is none.
func (r *Router) Listed(p cache.Place) (name string, ok bool) {
	i := slices.IndexFunc(r.remotes, func(m Remote) bool { return m.Host == p.Host })
	if i < 0 {
		return "", false
	}
	for _, name := range []string{p.Repo, p.Host + "/" + p.Repo, r.remotes[i].Alias + "/" + p.Repo} {
		if strings.HasPrefix(name, "/") || strings.Contains(name, ":") {
			continue // no alias, or no name
		}
		if places, err := r.Route("", name); err == nil && places[0] == p {
			return name, true
		}
	}
	return "", false
}

// Names returns all that clients can call what is at p, in paths and, with the host of a
// remote in front, by the namespace parameter. There is none where its remote is not
// configured. Whether it is ruled out by a pattern does not matter.
func (r *Router) Names(p cache.Place) []string {
	i := slices.IndexFunc(r.remotes, func(m Remote) bool { return m.Host == p.Host })
	if i < 0 {
		return nil
	}
	remote := &r.remotes[i]
	var names []string
	for _, repo := range remote.names(p.Repo) {
		first, _, isBelow := strings.Cut(repo, "/")
		if _, taken := r.names[first]; remote.Default && !(isBelow && taken) || remote.serves(first) {
			names = append(names, repo)
		}
		for _, before := range []string{remote.Host, remote.Alias} {
			if before != "" {
				names = append(names, before+"/"+repo)
			}
		}
		if remote.Host == upstream.DockerHub {
			names = append(names, "docker.io/"+repo, "index.docker.io/"+repo)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// serves tells whether a name that begins with the host of a registry is for the remote,
// which serves that below it. Docker Hub has several.
func (m *Remote) serves(host string) bool {
	return slices.ContainsFunc(m.Namespaces, func(ns string) bool { return upstream.HostOf(ns) == upstream.HostOf(host) })
}

// list names what is configured, for messages.
func (r *Router) list() string {
	var names []string
	for _, m := range r.remotes {
		if m.Host != "" {
			names = append(names, m.Host)
		}
		names = append(names, m.Namespaces...)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
