package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

const (
	// Uses are written together, since flash wears: usesEvery after the first of them,
	// or when there are manyUses. A crash loses those that were not written, which are
	// only statistics.
	usesEvery = 10 * time.Minute
	manyUses  = 4096
	// sameUse is the time within which requests for the same manifest count as one use:
	// a client's HEAD and GET, and those of the devices that start together.
	sameUse = time.Minute
)

// uses are how manifests were used and the index does not know yet. The zero value is
// ready.
type uses struct {
	mu      sync.Mutex
	pending map[digest.Digest]pendingUse
	// noted tells that somebody knows that there are some.
	noted bool
	// moved are the tags that have moved, in order.
	moved []move
	// filled is how many bytes remotes have brought that the index does not know of.
	filled int64
}

type pendingUse struct {
	last time.Time
	n    int // 0 of what was only stored
}

// move is that a tag stands for something else.
type move struct{ from, to digest.Digest }

// useRecord is how content was used; see [gc.Use].
type useRecord struct {
	Last  int64   `json:"t"`
	Score float64 `json:"w"`
}

// turnsRecord tells how many bytes remotes have brought in all.
type turnsRecord struct {
	Filled int64 `json:"f"`
}

// use notes that a client has asked for a manifest.
func (r *Repository) use(dgst digest.Digest) {
	now := r.c.opts.Now()
	r.c.pulls.manifest(r.key, dgst, now)
	if first, many := r.c.uses.add(dgst, now); first || many {
		r.c.collector.noteUses(many)
	}
}

// store notes that a manifest was stored, so that it does not expire before somebody
// asks for it: who has may have left, or have got what the tag has stood for.
func (u *uses) store(dgst digest.Digest, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pending == nil {
		u.pending = make(map[digest.Digest]pendingUse)
	}
	if _, used := u.pending[dgst]; !used && len(u.pending) < manyUses {
		u.pending[dgst] = pendingUse{last: now}
	}
}

// add counts a use. First tells that there was none before since they were written.
func (u *uses) add(dgst digest.Digest, now time.Time) (first, many bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pending == nil {
		u.pending = make(map[digest.Digest]pendingUse)
	}
	first, u.noted = !u.noted, true
	use := u.pending[dgst]
	if since := now.Sub(use.last); use.n == 0 || since >= sameUse || since < 0 {
		use.n++
	}
	use.last = now
	u.pending[dgst] = use
	return first, len(u.pending) >= manyUses
}

// move notes that a tag stands for something else.
func (u *uses) move(from, to digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.moved) < manyUses {
		u.moved = append(u.moved, move{from, to})
	}
}

// fill counts bytes that a remote has brought.
func (u *uses) fill(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.filled += n
}

// take returns what is not written, and forgets it.
func (u *uses) take() (pending map[digest.Digest]pendingUse, moved []move, filled int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	pending, moved, filled = u.pending, u.moved, u.filled
	u.pending, u.moved, u.filled, u.noted = nil, nil, 0, false
	return pending, moved, filled
}

// giveBack is for who has taken what could not be written.
func (u *uses) giveBack(pending map[digest.Digest]pendingUse, moved []move, filled int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pending == nil {
		u.pending = make(map[digest.Digest]pendingUse)
	}
	for dgst, before := range pending {
		use, used := u.pending[dgst]
		switch {
		case used:
			use.n += before.n
			u.pending[dgst] = use
		case len(u.pending) < manyUses:
			u.pending[dgst] = before
		}
	}
	u.moved = append(moved, u.moved...)
	u.moved = u.moved[:min(len(u.moved), manyUses)]
	u.filled += filled
}

// flushUses writes what is known of uses to the index. It does nothing where there is
// nothing new. What cannot be written is tried again the next time.
func (c *Cache) flushUses(ctx context.Context) error {
	pending, moved, filled := c.uses.take()
	if len(pending) == 0 && len(moved) == 0 && filled == 0 {
		return nil
	}
	err := c.writeUses(ctx, pending, moved, filled)
	if err != nil {
		c.uses.giveBack(pending, moved, filled)
	}
	return err
}

