package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/slots"
	"registry-module/internal/verify"
	"registry-module/internal/via"
)

// StatBlob returns the size of the blob dgst, or -1 where the remote does not
// tell. The remote is asked only where nothing that is stored in this repository
// tells.
func (r *Repository) StatBlob(ctx context.Context, dgst digest.Digest) (Descriptor, error) {
	r.told(ctx, Answered{Source: FromStore}) // until something else turns out
	d, err := r.statBlob(ctx, dgst)
	if err != nil {
		r.toldFailure(ctx, err)
	}
	return d, err
}

func (r *Repository) statBlob(ctx context.Context, dgst digest.Digest) (Descriptor, error) {
	d := Descriptor{MediaType: "application/octet-stream", Digest: dgst}
	var rec contentRecord
	err := r.c.record(ctx, key(kindLayer, r.key, dgst.String()), &rec)
	if absent(err) {
		// A manifest of the repository that names it is as good: the chain of
		// proxies below us must not cost a trip to the remote.
		err = r.c.record(ctx, key(kindNamed, r.key, dgst.String()), &rec)
	}
	if err == nil {
		d.Size = rec.Size
		if named := r.namedSize(ctx, dgst); named != 0 && named != d.Size {
			// It may be that of a file which was damaged when the index was rebuilt.
			d.Size = named
			if b, err := r.CachedBlob(ctx, dgst); err == nil {
				d.Size = b.Size()
				return d, b.Close()
			}
		}
		return d, nil
	}
	if !absent(err) {
		return Descriptor{}, err
	}
	if b, err := r.CachedBlob(ctx, dgst); err == nil {
		d.Size = b.Size()
		return d, b.Close()
	}
	if r.remote.Upstream == nil {
		return Descriptor{}, r.missing(fmt.Sprintf("blob %s of %s", dgst, r.name))
	}
	if size, ok := r.c.filling(r, dgst); ok {
		d.Size = size
		r.told(ctx, Answered{Source: FromRemote, Joined: true, Stored: true})
		return d, nil
	}
	d.Size, err = r.vouch(ctx, dgst)
	return d, err
}

// vouch asks the remote whether it serves dgst in this repository, and links it
// if it is stored or being downloaded for another one, so that the remote need
// not be asked again. It returns the size, -1 where the remote does not tell.
func (r *Repository) vouch(ctx context.Context, dgst digest.Digest) (int64, error) {
	return flight(ctx, r, kindLayer, dgst.String(), func(ctx context.Context) (int64, error) {
		// As patient as a download begins: how long it takes does not tell whether
		// the blob is stored for somebody else.
		size, err := atOnce(ctx, func() (int64, error) { return r.remote.Upstream.StatBlob(ctx, r.name, dgst) })
		if errors.Is(err, ErrNotFound) {
			size, err = r.statNamed(ctx, dgst, err)
		}
		if err != nil {
			return 0, err
		}
		return r.vouched(ctx, dgst, size)
	})
}

// vouched links a blob that the remote serves in this repository, if it is stored or being
// downloaded for another one. It returns the size, which is that given if it is neither.
func (r *Repository) vouched(ctx context.Context, dgst digest.Digest, size int64) (int64, error) {
	if f := r.c.running(dgst); f != nil && f.vouch(r) {
		r.told(ctx, Answered{Source: FromRemote, Stored: true})
		return size, nil
	}
	r.told(ctx, Answered{Source: FromRemote})
	if b, err := r.c.open(ctx, dgst); err == nil {
		r.told(ctx, Answered{Source: Confirmed})
		r.tryLink(ctx, dgst, b.Size())
		return b.Size(), b.Close()
	}
	return size, nil
}

// statNamed asks for the first byte of a blob of which a HEAD has said that it does not
// exist, if a manifest of the repository names it: caches that have not fetched it yet
// answer so, and give it all the same.
func (r *Repository) statNamed(ctx context.Context, dgst digest.Digest, notFound error) (int64, error) {
	if named, err := r.names(ctx, dgst); err != nil || !named {
		return 0, cmp.Or(err, notFound)
	}
	return r.firstByte(ctx, dgst)
}

// firstByte makes sure that the remote gives the blob here. It returns its size, -1
// where the remote does not tell.
func (r *Repository) firstByte(ctx context.Context, dgst digest.Digest) (int64, error) {
	s, err := atOnce(ctx, func() (*BlobStream, error) {
		return r.remote.Upstream.Blob(ctx, r.name, dgst, BlobPart{Length: 1})
	})
	if errors.Is(err, ErrNoPart) {
		return -1, nil // it is empty
	}
	if err != nil {
		return 0, err
	}
	return s.Size, s.Body.Close()
}

