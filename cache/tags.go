package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// Tagged is what a tag stands for, and how far that can be relied on.
type Tagged struct {
	Manifest
	Freshness
}

// CachedTag returns the manifest that tag points to if that can be answered without
// waiting for the remote: it is stored, and its lifetime is not over, or the remote
// is asked in the background, or is away. The error of what is not at hand satisfies
// errors.Is(err, fs.ErrNotExist).
func (r *Repository) CachedTag(ctx context.Context, tag string) (Tagged, error) {
	var rec tagRecord
	if err := r.c.record(ctx, key(kindTag, r.key, tag), &rec); err != nil {
		return Tagged{}, err
	}
	t, next, err := r.judgeTag(ctx, tag, rec)
	if err == nil && next == ask {
		err = errStale
	}
	if err != nil {
		return Tagged{}, err
	}
	if next == answerAndAsk {
		r.confirmLater(ctx, tag)
	}
	return t, nil
}

// errStale is the answer for a tag that must be confirmed. It counts as absent.
var errStale error = absentError("the tag's lifetime is over")

// judgeTag returns what is stored for a tag, and what is to be done with it.
func (r *Repository) judgeTag(ctx context.Context, tag string, rec tagRecord) (Tagged, next, error) {
	m, err := r.CachedManifest(ctx, rec.Digest)
	if err != nil {
		return Tagged{}, ask, err
	}
	f, next, err := r.judge(r.asStored(tag, rec))
	return Tagged{m, f}, next, err
}

func (r *Repository) asStored(tag string, rec tagRecord) stored {
	return stored{
		what:      fmt.Sprintf("tag %s of %s", tag, r.name),
		tag:       tag,
		memory:    r.memoryKey(kindTag, tag),
		validated: rec.Validated,
	}
}

// memoryKey is under which is remembered what the remote says about something.
func (r *Repository) memoryKey(kind string, parts ...string) string {
	return string(key(kind, append([]string{r.key}, parts...)...))
}

// Tag returns the manifest that tag points to. A tag whose lifetime is over is
// confirmed by the remote first, or answered as it is where the remote does not
// answer in time.
func (r *Repository) Tag(ctx context.Context, tag string) (Tagged, error) {
	rec, err := r.tagRecord(ctx, tag)
	if err != nil && !absent(err) {
		return Tagged{}, err
	}
	var known Tagged
	next := ask
	if err == nil {
		known, next, err = r.judgeTag(ctx, tag, rec)
	}
	if absent(err) {
		if err := r.absentAtRemote(r.memoryKey(kindTag, tag)); err != nil {
			return Tagged{}, err
		}
		return r.flyTag(ctx, tag)
	}
	if next == answerAndAsk {
		r.confirmLater(ctx, tag)
	}
	if err != nil || next != ask {
		return known, err
	}
	patient, cancel := context.WithTimeout(ctx, stalePatience)
	defer cancel()
	t, err := r.flyTag(patient, tag)
	switch {
	case err == nil, ctx.Err() != nil, definite(err), errors.Is(err, ErrClosed):
		return t, err
	case patient.Err() != nil:
		err = fmt.Errorf("%w: no answer of %s within %v", ErrUnavailable, r.remote.Host, stalePatience)
	}
	known.Freshness, err = r.stale(r.asStored(tag, rec), err)
	return known, err
}

// flyTag asks the remote what tag points to now, once at a time for all.
func (r *Repository) flyTag(ctx context.Context, tag string) (Tagged, error) {
	return flight(ctx, r, kindTag, tag, func(ctx context.Context) (Tagged, error) { return r.fetchTag(ctx, tag) })
}

// confirmLater is flyTag for nobody who would wait.
func (r *Repository) confirmLater(ctx context.Context, tag string) {
	later(ctx, r, kindTag, tag, func(ctx context.Context) (Tagged, error) { return r.fetchTag(ctx, tag) })
}

// fetchTag asks the remote what tag points to now. It runs once at a time for
// each tag, and goes on when those who have asked for it lose patience: over a
// thin link that is the only way that an answer ever comes.
func (r *Repository) fetchTag(ctx context.Context, tag string) (Tagged, error) {
	rec, recErr := r.tagRecord(ctx, tag)
	if recErr == nil && !r.force {
		// The flight that we have just missed may have confirmed it.
		if t, next, err := r.judgeTag(ctx, tag, rec); err == nil && next == answer && t.Stale == nil {
			return t, nil
		}
	}
	m, err := r.askTag(ctx, tag)
	r.learn(r.memoryKey(kindTag, tag), err)
	if err == nil {
		return Tagged{m, Freshness{Confirmed: r.c.opts.Now()}}, nil
	}
	if recErr != nil {
		return Tagged{}, err
	}
	if definite(err) {
		return Tagged{}, errors.Join(err, r.forget(ctx, tag))
	}
	r.c.log.WithError(err).Debugf("tag %s of %s could not be confirmed", tag, r.key)
	return Tagged{}, err
}

