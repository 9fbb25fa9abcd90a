package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/cache/index"
	"registry-module/config"
	"registry-module/internal/via"
	"registry-module/seed"
	"registry-module/server"
	"registry-module/upstream"
	"registry-module/upstream/breaker"
	"registry-module/upstream/metered"
	"registry-module/upstream/router"
	"registry-module/upstream/throttled"
)

// program is the running registry-module: the one place where its parts meet.
type program struct {
	handler http.Handler
	cache   *cache.Cache
	// images are what cache holds, for commands; nil where it cannot tell.
	images  imageControl
	offline *offlineControl
	// seeds fills cache, and scheduler has it do so at set times; nil for none.
	seeds     *seedControl
	scheduler *seed.Scheduler
	// runtime is what IoT Edge gives.
	runtime workloadAPI
	// contact is what all remotes go by.
	contact upstream.Switch
	// name is what requests to remotes call this process in their Via headers.
	name string
	// metrics are those of this program; the embedded app has its own.
	metrics *prometheus.Registry
	// asked are the remotes for questions about callers.
	asked []askedRemote
	// breakers know whether the remotes answer, in the order of the configuration.
	breakers []*breaker.Breaker
	// closers are closed in reverse order.
	closers []io.Closer
}

// wire puts the program together. It makes no connection.
func wire(ctx context.Context, cfg *config.Config, log logrus.FieldLogger) (_ *program, err error) {
	p := &program{metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()

	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	store, err := disk.Open(cfg.DataDir, disk.Options{})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, store)
	idx, err := openIndex(cfg.DataDir, store, log)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, replaceable{idx, log})

	p.offline = startOfflineControl(cfg, &p.contact, log)
	p.closers = append(p.closers, p.offline)

	if p.runtime, err = wireWorkloadAPI(cfg, log); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.runtime)

	p.name = via.NewName()
	remotes, routes, err := p.wireRemotes(cfg, store, log)
	if err != nil {
		return nil, err
	}
	served, err := newServedRemotes(store, remotes, routes, len(cfg.Remotes) == 0)
	if err != nil {
		return nil, err
	}
	opts, err := cacheOptions(cfg, store, idx, remotes, routes, log)
	if err != nil {
		return nil, err
	}
	c, err := cache.New(ctx, opts)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, c)
	p.cache = c
	if p.images, err = newCachedImages(c, served, cfg); err != nil {
		return nil, err
	}
	seedable, err := newSeedNames(cfg, routes)
	if err != nil {
		return nil, err
	}
	if err := p.wireSeeding(cfg, seedable, store.Document(seedStateName), log); err != nil {
		return nil, err
	}

	serve := server.Options{
		Cache:   c,
		Router:  &served.routing,
		Name:    p.name,
		Config:  cfg.Stock,
		Metrics: p.metrics,
		Log:     log,
	}
	gate, err := wireAccess(cfg, p.asked, &served.routing, store.Document(callersName), log)
	if err != nil {
		return nil, err
	}
	if gate != nil {
		p.closers = append(p.closers, gate)
		serve.Access = gate
	}
	srv, err := server.New(ctx, serve)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, srv)
	p.handler = srv
	return p, nil
}

// replaceable is an index that need not be closed as it should be: without room on the
// disk it cannot be, and the next start makes up for it.
type replaceable struct {
	index io.Closer
	log   logrus.FieldLogger
}

// indexCloseTimeout is how long closing the index may take: it writes what is in memory,
// some MB, and tries without end where its directory is gone.
const indexCloseTimeout = 10 * time.Second

// Close implements io.Closer.
func (r replaceable) Close() error {
	closed := make(chan error, 1)
	go func() { closed <- r.index.Close() }()
	var err error
	select {
	case err = <-closed:
	case <-time.After(indexCloseTimeout):
		return fmt.Errorf("the index cannot be written (is the data directory still there?), and was left as it is after %v; the next start looks at what is stored", indexCloseTimeout)
	}
	if errors.Is(err, syscall.ENOSPC) {
		r.log.WithError(err).Warn("the next start looks at what is stored, since the index could not be closed")
		return nil
	}
	return err
}

