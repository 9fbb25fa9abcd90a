package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/upstream"
	"registry-module/upstream/router"
)

// seeding brings images into a cache. It is what a [seed.Seeder] has.
type seeding interface {
	Plan(ctx context.Context, job seed.Job) (seed.Plan, error)
	Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error)
}

var _ seeding = (*seed.Seeder)(nil)

// seedCache is a cache that is filled, by the names that operators give to images.
type seedCache struct {
	*cache.Cache
	names *seedNames
}

var _ seed.Cache = seedCache{}

// newSeeder returns what fills c.
func newSeeder(c *cache.Cache, names *seedNames, log logrus.FieldLogger) *seed.Seeder {
	return seed.New(seed.Options{Cache: seedCache{c, names}, Log: log})
}

// Hold implements seed.Cache.
func (c seedCache) Hold() seed.Hold { return c.Cache.Hold() }

// Find implements seed.Cache.
func (c seedCache) Find(ctx context.Context, name, ref string) (seed.Repository, error) {
	places, name, err := c.names.places(name)
	if err != nil {
		return nil, err
	}
	if len(places) > 1 {
		r, err := c.Name(name, places...).Find(ctx, ref)
		if err != nil {
			return nil, err // and no interface that holds nothing
		}
		return r, nil
	}
	r, ok := c.Repository(places[0])
	if !ok {
		return nil, fmt.Errorf("%s: %w", places[0].Host, cache.ErrNotServed)
	}
	return r, nil
}

// seedNames know which repositories are meant by images that are to be fetched. Unlike
// clients, who have the address of this server in front or configured, operators write
// images as they are in deployments: a host in front that no remote has is somebody
// else's, and not a part of the name.
type seedNames struct {
	router *router.Router
	// configured tells that there are remotes that the configuration has, and not only
	// those that a command was told of.
	configured bool
	// port is that of the address at which clients find this server, empty for none.
	port string
}

func newSeedNames(cfg *config.Config, routes []router.Remote) (*seedNames, error) {
	n := &seedNames{configured: len(cfg.Remotes) > 0}
	if cfg.Net != "unix" {
		_, n.port, _ = net.SplitHostPort(cfg.Addr) // or it is empty
	}
	var err error
	n.router, err = router.New(routes)
	return n, err
}

// places are what an image is meant to be, with the name by which clients ask this server
// for it. Errors are cache.ErrNotServed, cache.ErrRefused and errBadPattern.
func (n *seedNames) places(image string) ([]cache.Place, string, error) {
	first, rest, ok := strings.Cut(image, "/")
	if ok && isHost(first) {
		if !askedName.MatchString(rest) || first[0] == '@' {
			return nil, "", notAName(image)
		}
		if !strings.HasPrefix(first, "$") {
			places, err := n.router.Route(first, rest)
			switch {
			case !errors.Is(err, cache.ErrNotServed):
				return places, image, err
			case !n.isHere(first):
				return nil, "", fmt.Errorf("%w: set for example REGISTRY_PROXY_REMOTEURL_2=https://%s, or one of the remotes' REGISTRY_PROXY_NAMESPACES", err, first)
			}
		}
		if !n.configured {
			return nil, "", fmt.Errorf("%s stands for this server, which has no remote to ask: %w; set REGISTRY_PROXY_REMOTEURL", printable(first), cache.ErrNotServed)
		}
		image = rest
	} else if !n.configured {
		// As engines have it. Where content is served that nobody can be asked for, it
		// is not configured either, and this is not reached.
		image = "docker.io/" + image
	}
	if !askedName.MatchString(image) {
		return nil, "", notAName(image)
	}
	places, err := n.router.Route("", image)
	if errors.Is(err, cache.ErrNotServed) {
		err = fmt.Errorf("%w; set REGISTRY_PROXY_REMOTEURL, or REGISTRY_PROXY_DEFAULT for one that there is", err)
	}
	return places, image, err
}

func notAName(image string) error {
	return &saidError{errBadPattern, fmt.Sprintf("%q is not the name of an image: write [HOST/]NAME:TAG or [HOST/]NAME@DIGEST", image)}
}

// isHost tells whether the first component of an image is the host of a registry, by the
// rule of engines, or stands for one.
func isHost(first string) bool {
	return strings.ContainsAny(first, ".:$") || first == "localhost"
}

// isHere tells whether host is this server as engines on this machine call it, which is a
// registry of its own only where it is configured.
func (n *seedNames) isHere(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && addr.IsLoopback() && port != "" && port == n.port
}

// strangers are the hosts of registries that a job names and that no remote has, in their
// order, Docker Hub first: it gets the bare names where none is configured.
func (n *seedNames) strangers(job seed.Job) []string {
	var hosts []string
	for _, w := range job.Wants {
		repository, _, _ := config.CutReference(w.Image)
		first, rest, ok := strings.Cut(repository, "/")
		host := upstream.HostOf(first)
		switch {
		case ok && strings.HasPrefix(first, "$"):
			continue
		case ok && isHost(first):
			if _, err := n.router.Route(first, rest); !errors.Is(err, cache.ErrNotServed) || n.isHere(first) {
				continue
			}
			if u, err := upstream.ParseURL("https://" + first); err != nil || u.Host != host {
				continue // it is for places to say so
			}
		case n.configured:
			continue
		default:
			host = upstream.DockerHub
		}
		switch {
		case slices.Contains(hosts, host):
		case host == upstream.DockerHub:
			hosts = slices.Insert(hosts, 0, host)
		default:
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// strangerRemote is the remote at host, which nothing is configured for. It is asked for
// what has its name in front only.
func strangerRemote(host string) config.Remote {
	return config.Remote{
		URL:                  &url.URL{Scheme: "https", Host: host},
		TagTTL:               config.DefaultTagTTL,
		StaleWhileRevalidate: config.DefaultStaleWhileRevalidate,
		NegativeTTL:          config.DefaultNegativeTTL,
		Connections:          config.DefaultConnections,
		MaxConnections:       config.DefaultMaxConnections,
		StallTimeout:         config.DefaultStallTimeout,
		RetryFor:             config.DefaultRetryFor,
	}
}

// errOffline is the kind of errors for what would have to ask remotes that are left alone.
var errOffline = errors.New("offline")

// whyOffline is why nothing can be fetched, nil where it can.
func whyOffline(s offlineStatus, remotes bool) error {
	switch {
	case !s.Offline:
		return nil
	case !remotes:
		return &saidError{errOffline, "nothing can be fetched: " + s.Reason}
	}
	return &saidError{errOffline, "nothing is fetched: " + s.String() + "; `registry-module offline off` switches it off"}
}

// offlineWithoutServer is whyOffline where no server runs: what was switched off for the
// server is off for commands, too.
func offlineWithoutServer(cfg *config.Config) error {
	o, _ := readOverride(overridePath(cfg.DataDir)) // where that fails, remotes are left alone, with the reason
	return whyOffline(newOfflineRules(cfg).status(o, time.Now()), len(cfg.Remotes) > 0)
}
