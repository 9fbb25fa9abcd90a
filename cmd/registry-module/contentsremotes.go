package main

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/seed/bundle"
	"registry-module/upstream"
	"registry-module/upstream/router"
)

// servedRemotes are the remotes whose images are served. Where none is configured, so that
// the data directory is served as it is, others are added by what is loaded.
type servedRemotes struct {
	store  *disk.Store
	mirror bool
	// routing is what requests go by. Cache and names are set by newCachedImages.
	routing replaceableRouter
	cache   *cache.Cache
	names   *imageNames

	mu      sync.Mutex // guards what follows, from when it is used by several
	remotes []cache.Remote
	routes  []router.Remote
}

// newServedRemotes takes note of remotes; mirror tells that they are not configured.
func newServedRemotes(store *disk.Store, remotes []cache.Remote, routes []router.Remote, mirror bool) (*servedRemotes, error) {
	s := &servedRemotes{store: store, mirror: mirror, remotes: remotes, routes: routes}
	return s, s.routing.replace(routes)
}

// replaceableRouter is a router whose remotes can become more.
type replaceableRouter struct{ now atomic.Pointer[router.Router] }

func (r *replaceableRouter) replace(routes []router.Remote) error {
	now, err := router.New(routes)
	if err == nil {
		r.now.Store(now)
	}
	return err
}

// Route implements server.Router.
func (r *replaceableRouter) Route(ns, name string) ([]cache.Place, error) {
	return r.now.Load().Route(ns, name)
}

// Listed implements server.Router.
func (r *replaceableRouter) Listed(p cache.Place) (string, bool) { return r.now.Load().Listed(p) }

// Names implements namer.
func (r *replaceableRouter) Names(p cache.Place) []string { return r.now.Load().Names(p) }

// place is where an image of a bundle belongs: where clients find it who name its
// registry.
func (s *servedRemotes) place(i bundle.Image) (cache.Place, error) {
	places, err := s.routing.Route(i.Remote, i.Repository)
	if err != nil {
		return cache.Place{}, err
	}
	return places[0], nil
}

// addable are hosts that can be added.
var addable = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

// check tells whether all images can be served, if need be after add.
func (s *servedRemotes) check(images []bundle.Image) error {
	_, err := s.unknown(images)
	return err
}

// unknown returns the hosts that are to be added for images.
func (s *servedRemotes) unknown(images []bundle.Image) (hosts []string, _ error) {
	var refused []string
	for _, i := range images {
		host := upstream.HostOf(i.Remote)
		switch _, err := s.place(i); {
		case err == nil || slices.Contains(hosts, host):
		case errors.Is(err, cache.ErrNotServed):
			hosts = append(hosts, host)
		default:
			refused = append(refused, printable(i.Reference()))
		}
	}
	switch {
	case len(refused) > 0:
		const most = 5
		text := strings.Join(refused[:min(len(refused), most)], ", ")
		if more := len(refused) - most; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		return nil, fmt.Errorf("%s: %w: see the patterns of the configuration (REGISTRY_PROXY_ALLOW, REGISTRY_PROXY_DENY)", text, cache.ErrRefused)
	case len(hosts) > 0 && !s.mirror:
		return nil, fmt.Errorf("the bundle has images of %s: %w: configure them here, for example REGISTRY_PROXY_REMOTEURL_N=https://%s with the next number for N, and start the server again",
			strings.Join(hosts, ", "), cache.ErrNotServed, hosts[0])
	}
	for _, host := range hosts {
		if !addable.MatchString(host) {
			return nil, fmt.Errorf("images of %q cannot be served: it is not the host of a registry", host)
		}
	}
	if len(hosts) > 0 && s.has("") {
		return nil, errors.New("the data directory has images of which nobody knows what registry they are of: " +
			"configure that (REGISTRY_PROXY_REMOTEURL) and start the server once, or load into another directory")
	}
	return hosts, nil
}

func (s *servedRemotes) has(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.remotes, func(r cache.Remote) bool { return r.Host == host })
}

// add serves what images need in addition.
func (s *servedRemotes) add(images []bundle.Image) error {
	hosts, err := s.unknown(images)
	if err != nil || len(hosts) == 0 {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	remotes := slices.Clone(s.remotes)
	for _, host := range hosts {
		remotes = append(remotes, cache.Remote{Host: host})
	}
	var all []string
	for _, r := range remotes {
		all = append(all, r.Host)
	}
	namings, err := s.store.Namings(all...)
	if err != nil {
		return err
	}
	for i := range remotes {
		remotes[i].Naming = namings[remotes[i].Host]
		if i < len(s.remotes) {
			continue
		}
		if err := s.cache.AddRemote(remotes[i]); err != nil {
			return err
		}
	}
	// As the next start has them, see [mirrored].
	slices.SortStableFunc(remotes, func(a, b cache.Remote) int {
		return cmp.Or(cmp.Compare(min(len(a.Naming.Prefix), 1), min(len(b.Naming.Prefix), 1)), cmp.Compare(a.Host, b.Host))
	})
	var routes []router.Remote
	for _, r := range remotes {
		routes = append(routes, router.Remote{Host: r.Host, Default: true})
	}
	if err := s.names.replace(remotes, routes); err != nil {
		return err
	}
	if err := s.routing.replace(routes); err != nil {
		return err
	}
	s.remotes, s.routes = remotes, routes
	return nil
}