// openIndex opens the index, or makes one that lives in memory where nothing can be
// written.
func openIndex(dataDir string, store *disk.Store, log logrus.FieldLogger) (*index.Index, error) {
	if store.ReadOnly() {
		log.Errorf("the file system of %s is read-only: what is stored is served, and nothing more is stored; "+
			"see why (dmesg), and mount it read-write", dataDir)
		return index.OpenInMemory(log)
	}
	return indexOrMemory(log, func() (*index.Index, error) { return index.Open(indexPath(dataDir), log) })
}

// indexOrMemory is what open returns, or an index in memory where there is no room for
// it.
func indexOrMemory(log logrus.FieldLogger, open func() (*index.Index, error)) (*index.Index, error) {
	idx, err := open()
	if errors.Is(err, syscall.ENOSPC) {
		log.WithError(err).Warn("there is no room for the index, which is kept in memory until the next start")
		return index.OpenInMemory(log)
	}
	return idx, err
}

// pinsName is the file in the data directory that has the operator's pins.
const pinsName = "registry-module.pins.json"

// cacheOptions are what the configuration says of the cache.
func cacheOptions(cfg *config.Config, store *disk.Store, idx *index.Index, remotes []cache.Remote, routes []router.Remote, log logrus.FieldLogger) (cache.Options, error) {
	names, err := newImageNames(nil, remotes, routes) // patterns are not bound to a remote
	if err != nil {
		return cache.Options{}, err
	}
	return cache.Options{
		Blobs: store, Partials: store.Partials(), Refs: store.Refs(), Index: idx,
		Usage: store, Quarantine: store, Pinned: store.Document(pinsName), Pins: names.expandAll(cfg.Pins),
		IndexDamaged:  !idx.Sound(),
		ScrubInterval: cfg.ScrubInterval,
		ScrubRate:     cfg.ScrubRate,
		Remotes:       remotes,
		BindingTTL:    orNever(cfg.BindingTTL),
		MaxSize:       cfg.MaxSize,
		MinFree:       func(total int64) int64 { return max(cfg.MinFree.Of(total), index.Room) },
		PartialTTL:    orNever(cfg.PartialTTL),
		Resume:        cfg.Resume,
		Prefetch:      cfg.Prefetch,
		Attached:      cfg.Referrers,
		Log:           log,
	}, nil
}

// indexPath is where the index is.
func indexPath(dataDir string) string { return filepath.Join(dataDir, "index") }

// wireRemotes connects the configured remote registries, and says which requests
// they are for. Without any, what the data directory holds is served as it is.
func (p *program) wireRemotes(cfg *config.Config, store *disk.Store, log logrus.FieldLogger) ([]cache.Remote, []router.Remote, error) {
	remotes, routes, err := unasked(cfg, store)
	if err != nil {
		return nil, nil, err
	}
	limit := throttled.NewLimiter(cfg.Bandwidth)
	for i, r := range cfg.Remotes { // there may be others without any
		if remotes[i].Upstream, err = p.wireUpstream(cfg, r, limit, log); err != nil {
			return nil, nil, err
		}
	}
	return remotes, routes, nil
}

// unasked are the configured remotes, or those of the data directory, with nobody to
// ask, and which requests they are for.
func unasked(cfg *config.Config, store *disk.Store) ([]cache.Remote, []router.Remote, error) {
	if len(cfg.Remotes) == 0 {
		return mirrored(store)
	}
	var remotes []cache.Remote
	var routes []router.Remote
	var hosts []string
	for _, r := range cfg.Remotes {
		var maxStale time.Duration // no limit
		if r.MaxStale != nil {
			maxStale = orNever(*r.MaxStale)
		}
		hosts = append(hosts, r.URL.Host)
		remotes = append(remotes, cache.Remote{
			Host:                 r.URL.Host,
			TagTTL:               r.TagTTL,
			TagRules:             r.TagRules,
			StaleWhileRevalidate: r.StaleWhileRevalidate,
			MaxStale:             maxStale,
			NegativeTTL:          orNever(r.NegativeTTL),
			TTL:                  r.TTL,
			DeniedIsAbsent:       r.DeniedIsAbsent,
			Connections:          r.Connections,
			MaxConnections:       r.MaxConnections,
			RetryFor:             orNever(r.RetryFor),
		})
		routes = append(routes, router.Remote{
			Host: r.URL.Host, Alias: r.Alias, Namespaces: r.Namespaces, Default: r.Default,
			Allow: r.Allow, Deny: r.Deny,
		})
	}
	namings, err := store.Namings(hosts...)
	for i := range remotes {
		remotes[i].Naming = namings[remotes[i].Host]
	}
	return remotes, routes, err
}

