package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/internal/verify"
)

// The methods here are for who fills the cache before somebody asks for what is in it. They
// count as no use of an image, and leave the connections to clients.

// HasBlob tells whether a blob is stored and part of the repository, and how many bytes of
// it need not be fetched: all of one that is stored, also for another repository only.
func (r *Repository) HasBlob(ctx context.Context, dgst digest.Digest) (has bool, kept int64, err error) {
	b, _, err := r.openStored(ctx, dgst)
	if err == nil {
		return true, b.Size(), b.Close()
	}
	if !absent(err) {
		return false, 0, err
	}
	size, stored, err := r.c.Stored(ctx, dgst)
	if err != nil || stored {
		return false, size, err
	}
	return false, r.c.kept(dgst), nil
}

// HasManifest tells whether a manifest is stored and part of the repository.
func (r *Repository) HasManifest(ctx context.Context, dgst digest.Digest) (bool, error) {
	_, err := r.loadManifest(ctx, dgst)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}

// FetchBlob brings a blob into the cache and makes it part of the repository. It returns
// how many bytes have come from the remote meanwhile, whoever they were fetched for, but
// none that were there before; after an error, too. What is stored for another repository
// costs a request whether the remote serves it here.
//
// Held, unless nil, is called now and then with how many bytes are there. The error is nil
// only where the blob is stored: it is [ErrNoSpace] where it has no room or cannot be
// written, and [ErrInvalid] where it has another size than d says. When ctx ends, the
// download goes on, as those do that clients have begun.
func (r *Repository) FetchBlob(ctx context.Context, d v1.Descriptor, held func(int64)) (fetched int64, err error) {
	if !askable(d) {
		return 0, fmt.Errorf("%w: blob %.150q of %s, of %d bytes, cannot be asked for", ErrInvalid, d.Digest, r.name, d.Size)
	}
	if held == nil {
		held = func(int64) {}
	}
	// What ends a round is that something else has happened to the blob: it was removed,
	// or somebody else's download of it has failed.
	const rounds = 5
	linkErr := error(nil)
	for range rounds {
		b, _, err := r.openStored(ctx, d.Digest)
		switch {
		case err == nil:
			size := b.Size()
			if err := b.Close(); err != nil {
				return fetched, err
			}
			if size != d.Size {
				return fetched, r.bodyError(d.Digest, otherThanNamed(size, d.Size))
			}
			held(size)
			return fetched, nil
		case !absent(err):
			return fetched, err
		case linkErr != nil:
			return fetched, fmt.Errorf("blob %s could not be linked into %s: %w", d.Digest, r.key, storageError(linkErr))
		}
		err = r.c.patiently(ctx, func() (err error) {
			var n int64
			n, linkErr, err = r.fetchBlob(ctx, d, held)
			fetched += n
			return err
		})
		if err != nil {
			return fetched, err
		}
	}
	return fetched, fmt.Errorf("%w: blob %s is removed again and again", ErrNoSpace, d.Digest)
}

// patiently does what needs room, and does it once more where there is none: what a client
// has just pulled does not go until its pull counts as ended.
func (c *Cache) patiently(ctx context.Context, do func() error) error {
	err := do()
	full, ok := errors.AsType[*noSpace](err)
	if !ok || !c.space.holds(ctx, full.needed) {
		return err
	}
	timer := time.NewTimer(pullPauseInNeed + time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		return do()
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	}
}

// otherThanNamed is the error for a blob whose size is not what its manifest says.
func otherThanNamed(size, named int64) error {
	return fmt.Errorf("%w: it has %d bytes, and its manifest says %d", verify.ErrMismatch, size, named)
}

// storageError is an ErrNoSpace for what could not be written.
func storageError(err error) error {
	if errors.Is(err, ErrNoSpace) || errors.Is(err, context.Canceled) || errors.Is(err, ErrNotFound) {
		return err
	}
	return fmt.Errorf("%w: %w", errStorage, err)
}

