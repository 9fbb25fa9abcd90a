package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

// openIndex finds out whether the index covers what is stored, and how many bytes that
// takes, where it was closed as it should be. Otherwise that is found out from what is
// stored, while requests are answered: see [Cache.settle].
func (c *Cache) openIndex(ctx context.Context) error {
	var complete completeRecord
	err := c.record(ctx, key(kindMeta, metaComplete), &complete)
	if err != nil && !absent(err) {
		return err
	}
	covers := err == nil && !c.opts.IndexDamaged
	var clean cleanRecord
	if err = c.record(ctx, key(kindMeta, metaClean), &clean); err != nil && !absent(err) {
		return err
	}
	c.since = complete.Since
	c.doubtful = !covers || clean.Used == nil
	begun := []Change{{Key: key(kindMeta, metaClean), Delete: true}}
	if !covers {
		// At the next start the index may look fine, and it is not before it was rebuilt.
		begun = append(begun, Change{Key: key(kindMeta, metaComplete), Delete: true})
	}
	if err := c.opts.Index.Apply(ctx, begun...); err != nil {
		return err
	}
	if covers && clean.Used != nil {
		if err := c.countContents(ctx, clean.Contents); err != nil {
			return err
		}
		c.space.counted(*clean.Used)
		if c.links != nil {
			c.links.counted = true
		}
		close(c.indexed)
		return nil
	}
	c.wg.Go(func() { c.settle(covers) })
	return nil
}

// countContents notes how many manifests and blobs are stored. An index that was closed by
// an earlier version does not tell.
func (c *Cache) countContents(ctx context.Context, told *int64) error {
	n := int64(0)
	if told != nil {
		n = *told
	} else {
		for _, err := range c.names(ctx, "", kindBlob) {
			if err != nil {
				return err
			}
			n++
		}
	}
	c.counters.contents.Store(n)
	c.counters.contentsKnown.Store(true)
	return nil
}

// settleEvery is how long after a failure it is tried again to find out what is stored.
const settleEvery = time.Minute

// settle counts what is stored, and rebuilds the index unless it covers that. Where the
// index cannot be written, as on a full disk, it tries again.
func (c *Cache) settle(covers bool) {
	for {
		err := c.trySettle(c.ctx, covers)
		if err == nil {
			close(c.indexed)
			return
		}
		if c.ctx.Err() == nil {
			c.seldom("settle", err)("what is stored could not be counted, so that nothing more is stored; it is tried again")
		}
		if sleep(c.ctx, settleEvery) != nil {
			return
		}
	}
}

func (c *Cache) trySettle(ctx context.Context, covers bool) error {
	select {
	case <-c.space.known:
	default:
		used, err := c.countStored(ctx)
		if err != nil {
			return err
		}
		c.space.counted(used)
	}
	if !covers {
		if err := c.rebuildIndex(ctx); err != nil {
			return err
		}
	}
	return c.countLinks(ctx)
}

// Ready waits until it is known what is stored, which takes time where the program was not
// stopped as it should be, or the index is lost. Requests are answered meanwhile; lists and
// what makes room wait.
func (c *Cache) Ready(ctx context.Context) error {
	select {
	case <-c.indexed:
		return nil
	default:
	}
	select {
	case <-c.indexed:
		return nil
	case <-c.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: the index is still being rebuilt", ctx.Err())
	}
}

func (c *Cache) has(ctx context.Context, k []byte) (bool, error) {
	_, err := c.opts.Index.Get(ctx, k)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}

// countStored adds up what the blobs take that are stored, and makes the index agree: a
// crash loses its newest entries, and a blob may have been stored or removed
// without one.
func (c *Cache) countStored(ctx context.Context) (used int64, err error) {
	changes := batch{index: c.opts.Index}
	var there []gc.ID
	for b, err := range c.opts.Blobs.All(ctx) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			c.log.WithError(err).Warn("counting what is stored: a blob is left out")
			continue
		}
		var known blobRecord
		k := key(kindBlob, b.Digest.String())
		if err := c.record(ctx, k, &known); err != nil || known.Size != b.Size {
			if err := changes.add(ctx, put(k, blobRecord{b.Size})); err != nil {
				return 0, err
			}
		}
		there = append(there, idOf(b.Digest.String()))
		used += c.space.occupied(b.Size)
	}
	slices.Sort(there)
	for name, err := range c.names(ctx, "", kindBlob) {
		if err != nil {
			return 0, err
		}
		if _, ok := slices.BinarySearch(there, idOf(name)); !ok {
			if err := changes.add(ctx, Change{Key: key(kindBlob, name), Delete: true}); err != nil {
				return 0, err
			}
		}
	}
	if err := changes.flush(ctx); err != nil {
		return 0, err
	}
	stored := int64(len(there))
	return used, c.countContents(ctx, &stored)
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

// rebuildIndex makes the entries of the references and blobs that are
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
		if isFull(err) {
			return err // nothing is wrong with the reference
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
	c.since = c.opts.Now().Unix()
	return c.opts.Index.Apply(ctx, put(key(kindMeta, metaComplete), completeRecord{c.since}))
}

// indexRef makes the entries of one reference that are missing. Others may be about to
// make them, too.
func (c *Cache) indexRef(ctx context.Context, ref RefEntry) error {
	r := c.owner(ref.Repo)
	if r == nil {
		r = &Repository{c: c, remote: new(remote), key: ref.Repo} // of a remote that is not configured
	}
	switch ref.Kind {
	case RefTag:
		return r.indexTag(ctx, ref.Name)
	case RefManifest:
		return r.indexManifest(ctx, ref.Digest)
	case RefLayer:
		return r.indexLayer(ctx, ref.Digest)
	}
	return fmt.Errorf("unknown kind of reference %d", ref.Kind)
}

func (r *Repository) indexTag(ctx context.Context, tag string) error {
	defer r.c.tags.lock(r.tagKey(tag))()
	dgst, err := r.c.opts.Refs.Get(ctx, Ref{r.key, RefTag, tag})
	if err != nil {
		return err
	}
	k := key(kindTag, r.key, tag)
	var rec tagRecord
	if err := r.c.record(ctx, k, &rec); err == nil && rec.Digest == dgst {
		return nil
	}
	// Never confirmed, so that the remote is asked when it is next used.
	return r.c.opts.Index.Apply(ctx, put(k, tagRecord{Digest: dgst}), put(key(kindRepo, r.key), struct{}{}))
}

func (r *Repository) indexLayer(ctx context.Context, dgst digest.Digest) error {
	if known, err := r.c.has(ctx, key(kindLayer, r.key, dgst.String())); err != nil || known {
		return err
	}
	b, err := r.c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return err
	}
	changes := r.linkChanges(dgst, b.Size())
	if err := b.Close(); err != nil {
		return err
	}
	return r.c.opts.Index.Apply(ctx, changes...)
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
	var known contentRecord
	if err := r.c.record(ctx, key(kindManifest, r.key, dgst.String()), &known); err == nil && known.MediaType != "" {
		m.MediaType = known.MediaType // the remote's own
	}
	return r.indexChanges(ctx, m, doc)
}
