package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// calmAfter is how long after content had no room last there is room again, though there is
// not enough for that: what is smaller is stored.
const calmAfter = 10 * time.Minute

// room keeps whether there is room for what is to be stored. That there is none begins with
// the first content that is not stored for that reason. It ends when content as large is
// stored, or could be, and otherwise when nothing has had no room for calmAfter: so it does
// not change with each blob, of which some are small and others large.
type room struct {
	tell func(Room)

	short atomic.Bool // now.Short

	mu     sync.Mutex
	now    Room
	needed int64     // of the largest that had no room; 0 where nobody knows
	last   time.Time // when something had none
	// fails tells that it is the storage which refuses, whatever the account says, and
	// stores that it has taken something since.
	fails, stores bool
}

// get returns whether there is room.
func (r *room) get() Room {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// refused notes that content had no room.
func (r *room) refused(needed int64, fails bool, reason string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.needed, r.last, r.fails, r.stores = max(r.needed, needed), now, fails, false
	was := r.now.Short
	r.now = Room{true, reason}
	if !was {
		r.short.Store(true)
		r.tell(r.now)
	}
}

// stored notes that content of so many bytes was stored.
func (r *room) stored(size int64) {
	if !r.short.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stores = true
	if r.needed > 0 && size >= r.needed {
		r.clear()
	}
}

// look notes that so many bytes can be reserved now.
func (r *room) look(left int64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	calm := !within(r.last, now, calmAfter)
	switch {
	case !r.now.Short:
	case r.fails: // the account does not know
		if calm && r.stores {
			r.clear()
		}
	case r.needed > 0 && left >= r.needed, calm && left > 0:
		r.clear()
	}
}

// clear tells that there is room again. The caller holds r.mu.
func (r *room) clear() {
	if !r.now.Short {
		return
	}
	r.now, r.needed = Room{}, 0
	r.short.Store(false)
	r.tell(r.now)
}

// lookForRoom finds out whether there is room again.
func (c *Cache) lookForRoom(ctx context.Context) {
	if !c.room.short.Load() {
		return
	}
	if a, err := c.space.account(ctx); err == nil {
		c.room.look(a.left, c.opts.Now())
	}
}

// noRoom notes that content of size bytes, or -1 where that is not known, was not stored
// because of err. It does nothing where that is no matter of room.
func (c *Cache) noRoom(size int64, err error) {
	if c.ctx.Err() != nil {
		return // what ends takes nothing any more
	}
	full, account := errors.AsType[*noSpace](err)
	switch {
	case account:
		c.room.refused(full.needed, false, c.whyFull(full), c.opts.Now())
	case errors.Is(err, errCounting), errors.Is(err, errDamaged): // of the moment, or of that content
	case isFull(err), errors.Is(err, errStorage):
		c.room.refused(max(size, 0), true, whyRefused(err), c.opts.Now())
	}
}

// whyFull says which limit it is that leaves no room, and what to do.
func (c *Cache) whyFull(e *noSpace) (reason string) {
	switch {
	case e.max > 0 && e.needed > e.max:
		return fmt.Sprintf("REGISTRY_CACHE_MAXSIZE is %d bytes, and a blob needs %d: make it larger", e.max, e.needed)
	case e.max > 0:
		reason = fmt.Sprintf("REGISTRY_CACHE_MAXSIZE, %d bytes, is used up: make it larger, or remove images", e.max)
	case e.needed <= e.bare:
		reason = fmt.Sprintf("REGISTRY_CACHE_MINFREE keeps the last %d bytes of the storage free: free some, or make that smaller", e.minFree)
	default:
		reason = "the storage is full: free some, or make it larger"
	}
	switch pinned := c.counters.pinned.Load(); {
	case c.pins.broken != nil:
		reason += "; nothing is evicted, since the pins cannot be read"
	case pinned > 0 && c.counters.inVain.Load():
		reason += fmt.Sprintf("; %d bytes are pinned and stay: unpin what need not be kept", pinned)
	}
	return reason
}

// whyRefused is whyFull for what the storage itself has refused.
func whyRefused(err error) string {
	switch {
	case errors.Is(err, syscall.EDQUOT):
		return "the quota of the storage is used up: make it larger"
	case errors.Is(err, syscall.EROFS):
		return "the storage is read-only: mount it writable"
	case errors.Is(err, syscall.ENOSPC):
		return "the storage is full, though it has told of room: free some, or make it larger"
	}
	return fmt.Sprintf("the storage cannot be written to: %v", err)
}
