package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/server"
	"registry-module/upstream/router"
)

// generation is everything that is made of one configuration. A request that has begun stays
// with its generation, and a generation is let go of when another one has taken over and its
// last request has ended. That can take hours, so it holds little: content, connections and
// what clients have been told is with the program, or shared with the next generation.
type generation struct {
	cfg     *config.Config
	stacks  []*stack // in the order of the configuration
	runtime workloadAPI
	served  *servedRemotes
	images  cachedImages
	seeder  *seed.Seeder
	// scheduler seeds at set times, nil for none; runners are that and whatever else goes on
	// in the background.
	scheduler *seed.Scheduler
	schedule  *runner
	runners   []*runner
	access    *accessControl // nil lets everybody pull
	seedGate  http.Handler   // nil where nobody may
	webhooks  *notifications // nil for none
	server    *server.Server
	// tls is how the API port speaks TLS, nil for not at all.
	tls     *tls.Config
	control http.Handler

	// users are the requests that it has, and one more for being the current one.
	users atomic.Int64
}

// shared is something that several generations have; the last one that lets go closes it.
type shared struct {
	users int // guarded by program.changing
	close func() error
}

func (s *shared) hold() { s.users++ }

func (s *shared) release() error {
	if s.users--; s.users > 0 {
		return nil
	}
	return s.close()
}

// stack is the one of a host, nil where there is none.
func (g *generation) stack(host string) *stack {
	if g == nil {
		return nil
	}
	i := slices.IndexFunc(g.stacks, func(s *stack) bool { return s.remote.Host() == host })
	if i < 0 {
		return nil
	}
	return g.stacks[i]
}

// shares are what it has together with others.
func (g *generation) shares() (all []*shared) {
	for _, s := range g.stacks {
		all = append(all, &s.shared)
	}
	if g.access != nil {
		all = append(all, &g.access.shared)
	}
	if g.webhooks != nil {
		all = append(all, &g.webhooks.shared)
	}
	return all
}

