package cache

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// countedRefs are [Refs] that keep the account of what links take. There is one writer
// of a link at a time.
type countedRefs struct {
	Refs
	space *space
}

// Put implements Refs.
func (r countedRefs) Put(ctx context.Context, ref Ref, dgst digest.Digest) error {
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
func (r countedRefs) Remove(ctx context.Context, ref Ref) error {
	_, err := r.Get(ctx, ref)
	if err := r.Refs.Remove(ctx, ref); err != nil {
		return err
	}
	if !absent(err) {
		r.space.free(r.space.usage.OccupiesRef(ref.Kind))
	}
	return nil
}

// countLinks adds up what the links take that the index knows.
func (c *Cache) countLinks(ctx context.Context) (used int64, err error) {
	if c.opts.Usage == nil {
		return 0, nil
	}
	for kind, ref := range map[string]RefKind{kindLayer: RefLayer, kindManifest: RefManifest, kindTag: RefTag} {
		for _, err := range c.opts.Index.Scan(ctx, append(key(kind), 0), nil) {
			if err != nil {
				return 0, err
			}
			used += c.opts.Usage.OccupiesRef(ref)
		}
	}
	return used, nil
}
