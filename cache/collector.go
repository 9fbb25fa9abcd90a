package cache

import (
	"context"
	"sync/atomic"
	"time"

	"registry-module/gc"
)

// What is taken of the limits, in percent, when making room begins and ends, so that
// downloads find room and need not wait for it.
const (
	highWatermark = 95
	lowWatermark  = 90
)

// collector makes room.
type collector struct {
	// turn is taken by who collects.
	turn chan struct{}
	// kick wakes the background, uses tells it that there are some to be written, and
	// write that there are many.
	kick, uses, write chan struct{}
	// short is how many bytes are missing that the storage has promised.
	short atomic.Int64
	// runs counts collections that have ended.
	runs atomic.Uint64
}

func newCollector() *collector {
	return &collector{
		turn: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		uses: make(chan struct{}, 1), write: make(chan struct{}, 1),
	}
}

// poke sends to a channel of which one element is as good as many.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// noteUses tells that there are uses to be written.
func (l *collector) noteUses(many bool) {
	if many {
		poke(l.write)
		return
	}
	poke(l.uses)
}

// keepRoom works in the background until the cache is closed: it makes room ahead of
// need, removes what has expired, and writes uses together.
func (c *Cache) keepRoom() {
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	var write <-chan time.Time
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.collector.uses:
			if write == nil {
				write = time.After(usesEvery)
			}
		case <-c.collector.write:
			write = nil
			c.tryFlushUses(c.ctx)
		case <-write:
			write = nil
			c.tryFlushUses(c.ctx)
		case <-c.collector.kick:
			c.relieve()
		case <-expire.C:
			if c.expires() {
				c.relieve()
			}
		}
	}
}

// expires tells whether anything can expire.
func (c *Cache) expires() bool {
	for _, r := range c.remotes {
		if r.TTL > 0 {
			return true
		}
	}
	return false
}

// relieve makes room ahead of need, and removes what has expired.
func (c *Cache) relieve() {
	over, err := c.space.over(c.ctx)
	over = max(over, c.collector.short.Swap(0))
	if err == nil && (over > 0 || c.expires()) {
		_, err = c.collect(c.ctx, collectOptions{free: over})
	}
	if err != nil && c.ctx.Err() == nil {
		c.seldom("room", err)("making room")
	}
}

// makeRoom removes content until n bytes more are free, if enough can be removed, and
// otherwise nothing. It returns false where it is no use to try again.
func (c *Cache) makeRoom(ctx context.Context, n int64) bool {
	before := c.collector.runs.Load()
	got, err := c.collect(ctx, collectOptions{free: n, need: n, since: before})
	if err != nil && ctx.Err() == nil {
		c.seldom("room", err)("making room")
	}
	return err == nil && got.enough
}

type collectOptions struct {
	// free is how many bytes to free, and need how many of those at least, or else none.
	free, need int64
	// unused tells to remove what nothing uses, whether there is need or not.
	unused bool
	// dryRun tells to remove nothing.
	dryRun bool
	// since is which collection was the last one when the caller has found that there
	// is need: if another one has run meanwhile, the need may be gone.
	since uint64
}

// collected is what a collection has done, or would do.
type collected struct {
	// enough tells that what was needed is free, or may be by now.
	enough bool
	plan   gc.Plan
	// places are where the content of victims is.
	places  places
	removed Removed
}

// collect removes what has expired, then what is worth least, until enough is free.
func (c *Cache) collect(ctx context.Context, o collectOptions) (got collected, err error) {
	select {
	case c.collector.turn <- struct{}{}:
		defer func() { <-c.collector.turn }()
	case <-ctx.Done():
		return got, ctx.Err()
	}
	if o.need > 0 && c.collector.runs.Load() != o.since {
		return collected{enough: true}, nil
	}
	if err := c.pins.broken; err != nil {
		return got, err
	}
	c.pulls.collecting(true)
	defer c.pulls.collecting(false)
	got.plan, err = c.plan(ctx, o)
	if err != nil {
		return got, err
	}
	if got.enough = got.plan.Freed >= o.need; !got.enough && o.need > 0 {
		return got, nil
	}
	if o.dryRun {
		got.places, err = c.locate(ctx, got.plan.Victims)
		return got, err
	}
	defer c.collector.runs.Add(1)
	return got, c.evict(ctx, &got)
}

// plan decides what to remove. Where there is need, and nothing else left, pulls that have
// paused for a while do not count as running any more.
func (c *Cache) plan(ctx context.Context, o collectOptions) (gc.Plan, error) {
	for _, pause := range []time.Duration{pullPause, pullPauseInNeed} {
		s, err := c.survey(ctx, pause)
		if err != nil {
			return gc.Plan{}, err
		}
		if len(s.uses)-len(s.stored) > manyForgotten && !o.dryRun {
			if err := c.forgetUses(ctx, s); err != nil && ctx.Err() == nil {
				c.seldom("uses", err)("how images were used that are gone could not be forgotten")
			}
		}
		plan := s.Plan(gc.PlanOptions{Free: o.free, Unused: o.unused})
		if plan.Freed >= o.need || pause == pullPauseInNeed {
			return plan, nil
		}
	}
	panic("unreachable")
}

// evictAtOnce is of how much content the places are looked up at once: some 200 bytes of
// memory for each, and a walk through the index for all.
const evictAtOnce = 32 << 10

// evict removes the victims, in order.
func (c *Cache) evict(ctx context.Context, got *collected) error {
	victims := got.plan.Victims
	for len(victims) > 0 {
		n, content := 0, 0
		for n < len(victims) && content < evictAtOnce {
			content += len(victims[n].Content)
			n++
		}
		at, err := c.locate(ctx, victims[:n])
		if err != nil {
			return err
		}
		got.places = at
		touched := make(map[string]bool)
		for _, v := range victims[:n] {
			if ctx.Err() != nil {
				break
			}
			c.evictVictim(ctx, v, at, touched, &got.removed)
		}
		// What is removed is removed, even if nobody wants to know any more.
		if err := c.tidy(context.WithoutCancel(ctx), touched); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		victims = victims[n:]
	}
	if r := got.removed; r.Bytes > 0 {
		c.log.Infof("removed %d manifests and %d blobs, which has freed %d bytes", r.Manifests, r.Blobs, r.Bytes)
	}
	return nil
}
