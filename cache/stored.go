package cache

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

// CachedBlob opens the blob dgst if it is stored and the remote has served it in
// this repository. Otherwise the error satisfies errors.Is(err, fs.ErrNotExist).
// Content that turns out damaged counts as not stored, and is fetched again by the
// reader where that comes to light while it is read.
func (r *Repository) CachedBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	b, err := r.reading(dgst, func() (*Reader, error) { return r.cachedBlob(ctx, dgst) })
	if err == nil {
		r.told(ctx, Answered{Source: FromStore})
	}
	return b, err
}

// reading opens a reader of a blob, which is not evicted until that is closed.
func (r *Repository) reading(dgst digest.Digest, open func() (*Reader, error)) (*Reader, error) {
	end := r.c.pulls.begin(r.key, dgst, r.c.opts.Now)
	b, err := open()
	if err != nil {
		end(notRead)
		return nil, err
	}
	b.done = end
	return b, nil
}

func (r *Repository) cachedBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	b, size, err := r.openStored(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return r.readStored(ctx, dgst, b, size)
}

// openStored opens a blob that is linked into this repository. Size is what it has had
// when it was linked, as far as the index knows; -1 where it does not.
func (r *Repository) openStored(ctx context.Context, dgst digest.Digest) (b Blob, size int64, err error) {
	var rec contentRecord
	err = r.c.record(ctx, key(kindLayer, r.key, dgst.String()), &rec)
	if err == nil {
		b, err := r.c.open(ctx, dgst)
		return b, rec.Size, err
	}
	if !absent(err) {
		return nil, 0, err
	}
	if f := r.c.running(dgst); f != nil && f.serves(r) {
		return nil, 0, errBeingStored // its link may be there, and its entry not yet
	}
	// The index may have lost what the layout knows.
	if _, err := r.c.opts.Refs.Get(ctx, Ref{r.key, RefLayer, dgst.String()}); err != nil {
		return nil, 0, err
	}
	b, err = r.c.open(ctx, dgst)
	if err == nil {
		r.c.tryApply(ctx, r.linkChanges(dgst, b.Size())...)
	}
	return b, -1, err
}

// adopt opens a blob that is stored. Unless a fill has just linked it into this
// repository, the remote has to confirm that it serves it there, too.
func (r *Repository) adopt(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	if b, err := r.cachedBlob(ctx, dgst); err == nil || !absent(err) {
		return b, err
	}
	b, err := r.c.open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	if err := r.vouchInTurn(ctx, dgst); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if linked, err := r.cachedBlob(ctx, dgst); err == nil {
		return linked, b.Close()
	}
	return r.readStored(ctx, dgst, b, -1) // the link could not be written
}

// readStored opens a reader of b, which is stored and was linked with that size, -1
// where that is not known. Bytes that this process has not found right yet are compared:
// with the sums of their parts, or where there are none, as a whole.
func (r *Repository) readStored(ctx context.Context, dgst digest.Digest, b Blob, linked int64) (*Reader, error) {
	c, size := r.c, b.Size()
	reader := &Reader{ctx: ctx, src: b, stored: b, size: size, repo: r, dgst: dgst}
	if c.trusts(dgst, b) {
		return reader, nil
	}
	var err error
	if s := c.sumsOf(ctx, dgst); s != nil {
		err = reader.checkFirst(s)
	} else {
		// Neither size need be right: the one may be that of a file which was damaged
		// already, the other is what a manifest says.
		named := r.namedSize(ctx, dgst)
		if size > firstChecked && (linked < 0 || linked == size) && (named == 0 || named == size) {
			return r.passStored(ctx, dgst, b)
		}
		err = c.compareFirst(ctx, dgst, b)
		if err == nil && linked >= 0 && linked != size {
			c.tryApply(ctx, r.linkChanges(dgst, size)...)
		}
	}
	if err == nil {
		return reader, nil
	}
	if isDamage(err) {
		c.takeAway(ctx, dgst, b, err)
		err = errDamaged
	}
	return nil, errors.Join(err, reader.Close())
}

// checkFirst makes the reader compare what it gives out with s, and does so with its
// beginning.
func (b *Reader) checkFirst(s *sums) error {
	if b.size != s.size {
		return &damage{min(b.size, s.size), errCut}
	}
	b.check = b.repo.c.newChecker(b.dgst, b.stored, s)
	first := min(b.size, s.part)
	if b.size <= firstChecked {
		first = b.size
	}
	for pos := int64(0); pos < first; {
		end, err := b.check.until(b.ctx, pos, first-pos)
		if err != nil {
			return err
		}
		pos = end
	}
	return nil
}

