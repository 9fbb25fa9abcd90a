package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// aPeek is the kind of a flight that keeps nothing.
const aPeek = "peek"

// peeked is what a remote has last said that a tag stands for, without that having been
// recorded.
type peeked struct {
	rec   tagRecord
	at    time.Time
	began uint64
}

// Key is the name under which the repository is stored.
func (r *Repository) Key() string { return r.key }

// Peek returns the manifest that ref, a tag or a digest, stands for, for who fills the
// cache: nothing of it is stored or recorded, and it counts as no use. The remote is asked
// for a tag whatever its lifetime, by a HEAD where what it says is stored. Where it cannot
// be asked, or has no time, it is what is stored, with the reason in Stale; and just that
// where there is no remote.
func (r *Repository) Peek(ctx context.Context, ref string) (Tagged, error) {
	if dgst, err := digest.Parse(ref); err == nil {
		m, err := r.peekManifest(ctx, dgst)
		return Tagged{Manifest: m}, err
	}
	if r.remote.Upstream == nil {
		t, err := r.peekStored(ctx, ref)
		if absent(err) {
			err = r.missing(fmt.Sprintf("tag %s of %s", ref, r.name))
		}
		return t, err
	}
	t, err := flight(ctx, r, aPeek, ref, func(ctx context.Context) (Tagged, error) { return r.peekTag(ctx, ref) })
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRateLimited) {
		if t, storedErr := r.peekStored(ctx, ref); storedErr == nil {
			t.Stale = err
			return t, nil
		}
	}
	return t, err
}

// peekTag asks the remote what a tag stands for.
func (r *Repository) peekTag(ctx context.Context, tag string) (Tagged, error) {
	began := r.c.now()
	m, said, err := r.askPeek(ctx, tag)
	if err != nil {
		return Tagged{}, err
	}
	now := r.c.opts.Now()
	t, rec := r.answered(m, said, now)
	r.c.peeked.Add(r.tagKey(tag), peeked{rec, now, began})
	return t, nil
}

func (r *Repository) askPeek(ctx context.Context, tag string) (m Manifest, said Descriptor, err error) {
	if known, err := r.storedTag(ctx, tag); err == nil {
		switch d, err := r.remote.Upstream.Resolve(ctx, r.name, tag, known.Digest); {
		case errors.Is(err, ErrNotFound) && !definite(err): // it may say something else in full
		case err != nil:
			return Manifest{}, said, err
		case d.Digest != "":
			if m, err := r.cachedManifest(ctx, d.Digest); err == nil {
				return m, d, nil
			}
		}
	}
	m, _, said, err = r.getManifest(ctx, tag)
	return m, said, err
}

// peekStored is what a tag has last stood for.
func (r *Repository) peekStored(ctx context.Context, tag string) (t Tagged, err error) {
	rec, err := r.tagRecord(ctx, tag)
	if err != nil {
		return t, err
	}
	t.Freshness = r.asStored(tag, rec).freshness()
	t.Manifest, err = r.cachedManifest(ctx, rec.Digest)
	return t, err
}

func (r *Repository) peekManifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	m, err := r.cachedManifest(ctx, dgst)
	if !absent(err) {
		return m, err
	}
	return flight(ctx, r, aPeek, dgst.String(), func(ctx context.Context) (Manifest, error) {
		m, _, _, err := r.getManifest(ctx, dgst.String())
		return m, err
	})
}

// PointTag has tag stand for a manifest that is part of the repository: as the remote has
// said when it was last peeked at, or else as of now. It is durable when there is no error.
// What a request has recorded that has begun later stays.
func (r *Repository) PointTag(ctx context.Context, tag string, dgst digest.Digest) error {
	if _, err := r.loadManifest(ctx, dgst); err != nil {
		if absent(err) {
			err = errNotLinked
		}
		return fmt.Errorf("tag %s of %s cannot stand for %s: %w", tag, r.key, dgst, err)
	}
	now := r.c.opts.Now()
	p, ok := r.c.peeked.Get(r.tagKey(tag))
	if !ok || p.rec.Digest != dgst || !within(p.at, now, peekedFor) {
		p = peeked{tagRecord{Digest: dgst, Validated: now.UnixNano()}, now, r.c.now()}
	}
	if err := r.point(ctx, tag, p.rec, p.began); err != nil {
		return fmt.Errorf("tag %s of %s could not be stored: %w", tag, r.key, storageError(err))
	}
	r.c.memory.Remove(r.memoryKey(kindTag, tag))
	return nil
}

// peekedFor is for how long it counts what a remote has said of a tag: far longer than it
// takes to fetch an image over a thin link.
const peekedFor = 7 * 24 * time.Hour

// StoredTag returns what tag stands for where that is stored, whatever its lifetime, and
// when the remote has last confirmed it, which is zero where nobody knows. The digest is
// empty where nothing is stored. Nobody is asked.
func (r *Repository) StoredTag(ctx context.Context, tag string) (dgst digest.Digest, confirmed time.Time, err error) {
	rec, err := r.tagRecord(ctx, tag)
	switch {
	case absent(err):
		return "", confirmed, nil
	case err != nil:
		return "", confirmed, err
	}
	if rec.Validated != 0 {
		confirmed = time.Unix(0, rec.Validated)
	}
	return rec.Digest, confirmed, nil
}
