package cache

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// countedRefs are [Refs] that keep the account of what links take. There is one writer
// of a link at a time.
type countedRefs struct {
	Refs
	space *space

	// counting is held by who changes a link, and alone by who ends the counting of those
	// that were there before.
	counting sync.RWMutex
	counted  bool
	mu       sync.Mutex
	changed  map[Ref]struct{} // until then: they are counted at its end
}

// Put implements Refs.
func (r *countedRefs) Put(ctx context.Context, ref Ref, dgst digest.Digest) error {
	r.counting.RLock()
	defer r.counting.RUnlock()
	if !r.counted {
		r.change(ref)
		return r.Refs.Put(ctx, ref, dgst)
	}
	_, err := r.Get(ctx, ref)
	isNew := absent(err)
	if err := r.Refs.Put(ctx, ref, dgst); err != nil {
		return err
	}
	if isNew {
		r.space.free(-r.space.usage.OccupiesRef(ref.Kind))
	}
	return nil
}

// Remove implements Refs.
func (r *countedRefs) Remove(ctx context.Context, ref Ref) error {
	r.counting.RLock()
	defer r.counting.RUnlock()
	if !r.counted {
		r.change(ref)
		return r.Refs.Remove(ctx, ref)
	}
	_, err := r.Get(ctx, ref)
	if err := r.Refs.Remove(ctx, ref); err != nil {
		return err
	}
	if !absent(err) {
		r.space.free(r.space.usage.OccupiesRef(ref.Kind))
	}
	return nil
}

func (r *countedRefs) change(ref Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(map[Ref]struct{})
	}
	r.changed[ref] = struct{}{}
}

// known tells that what links take is in the account: used by those that index knows, some
// of which may have been changed since.
func (r *countedRefs) known(ctx context.Context, used int64, indexed func(Ref) bool) {
	r.counting.Lock()
	defer r.counting.Unlock()
	for ref := range r.changed {
		takes := r.space.usage.OccupiesRef(ref.Kind)
		if indexed(ref) {
			used -= takes
		}
		if _, err := r.Get(ctx, ref); !absent(err) {
			used += takes
		}
	}
	r.counted, r.changed = true, nil
	r.space.free(-used)
}

// kindOf is the kind of entries of the index that stand for links.
func kindOf(ref RefKind) string {
	switch ref {
	case RefLayer:
		return kindLayer
	case RefManifest:
		return kindManifest
	}
	return kindTag
}

// countLinks adds up what the links take that the index knows.
func (c *Cache) countLinks(ctx context.Context) error {
	if c.links == nil {
		return nil
	}
	seed, used := maphash.MakeSeed(), int64(0)
	var indexed []uint64 // sums of their keys
	for _, ref := range []RefKind{RefLayer, RefManifest, RefTag} {
		takes := c.opts.Usage.OccupiesRef(ref)
		for e, err := range c.opts.Index.Scan(ctx, append(key(kindOf(ref)), 0), nil) {
			if err != nil {
				return err
			}
			indexed = append(indexed, maphash.Bytes(seed, e.Key))
			used += takes
		}
	}
	slices.Sort(indexed)
	c.links.known(ctx, used, func(ref Ref) bool {
		_, ok := slices.BinarySearch(indexed, maphash.Bytes(seed, key(kindOf(ref.Kind), ref.Repo, ref.Name)))
		return ok
	})
	return nil
}