// compareFirst compares the whole of b, of which nothing is known.
func (c *Cache) compareFirst(ctx context.Context, dgst digest.Digest, b Blob) error {
	s, err := c.compare(ctx, b, dgst, pace{})
	if err == nil {
		c.foundRight(ctx, dgst, b, s)
	}
	return err
}

// foundRight notes that b was compared as a whole, and its sums; nil where it has none.
func (c *Cache) foundRight(ctx context.Context, dgst digest.Digest, b Blob, s *sums) {
	c.trust(dgst, b)
	if s != nil {
		c.tryApply(ctx, sumsChange(dgst, s))
	}
}

// passStored reads a stored blob that is large and of whose parts nothing is known: it is
// compared while it passes, and its end is held back as from a remote. What is damaged is
// taken away, so that it is fetched again.
func (r *Repository) passStored(ctx context.Context, dgst digest.Digest, b Blob) (*Reader, error) {
	parts := newSummer(b.Size())
	v, err := verify.NewReader(io.TeeReader(b, parts), dgst, b.Size())
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	done := func(err error) {
		if err == nil {
			r.c.foundRight(ctx, dgst, b, parts.finish())
		} else {
			r.c.takeAway(ctx, dgst, b, err)
		}
	}
	return &Reader{
		ctx: ctx, src: passing{&watched{Reader: v, done: done}, b}, stored: b, size: b.Size(),
		repo: r, dgst: dgst, passing: true,
	}, nil
}

// watched tells how reading has ended: well, or with content that is wrong.
type watched struct {
	io.Reader
	done func(error) // nil when it was called
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if w.done != nil && (err == io.EOF || errors.Is(err, verify.ErrMismatch)) {
		if err == io.EOF {
			w.done(nil)
		} else {
			w.done(err)
		}
		w.done = nil
	}
	return n, err
}

// errDamaged is the answer for stored content that turned out wrong and was
// taken away. It counts as absent.
var errDamaged error = absentError("the stored content is damaged")

// errBeingStored is the answer for content of which a fill still has to be asked.
var errBeingStored error = absentError("the content is being stored")

// absentError is an error that satisfies [absent].
type absentError string

func (e absentError) Error() string        { return string(e) }
func (e absentError) Is(target error) bool { return absent(target) }

// remove deletes stored content.
func (c *Cache) remove(ctx context.Context, dgst digest.Digest) error {
	return c.removeBy(ctx, dgst, c.opts.Blobs.Remove, Change{Key: key(kindSums, dgst.String()), Delete: true})
}

// removeBy takes stored content out of its place by remove, and out of the account, with
// further changes of the index.
func (c *Cache) removeBy(ctx context.Context, dgst digest.Digest, remove func(context.Context, digest.Digest) error, further ...Change) error {
	if err := remove(ctx, dgst); err != nil {
		return err
	}
	c.condition.standings.Remove(dgst)
	select {
	case <-c.space.known:
		c.uncount(ctx, dgst, further)
		return nil
	default:
	}
	// It may have been counted, or not.
	if c.begin() {
		go func() {
			defer c.wg.Done()
			select {
			case <-c.space.known:
				c.uncount(context.WithoutCancel(c.ctx), dgst, further)
			case <-c.ctx.Done():
			}
		}()
	}
	return nil
}

// uncount takes content that was removed out of the account. What was stored again since
// then stays in it.
func (c *Cache) uncount(ctx context.Context, dgst digest.Digest, further []Change) {
	c.accounts.Lock()
	defer c.accounts.Unlock()
	if b, err := c.opts.Blobs.Open(ctx, dgst); err == nil {
		size := b.Size()
		_ = b.Close() // nothing was read
		c.count(ctx, dgst, size)
		return
	}
	takes, times := c.counted(ctx, dgst) // nothing, if another reader was faster
	c.space.free(takes)
	c.counters.contents.Add(-times)
	c.tryApply(ctx, append(further, Change{Key: key(kindBlob, dgst.String()), Delete: true})...)
}

// count makes the account of dgst, which is stored, one of size bytes. The caller holds
// c.accounts.
func (c *Cache) count(ctx context.Context, dgst digest.Digest, size int64) {
	takes, times := c.counted(ctx, dgst)
	c.space.free(takes - c.space.occupied(size))
	c.counters.contents.Add(1 - times)
	c.tryApply(ctx, put(key(kindBlob, dgst.String()), blobRecord{size}))
}
