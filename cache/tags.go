package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// How the remote is asked about what is stored.
const (
	// stalePatience is how long a client waits for the remote when a stored
	// answer is at hand.
	stalePatience = 5 * time.Second
	// awayFor is how long a remote that did not answer is not asked again
	// about what is stored, unless it has said itself when to come back.
	awayFor = 10 * time.Second
)

// absence is a time for which the remote is left alone.
type absence struct {
	since time.Time
	lasts time.Duration
}

// isAway tells whether the remote has just failed to answer. A time from the
// future does not count: clocks of gateways jump.
func (r *Repository) isAway() bool {
	a := r.remote.away.Load()
	if a == nil {
		return false
	}
	age := r.c.opts.Now().Sub(a.since)
	return age >= 0 && age < a.lasts
}

// noteFailure leaves the remote alone for a while if err means that it is away
// or wants to be left alone. What it has against one repository says nothing
// about others.
func (r *Repository) noteFailure(err error) {
	if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRateLimited) {
		return
	}
	lasts := awayFor
	if up, ok := errors.AsType[*UpstreamError](err); ok {
		lasts = max(lasts, up.RetryAfter)
	}
	r.remote.away.Store(&absence{r.c.opts.Now(), lasts})
}

// CachedTag returns the manifest that tag points to if it can be answered
// without asking the remote: it is stored and its lifetime is not over. The
// error of what is not at hand satisfies errors.Is(err, fs.ErrNotExist).
func (r *Repository) CachedTag(ctx context.Context, tag string) (Manifest, error) {
	var rec tagRecord
	if err := r.c.record(ctx, key(kindTag, r.key, tag), &rec); err != nil {
		return Manifest{}, err
	}
	if r.remote.Upstream != nil && !rec.validFor(r.remote.TagTTL, r.c.opts.Now()) {
		return Manifest{}, errStale
	}
	return r.CachedManifest(ctx, rec.Digest)
}

// errStale is the answer for a tag that must be confirmed. It counts as absent.
var errStale error = absentError("the tag's lifetime is over")

// Tag returns the manifest that tag points to. A tag whose lifetime is over is
// confirmed by the remote first, or answered as it is where the remote does not
// answer in time.
func (r *Repository) Tag(ctx context.Context, tag string) (Manifest, error) {
	m, err := r.CachedTag(ctx, tag)
	if err == nil || !absent(err) {
		return m, err
	}
	stored, err := r.storedTag(ctx, tag)
	if err != nil && !absent(err) {
		return Manifest{}, err
	}
	if absent(err) {
		return flight(ctx, r, kindTag, tag, func(ctx context.Context) (Manifest, error) {
			return r.fetchTag(ctx, tag)
		})
	}
	if r.remote.Upstream == nil || r.isAway() {
		return stored, nil
	}
	patient, cancel := context.WithTimeout(ctx, stalePatience)
	defer cancel()
	m, err = flight(patient, r, kindTag, tag, func(ctx context.Context) (Manifest, error) {
		return r.fetchTag(ctx, tag)
	})
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrClosed):
		return m, err
	case patient.Err() != nil:
		err = fmt.Errorf("%w: no answer within %v", ErrUnavailable, stalePatience)
		r.noteFailure(err)
	}
	r.c.log.WithError(err).Warnf("tag %s of %s is served as it was last known", tag, r.key)
	return stored, nil
}

// fetchTag asks the remote what tag points to now. It runs once at a time for
// each tag, and goes on when those who have asked for it lose patience: over a
// thin link that is the only way that an answer ever comes.
func (r *Repository) fetchTag(ctx context.Context, tag string) (Manifest, error) {
	// The flight that we have just missed may have confirmed it.
	if m, err := r.CachedTag(ctx, tag); err == nil || !absent(err) {
		return m, err
	}
	m, err := r.askTag(ctx, tag)
	if errors.Is(err, ErrNotFound) {
		return Manifest{}, errors.Join(err, r.forget(ctx, tag))
	}
	if err != nil {
		r.noteFailure(err)
	}
	return m, err
}

// askTag finds out what tag points to, at the cost of a HEAD where that is
// stored.
func (r *Repository) askTag(ctx context.Context, tag string) (Manifest, error) {
	if r.remote.Upstream == nil {
		return Manifest{}, r.missing(fmt.Sprintf("tag %s of %s", tag, r.name))
	}
	if _, err := r.storedTag(ctx, tag); err == nil {
		d, err := r.remote.Upstream.Resolve(ctx, r.name, tag, "")
		if err != nil {
			return Manifest{}, err
		}
		if d.Digest != "" { // unmoved, or moved to what is known
			if m, err := r.CachedManifest(ctx, d.Digest); err == nil {
				r.confirm(ctx, tag, m.Digest)
				return m, nil
			}
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
	stored, storedMore, storedErr := r.storedTags(ctx, n, last)
	have := storedErr == nil && (len(stored) > 0 || last != "")
	if r.remote.Upstream == nil || have && r.isAway() {
		return stored, storedMore, storedErr
	}
	patient := ctx
	if have {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, stalePatience)
		defer cancel()
	}
	tags, more, err = r.upstreamTags(patient, n, last)
	if err == nil || errors.Is(err, ErrNotFound) || ctx.Err() != nil {
		return tags, more, err
	}
	r.noteFailure(err)
	if !have {
		return nil, false, err // the remote's reason says more
	}
	r.c.log.WithError(err).Warnf("tags of %s are listed as far as they are stored", r.key)
	return stored, storedMore, nil
}

// upstreamTags collects pages, since a remote may give fewer than n at a time.
func (r *Repository) upstreamTags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	const maxPages = 100 // arbitrary, but bounded
	for range maxPages {
		page, more, err := r.remote.Upstream.Tags(ctx, r.name, n-len(tags), last)
		if err != nil {
			return nil, false, err
		}
		tags = append(tags, page...)
		if !more || len(page) == 0 || n >= 0 && len(tags) >= n {
			return tags, more && len(page) > 0, nil
		}
		last = page[len(page)-1]
	}
	return tags, true, nil
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
		return nil, false, r.missing("repository " + r.name)
	}
	return tags, false, nil
}

// Places yields the repositories of which something is stored, in no order. An
// error ends the iteration.
func (c *Cache) Places(ctx context.Context) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		for key, err := range c.names(ctx, "", kindRepo) {
			if err != nil {
				yield(Place{}, err)
				return
			}
			if r := c.owner(key); r != nil && !yield(Place{r.remote.Host, r.name}, nil) {
				return
			}
		}
	}
}
