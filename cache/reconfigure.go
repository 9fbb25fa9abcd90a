package cache

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
)

// fixed are the [Options] that stay what they were when the cache was made.
type fixed struct {
	Blobs        Blobs
	Partials     Partials
	Refs         Refs
	Index        Index
	Usage        Usage
	Quarantine   Quarantine
	IndexDamaged bool
	Observer     Observer
	Log          logrus.FieldLogger
	Now          func() time.Time
}

func (o Options) fixed() fixed {
	return fixed{
		Blobs: o.Blobs, Partials: o.Partials, Refs: o.Refs, Index: o.Index,
		Usage: o.Usage, Quarantine: o.Quarantine, IndexDamaged: o.IndexDamaged,
		Observer: o.Observer, Log: o.Log, Now: o.Now,
	}
}

// settings are those of the [Options] that can change, as they are at one time, but for
// the remotes, and for what others keep: pins, space, scrubLimit. Nobody changes them.
type settings struct {
	maxSize                int64
	bindingTTL, partialTTL time.Duration
	scrubInterval          time.Duration
	// prefetch fetch what somebody may ask for later.
	prefetch []*prefetcher
	// replaced is closed when there are others.
	replaced chan struct{}
}

// configured is what is only of interest to who configures the cache.
type configured struct {
	epochs uint64
	// departed are the lanes of remotes that are gone, while something goes on there.
	departed map[string]*lane
	// parts and attached are the prefetchers; nil where there is none.
	parts, attached *prefetcher
	// resumptions go on with unfinished downloads, by host.
	resumptions map[string]resumption
}

// resumption is the one try to go on with what is unfinished of a remote.
type resumption struct {
	epoch string
	stop  context.CancelFunc
}

// Reconfigure makes opts hold from now on. Blobs, Partials, Refs, Index, Usage, Pinned,
// Quarantine, Observer, Log, Now and IndexDamaged are those of [New], whatever opts says.
// After an error nothing has changed. It contacts no remote, and does not wait for what is
// under way.
//
// A [Repository] or [Name] that was made before goes on with what it has; one that is made
// afterwards has the new. Downloads that have begun go on to their end, also of a remote
// that is gone; what is missing of them is asked of the Upstream that the host has now, or
// last had. For one host, all that goes on counts against the limits of now.
//
// A remote whose Upstream is another value is asked anew for what the one before has said
// not to exist, and shares no request with it. What is stored of a remote that is gone is
// treated as in a cache that was made without it: it stays until room is needed, and
// cannot be asked for. Remotes of [Cache.AddRemote] stay, whether opts has them or not,
// unless it, or what it replaces, has one that can be asked. What opts says of the others'
// Naming holds as in New.
//
// What no longer fits into MaxSize and MinFree goes in the background, beginning at once.
// What a new one of Pins matches, and is stored when Reconfigure returns, stays.
func (c *Cache) Reconfigure(opts Options) error {
	if !c.begin() {
		return ErrClosed
	}
	defer c.wg.Done()
	c.configuring.Lock()
	defer c.configuring.Unlock()
	opts = opts.withDefaults()
	next, err := c.plannedFor(opts)
	if err != nil {
		return err
	}
	policy, err := policyOf(opts.Pins)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	// From here on nothing fails.
	c.setPolicy(policy)
	c.space.setLimits(opts.MaxSize, opts.MinFree)
	c.scrubLimit.SetLimit(limitOf(opts.ScrubRate))
	before := c.settings.Load()
	c.show(next)
	close(before.replaced)
	c.work(next)
	poke(c.collector.changed)
	return nil
}

// planned is what is going to hold.
type planned struct {
	settings settings
	remotes  []served
	resume   bool
	// parts and attached are as in configured.
	parts, attached *prefetcher
}

// plannedFor returns what holds with opts, and changes nothing. The caller holds
// c.configuring, if there is anybody else.
func (c *Cache) plannedFor(opts Options) (*planned, error) {
	p := &planned{
		settings: settings{
			maxSize: opts.MaxSize, bindingTTL: opts.BindingTTL, partialTTL: opts.PartialTTL, scrubInterval: opts.ScrubInterval,
			replaced: make(chan struct{}),
		},
		resume: opts.Resume,
	}
	var err error
	if p.remotes, err = c.remotesFor(opts.Remotes); err != nil {
		return nil, err
	}
	if p.parts, err = c.prefetcherFor(c.configured.parts, opts.Prefetch, 0, fetchParts); err != nil {
		return nil, err
	}
	if p.attached, err = c.prefetcherFor(c.configured.attached, opts.Attached, attachedFor, fetchAttached); err != nil {
		return nil, err
	}
	for _, one := range []*prefetcher{p.parts, p.attached} {
		if one != nil {
			p.settings.prefetch = append(p.settings.prefetch, one)
		}
	}
	return p, nil
}

// prefetcherFor returns the prefetcher of before, a new one if there was none, or nil where
// none is wanted.
func (c *Cache) prefetcherFor(before *prefetcher, wanted bool, lasts time.Duration, work func(context.Context, *prefetcher, prefetch) bool) (*prefetcher, error) {
	if !wanted || before != nil {
		return orNone(before, wanted), nil
	}
	return newPrefetcher(c, lasts, work)
}

