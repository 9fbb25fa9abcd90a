package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

// StatBlob returns the size of the blob dgst. The remote is asked only where
// nothing that is stored in this repository tells.
func (r *Repository) StatBlob(ctx context.Context, dgst digest.Digest) (Descriptor, error) {
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
		return d, nil
	}
	if !absent(err) {
		return Descriptor{}, err
	}
	if b, err := r.openStored(ctx, dgst); err == nil {
		d.Size = b.Size()
		return d, b.Close()
	}
	if r.c.opts.Upstream == nil {
		return Descriptor{}, r.c.missing(fmt.Sprintf("blob %s of %s", dgst, r.name))
	}
	if size, ok := r.c.filling(r, dgst); ok {
		d.Size = size
		return d, nil
	}
	if d.Size, err = r.c.opts.Upstream.StatBlob(ctx, r.name, dgst); err != nil {
		return Descriptor{}, err
	}
	return d, r.vouched(ctx, dgst)
}

// vouched notes that the remote has just confirmed that it serves dgst in r, so
// that it need not be asked again.
func (r *Repository) vouched(ctx context.Context, dgst digest.Digest) error {
	if f := r.c.running(dgst); f != nil && f.vouch(r) {
		return nil
	}
	b, err := r.c.opts.Blobs.Open(ctx, dgst)
	if absent(err) {
		return nil // there is nothing yet that could be linked
	}
	if err != nil {
		return err
	}
	return errors.Join(r.link(ctx, dgst, b.Size()), b.Close())
}

// CachedBlob opens the blob dgst if it is stored and the remote has served it in
// this repository. Otherwise the error satisfies errors.Is(err, fs.ErrNotExist).
func (r *Repository) CachedBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	b, err := r.openStored(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return storedReader(ctx, b), nil
}

func (r *Repository) openStored(ctx context.Context, dgst digest.Digest) (Blob, error) {
	var rec contentRecord
	err := r.c.record(ctx, key(kindLayer, r.key, dgst.String()), &rec)
	if err == nil {
		return r.c.opts.Blobs.Open(ctx, dgst)
	}
	if !absent(err) {
		return nil, err
	}
	// The index may have lost what the layout knows.
	if _, err := r.c.opts.Refs.Get(ctx, Ref{r.key, RefLayer, dgst.String()}); err != nil {
		return nil, err
	}
	b, err := r.c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	if err := r.c.opts.Index.Apply(ctx, r.linkChanges(dgst, b.Size())...); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// OpenBlob opens the blob dgst: from the store, from the download that is under
// way, or from one that it starts. The reader's operations end with ctx.
func (r *Repository) OpenBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	for {
		b, err := r.CachedBlob(ctx, dgst)
		if err == nil || !absent(err) {
			return b, err
		}
		if r.c.opts.Upstream == nil {
			return nil, r.c.missing(fmt.Sprintf("blob %s of %s", dgst, r.name))
		}
		f, fresh, err := r.c.fill(ctx, r, dgst)
		switch {
		case errors.Is(err, errStored):
			b, err := r.adopt(ctx, dgst)
			if err == nil || !absent(err) {
				return b, err
			}
			continue // it was removed in between
		case err != nil:
			return nil, err
		case !fresh:
			if err := r.join(ctx, f); err != nil {
				return nil, err
			}
		}
		return r.follow(ctx, f)
	}
}

// adopt opens a blob that is stored. Unless a fill has just linked it into this
// repository, the remote has to confirm that it serves it there, too.
func (r *Repository) adopt(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	if b, err := r.CachedBlob(ctx, dgst); err == nil || !absent(err) {
		return b, err
	}
	if _, err := r.c.opts.Upstream.StatBlob(ctx, r.name, dgst); err != nil {
		return nil, err
	}
	if err := r.vouched(ctx, dgst); err != nil {
		return nil, err
	}
	return r.CachedBlob(ctx, dgst)
}

// join makes sure that the remote serves the blob that f downloads in this
// repository, too.
func (r *Repository) join(ctx context.Context, f *fill) error {
	if f.serves(r) {
		return nil
	}
	if _, err := r.c.opts.Upstream.StatBlob(ctx, r.name, f.dgst); err != nil {
		return err
	}
	return r.vouched(ctx, f.dgst)
}

// wholeFirst is the size in bytes up to which a blob is not given out before it
// is verified: it is there in one go, and who asked for it gets a proper error
// instead of a connection that ends. It must not be negative: of an empty answer
// there is no byte to hold back.
const wholeFirst = 64 << 10

// follow opens a reader of what f downloads, as soon as the remote has answered.
func (r *Repository) follow(ctx context.Context, f *fill) (*Reader, error) {
	select {
	case <-f.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	err := f.cause()
	if err == nil && f.size >= 0 && f.size <= wholeFirst {
		_, err = f.whole(ctx)
	}
	if err != nil {
		if errors.Is(err, ErrNoSpace) {
			r.c.log.WithError(err).Warnf("blob %s is passed through uncached", f.dgst)
			return r.through(ctx, f.dgst)
		}
		return nil, err
	}
	src, err := f.draft.Open(ctx)
	if err == nil {
		return &Reader{ctx: ctx, src: src, size: f.size, fill: f}, nil
	}
	if cause := f.cause(); cause != nil { // it has failed meanwhile
		return nil, cause
	}
	r.c.log.WithError(err).Warnf("the download of %s cannot be followed; it is passed through uncached", f.dgst)
	return r.through(ctx, f.dgst)
}

// through reads a blob from the remote without storing it.
func (r *Repository) through(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	s, err := r.c.opts.Upstream.Blob(ctx, r.name, dgst, 0)
	if err != nil {
		return nil, err
	}
	v, err := verify.NewReader(s.Body, dgst, s.Size)
	if err == nil && s.Size == 0 {
		_, err = v.Read(make([]byte, 1)) // see wholeFirst
		if err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(r.c.invalid(r, dgst, err), s.Body.Close())
	}
	return &Reader{ctx: ctx, src: passing{v, s.Body}, size: s.Size, passing: true}, nil
}

// link makes dgst, which is stored, part of the repository.
func (r *Repository) link(ctx context.Context, dgst digest.Digest, size int64) error {
	if err := r.c.opts.Refs.Put(ctx, Ref{r.key, RefLayer, dgst.String()}, dgst); err != nil {
		return err
	}
	return r.c.opts.Index.Apply(ctx, r.linkChanges(dgst, size)...)
}

func (r *Repository) linkChanges(dgst digest.Digest, size int64) []Change {
	return []Change{
		put(key(kindLayer, r.key, dgst.String()), contentRecord{Size: size}),
		put(key(kindRepo, r.key), struct{}{}),
	}
}