// fetchBlob is one round of FetchBlob: it fetches the blob, or finds out that the remote
// serves it here, and links it. No error means that it is worth looking again; linkErr
// is why it will not be linked then.
func (r *Repository) fetchBlob(ctx context.Context, d v1.Descriptor, held func(int64)) (fetched int64, linkErr, err error) {
	if r.remote.Upstream == nil {
		return 0, nil, r.missing(fmt.Sprintf("blob %s of %s", d.Digest, r.name))
	}
	if r.c.isBad(d.Digest) {
		return 0, nil, fmt.Errorf("%w: blob %s: %w, and cannot be taken away", errStorage, d.Digest, errDamaged)
	}
	f, fresh, err := r.c.fillAhead(ctx, r, d.Digest, d.Size)
	before := int64(0)
	if err == nil && !fresh {
		before = f.arrived()
	}
	switch {
	case errors.Is(err, errStored):
		// Of what a fill has just stored the link may be there already.
		if b, _, err := r.openStored(ctx, d.Digest); err == nil {
			return 0, nil, b.Close()
		}
		if err := r.vouchNamed(ctx, d.Digest); err != nil {
			return 0, nil, err
		}
		return 0, r.tryLinkAgain(ctx, d.Digest), nil
	case errors.Is(err, errDamaged):
		return 0, nil, nil
	case err != nil:
		return 0, nil, err
	case !fresh && !f.serves(r):
		if err := r.vouchNamed(ctx, d.Digest); err != nil {
			return 0, nil, err
		}
	}
	err = f.watch(ctx, held)
	fetched = f.arrived() - before
	switch {
	case ctx.Err() != nil:
		return fetched, nil, ctx.Err()
	case f.failedForOthers(ctx, r, err):
		return fetched, nil, nil
	case err != nil:
		return fetched, nil, err
	case f.unstored != nil:
		return fetched, nil, fmt.Errorf("storing blob %s: %w", d.Digest, storageError(f.unstored))
	}
	return fetched, r.tryLinkAgain(ctx, d.Digest), nil
}

// vouchNamed is vouch for a blob that a manifest of the repository names, which is not
// stored yet. See [Repository.statNamed].
func (r *Repository) vouchNamed(ctx context.Context, dgst digest.Digest) error {
	_, err := r.vouch(ctx, dgst)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	size, err := flight(ctx, r, kindBlob, dgst.String(), func(ctx context.Context) (int64, error) {
		return r.firstByte(ctx, dgst)
	})
	if err == nil {
		_, err = r.vouched(ctx, dgst, size)
	}
	return err
}

// tryLinkAgain links a blob that the remote serves here, and should be linked by now, if
// it is not, and returns why that fails.
func (r *Repository) tryLinkAgain(ctx context.Context, dgst digest.Digest) error {
	b, _, err := r.openStored(ctx, dgst)
	if err == nil {
		return b.Close()
	}
	if b, err = r.c.open(ctx, dgst); err != nil {
		return nil // it is not there
	}
	size := b.Size()
	if err := b.Close(); err != nil {
		return err
	}
	err = r.link(ctx, dgst, size)
	if absent(err) {
		return nil
	}
	return err
}

// heldEvery is how often is told at most how much of a blob is there.
const heldEvery = 100 * time.Millisecond

// arrived returns how many bytes have come from the remote.
func (f *fill) arrived() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.came
}

// watch waits until the fill has ended, and calls held meanwhile.
func (f *fill) watch(ctx context.Context, held func(int64)) error {
	var told time.Time
	for {
		f.mu.Lock()
		n, progress := f.have.Len(), f.progress
		f.mu.Unlock()
		if now := time.Now(); now.Sub(told) >= heldEvery {
			told = now
			held(n)
		}
		select {
		case <-f.gone:
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.err
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// StoreManifest verifies a manifest and makes it part of the repository, durably. What it
// consists of should be there before. The error is [ErrInvalid] where it is none, and
// [ErrNoSpace] where it has no room or cannot be written.
func (r *Repository) StoreManifest(ctx context.Context, m Manifest) error {
	what := fmt.Sprintf("storing manifest %s of %s", m.Digest, r.key)
	if err := m.Digest.Validate(); err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	doc, err := checkManifest(&m, m.Digest.String())
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	m.Age, m.Stale = 0, false
	if err := r.c.patiently(ctx, func() error { return r.storeManifest(ctx, m, doc) }); err != nil {
		r.c.ranShort(m.Digest, m.Size, storageError(err))
		return fmt.Errorf("%s: %w", what, storageError(err))
	}
	r.remember(m)
	r.isThere(m.Digest)
	if err := r.keepNoReferrers(ctx, m.Digest); err != nil { // it is asked for again
		r.c.seldom("index", err)("that nothing refers to %s in %s could not be stored", m.Digest, r.key)
	}
	return nil
}