// newGeneration makes the parts that do not need the cache. What the generation before has,
// if there is one, goes on where nothing of it has changed. All that is wrong is in the
// error, after which nothing has changed.
func (p *program) newGeneration(cfg *config.Config, before *generation) (g *generation, err error) {
	g = &generation{cfg: cfg}
	g.users.Store(1)
	var errs []error
	var wrong error
	if g.stacks, wrong = p.links.connect(cfg.Remotes, before.stack); wrong != nil {
		errs = append(errs, wrong)
	}
	if g.runtime, wrong = p.wireRuntime(cfg, before); wrong != nil {
		errs = append(errs, wrong)
	} else if g.tls, wrong = g.wireTLS(p, before); wrong != nil {
		errs = append(errs, wrong)
	}
	if g.access, wrong = p.wireAccess(cfg, before); wrong != nil {
		errs = append(errs, wrong)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	// Only now, since it is remembered for ever which remotes there are.
	if before != nil && before.served.mirror && len(cfg.Remotes) == 0 {
		g.served = before.served // to which some may be added at any time
		return g, nil
	}
	remotes, routes, err := unasked(cfg, p.store)
	if err != nil {
		return nil, err
	}
	for i, s := range g.stacks { // there may be others without any
		remotes[i].Upstream = s.breaker
	}
	g.served, err = newServedRemotes(p.store, remotes, routes, len(cfg.Remotes) == 0)
	return g, err
}

// complete makes the parts of g that need the cache.
func (p *program) complete(g, before *generation) (err error) {
	_, routes := g.served.now()
	if before != nil && before.served == g.served {
		g.images = before.images.with(g.cfg)
	} else if g.images, err = newCachedImages(p.cache, g.served, g.cfg); err != nil {
		return err
	}
	g.images.contents.loading = p.loading
	if err := p.seedBy(g, before, routes); err != nil {
		return err
	}
	serve := server.Options{
		Cache:   p.cache,
		Router:  &g.served.routing,
		Name:    p.links.name,
		Config:  g.cfg.Stock,
		Apps:    &p.apps,
		Metrics: p.metrics,
		Tracing: p.traces,
		Log:     p.log,
	}
	if serve.Sample, err = server.SampleOf(g.cfg.SampleRequests); err != nil {
		return err
	}
	serve.Observer = p.ofRequests()
	if g.access != nil {
		serve.Access = &gate{g.access.Gate, &g.served.routing}
	}
	if g.server, err = server.New(p.ctx, serve); err != nil {
		return err
	}
	g.seedGate = p.byAdmin(g, before)
	g.control = p.noticing(p.byCommand(g, controlHandler(p.cache, g.images, p.offline, p.statuses)))
	return nil
}

// takeOver makes g the current generation. Changing is held, unless before is nil.
func (p *program) takeOver(g, before *generation) {
	p.live[g] = struct{}{}
	g.webhooks = p.wireNotifications(g.cfg, before) // here, where nothing can fail any more: it has goroutines
	for _, s := range g.shares() {
		s.hold()
	}
	if before != nil {
		p.offline.setRules(g.cfg)
	}
	p.links.limit.Set(g.cfg.Bandwidth)
	for i, r := range g.cfg.Remotes {
		g.stacks[i].limit.Set(r.Bandwidth)
	}
	p.tellApart(g)
	p.callers.own(g.access)
	p.seeding.now.Store(g.seeder)
	p.current.Store(g)
	p.runInstead(g, before)
	for _, tell := range p.takenOver {
		tell(g)
	}
	if before != nil {
		p.leave(before)
	}
}

// enter returns the current generation, with one more request. It has to be left.
func (p *program) enter() *generation {
	for {
		g := p.current.Load()
		for n := g.users.Load(); n > 0; n = g.users.Load() {
			if g.users.CompareAndSwap(n, n+1) {
				return g
			}
		}
		// It was replaced in between, and has ended: there is another one.
	}
}

// leave ends a request of g.
func (p *program) leave(g *generation) {
	if g.users.Add(-1) == 0 {
		go func() { // changing may be held
			p.changing.Lock()
			defer p.changing.Unlock()
			p.letGo(g)
		}()
	}
}

// letGo closes what only g has. Changing is held.
func (p *program) letGo(g *generation) {
	if p.closed {
		return // everything is closed anyway
	}
	delete(p.live, g)
	for _, s := range g.shares() {
		if err := s.release(); err != nil {
			p.log.WithError(err).Warn("ending what was made of an earlier configuration")
		}
	}
	current := p.current.Load()
	if !p.hasOthers(g, current) {
		return
	}
	if err := p.reconfigureCache(current); err != nil {
		p.log.WithError(err).Warn("remotes that are not configured any more stay known to the cache")
	}
}

// hasOthers tells whether g has remotes that current has not.
func (*program) hasOthers(g, current *generation) bool {
	remotes, _ := g.served.now()
	now, _ := current.served.now()
	return slices.ContainsFunc(remotes, func(r cache.Remote) bool {
		return !slices.ContainsFunc(now, func(other cache.Remote) bool { return other.Host == r.Host })
	})
}

// reconfigureCache has the cache serve g, and what other generations still have requests
// for. Changing is held.
func (p *program) reconfigureCache(g *generation) error {
	opts, err := p.cacheOptions(g)
	if err != nil {
		return err
	}
	if err := p.cache.Reconfigure(opts); err != nil {
		return fmt.Errorf("changing the cache: %w", err)
	}
	return nil
}

// cacheOptions are those of the cache for g, and for the remotes of earlier generations that
// have requests yet. Changing is held, or g is the first.
func (p *program) cacheOptions(g *generation) (cache.Options, error) {
	remotes, routes := g.served.now()
	opts, err := cacheOptions(g.cfg, p.store, p.index, remotes, routes, p.log)
	if err != nil {
		return opts, err
	}
	opts.Observer = p.ofCache()
	var hosts []string
	for _, r := range remotes {
		hosts = append(hosts, r.Host)
	}
	own := len(hosts)
	for other := range p.live {
		more, _ := other.served.now()
		for _, r := range more {
			if !slices.Contains(hosts, r.Host) {
				hosts, remotes = append(hosts, r.Host), append(slices.Clip(remotes), r)
			}
		}
	}
	if len(hosts) == own {
		return opts, nil
	}
	namings, err := p.store.Namings(hosts...)
	if err != nil {
		return opts, err
	}
	opts.Remotes = slices.Clone(remotes)
	for i := range opts.Remotes {
		opts.Remotes[i].Naming = namings[opts.Remotes[i].Host]
	}
	return opts, nil
}

// now are the remotes, and which requests they are for.
func (s *servedRemotes) now() ([]cache.Remote, []router.Remote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remotes, s.routes
}

// closeAccess ends who decides about callers, for all generations.
func (p *program) closeAccess() error {
	var errs []error
	var done []*accessControl
	for g := range p.live {
		if g.access != nil && !slices.Contains(done, g.access) {
			done = append(done, g.access)
			errs = append(errs, g.access.close())
		}
	}
	return errors.Join(errs...)
}

// tellRest tells the webhooks of all generations, and the collector of traces by flush, what
// they were not told yet: all at a time, since each may take a second.
func (p *program) tellRest(flush func() error) error {
	rest := []func() error{flush}
	var done []*notifications
	for g := range p.live {
		if g.webhooks != nil && !slices.Contains(done, g.webhooks) {
			done = append(done, g.webhooks)
			rest = append(rest, g.webhooks.close)
		}
	}
	errs := make([]error, len(rest))
	var telling sync.WaitGroup
	for i, tell := range rest {
		telling.Go(func() { errs[i] = tell() })
	}
	telling.Wait()
	return errors.Join(errs...)
}

// closeRemotes closes the remotes of all generations.
func (p *program) closeRemotes() error {
	var errs []error
	for g := range p.live {
		for _, s := range g.stacks {
			errs = append(errs, s.remote.Close())
		}
	}
	return errors.Join(errs...)
}
