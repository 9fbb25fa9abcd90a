package cachetest

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/extents"
)

// Partials is a [cache.Partials] in memory. It is empty and ready when Blobs is
// set. Like a store on a disk, it remembers the bytes that are written in order
// from a multiple of [cache.PartSize] on, and loses parts that are not complete
// when the process ends without Suspend.
//
// Beside what Blobs panics on, it panics when a digest is resumed that has not
// ended.
type Partials struct {
	// Blobs is where content goes that is committed, whose Fail is asked, and
	// whose Drafts counts those of Partials too.
	Blobs *Blobs
	// Now is the clock; default time.Now.
	Now func() time.Time

	mu   sync.Mutex
	kept map[digest.Digest]memKept
	live map[digest.Digest]*memPartial
}

var _ cache.Partials = (*Partials)(nil)

// memKept is what is kept of a download.
type memKept struct {
	p    []byte // zero where nothing is held
	held extents.Set
	note []byte
	used time.Time
}

// Restart is what a kill of the process does: everything that has not ended is
// gone, but for what is kept of it. The drafts of before fail from then on; Blobs
// and Partials are used on as those of the next process.
func (ps *Partials) Restart() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.Blobs.restart()
	for dgst, d := range ps.live {
		if kept, ok := d.remember(false); ok {
			ps.keep(dgst, kept)
		}
	}
	clear(ps.live)
}

func (ps *Partials) now() time.Time {
	if ps.Now == nil {
		return time.Now()
	}
	return ps.Now()
}

// keep stores what is kept of dgst. The caller holds ps.mu.
func (ps *Partials) keep(dgst digest.Digest, kept memKept) {
	if ps.kept == nil {
		ps.kept = make(map[digest.Digest]memKept)
	}
	ps.kept[dgst] = kept
}

// Resume implements cache.Partials.
func (ps *Partials) Resume(_ context.Context, dgst digest.Digest) (cache.Partial, error) {
	if err := ps.Blobs.fail("create"); err != nil {
		return nil, err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.live[dgst] != nil {
		panic(fmt.Sprintf("cachetest: %s is resumed and has not ended", dgst))
	}
	d := &memPartial{
		memDraft: ps.Blobs.draft(dgst), of: ps,
		before: ps.kept[dgst], order: make(map[int64]int64),
	}
	if kept, ok := ps.kept[dgst]; ok {
		d.kept, d.note, d.used = true, kept.note, kept.used
		d.p, d.written = bytes.Clone(kept.p), append(extents.Set(nil), kept.held...)
		for _, span := range kept.held {
			d.wrote(span)
		}
		delete(ps.kept, dgst)
	}
	if ps.live == nil {
		ps.live = make(map[digest.Digest]*memPartial)
	}
	ps.live[dgst] = d
	return d, nil
}

// All implements cache.Partials.
func (ps *Partials) All(ctx context.Context) iter.Seq2[cache.PartialEntry, error] {
	return func(yield func(cache.PartialEntry, error) bool) {
		ps.mu.Lock()
		kept := maps.Clone(ps.kept)
		ps.mu.Unlock()
		for dgst, k := range kept {
			if err := ctx.Err(); err != nil {
				yield(cache.PartialEntry{}, err)
				return
			}
			if !yield(cache.PartialEntry{Digest: dgst, Size: k.held.Len(), Used: k.used, Note: bytes.Clone(k.note)}, nil) {
				return
			}
		}
	}
}

// Remove implements cache.Partials. It fails for what is resumed and has not
// ended.
func (ps *Partials) Remove(_ context.Context, dgst digest.Digest) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.live[dgst] != nil {
		return fmt.Errorf("cachetest: %s is in use", dgst)
	}
	delete(ps.kept, dgst)
	return nil
}

type memPartial struct {
	*memDraft
	of     *Partials
	before memKept

	// Guarded by memDraft.mu.
	kept  bool
	note  []byte
	used  time.Time
	order map[int64]int64 // by the offset of a part: how much of it was written in order
}

func (d *memPartial) Held() []extents.Span { return append([]extents.Span(nil), d.before.held...) }

func (d *memPartial) Note() []byte { return bytes.Clone(d.before.note) }

func (d *memPartial) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.memDraft.WriteAt(p, off)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.wrote(extents.Span{Start: off, End: off + int64(n)})
		d.used = d.of.now()
	}
	return n, err
}

// wrote takes note of span, part by part. The caller holds d.mu.
func (d *memPartial) wrote(span extents.Span) {
	for span.Len() > 0 {
		part := span.Start - span.Start%cache.PartSize
		end := min(span.End, part+cache.PartSize)
		if span.Start-part <= d.order[part] {
			d.order[part] = max(d.order[part], end-part)
		}
		span.Start = end
	}
}

// remember returns what is kept of the draft; ok is false where it is not.
func (d *memPartial) remember(incomplete bool) (kept memKept, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept = memKept{note: d.note, used: d.used}
	for part, n := range d.order {
		if n == cache.PartSize || incomplete {
			kept.held.Add(extents.Span{Start: part, End: part + n})
		}
	}
	for _, span := range kept.held {
		kept.p = append(kept.p, make([]byte, span.End-int64(len(kept.p)))...)
		copy(kept.p[span.Start:], d.p[span.Start:span.End])
	}
	return kept, d.kept && !d.done
}

func (d *memPartial) Keep(note []byte) error {
	if err := d.store.fail("keep"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept, d.note, d.used = true, bytes.Clone(note), d.of.now()
	return nil
}

func (d *memPartial) Sync(context.Context) error { return d.store.fail("sync") }

// Suspend discards the draft where it is to fail.
func (d *memPartial) Suspend() (int64, error) {
	err := d.store.fail("suspend")
	kept, ok := d.remember(true)
	if err != nil || !ok || kept.held.Len() == 0 {
		return 0, d.end(err)
	}
	d.of.mu.Lock()
	if d.of.live[d.dgst] == d { // and not of an earlier process
		d.of.keep(d.dgst, kept)
	}
	d.of.mu.Unlock()
	return kept.held.Len(), d.end(nil)
}

func (d *memPartial) Commit(ctx context.Context) error {
	if err := d.memDraft.Commit(ctx); err != nil {
		return err
	}
	return d.end(nil)
}

func (d *memPartial) Discard() error { return d.end(nil) }

// end ends the draft, and returns err.
func (d *memPartial) end(err error) error {
	d.of.mu.Lock()
	defer d.of.mu.Unlock()
	if d.of.live[d.dgst] == d {
		delete(d.of.live, d.dgst)
	}
	_ = d.memDraft.Discard() // never fails
	return err
}