func (c *Cache) writeUses(ctx context.Context, pending map[digest.Digest]pendingUse, moved []move, filled int64) error {
	rec, turns, err := c.turns(ctx, filled)
	if err != nil {
		return err
	}
	known := make(map[digest.Digest]gc.Use)
	use := func(dgst digest.Digest) (gc.Use, error) {
		if u, ok := known[dgst]; ok {
			return u, nil
		}
		var rec useRecord
		if err := c.record(ctx, key(kindUse, dgst.String()), &rec); err != nil && !absent(err) {
			return gc.Use{}, err
		}
		return gc.Use(rec), nil
	}
	for _, m := range moved {
		from, err := use(m.from)
		if err != nil {
			return err
		}
		to, err := use(m.to)
		if err != nil {
			return err
		}
		known[m.from], known[m.to] = from.Succeed(to)
	}
	now := c.opts.Now()
	for dgst, p := range pending {
		u, err := use(dgst)
		if err != nil {
			return err
		}
		// The clock may have been set right since, or may be wrong now, as on gateways
		// that wake up in the past.
		last := max(now.Add(-now.Sub(p.last)).Unix(), u.Last)
		for range p.n {
			u = u.Touch(last, turns)
		}
		u.Last = last
		known[dgst] = u
	}
	changes := batch{index: c.opts.Index, changes: []Change{put(key(kindMeta, metaTurns), rec)}}
	for dgst, u := range known {
		if err := changes.add(ctx, put(key(kindUse, dgst.String()), useRecord(u))); err != nil {
			return err
		}
	}
	return changes.flush(ctx)
}

// turns tells how often the limit was filled from remotes, which have brought filled
// bytes more than the index knows.
func (c *Cache) turns(ctx context.Context, filled int64) (rec turnsRecord, turns float64, err error) {
	if err := c.record(ctx, key(kindMeta, metaTurns), &rec); err != nil && !absent(err) {
		return rec, 0, err
	}
	rec.Filled += filled
	return rec, float64(rec.Filled) / float64(c.space.capacity(ctx)), nil
}

// manyForgotten is of how many manifests that are not stored any more is remembered how
// they were used, whatever that is worth.
const manyForgotten = 1024

// forgetUses forgets how manifests were used that are not stored any more, where that is
// not worth to be remembered.
func (c *Cache) forgetUses(ctx context.Context, s *survey) error {
	_, turns, err := c.turns(ctx, 0)
	if err != nil {
		return err
	}
	changes := batch{index: c.opts.Index}
	for dgst, err := range c.names(ctx, "", kindUse) {
		if err != nil {
			return err
		}
		id := idOf(dgst)
		if s.stored[id] || !s.uses[id].Faded(turns) {
			continue
		}
		if err := changes.add(ctx, Change{Key: key(kindUse, dgst), Delete: true}); err != nil {
			return err
		}
	}
	return changes.flush(ctx)
}

// allUses returns all uses that the index knows.
func (c *Cache) allUses(ctx context.Context) (map[gc.ID]gc.Use, error) {
	all := make(map[gc.ID]gc.Use)
	prefix := append(key(kindUse), 0)
	for e, err := range c.opts.Index.Scan(ctx, prefix, nil) {
		if err != nil {
			return nil, err
		}
		var rec useRecord
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			return nil, fmt.Errorf("entry %q of the index: %w", e.Key, err)
		}
		all[idOf(string(e.Key[len(prefix):]))] = gc.Use(rec)
	}
	return all, nil
}

// tryFlushUses is flushUses for who has nobody to tell.
func (c *Cache) tryFlushUses(ctx context.Context) {
	if err := c.flushUses(ctx); err != nil && !errors.Is(err, context.Canceled) {
		c.seldom("uses", err)("when images were last used could not be written")
	}
}

// timeOf is a time of the index.
func timeOf(unix int64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0).UTC()
}
