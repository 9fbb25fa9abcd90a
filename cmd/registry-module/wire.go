package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/trace"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/cache/index"
	"registry-module/config"
	"registry-module/metrics"
	"registry-module/server"
	"registry-module/server/admin"
	"registry-module/upstream/breaker"
	"registry-module/upstream/router"
)

// program is the running registry-module: the one place where its parts meet. It has what
// lives as long as the process; what is made of a configuration, and made anew when that
// changes, is a [generation].
type program struct {
	// handler answers the clients. Admin and control answer those who administer.
	handler, control http.Handler
	admin            *admin.Server

	log     logrus.FieldLogger
	ctx     context.Context // of what goes on in the background
	cancel  context.CancelFunc
	store   *disk.Store
	index   *index.Index
	cache   *cache.Cache
	offline *offlineControl
	// seeds fills cache, by seeding.
	seeds   *seedControl
	seeding replaceableSeeding
	// loading is for who loads a bundle.
	loading turn
	// links are by what remotes are connected.
	links *links
	// metrics are those of this program; the embedded app has its own.
	metrics *prometheus.Registry
	observers
	traces trace.TracerProvider // nil where nothing is traced
	// reloader changes the configuration; nil where nobody can.
	reloader *reloader
	// jobs are what goes on in the background that nobody waits for but the end of the
	// program.
	jobs sync.WaitGroup
	// apps are shared by the servers of generations.
	apps server.Apps
	// callers keeps whom remotes have let in.
	callers callersDocument

	// current is the generation that new requests go to.
	current atomic.Pointer[generation]
	// changing keeps those apart who replace generations, and let go of them. It guards
	// what follows.
	changing sync.Mutex
	// live are the generations that have requests, current among them.
	live map[*generation]struct{}
	// takenOver are told, in order, of a generation that has just become the current one.
	takenOver []func(*generation)
	// started tells that what goes on in the background was started.
	started, closed bool

	// closers are closed in reverse order.
	closers []io.Closer
}

// closer is an io.Closer.
type closer func() error

// Close implements io.Closer.
func (c closer) Close() error { return c() }

// wire puts the program together. It makes no connection.
func wire(ctx context.Context, cfg *config.Config, log logrus.FieldLogger) (_ *program, err error) {
	if log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		log = discard
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &program{
		cancel: cancel,
		log:    log, ctx: ctx, metrics: prometheus.NewRegistry(), loading: newTurn(), live: make(map[*generation]struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()

	var flush func() error
	if p.traces, flush, err = setupTracing(ctx, os.Getenv, flushTimeout, log); err != nil {
		return nil, err
	}
	// When all else has ended: who kills it after a while then loses no more than that.
	p.closers = append(p.closers, closer(func() error { return p.tellRest(flush) }))
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if p.links, err = newLinks(p.metrics, log); err != nil {
		return nil, err
	}
	if err := p.metrics.Register(breaker.NewCollector(p.breakers)); err != nil {
		return nil, err
	}
	if err := p.observe(cfg); err != nil {
		return nil, err
	}
	if p.store, err = disk.Open(cfg.DataDir, disk.Options{}); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.store)
	p.callers.Document = p.store.Document(callersName)
	if p.index, err = openIndex(cfg.DataDir, p.store, log); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, replaceable{p.index, log})

	p.offline = startOfflineControl(cfg, &p.links.contact, log)
	p.closers = append(p.closers, p.offline, p.links)

	g, err := p.newGeneration(cfg, nil)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, closer(p.closeRemotes))
	p.live[g] = struct{}{}
	opts, err := p.cacheOptions(g)
	if err != nil {
		return nil, err
	}
	if p.cache, err = cache.New(ctx, opts); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.cache, closer(p.closeAccess), &p.apps)
	if err := p.metrics.Register(metrics.NewCache(p.cache)); err != nil {
		return nil, err
	}
	if err := p.wireSeeding(); err != nil {
		return nil, err
	}
	if err := p.complete(g, nil); err != nil {
		return nil, err
	}
	p.takeOver(g, nil)
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := p.enter()
		defer p.leave(g)
		g.server.ServeHTTP(w, r)
	})
	p.admin = p.wireAdmin(cfg)
	// These can go on for as long as somebody looks, and hold no generation up.
	p.control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.current.Load().control.ServeHTTP(w, r) })
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

// orNever is a duration of the configuration, where 0 is never, for options, where
// 0 is the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// Close ends the program's parts, the last first. Requests have to have ended.
func (p *program) Close() error {
	p.changing.Lock()
	p.closed = true
	p.changing.Unlock()
	if p.admin != nil {
		p.admin.Close()
	}
	errs := []error{p.stop()}
	p.cancel()
	p.jobs.Wait()
	for _, c := range slices.Backward(p.closers) {
		errs = append(errs, c.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}