// prove makes sure that a request can wait for f, see [fill.mayWaitFor], by asking
// for the blob itself: a HEAD would not do, since who is asked may know of the blob and
// wait for it as well.
func (r *Repository) prove(ctx context.Context, f *fill) error {
	_, err := flight(ctx, r, kindBlob, f.dgst.String(), func(ctx context.Context) (int64, error) {
		return r.firstByte(ctx, f.dgst)
	})
	if err == nil {
		f.vouch(r)
	}
	return err
}

// vouchInTurn is vouch for who wants the blob. Unless a manifest of the repository has
// named it, so that it is no secret here, it waits like one that has to be fetched: how
// long that takes does not tell that it is there.
func (r *Repository) vouchInTurn(ctx context.Context, dgst digest.Digest) error {
	named, err := r.names(ctx, dgst)
	if err != nil {
		return err
	}
	if named {
		_, err := r.vouch(ctx, dgst)
		return err
	}
	_, _, err = fly(ctx, r.c, r.step(fetchSpan, kindNamed, dgst.String()), flightKey(ctx, kindNamed, r.key, r.remote.epoch, dgst.String()), func(ctx context.Context) (int64, error) {
		for _, s := range []*slots.Slots{r.remote.fillSlots, r.remote.streamSlots} {
			release, err := s.Acquire(ctx, slots.First)
			if err != nil {
				return 0, r.c.ended(err)
			}
			defer release()
		}
		return r.vouch(ctx, dgst)
	})
	return err
}

// mayWaitFor tells whether f might be waiting for the request of ctx: it has no answer
// yet, and was begun for one that has passed fewer registries.
func (f *fill) mayWaitFor(ctx context.Context) bool {
	select {
	case <-f.started:
		return false
	default:
		return len(via.From(f.ctx)) < len(via.From(ctx))
	}
}

// counted is what is counted for dgst in the account of what is stored, 0 where it is
// not there. Times is 1 where it is, and 0 otherwise. The caller holds c.accounts.
func (c *Cache) counted(ctx context.Context, dgst digest.Digest) (takes, times int64) {
	var rec blobRecord
	if err := c.record(ctx, key(kindBlob, dgst.String()), &rec); err != nil {
		return 0, 0
	}
	return c.space.occupied(rec.Size), 1
}

// OpenBlob opens the blob dgst: from the store, from the download that is under
// way, or from one that it starts. The reader's operations end with ctx.
func (r *Repository) OpenBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	r.told(ctx, Answered{Source: FromStore}) // until something else turns out
	b, err := r.reading(dgst, func() (*Reader, error) { return r.openBlob(ctx, dgst) })
	if err != nil {
		r.toldFailure(ctx, err)
	}
	return b, err
}

func (r *Repository) openBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	// Each round that ends without an answer has changed something: content was
	// removed, or a fill of somebody else has ended. Where that does not help, as
	// on a file system that has become read-only, the blob passes through.
	const rounds = 3
	for range rounds {
		b, err := r.cachedBlob(ctx, dgst)
		if err == nil || !absent(err) {
			return b, err
		}
		if r.remote.Upstream == nil {
			return nil, r.missing(fmt.Sprintf("blob %s of %s", dgst, r.name))
		}
		if r.c.isBad(dgst) {
			return r.through(ctx, dgst, errDamaged)
		}
		f, fresh, err := r.c.fill(ctx, r, dgst)
		if errors.Is(err, errStored) {
			b, err = r.adopt(ctx, dgst)
			if absent(err) {
				continue // it was removed in between
			}
			return b, err
		}
		if errors.Is(err, errDamaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch {
		case fresh:
		case f.mayWaitFor(ctx):
			err = r.prove(ctx, f)
		case !f.serves(r):
			err = r.vouchInTurn(ctx, dgst)
		}
		if err != nil {
			return nil, err
		}
		b, err = r.follow(ctx, f, fresh)
		if f.failedForOthers(ctx, r, err) {
			continue
		}
		return b, err
	}
	r.c.seldom("unreadable "+dgst.String(), errDamaged)("blob %s can neither be read nor replaced; it is passed through uncached", dgst)
	return r.through(ctx, dgst, errDamaged)
}

// failedForOthers tells whether err, with which f has failed, says nothing about r:
// it was the answer to another repository's name, or another remote's.
func (f *fill) failedForOthers(ctx context.Context, r *Repository, err error) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrLoop) && !slices.Equal(via.From(f.ctx), via.From(ctx)):
		return true // that was about the way of another request
	case f.by.remote.epoch != r.remote.epoch:
		_, answered := errors.AsType[*UpstreamError](err)
		return answered
	case f.by.key == r.key:
		return false
	}
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied)
}

