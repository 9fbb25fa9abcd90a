package cache

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/gc"
)

// What is taken of the limits, in percent, when making room begins and ends, so that
// downloads find room and need not wait for it.
const (
	highWatermark = 95
	lowWatermark  = 90
)

const (
	// lookEvery is how often is looked whether others have filled the storage.
	lookEvery = time.Minute
	// inVainEvery is how often room is made ahead of need where there is not enough that
	// can go.
	inVainEvery = 10 * time.Minute
	// roomEvery is how often who waits for others that make room looks whether there is
	// enough by now.
	roomEvery = 100 * time.Millisecond
)

// collector makes room.
type collector struct {
	// turn is taken by who collects.
	turn chan struct{}
	// kick wakes the background, uses tells it that there are some to be written, and
	// write that there are many.
	kick, uses, write chan struct{}
	// changed wakes it since the limits, or what may go, are others than before.
	changed chan struct{}
	// pins is how often something more was pinned when the plan was made by which content
	// is being removed. It is of who has the turn.
	pins uint64
	// short is how many bytes are missing that the storage has promised.
	short atomic.Int64
	// wanted is how many bytes those need who wait for room.
	wanted atomic.Int64
}

func newCollector() *collector {
	return &collector{
		turn: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		uses: make(chan struct{}, 1), write: make(chan struct{}, 1), changed: make(chan struct{}, 1),
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
	expire, look := time.NewTicker(expireEvery), time.NewTicker(lookEvery)
	defer expire.Stop()
	defer look.Stop()
	var write, again <-chan time.Time
	indexed := c.indexed
	relieve := func() {
		if again == nil && !c.relieve(false) {
			again = time.After(inVainEvery)
		}
	}
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
		case <-indexed: // the limits may be others than before
			indexed = nil
			relieve()
		case <-c.collector.changed:
			again = nil // what was in vain need not be any more
			if indexed == nil {
				relieve()
			}
		case <-c.collector.kick:
			relieve()
		case <-look.C:
			if indexed == nil {
				relieve()
			}
			c.lookForRoom(c.ctx)
		case <-again:
			again = nil
		case <-expire.C:
			if c.expires() {
				c.relieve(true)
			}
		}
	}
}

// expires tells whether anything can expire.
func (c *Cache) expires() bool {
	for _, r := range *c.remotes.Load() {
		if r.TTL > 0 {
			return true
		}
	}
	return false
}

// relieve makes room ahead of need, and removes what has expired: where there is no need
// only if that is told. It returns false where there is not enough that can go.
func (c *Cache) relieve(expired bool) bool {
	over, err := c.space.over(c.ctx)
	short := c.collector.short.Swap(0)
	if err == nil && over <= 0 && short <= 0 && !expired {
		return true
	}
	var got collected
	if err == nil {
		got, err = c.collect(c.ctx, collectOptions{free: short, ahead: true})
	}
	if err != nil && c.ctx.Err() == nil {
		c.seldom("room", err)("making room")
	}
	return c.dropOver(c.ctx) && err == nil && got.enough
}

// dropOver drops unfinished downloads that nobody works on, the oldest first, while more is
// taken than there may be. It returns whether that is so no more.
func (c *Cache) dropOver(ctx context.Context) bool {
	for c.space.left(ctx) < 0 {
		if !c.dropOldest(ctx) {
			return false
		}
	}
	return true
}

// makeRoom removes content until needed bytes are free, if enough can be removed, and
// otherwise nothing. It returns false where it is no use to try again.
func (c *Cache) makeRoom(ctx context.Context, needed int64) bool {
	if !c.space.holds(ctx, needed) {
		return false
	}
	c.collector.wanted.Add(needed)
	defer c.collector.wanted.Add(-needed)
	got, err := c.collect(ctx, collectOptions{need: needed})
	if err != nil && ctx.Err() == nil {
		c.seldom("room", err)("making room")
	}
	return err == nil && got.enough
}

type collectOptions struct {
	// need is how many bytes somebody waits for that have to be free, or else nothing is
	// removed. Others who wait get theirs, too, if that is possible for all.
	need int64
	// free is how many bytes to free at least, and ahead tells to make room ahead of need.
	free  int64
	ahead bool
	// unused tells to remove what nothing uses, whether there is need or not.
	unused bool
	// dryRun tells to remove nothing, report to describe the victims.
	dryRun, report bool
}

// collected is what a collection has done, or would do.
type collected struct {
	// enough tells that what was needed is free.
	enough  bool
	plan    gc.Plan
	removed Removed
	victims []Victim
}

// takeTurn waits until nobody else collects, and for the index. Where need is given, it
// waits until so much is free, and returns no error and no release then.
func (c *Cache) takeTurn(ctx context.Context, need int64) (release func(), err error) {
	ready := ctx
	if need > 0 {
		// A client waits, and the index may never be complete.
		var cancel context.CancelFunc
		ready, cancel = context.WithTimeout(ctx, countPatience)
		defer cancel()
	}
	if err := c.Ready(ready); err != nil {
		return nil, err
	}
	look := time.NewTicker(roomEvery)
	defer look.Stop()
	for {
		select {
		case c.collector.turn <- struct{}{}:
			return func() { <-c.collector.turn }, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.ctx.Done():
			return nil, ErrClosed
		case <-look.C:
			if need > 0 && c.space.left(ctx) >= need {
				return nil, nil
			}
		}
	}
}

