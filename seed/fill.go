package seed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"registry-module/cache"
)

const (
	// maxBlobsSideBySide is how many blobs of an image are fetched at a time: as clients
	// do. The cache says how many connections there are.
	maxBlobsSideBySide = 4
	// reconfirmAfter is how old the word of the remote on an unmoved tag may be before it
	// is noted anew, which costs a write: for how long a tag may be answered without the
	// remote counts from it.
	reconfirmAfter = time.Hour
)

// seed brings all images, and returns what has come of each.
func (r *run) seed(ctx context.Context, track *tracker) []SeededImage {
	done := make([]SeededImage, len(r.images))
	var group errgroup.Group
	group.SetLimit(r.parallel)
	for at, i := range r.images {
		group.Go(func() error {
			done[at] = r.bring(ctx, i, track)
			track.done(done[at])
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	return done
}

// bring brings an image, and returns what has come of it.
func (r *run) bring(ctx context.Context, i *image, track *tracker) SeededImage {
	f := filler{run: r, image: i, track: track, out: i.report()}
	err := i.err
	if err == nil {
		err = f.fill(ctx)
	}
	switch {
	case err != nil:
		i.err = err // while it is not here, what was there before stays pinned
		f.out.State, f.out.Error = Failed, err.Error()
		r.log.WithError(err).Warnf("image %s could not be seeded", i.planned.Image)
	case i.stale != nil:
		f.out.State = Unconfirmed
	case f.stored.Load():
		f.out.State = Seeded
	default:
		f.out.State = Present
	}
	f.out.Fetched = f.fetched.Load()
	return f.out
}

// fill brings all of the image: blobs, manifests, the pin, and the tag last, so that it
// stands for what it has stood for until all is there.
func (f *filler) fill(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("it was not begun: %w", err)
	}
	if f.loose {
		hold := f.cache.Hold()
		defer hold.Release()
		hold.Keep(f.digests()...)
	}
	blobs := slices.Clone(f.blobs)
	slices.SortStableFunc(blobs, func(a, b v1.Descriptor) int { return cmp.Compare(b.Size, a.Size) }) // so that none is left alone at the end
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxBlobsSideBySide)
	for _, b := range blobs {
		group.Go(func() error { return f.blob(groupCtx, b) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range f.parts {
		if err := f.manifest(ctx, p); err != nil {
			return fmt.Errorf("storing manifest %s: %w", p.Digest, err)
		}
	}
	if err := f.pin(ctx); err != nil {
		return err
	}
	for _, p := range f.points {
		if err := f.point(ctx, p); err != nil {
			return err
		}
	}
	if f.tag == "" || f.stale != nil {
		return nil
	}
	return f.point(ctx, point{f.tag, f.planned.Digest})
}

// pin keeps the image, unless it is not to be, or is already.
func (f *filler) pin(ctx context.Context) error {
	if f.loose {
		return nil
	}
	pattern := f.pattern()
	if !f.pinned[pattern] {
		if _, err := f.cache.PinImages(ctx, cache.Pin{Pattern: pattern, Reason: cache.PinnedBySeed}); err != nil {
			return fmt.Errorf("pinning %s: %w", pattern, err)
		}
	}
	f.out.Pinned = true
	return nil
}

// point has a tag stand for what the remote says, unless it does, and that was noted not
// long ago.
func (f *filler) point(ctx context.Context, p point) error {
	dgst, confirmed, err := f.repo.StoredTag(ctx, p.tag)
	if err != nil {
		return fmt.Errorf("looking for the tag %s: %w", p.tag, err)
	}
	if dgst == p.dgst && f.now().Sub(confirmed).Abs() < reconfirmAfter {
		return nil
	}
	if err := f.repo.PointTag(ctx, p.tag, p.dgst); err != nil {
		return fmt.Errorf("storing the tag %s: %w", p.tag, err)
	}
	return nil
}

// manifest stores a manifest of the image, all that it lists being there.
func (f *filler) manifest(ctx context.Context, p *part) error {
	has := func() (bool, error) { return f.repo.HasManifest(ctx, p.Digest) }
	return f.once(ctx, p.Digest, has, func() error {
		m := cache.Manifest{Descriptor: p.Descriptor, Bytes: p.content}
		if m.Bytes == nil {
			t, err := again(ctx, func(ctx context.Context) (cache.Tagged, error) { return f.repo.Peek(ctx, p.Digest.String()) })
			if err != nil {
				return err
			}
			m = t.Manifest
		}
		if err := f.repo.StoreManifest(ctx, m); err != nil {
			return err
		}
		f.track.held(p.Digest, p.Size)
		return nil
	})
}

// blob brings a blob of the image. What somebody else brings is waited for.
func (f *filler) blob(ctx context.Context, d v1.Descriptor) error {
	has := func() (bool, error) {
		has, _, err := f.repo.HasBlob(ctx, d.Digest)
		return has, err
	}
	return f.once(ctx, d.Digest, has, func() error {
		active := f.track.begin(f.planned.Image, d)
		defer active.end()
		_, err := again(ctx, func(ctx context.Context) (int64, error) {
			n, err := f.repo.FetchBlob(ctx, d, active.held)
			f.fetched.Add(n)
			active.fetched(n)
			return n, err
		})
		if err != nil {
			return fmt.Errorf("fetching blob %s: %w", d.Digest, err)
		}
		f.track.held(d.Digest, d.Size)
		return nil
	})
}

// isOver tells whether err is no more than that somebody has stopped.
func isOver(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
