package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// How the remote is asked about a tag that is cached.
const (
	// revalidateTimeout is how long a client waits for a confirmation when the
	// cached answer is at hand.
	revalidateTimeout = 5 * time.Second
	// awayFor is how long a remote that did not answer is not asked again
	// about what is cached.
	awayFor = 10 * time.Second
)

// CachedTag returns the manifest that tag points to if it can be answered
// without asking the remote: it is stored and its lifetime is not over. The
// error of what is not at hand satisfies errors.Is(err, fs.ErrNotExist).
func (r *Repository) CachedTag(ctx context.Context, tag string) (Manifest, error) {
	var rec tagRecord
	if err := r.c.record(ctx, key(kindTag, r.key, tag), &rec); err != nil {
		return Manifest{}, err
	}
	if r.c.opts.Upstream != nil && !rec.validFor(r.c.opts.TagTTL, r.c.opts.Now()) {
		return Manifest{}, errStale
	}
	return r.CachedManifest(ctx, rec.Digest)
}

// errStale is the answer for a tag that must be confirmed. It counts as absent.
var errStale error = staleError{}

type staleError struct{}

func (staleError) Error() string        { return "the tag's lifetime is over" }
func (staleError) Is(target error) bool { return absent(target) }

// Tag returns the manifest that tag points to. A tag whose lifetime is over is
// confirmed by the remote first, or answered as it is where the remote does not
// answer.
func (r *Repository) Tag(ctx context.Context, tag string) (Manifest, error) {
	m, err := r.CachedTag(ctx, tag)
	if err == nil || !absent(err) {
		return m, err
	}
	return r.flight(ctx, kindTag, tag, func(ctx context.Context) (Manifest, error) {
		// The flight that we have just missed may have confirmed it.
		if m, err := r.CachedTag(ctx, tag); err == nil || !absent(err) {
			return m, err
		}
		return r.refresh(ctx, tag)
	})
}

// refresh asks the remote about tag. It runs once at a time for each tag.
func (r *Repository) refresh(ctx context.Context, tag string) (Manifest, error) {
	cached, err := r.storedTag(ctx, tag)
	if absent(err) {
		return r.fetchManifest(ctx, tag)
	}
	if err != nil {
		return Manifest{}, err
	}
	if r.c.opts.Upstream == nil || r.c.opts.Now().UnixNano() < r.c.awayUntil.Load() {
		return cached, nil
	}
	m, err := r.revalidate(ctx, tag)
	switch {
	case err == nil:
		return m, nil
	case errors.Is(err, ErrNotFound):
		return Manifest{}, errors.Join(err, r.forget(ctx, tag))
	case r.c.ctx.Err() != nil:
		return Manifest{}, err
	}
	r.c.awayUntil.Store(r.c.opts.Now().Add(awayFor).UnixNano())
	r.c.log.WithError(err).Warnf("tag %s of %s is served as it was last known", tag, r.key)
	return cached, nil
}

// revalidate finds out what tag points to now, at the cost of a HEAD where it
// has not moved.
func (r *Repository) revalidate(ctx context.Context, tag string) (Manifest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, revalidateTimeout,
		fmt.Errorf("%w: no answer within %v", ErrUnavailable, revalidateTimeout))
	defer cancel()
	d, err := r.c.opts.Upstream.Resolve(ctx, r.name, tag)
	if err != nil {
		return Manifest{}, err
	}
	if d.Digest != "" { // unmoved, or moved to what is known
		if m, err := r.CachedManifest(ctx, d.Digest); err == nil {
			r.confirm(ctx, tag, m.Digest)
			return m, nil
		}
	}
	return r.fetchManifest(ctx, tag)
}

// storedTag returns what tag pointed to when it was last confirmed.
func (r *Repository) storedTag(ctx context.Context, tag string) (Manifest, error) {
	var rec tagRecord
	err := r.c.record(ctx, key(kindTag, r.key, tag), &rec)
	if absent(err) {
		// The index may have lost what the layout knows.
		rec.Digest, err = r.c.opts.Refs.Get(ctx, Ref{r.key, RefTag, tag})
	}
	if err != nil {
		return Manifest{}, err
	}
	return r.CachedManifest(ctx, rec.Digest)
}

// confirm records that the remote has just said that tag points to dgst, which
// is stored. Where that fails, the answer is right all the same.
func (r *Repository) confirm(ctx context.Context, tag string, dgst digest.Digest) {
	ref := Ref{r.key, RefTag, tag}
	stored, err := r.c.opts.Refs.Get(ctx, ref)
	if err != nil || stored != dgst { // unchanged tags cost no write
		err = r.c.opts.Refs.Put(ctx, ref, dgst)
	}
	if err == nil {
		err = r.c.opts.Index.Apply(ctx, put(key(kindTag, r.key, tag), tagRecord{dgst, r.c.opts.Now().UnixNano()}))
	}
	if err != nil {
		r.c.log.WithError(err).Warnf("tag %s of %s could not be stored", tag, r.key)
	}
}

// forget removes a tag that the remote no longer has. Its manifest stays: it
// can still be asked for by digest.
func (r *Repository) forget(ctx context.Context, tag string) error {
	if err := r.c.opts.Index.Apply(ctx, Change{Key: key(kindTag, r.key, tag), Delete: true}); err != nil {
		return err
	}
	return r.c.opts.Refs.Remove(ctx, Ref{r.key, RefTag, tag})
}

// Tags lists at most n tags that come after last: all where n is negative. More
// tells that there are others. The list is the remote's, and that of the stored
// tags where the remote does not answer.
func (r *Repository) Tags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	if r.c.opts.Upstream == nil {
		return r.storedTags(ctx, n, last)
	}
	tags, more, err = r.upstreamTags(ctx, n, last)
	if err == nil || errors.Is(err, ErrNotFound) || ctx.Err() != nil {
		return tags, more, err
	}
	stored, more, storedErr := r.storedTags(ctx, n, last)
	if storedErr != nil || len(stored) == 0 && last == "" {
		return nil, false, err // the remote's reason says more
	}
	r.c.log.WithError(err).Warnf("tags of %s are listed as far as they are stored", r.key)
	return stored, more, nil
}

// upstreamTags collects pages, since a remote may give fewer than n at a time.
func (r *Repository) upstreamTags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	const maxTags = 100_000 // arbitrary, but bounded
	for {
		page, more, err := r.c.opts.Upstream.Tags(ctx, r.name, n-len(tags), last)
		if err != nil {
			return nil, false, err
		}
		tags = append(tags, page...)
		if !more || len(page) == 0 || n >= 0 && len(tags) >= n || len(tags) >= maxTags {
			return tags, more && len(page) > 0, nil
		}
		last = page[len(page)-1]
	}
}

func (r *Repository) storedTags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	for tag, err := range r.c.names(ctx, last, kindTag, r.key) {
		if err != nil {
			return nil, false, err
		}
		if n >= 0 && len(tags) == n {
			return tags, true, nil
		}
		tags = append(tags, tag)
	}
	if len(tags) == 0 && last == "" {
		return nil, false, r.c.missing("repository " + r.name)
	}
	return tags, false, nil
}

// Repositories lists at most n names, after last, of the repositories of which
// something is stored. More tells that there are others.
func (c *Cache) Repositories(ctx context.Context, n int, last string) (names []string, more bool, err error) {
	for name, err := range c.names(ctx, last, kindRepo) {
		if err != nil {
			return nil, false, err
		}
		if len(names) == n {
			return names, true, nil
		}
		names = append(names, name)
	}
	return names, false, nil
}