// wholeFirst is the size in bytes up to which a blob is not given out before it
// is verified: it is there in one go, and who asked for it gets a proper error
// instead of a connection that ends. Of an empty answer there is not even a byte
// that could be held back.
const wholeFirst = 64 << 10

// follow opens a reader of what f downloads, as soon as the remote has answered. Fresh
// tells that f was begun for it.
func (r *Repository) follow(ctx context.Context, f *fill, fresh bool) (b *Reader, err error) {
	f.clients.Add(1)
	defer func() {
		if err != nil || b.fill == nil {
			f.clients.Add(-1)
		}
	}()
	f.hurry()
	select {
	case <-f.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	err = f.cause()
	if err == nil && f.size >= 0 && f.size <= wholeFirst {
		_, err = f.whole(ctx)
	}
	if err == nil {
		var src io.ReadSeekCloser
		src, err = f.draft.Open(ctx)
		switch {
		case f.isEnding(): // and what was opened may be another fill's draft
			if err == nil {
				_ = src.Close() // nothing was read
			}
			_, err = f.whole(ctx) // why
		case err == nil:
			r.told(ctx, Answered{Source: FromRemote, Joined: !fresh, Stored: true})
			if !fresh {
				f.by.counters().joined.Add(1)
			}
			return &Reader{ctx: ctx, src: src, size: f.size, fill: f, repo: r, dgst: f.dgst}, nil
		default:
			err = fmt.Errorf("%w: %w", errStorage, err)
		}
	}
	if errors.Is(err, ErrNoSpace) {
		r.c.warnPassing(f.dgst, err)
		return r.through(ctx, f.dgst, err)
	}
	return nil, err
}

// bodyError says what has gone wrong in the middle of a blob: it is not what was
// asked for, or the remote has broken off.
func (r *Repository) bodyError(dgst digest.Digest, err error) error {
	if _, ok := errors.AsType[*UpstreamError](err); ok {
		return err
	}
	kind := ErrUnavailable
	if errors.Is(err, verify.ErrMismatch) {
		kind = ErrInvalid
	}
	return &UpstreamError{
		Kind: kind, Remote: r.remote.Host,
		Op: fmt.Sprintf("fetching blob %s of %s", dgst, r.name), Err: err,
	}
}

// names tells whether a manifest of the repository names dgst.
func (r *Repository) names(ctx context.Context, dgst digest.Digest) (bool, error) {
	return r.c.has(ctx, key(kindNamed, r.key, dgst.String()))
}

// namedSize is the size of dgst that a manifest of the repository tells, or 0.
func (r *Repository) namedSize(ctx context.Context, dgst digest.Digest) int64 {
	var rec contentRecord
	if err := r.c.record(ctx, key(kindNamed, r.key, dgst.String()), &rec); err != nil {
		return 0
	}
	return rec.Size
}

// link makes dgst, which is stored, part of the repository: durably first, so
// that the index can say so.
func (r *Repository) link(ctx context.Context, dgst digest.Digest, size int64) error {
	defer r.c.contents.lock(dgst.String())() // so that it is not removed meanwhile
	release, err := r.writing()
	if err != nil {
		return err
	}
	defer release()
	defer r.c.pulls.linked(idOf(dgst.String())) // by a name that who removes it may not know
	b, err := r.c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	if err := r.c.opts.Refs.Put(ctx, Ref{r.key, RefLayer, dgst.String()}, dgst); err != nil {
		return err
	}
	r.c.tryApply(ctx, r.linkChanges(dgst, size)...)
	return nil
}

// tryLink links where that succeeds. Where it does not, the remote is asked
// again next time; that is no reason to withhold what is at hand.
func (r *Repository) tryLink(ctx context.Context, dgst digest.Digest, size int64) {
	if err := r.link(ctx, dgst, size); err != nil {
		r.c.seldom("link "+r.key+dgst.String(), err)("blob %s could not be linked into %s", dgst, r.key)
	}
}

// tryApply changes the index where that succeeds. The index may lose entries.
func (c *Cache) tryApply(ctx context.Context, changes ...Change) {
	if err := c.opts.Index.Apply(ctx, changes...); err != nil {
		c.seldom("index", err)("the index could not be changed; look-ups are slower until it can")
	}
}

func (r *Repository) linkChanges(dgst digest.Digest, size int64) []Change {
	return []Change{
		put(key(kindLayer, r.key, dgst.String()), contentRecord{Size: size}),
		put(key(kindRepo, r.key), struct{}{}),
	}
}