// askTag finds out what tag points to, at the cost of a HEAD where that is
// stored.
func (r *Repository) askTag(ctx context.Context, tag string) (Manifest, error) {
	if r.remote.Upstream == nil {
		return Manifest{}, r.missing(fmt.Sprintf("tag %s of %s", tag, r.name))
	}
	if known, err := r.storedTag(ctx, tag); err == nil {
		switch d, err := r.remote.Upstream.Resolve(ctx, r.name, tag, known.Digest); {
		case errors.Is(err, ErrNotFound) && !definite(err):
			// Who forgets a tag for good wants to hear the registry say it in full.
		case err != nil:
			return Manifest{}, err
		case d.Digest != "": // unmoved, or moved to what is known
			if m, err := r.CachedManifest(ctx, d.Digest); err == nil {
				r.confirm(ctx, tag, m.Digest)
				return m, nil
			}
		}
	}
	return r.fetchManifest(ctx, tag)
}

// tagRecord returns what tag pointed to when it was last confirmed.
func (r *Repository) tagRecord(ctx context.Context, tag string) (rec tagRecord, err error) {
	err = r.c.record(ctx, key(kindTag, r.key, tag), &rec)
	if absent(err) {
		// The index may have lost what the layout knows.
		rec.Digest, err = r.c.opts.Refs.Get(ctx, Ref{r.key, RefTag, tag})
	}
	return rec, err
}

// storedTag returns the manifest that tag pointed to when it was last confirmed.
func (r *Repository) storedTag(ctx context.Context, tag string) (Manifest, error) {
	rec, err := r.tagRecord(ctx, tag)
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

// TagList is a part of the list of a repository's tags.
type TagList struct {
	Tags []string
	// More tells that there are others behind.
	More bool
	Freshness
}

// Tags lists at most n tags that come after last: all where n is negative. The list
// is the remote's, and that of the stored tags where the remote does not answer.
func (r *Repository) Tags(ctx context.Context, n int, last string) (TagList, error) {
	known, knownErr := r.storedTags(ctx, n, last)
	if r.remote.Upstream == nil {
		return known, knownErr
	}
	have := knownErr == nil && (len(known.Tags) > 0 || last != "")
	place := []string{strconv.Itoa(n), last}
	list := func(ctx context.Context) (TagList, error) { return r.upstreamTags(ctx, n, last) }
	patient := ctx
	if have {
		why, due := r.away()
		if why == nil && !r.force {
			why, _ = r.recall(r.memoryKey(kindRepo))
		}
		switch {
		case definite(why):
			return TagList{}, why
		case why != nil:
			if due {
				later(ctx, r, kindRepo, string(key("", place...)), list)
			}
			known.Stale = why
			return known, nil
		}
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, stalePatience)
		defer cancel()
	} else if err := r.absentAtRemote(r.memoryKey(kindRepo)); err != nil {
		return TagList{}, err
	}
	got, err := flight(patient, r, kindRepo, string(key("", place...)), list)
	switch {
	case err == nil, !have, definite(err), ctx.Err() != nil, errors.Is(err, ErrClosed):
		return got, err // the remote's reason says more than what is stored
	case patient.Err() != nil:
		err = fmt.Errorf("%w: no answer of %s within %v", ErrUnavailable, r.remote.Host, stalePatience)
	}
	known.Stale = err
	return known, nil
}

// upstreamTags collects pages, since a remote may give fewer than n at a time.
func (r *Repository) upstreamTags(ctx context.Context, n int, last string) (TagList, error) {
	const maxPages = 100 // arbitrary, but bounded
	list := TagList{Freshness: Freshness{Confirmed: r.c.opts.Now()}}
	for range maxPages {
		page, more, err := r.remote.Upstream.Tags(ctx, r.name, n-len(list.Tags), last)
		r.learn(r.memoryKey(kindRepo), err)
		if err != nil {
			return TagList{}, err
		}
		list.Tags = append(list.Tags, page...)
		list.More = more && len(page) > 0
		if !list.More || n >= 0 && len(list.Tags) >= n {
			return list, nil
		}
		last = page[len(page)-1]
	}
	return list, nil
}

func (r *Repository) storedTags(ctx context.Context, n int, last string) (list TagList, err error) {
	for tag, err := range r.c.names(ctx, last, kindTag, r.key) {
		if err != nil {
			return TagList{}, err
		}
		if n >= 0 && len(list.Tags) == n {
			list.More = true
			return list, nil
		}
		list.Tags = append(list.Tags, tag)
	}
	if len(list.Tags) == 0 && last == "" {
		return TagList{}, r.missing("repository " + r.name)
	}
	return list, nil
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
