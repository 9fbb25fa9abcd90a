package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

// Occupies returns how many bytes of the storage content of size bytes takes.
func (c *Cache) Occupies(size int64) int64 { return c.space.occupied(size) }

// Stored returns the size in bytes of content, if it is stored, for whatever repository.
func (c *Cache) Stored(ctx context.Context, dgst digest.Digest) (size int64, ok bool, err error) {
	b, err := c.open(ctx, dgst)
	if absent(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("opening %s: %w", dgst, err)
	}
	return b.Size(), true, b.Close()
}

// OpenContent opens stored content, for whatever repository it is stored. Who reads it
// compares it with the digest. The error of what is not stored is [ErrNotFound].
func (c *Cache) OpenContent(ctx context.Context, dgst digest.Digest) (content io.ReadCloser, size int64, err error) {
	b, err := c.open(ctx, dgst)
	if absent(err) {
		err = fmt.Errorf("it is not stored: %w", ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening %s: %w", dgst, err)
	}
	return b, b.Size(), nil
}

// Contents yields all manifests and blobs that are stored, in the order of their digests.
// An error ends the iteration.
func (c *Cache) Contents(ctx context.Context) iter.Seq2[BlobEntry, error] {
	return func(yield func(BlobEntry, error) bool) {
		if err := c.Ready(ctx); err != nil {
			yield(BlobEntry{}, err)
			return
		}
		stop := errors.New("enough")
		err := c.each(ctx, 1, func(parts []string, value []byte) error {
			rec, err := decodeBlob(parts[0], value)
			if err == nil && !yield(BlobEntry{digest.Digest(parts[0]), rec.Size}, nil) {
				err = stop
			}
			return err
		}, kindBlob)
		if err != nil && err != stop {
			yield(BlobEntry{}, fmt.Errorf("listing what is stored: %w", err))
		}
	}
}

// StoreBlob stores content, of a manifest or a blob, durably, once it was compared with
// its digest. It is part of no repository then: see [Repository.LinkBlob] and
// [Repository.StoreManifest]; until that, a [Hold] keeps it. What is stored already is not
// read. The error is [ErrInvalid] where it has another digest or size, and [ErrNoSpace]
// where it has no room or cannot be written; nothing is left then.
func (c *Cache) StoreBlob(ctx context.Context, dgst digest.Digest, size int64, r io.Reader) error {
	err := c.storeBlob(ctx, dgst, size, r)
	if err != nil {
		c.ranShort(dgst, size, err)
		return fmt.Errorf("storing %.150s: %w", dgst, err)
	}
	return nil
}

func (c *Cache) storeBlob(ctx context.Context, dgst digest.Digest, size int64, r io.Reader) error {
	hash, err := verify.NewHash(dgst)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if size < 0 {
		return fmt.Errorf("%w: it cannot have %d bytes", ErrInvalid, size)
	}
	if b, err := c.open(ctx, dgst); err == nil {
		stored := b.Size()
		if err := b.Close(); err != nil {
			return err
		}
		if stored != size {
			return fmt.Errorf("%w: it has %d bytes, and should have %d", ErrInvalid, stored, size)
		}
		return nil
	} else if c.isBad(dgst) {
		return fmt.Errorf("%w: %w, and cannot be taken away", errStorage, errDamaged)
	} else if !absent(err) {
		return err
	}
	var res *reservation
	if err := c.patiently(ctx, func() error { return c.fit(ctx, &res, size) }); err != nil {
		return err
	}
	defer res.release()
	d, err := c.opts.Blobs.Create(ctx, dgst)
	if err != nil {
		return storageError(err)
	}
	parts := newSummer(size)
	err = c.copyIn(ctx, d, io.MultiWriter(hash, parts), res, size, r)
	if err == nil {
		if err = hash.Verify(size); err != nil {
			err = fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if err == nil {
		// Stopping is no reason to lose what is complete.
		ctx = context.WithoutCancel(ctx)
		if err = c.commit(ctx, d, res, dgst, size); err != nil {
			err = storageError(err)
		}
	}
	if err != nil {
		if discardErr := d.Discard(); discardErr != nil {
			c.log.WithError(discardErr).Warnf("removing what was written of %s", dgst)
		}
		return err
	}
	c.trustFilled(ctx, dgst, parts.finish())
	return nil
}

// copyIn copies size bytes from r to the draft, and what it copies to sum. R has to end
// there.
func (c *Cache) copyIn(ctx context.Context, d Draft, sum io.Writer, res *reservation, size int64, r io.Reader) error {
	buf := c.buffer()
	defer c.recycle(buf)
	for pos := int64(0); pos < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, (*buf)[:min(int64(len(*buf)), size-pos)])
		if n > 0 {
			if _, err := d.WriteAt((*buf)[:n], pos); err != nil {
				return storageError(err)
			}
			res.wrote(int64(n))
			_, _ = sum.Write((*buf)[:n]) // never fails
			pos += int64(n)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return fmt.Errorf("%w: it ends at byte %d, and should at %d", ErrInvalid, pos, size)
		case err != nil:
			return err
		}
	}
	switch n, err := io.ReadFull(r, (*buf)[:1]); {
	case n > 0:
		return fmt.Errorf("%w: it has more than %d bytes", ErrInvalid, size)
	case err != io.EOF:
		return err
	}
	return nil
}

// LinkBlob makes stored content a blob of the repository. The caller vouches for that the
// remote has it there. The error of what is not stored is [ErrNotFound], and [ErrInvalid]
// where it has another size.
func (r *Repository) LinkBlob(ctx context.Context, dgst digest.Digest, size int64) error {
	what := fmt.Sprintf("linking blob %s into %s", dgst, r.key)
	stored, ok, err := r.c.Stored(ctx, dgst)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case ok && stored != size:
		return fmt.Errorf("%s: %w: it has %d bytes, and should have %d", what, ErrInvalid, stored, size)
	case ok:
		err = r.link(ctx, dgst, size)
	}
	if !ok || absent(err) { // or it was removed meanwhile
		return fmt.Errorf("%s: it is not stored: %w", what, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, storageError(err))
	}
	return nil
}
