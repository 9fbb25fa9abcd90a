package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/upstream"
	"registry-module/upstream/router"
)

// seedCache is a cache for who fills it, by the names that clients have for what is in it.
type seedCache struct {
	*cache.Cache
	names *imageNames
}

// Find implements seed.Cache.
func (s seedCache) Find(ctx context.Context, name, ref string) (seed.Repository, error) {
	places, asked, err := s.names.wanted(name)
	if err != nil {
		if first, _, ok := cutRegistry(name); ok && errors.Is(err, cache.ErrNotServed) {
			err = &saidError{cache.ErrNotServed, notConfigured(first)}
		}
		return nil, err
	}
	r, err := s.Cache.Name(asked, places...).Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Hold implements seed.Cache.
func (s seedCache) Hold() seed.Hold { return s.Cache.Hold() }

// notConfigured says what to do about hosts that no remote is called.
func notConfigured(hosts ...string) string {
	return fmt.Sprintf("there is no remote registry %s here: set REGISTRY_PROXY_REMOTEURL to it, or with the next number behind (_2, _3, ...) where there are others, and start the server again",
		printable(strings.Join(hosts, ", ")))
}

// upstreamName is what deployment manifests of IoT Edge call the module above, which is
// this one.
const upstreamName = "$upstream"

// wanted returns what a client means that asks this server for name, and how that is
// called without the server's own address. A registry that is named and not known is
// [cache.ErrNotServed].
func (n *imageNames) wanted(name string) (places []cache.Place, asked string, err error) {
	asked = name
	ns := ""
	if first, rest, ok := cutRegistry(name); ok {
		ns, asked = first, rest
	}
	host, _, _ := strings.Cut(ns, ":")
	own := host == upstreamName
	if own {
		ns = ""
	}
	places, err = n.now.Load().asked.Route(ns, asked)
	if errors.Is(err, cache.ErrNotServed) && isLoopback(ns) {
		places, err = n.now.Load().asked.Route("", asked) // it is the address of this server
		own = true
	}
	if !own {
		asked = name
	}
	return places, asked, err
}

// cutRegistry cuts off a first component that is a registry and no part of a name, as
// Docker tells them apart: it has a dot or a port, or is localhost.
func cutRegistry(name string) (first, rest string, ok bool) {
	first, rest, ok = strings.Cut(name, "/")
	return first, rest, ok && (strings.ContainsAny(first, ".:$") || first == "localhost")
}

// isLoopback tells whether a host, perhaps with a port, is this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// withNamed adds remotes to the configuration for the registries that images name and it
// does not have, all with the settings that there are by default: who seeds a directory by
// hand has said what is to be fetched.
func withNamed(cfg *config.Config, wants []seed.Want) (*config.Config, error) {
	var routes []router.Remote
	for _, r := range cfg.Remotes {
		routes = append(routes, router.Remote{Host: r.URL.Host, Alias: r.Alias, Namespaces: r.Namespaces, Default: r.Default})
	}
	more := *cfg
	more.Remotes = append([]config.Remote(nil), cfg.Remotes...)
	for _, w := range wants {
		known, err := router.New(routes)
		if err != nil {
			return nil, err
		}
		name, _, _ := config.CutReference(w.Image)
		host, _, ok := cutRegistry(name)
		isDefault := false
		if before, _, _ := strings.Cut(host, ":"); ok && before == upstreamName {
			if len(cfg.Remotes) == 0 {
				return nil, fmt.Errorf("%s is of the default remote registry, and none is configured: set REGISTRY_PROXY_REMOTEURL", printable(w.Image))
			}
			continue
		}
		if !ok {
			if len(more.Remotes) > 0 && len(cfg.Remotes) > 0 {
				continue // it is for those to say who has it
			}
			host, isDefault = upstream.DockerHub, true // as for docker pull
		}
		if _, err := known.Route(host, anyName); err == nil || isLoopback(host) {
			continue
		}
		r, err := config.RemoteOf(host)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", printable(w.Image), err)
		}
		r.Default = isDefault
		r.Number = len(more.Remotes) + 1
		more.Remotes = append(more.Remotes, r)
		routes = append(routes, router.Remote{Host: r.URL.Host, Default: isDefault})
	}
	return &more, nil
}
