package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// prepareIndex makes sure that the index covers what is stored, and returns how
// many bytes that is.
func (c *Cache) prepareIndex(ctx context.Context) (used int64, err error) {
	complete, err := c.has(ctx, key(kindMeta, metaComplete))
	if err != nil {
		return 0, err
	}
	clean, err := c.has(ctx, key(kindMeta, metaClean))
	if err != nil {
		return 0, err
	}
	if !complete {
		if err := c.rebuildIndex(ctx); err != nil {
			return 0, err
		}
	}
	if complete && clean {
		used, err = c.countIndexed(ctx)
	} else {
		used, err = c.countStored(ctx)
	}
	if err != nil {
		return 0, err
	}
	return used, c.opts.Index.Apply(ctx, Change{Key: key(kindMeta, metaClean), Delete: true})
}

func (c *Cache) has(ctx context.Context, k []byte) (bool, error) {
	_, err := c.opts.Index.Get(ctx, k)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}

// countIndexed adds up the blobs that the index knows.
func (c *Cache) countIndexed(ctx context.Context) (used int64, err error) {
	for e, err := range c.opts.Index.Scan(ctx, append(key(kindBlob), 0), nil) {
		if err != nil {
			return 0, err
		}
		var rec blobRecord
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			return 0, fmt.Errorf("entry %q of the index: %w", e.Key, err)
		}
		used += rec.Size
	}
	return used, nil
}

// countStored adds up the blobs that are stored, and makes the index agree: a
// crash loses its newest entries, and a blob may have been stored or removed
// without one.
func (c *Cache) countStored(ctx context.Context) (used int64, err error) {
	changes := batch{index: c.opts.Index}
	for name, err := range c.names(ctx, "", kindBlob) {
		if err == nil {
			err = changes.add(ctx, Change{Key: key(kindBlob, name), Delete: true})
		}
		if err != nil {
			return 0, err
		}
	}
	for b, err := range c.opts.Blobs.All(ctx) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			c.log.WithError(err).Warn("counting what is stored: a blob is left out")
			continue
		}
		if err := changes.add(ctx, put(key(kindBlob, b.Digest.String()), blobRecord{b.Size})); err != nil {
			return 0, err
		}
		used += b.Size
	}
	return used, changes.flush(ctx)
}

// batch collects changes of an index, which are cheaper together and limited in
// number.
type batch struct {
	index   Index
	changes []Change
}

// add applies the collected changes when they are many.
func (b *batch) add(ctx context.Context, changes ...Change) error {
	const many = 256
	b.changes = append(b.changes, changes...)
	if len(b.changes) < many {
		return nil
	}
	return b.flush(ctx)
}

// flush applies the collected changes.
func (b *batch) flush(ctx context.Context) error {
	changes := b.changes
	b.changes = nil
	return b.index.Apply(ctx, changes...)
}

// rebuildIndex fills an empty index from the references and blobs that are
// stored, by this program or by the stock registry. What is damaged is left out:
// it counts as not stored and will be fetched again.
func (c *Cache) rebuildIndex(ctx context.Context) error {
	start, found := time.Now(), 0
	for ref, err := range c.opts.Refs.All(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = c.indexRef(ctx, ref)
		}
		if err != nil {
			c.log.WithError(err).Warnf("rebuilding the index: %s of %s is left out", ref.Name, ref.Repo)
			continue
		}
		found++
	}
	if found > 0 {
		c.log.Infof("rebuilt the index of %d references in %v", found, time.Since(start).Round(time.Millisecond))
	}
	return c.opts.Index.Apply(ctx, put(key(kindMeta, metaComplete), struct{}{}))
}

// indexRef makes the entries of one reference.
func (c *Cache) indexRef(ctx context.Context, ref RefEntry) error {
	r := &Repository{c: c, key: ref.Repo}
	switch ref.Kind {
	case RefTag:
		// Never confirmed, so that the remote is asked when it is next used.
		return c.opts.Index.Apply(ctx,
			put(key(kindTag, ref.Repo, ref.Name), tagRecord{Digest: ref.Digest}),
			put(key(kindRepo, ref.Repo), struct{}{}))
	case RefManifest:
		return r.indexManifest(ctx, ref.Digest)
	case RefLayer:
		b, err := c.opts.Blobs.Open(ctx, ref.Digest)
		if err != nil {
			return err
		}
		changes := r.linkChanges(ref.Digest, b.Size(), false)
		if err := b.Close(); err != nil {
			return err
		}
		return c.opts.Index.Apply(ctx, changes...)
	}
	return fmt.Errorf("unknown kind of reference %d", ref.Kind)
}

func (r *Repository) indexManifest(ctx context.Context, dgst digest.Digest) error {
	content, err := r.c.readBlob(ctx, dgst)
	if err != nil {
		return err
	}
	doc, err := parseManifest(content)
	if err != nil {
		return err
	}
	m := Manifest{Descriptor: Descriptor{MediaType: doc.mediaType(), Digest: dgst, Size: int64(len(content))}}
	return r.applyInParts(ctx, r.manifestChanges(ctx, m, doc))
}