// mirrored are the remotes that the data directory has content of, with nobody to
// ask. All of them are defaults: which ones were, nobody knows any more, and what was
// found then is bound.
//
// Where there is nothing yet, the first that is brought in gets the bare names.
func mirrored(store *disk.Store) (remotes []cache.Remote, routes []router.Remote, err error) {
	hosts, err := store.Hosts()
	if err != nil {
		return nil, nil, err
	}
	if hosts[0] == "" && isEmpty(store) {
		hosts = hosts[1:]
	}
	namings, err := store.Namings(hosts...)
	for _, host := range hosts {
		remotes = append(remotes, cache.Remote{Host: host, Naming: namings[host]})
		routes = append(routes, router.Remote{Host: host, Default: true})
	}
	return remotes, routes, err
}

// isEmpty tells whether no image is stored.
func isEmpty(store *disk.Store) bool {
	for range store.Refs().All(context.Background()) {
		return false
	}
	return true
}

// wireUpstream connects one remote registry. Limit is that of all together.
func (p *program) wireUpstream(cfg *config.Config, r config.Remote, limit *rate.Limiter, log logrus.FieldLogger) (cache.Upstream, error) {
	remote, err := upstream.New(upstream.Options{
		URL:           r.URL.String(),
		Credentials:   auth.New(credentialsOf(r)),
		AllowedRealms: r.AllowedRealms,
		CAFile:        r.CAFile,
		Authorities:   authoritiesOf(r, p.runtime.bundle),
		CertFile:      r.CertFile,
		KeyFile:       r.KeyFile,
		Insecure:      r.Insecure,
		Proxy:         proxyOf(r),
		StallTimeout:  r.StallTimeout,
		Switch:        &p.contact,
		Name:          p.name,
		UserAgent:     "registry-module/" + version,
		Log:           log,
	})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, remote)
	// From the inside: what is counted has been asked for, and is what the link
	// carries; what would lead to nothing does not even get to it.
	var up cache.Upstream
	if up, err = metered.New(remote, p.metrics); err != nil {
		return nil, err
	}
	up = throttled.New(up, throttled.NewLimiter(r.Bandwidth), limit)
	b := breaker.New(up, breaker.Options{Log: log, Offline: p.contact.Offline})
	p.breakers = append(p.breakers, b)
	p.asked = append(p.asked, askedRemote{remote, b})
	return b, p.metrics.Register(breaker.NewCollector(b))
}

// credentialsOf says where the credentials for a remote come from.
func credentialsOf(r config.Remote) auth.Options {
	c := r.Credentials
	return auth.Options{
		Host:              r.URL.Host,
		Username:          c.Username,
		Password:          string(c.Password),
		PasswordFile:      c.PasswordFile,
		IdentityToken:     string(c.IdentityToken),
		IdentityTokenFile: c.IdentityTokenFile,
		DockerConfig:      c.DockerConfig,
		Command:           c.Command,
		CommandLifetime:   c.CommandLifetime,
	}
}

// proxyOf gives the HTTP proxy for requests to a remote; nil is what the environment
// says.
func proxyOf(r config.Remote) func(*http.Request) (*url.URL, error) {
	switch {
	case r.NoHTTPProxy:
		return func(*http.Request) (*url.URL, error) { return nil, nil }
	case r.HTTPProxy != nil:
		return http.ProxyURL(r.HTTPProxy)
	}
	return nil
}

// orNever is a duration of the configuration, where 0 is never, for options, where
// 0 is the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// Close ends the program's parts, the last first.
func (p *program) Close() error {
	var errs []error
	for _, c := range slices.Backward(p.closers) {
		errs = append(errs, c.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}