// collect removes what has expired, then what is worth least, until enough is free.
func (c *Cache) collect(ctx context.Context, o collectOptions) (got collected, err error) {
	release, err := c.takeTurn(ctx, o.need)
	if err != nil {
		return got, err
	}
	if release == nil {
		return collected{enough: true}, nil
	}
	defer release()
	a, err := c.space.account(ctx)
	if err != nil {
		return got, err
	}
	if o.need > 0 && o.need <= a.left {
		return collected{enough: true}, nil
	}
	if err := c.pins.broken; err != nil {
		return got, err
	}
	// Those who wait for room need it at the same time.
	atLeast, most := o.free, o.free
	if o.ahead {
		atLeast = max(o.free, c.space.overBy(a))
		most = atLeast
	}
	if o.need > 0 {
		atLeast = o.need - a.left
		most = max(atLeast, c.collector.wanted.Load()-a.left)
	}
	c.pulls.collecting(true)
	defer c.pulls.collecting(false)
	c.collector.pins = c.pins.more.Load()
	got.plan, err = c.plan(ctx, o, atLeast, most)
	if err != nil {
		return got, err
	}
	c.counters.pinned.Store(got.plan.Kept)
	got.enough = got.plan.Freed >= atLeast
	c.counters.inVain.Store(!got.enough)
	if o.need > 0 && got.plan.Freed > 0 {
		// With the unfinished downloads that nobody works on it may be enough; who needs
		// the room drops those next.
		got.enough = got.plan.Freed+c.leftSize(time.Time{}) >= atLeast
	}
	if !got.enough && o.need > 0 && a.left == a.leftOfMax && c.links != nil {
		// The plan does not know of the links, which give something back, too.
		links, err := c.linksOf(ctx, got.plan.Victims)
		if err != nil {
			return got, err
		}
		got.enough = got.plan.Freed+links+c.leftSize(time.Time{}) >= atLeast
	}
	if !got.enough && o.need > 0 {
		return got, nil
	}
	return got, c.evict(ctx, o, &got)
}

// plan decides what to remove. Where there is need, and nothing else left, pulls that have
// paused for a while do not count as running any more.
func (c *Cache) plan(ctx context.Context, o collectOptions, atLeast, most int64) (gc.Plan, error) {
	plan, err := c.planFor(ctx, o, pullPause, atLeast, most)
	if err != nil || o.need == 0 || plan.Freed >= atLeast {
		return plan, err
	}
	return c.planFor(ctx, o, pullPauseInNeed, atLeast, most)
}

// planFor is plan where pulls that have paused for longer do not count as running.
func (c *Cache) planFor(ctx context.Context, o collectOptions, pause time.Duration, atLeast, most int64) (gc.Plan, error) {
	s, err := c.survey(ctx, pause)
	if err != nil {
		return gc.Plan{}, err
	}
	if len(s.uses)-len(s.stored) > manyForgotten && !o.dryRun {
		if err := c.forgetUses(ctx, s); err != nil && ctx.Err() == nil {
			c.seldom("uses", err)("how images were used that are gone could not be forgotten")
		}
	}
	plan := s.Plan(gc.PlanOptions{Free: most, Unused: o.unused})
	if plan.Freed < most && atLeast < most { // in vain for others
		plan = s.Plan(gc.PlanOptions{Free: atLeast, Unused: o.unused})
	}
	return plan, nil
}

// evictAtOnce is of how much content the places are looked up at once: some 200 bytes of
// memory for each, and a walk through the index for all.
const evictAtOnce = 32 << 10

// atOnceOf returns how many victims are looked up at once.
func atOnceOf(victims []gc.Victim) (n int) {
	for content := 0; n < len(victims) && content < evictAtOnce; n++ {
		content += len(victims[n].Content)
	}
	return n
}

// linksOf returns how much of the storage the links to victims take.
func (c *Cache) linksOf(ctx context.Context, victims []gc.Victim) (sum int64, err error) {
	for len(victims) > 0 {
		n := atOnceOf(victims)
		at, err := c.locate(ctx, victims[:n])
		if err != nil {
			return 0, err
		}
		for _, p := range at {
			sum += int64(len(p.layer))*c.takesRef(RefLayer) + int64(len(p.manifest))*c.takesRef(RefManifest) + int64(len(p.tags))*c.takesRef(RefTag)
		}
		victims = victims[n:]
	}
	return sum, nil
}

// evict removes the victims, in order.
func (c *Cache) evict(ctx context.Context, o collectOptions, got *collected) error {
	victims := got.plan.Victims
	for len(victims) > 0 {
		n := atOnceOf(victims)
		at, err := c.locate(ctx, victims[:n])
		if err != nil {
			return err
		}
		touched := make(map[string]bool)
		for _, v := range victims[:n] {
			if ctx.Err() != nil {
				break
			}
			before := got.removed
			gone := o.dryRun || c.evictVictim(ctx, v, at, touched, &got.removed)
			if got.removed.contents() > before.contents() { // or it was gone already
				c.evicted(evictionOf(v, at, got.removed.Bytes-before.Bytes))
			}
			if gone && o.report {
				got.victims = append(got.victims, describe(v, at))
			}
		}
		// What is removed is removed, even if nobody wants to know any more.
		if err := c.tidy(context.WithoutCancel(ctx), touched); err != nil {
			c.seldom("index", fmt.Errorf("tidying up: %w", err))("the index has more entries than there is content")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		victims = victims[n:]
		if c.pins.more.Load() != c.collector.pins {
			poke(c.collector.kick) // for another plan
			break
		}
	}
	if r := got.removed; r.Bytes > 0 {
		c.lookForRoom(ctx)
		c.log.WithFields(logrus.Fields{"manifests": r.Manifests, "blobs": r.Blobs, "bytes": r.Bytes}).Info("made room")
	}
	return nil
}