func orNone(p *prefetcher, wanted bool) *prefetcher {
	if !wanted {
		return nil
	}
	return p
}

// remotesFor returns what is served with such remotes.
func (c *Cache) remotesFor(list []Remote) ([]served, error) {
	var before []served
	if now := c.remotes.Load(); now != nil {
		before = *now
	}
	mirror := true // nobody can be asked, now as before
	var remotes []served
	for _, r := range list {
		if hosted(remotes, r.Host) != nil {
			return nil, fmt.Errorf("cache: there are two remotes %s", r.Host)
		}
		for _, other := range remotes {
			if other.naming.Prefix == r.Naming.Prefix {
				return nil, sameNames(other.Host, r.Host)
			}
		}
		epoch := ""
		if was := hosted(before, r.Host); was != nil && sameUpstream(was.Upstream, r.Upstream) {
			epoch = was.epoch
		} else {
			epoch = c.newEpoch()
		}
		remotes = append(remotes, served{newRemote(r, c.laneOf(r.Host), epoch), r.Naming, false})
		mirror = mirror && r.Upstream == nil
	}
	for _, was := range before {
		mirror = mirror && was.Upstream == nil
	}
	for _, was := range before {
		if !mirror || !was.added || hosted(remotes, was.Host) != nil {
			continue
		}
		var err error
		if remotes, err = withAdded(remotes, served{was.remote, was.Naming, true}); err != nil {
			return nil, err
		}
	}
	return remotes, nil
}

// newEpoch returns what no remote has had as its epoch.
func (c *Cache) newEpoch() string {
	c.configured.epochs++
	return strconv.FormatUint(c.configured.epochs, 36)
}

// laneOf returns the lane of a host, a new one where nothing goes on there.
func (c *Cache) laneOf(host string) *lane {
	if now := c.remotes.Load(); now != nil {
		if r := hosted(*now, host); r != nil {
			return r.lane
		}
	}
	if l := c.configured.departed[host]; l != nil {
		return l
	}
	return newLane()
}

// sameUpstream tells whether two are the same value. Of those that cannot be compared none
// is.
func sameUpstream(a, b Upstream) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// show makes p what new requests go by.
func (c *Cache) show(p *planned) {
	for _, one := range p.settings.prefetch {
		one.serve(p.remotes)
	}
	c.settings.Store(&p.settings)
	c.serveRemotes(p.remotes)
}

// serveRemotes replaces the remotes.
func (c *Cache) serveRemotes(remotes []served) {
	var before []served
	if now := c.remotes.Load(); now != nil {
		before = *now
	}
	for _, r := range remotes {
		r.serve()
	}
	if !sameNaming(before, remotes) {
		c.naming.Lock()
		defer c.naming.Unlock()
	}
	c.remotes.Store(&remotes)
	departed := make(map[string]*lane)
	keep := func(host string, l *lane) {
		if hosted(remotes, host) == nil && !l.idle() {
			departed[host] = l
		}
	}
	for host, l := range c.configured.departed {
		keep(host, l)
	}
	for _, r := range before {
		keep(r.Host, r.lane)
	}
	c.configured.departed = departed
}

// sameNaming tells whether each name belongs to the remote that it has belonged to.
func sameNaming(a, b []served) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Host != b[i].Host || !reflect.DeepEqual(a[i].naming, b[i].naming) {
			return false
		}
	}
	return true
}

// work begins in the background what belongs to p, and ends there what does not.
func (c *Cache) work(p *planned) {
	for _, one := range []*prefetcher{orNone(c.configured.parts, p.parts == nil), orNone(c.configured.attached, p.attached == nil)} {
		if one != nil {
			one.serve(nil)
		}
	}
	c.configured.parts, c.configured.attached = p.parts, p.attached

	for host, r := range c.configured.resumptions {
		if now := hosted(p.remotes, host); !p.resume || now == nil || now.epoch != r.epoch {
			r.stop()
			delete(c.configured.resumptions, host)
		}
	}
	if !p.resume {
		return
	}
	if c.configured.resumptions == nil {
		c.configured.resumptions = make(map[string]resumption)
	}
	for _, r := range p.remotes {
		if _, known := c.configured.resumptions[r.Host]; known || r.Upstream == nil {
			continue
		}
		ctx, stop := context.WithCancel(c.ctx)
		c.configured.resumptions[r.Host] = resumption{r.epoch, stop}
		c.wg.Go(func() {
			defer stop()
			c.resumeLeft(ctx, r.Host)
		})
	}
}

// errOthers means that something is not stored since its name belongs to another remote
// by now.
var errOthers = fmt.Errorf("its name belongs to another remote by now: %w", errNotLinked)

// writing makes sure that what is written under the repository's name until release is
// called is of the remote that the name belongs to.
func (r *Repository) writing() (release func(), err error) {
	r.c.naming.RLock()
	if now := r.c.owner(r.key); now != nil && now.remote.Host != r.remote.Host {
		r.c.naming.RUnlock()
		return nil, errOthers
	}
	return r.c.naming.RUnlock, nil
}
