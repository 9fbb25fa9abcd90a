package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"
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
	t, err := r.cachedTag(ctx, tag)
	switch {
	case err == nil:
		r.use(t.Digest)
		r.toldStored(ctx, t.Freshness)
	case !absent(err):
		r.toldFailure(ctx, err)
	}
	return t, err
}

func (r *Repository) cachedTag(ctx context.Context, tag string) (Tagged, error) {
	rec, err := r.indexedTag(ctx, tag)
	if err != nil {
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
		later(ctx, r, kindTag, tag, func(ctx context.Context) (Tagged, error) { return r.fetchTag(ctx, tag) })
	}
	return t, nil
}

// indexedTag reads the entry of a tag. What entries mean is remembered: that they are read
// is most of what a manifest by tag costs us, and to take the JSON apart half of that.
func (r *Repository) indexedTag(ctx context.Context, tag string) (rec tagRecord, err error) {
	k := key(kindTag, r.key, tag)
	value, err := r.c.opts.Index.Get(ctx, k)
	if err != nil {
		return rec, err
	}
	text := string(value)
	if rec, known := r.c.decoded.Get(text); known {
		return rec, nil
	}
	if err := json.Unmarshal(value, &rec); err != nil {
		return rec, fmt.Errorf("entry %q of the index: %w", k, err)
	}
	r.c.decoded.Add(text, rec)
	return rec, nil
}

// errStale is the answer for a tag that must be confirmed. It counts as absent.
var errStale error = absentError("the tag's lifetime is over")

// judgeTag returns what is stored for a tag, and what is to be done with it.
func (r *Repository) judgeTag(ctx context.Context, tag string, rec tagRecord) (Tagged, next, error) {
	m, err := r.cachedManifest(ctx, rec.Digest)
	if err != nil {
		return Tagged{}, ask, err
	}
	f, next, err := r.judge(r.asStored(tag, rec))
	return Tagged{m, f}, next, err
}

func (r *Repository) asStored(tag string, rec tagRecord) stored {
	return stored{kind: kindTag, name: tag, tag: tag, validated: rec.Validated, asked: rec.Asked, old: rec.Old}
}

// memoryKey is under which is remembered what the remote says about something.
func (r *Repository) memoryKey(kind, name string) string {
	return string(key(kind, r.key, name, r.remote.epoch))
}

// tagKey is under which is remembered what was recorded of a tag, and its lock.
func (r *Repository) tagKey(tag string) string { return string(key(kindTag, r.key, tag)) }

// Tag returns the manifest that tag points to. A tag whose lifetime is over is
// confirmed by the remote first, or answered as it is where the remote does not
// answer in time.
func (r *Repository) Tag(ctx context.Context, tag string) (Tagged, error) {
	t, err := r.tag(ctx, tag)
	if err == nil {
		r.use(t.Digest)
	} else {
		r.toldFailure(ctx, err)
	}
	return t, err
}

func (r *Repository) tag(ctx context.Context, tag string) (Tagged, error) {
	question := func(ctx context.Context) (Tagged, error) { return r.fetchTag(ctx, tag) }
	rec, err := r.tagRecord(ctx, tag)
	var m Manifest
	if err == nil {
		m, err = r.cachedManifest(ctx, rec.Digest)
	}
	switch {
	case err == nil:
		give := func(f Freshness) (Tagged, error) { return Tagged{m, f}, nil }
		return current(ctx, r, r.asStored(tag, rec), give, question)
	case !absent(err):
		return Tagged{}, err
	}
	if err := r.absentAtRemote(r.memoryKey(kindTag, tag)); err != nil {
		return Tagged{}, err
	}
	return flight(ctx, r, kindTag, tag, question)
}

// fetchTag asks the remote what tag points to now. It runs once at a time for
// each tag, and goes on when those who have asked for it lose patience: over a
// thin link that is the only way that an answer ever comes.
func (r *Repository) fetchTag(ctx context.Context, tag string) (Tagged, error) {
	rec, recErr := r.tagRecord(ctx, tag)
	if recErr == nil && !r.force {
		// The flight that we have just missed may have confirmed it.
		if t, next, err := r.judgeTag(ctx, tag, rec); err == nil && next == answer && t.Stale == nil {
			r.toldStored(ctx, t.Freshness)
			return t, nil
		}
	}
	began := r.c.now()
	t, err := r.askTag(ctx, tag)
	if definite(err) {
		forgotten, forgetErr := r.forget(ctx, tag, began)
		if err = errors.Join(err, forgetErr); !forgotten {
			return t, err // a later request has heard something else
		}
	}
	r.learn(r.memoryKey(kindTag, tag), err, recErr == nil)
	if err == nil && t.Stale != nil {
		s := r.asStored(tag, tagRecord{Validated: t.Confirmed.UnixNano()})
		t.Freshness, err = r.stale(s, t.Stale)
	}
	if err != nil {
		r.c.log.WithError(err).Debugf("tag %s of %s could not be confirmed", tag, r.key)
	}
	return t, err
}

// askTag finds out what tag points to, at the cost of a HEAD where that is
// stored.
func (r *Repository) askTag(ctx context.Context, tag string) (Tagged, error) {
	if r.remote.Upstream == nil {
		return Tagged{}, r.missing(fmt.Sprintf("tag %s of %s", tag, r.name))
	}
	began := r.c.now()
	if known, err := r.storedTag(ctx, tag); err == nil {
		switch d, err := r.remote.Upstream.Resolve(ctx, r.name, tag, known.Digest); {
		case errors.Is(err, ErrNotFound) && !definite(err):
			// Who forgets a tag for good wants to hear the registry say it in full.
		case err != nil:
			return Tagged{}, err
		case d.Digest != "": // unmoved, or moved to what is known
			if m, err := r.cachedManifest(ctx, d.Digest); err == nil {
				t := r.confirm(ctx, tag, m, began, d)
				r.toldConfirmed(ctx, t.Freshness)
				return t, nil
			}
		}
	}
	m, said, err := r.fetchManifest(ctx, tag)
	if err != nil {
		return Tagged{}, err
	}
	return r.confirm(ctx, tag, m, began, said), nil
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
	return r.cachedManifest(ctx, rec.Digest)
}

// confirm records that the remote, asked at began, has said that tag points to m.
// Where that fails, the answer is right all the same.
func (r *Repository) confirm(ctx context.Context, tag string, m Manifest, began uint64, said Descriptor) Tagged {
	t, rec := r.answered(m, said, r.c.opts.Now())
	if ttl, immutable := r.policy(r.asStored(tag, rec)); !immutable {
		t.Until = r.asStored(tag, rec).until(ttl)
	}
	err := r.point(ctx, tag, rec, began)
	if err != nil && !errors.Is(err, errNotLinked) { // or else it is served uncached
		r.c.seldom("tag "+r.key+":"+tag, err)("tag %s of %s could not be stored", tag, r.key)
	}
	return t
}

// answered is what the remote has said at now that a tag stands for, and how that is
// recorded.
func (r *Repository) answered(m Manifest, said Descriptor, now time.Time) (Tagged, tagRecord) {
	t := Tagged{m, Freshness{Confirmed: now.Add(-said.Age)}}
	rec := tagRecord{Digest: m.Digest, Validated: t.Confirmed.UnixNano(), Old: said.Stale}
	if said.Age > 0 {
		rec.Asked = now.UnixNano()
	}
	if said.Stale {
		t.Stale = r.notConfirmed()
	}
	return t, rec
}

// errNotLinked means that a manifest is not part of the repository.
var errNotLinked = fmt.Errorf("it is not stored: %w", ErrNotFound)

// point records what a tag stands for, durably, unless a request that has begun after
// began has recorded something of it. The manifest has to be part of the repository.
func (r *Repository) point(ctx context.Context, tag string, rec tagRecord, began uint64) error {
	// So that it is not removed meanwhile, by who does not know the tag.
	defer r.c.contents.lock(rec.Digest.String())()
	release, err := r.writing()
	if err != nil {
		return err
	}
	defer release()
	defer r.c.pulls.linked(idOf(rec.Digest.String())) // not before it can be found by that
	if _, err := r.c.opts.Refs.Get(ctx, Ref{r.key, RefManifest, rec.Digest.String()}); err != nil {
		if absent(err) {
			err = errNotLinked
		}
		return err
	}
	defer r.c.tags.lock(r.tagKey(tag))()
	if !r.record(tag, began) {
		return nil
	}
	ref := Ref{r.key, RefTag, tag}
	stored, err := r.c.opts.Refs.Get(ctx, ref)
	if err == nil && stored != rec.Digest {
		r.keepIfPinned(ctx, tag, stored)
		r.c.uses.move(stored, rec.Digest)
	}
	if err != nil || stored != rec.Digest { // unchanged tags cost no write
		err = r.c.opts.Refs.Put(ctx, ref, rec.Digest)
	}
	if err == nil {
		err = r.c.opts.Index.Apply(ctx, put(key(kindTag, r.key, tag), rec))
	}
	return err
}

// now is the number of what happens next.
func (c *Cache) now() uint64 { return c.order.Add(1) }

// record numbers what is about to be recorded of tag by a request that has begun at
// began. It returns false where a later one was faster: requests from different sides are
// not in order, and what was asked for first must not replace what was asked for last.
// The caller holds the tag's lock.
func (r *Repository) record(tag string, began uint64) bool {
	c, k := r.c, r.tagKey(tag)
	if at, known := c.recorded.Get(k); known && at > began {
		return false
	}
	c.recorded.Add(k, c.now())
	return true
}

// forget removes a tag that the remote, asked at began, does not have. Its manifest
// stays: it can still be asked for by digest. It returns false where a later request has
// heard something else.
func (r *Repository) forget(ctx context.Context, tag string, began uint64) (bool, error) {
	release, err := r.writing()
	if err != nil {
		return true, nil // the tag of that name is not the remote's
	}
	defer release()
	defer r.c.tags.lock(r.tagKey(tag))()
	if !r.record(tag, began) {
		return false, nil
	}
	rec, err := r.tagRecord(ctx, tag)
	if absent(err) {
		return true, nil
	}
	if err == nil {
		r.keepIfPinned(ctx, tag, rec.Digest)
	}
	if err := r.c.opts.Index.Apply(ctx, Change{Key: key(kindTag, r.key, tag), Delete: true}); err != nil {
		return true, err
	}
	return true, r.c.opts.Refs.Remove(ctx, Ref{r.key, RefTag, tag})
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
	list, err := r.tags(ctx, n, last)
	if err != nil {
		r.toldFailure(ctx, err)
	}
	return list, err
}

func (r *Repository) tags(ctx context.Context, n int, last string) (TagList, error) {
	known, knownErr := r.storedTags(ctx, n, last)
	r.toldStored(ctx, known.Freshness) // until something else turns out
	if r.remote.Upstream == nil {
		return known, knownErr
	}
	if err := r.absentAtRemote(r.memoryKey(kindRepo, "")); err != nil {
		return TagList{}, err
	}
	if knownErr != nil {
		return r.upstreamTags(ctx, n, last, func() {}) // the remote's reason says more
	}
	why, due := r.away()
	if due {
		r.askLater(ctx)
	}
	if why == nil && r.isSlow(ctx, kindRepo, "") {
		why = r.impatient()
	}
	if why != nil {
		known.Stale = why
		r.toldStored(ctx, known.Freshness)
		return known, nil
	}
	// Not by a deadline, which would look like a fault of the remote.
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(stalePatience, cancel)
	defer timer.Stop()
	list, err := r.upstreamTags(patient, n, last, func() { timer.Stop() })
	switch {
	case err == nil, definite(err), ctx.Err() != nil:
		return list, err
	case patient.Err() != nil:
		err = r.impatient()
		waitedInVain(ctx, r, kindRepo, "", r.askRepo) // since nobody has heard what comes of this one
	}
	known.Stale = err
	r.toldStored(ctx, known.Freshness)
	return known, nil
}

// askRepo asks the remote whether there is the repository.
func (r *Repository) askRepo(ctx context.Context) (struct{}, error) {
	_, _, err := r.remote.Upstream.Tags(ctx, r.name, 1, "")
	r.learn(r.memoryKey(kindRepo, ""), err, false)
	return struct{}{}, err
}

// askLater has the remote asked for nobody who would wait: to find out whether it answers.
func (r *Repository) askLater(ctx context.Context) { later(ctx, r, kindRepo, "", r.askRepo) }

// upstreamTags collects pages, since a remote may give fewer than n at a time, and calls
// begun when the first has come. It ends with the client: a list can be long, and nobody
// else waits for it.
func (r *Repository) upstreamTags(ctx context.Context, n int, last string, begun func()) (TagList, error) {
	const maxPages = 100 // arbitrary, but bounded
	select {
	case r.remote.listing <- struct{}{}:
		defer func() { <-r.remote.listing }()
	case <-ctx.Done():
		return TagList{}, ctx.Err()
	}
	list := TagList{Freshness: Freshness{Confirmed: r.c.opts.Now()}}
	for range maxPages {
		page, more, err := r.remote.Upstream.Tags(ctx, r.name, n-len(list.Tags), last)
		r.learn(r.memoryKey(kindRepo, ""), err, false)
		if err != nil {
			return TagList{}, err
		}
		begun()
		list.Tags = append(list.Tags, page...)
		list.More = more && len(page) > 0
		r.told(ctx, Answered{Source: FromRemote})
		if !list.More || n >= 0 && len(list.Tags) >= n {
			return list, nil
		}
		last = page[len(page)-1]
	}
	return list, nil
}

func (r *Repository) storedTags(ctx context.Context, n int, last string) (list TagList, err error) {
	if err := r.c.Ready(ctx); err != nil {
		return TagList{}, err
	}
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
	if len(list.Tags) == 0 {
		// It may be that there are none behind last.
		switch known, err := r.c.has(ctx, key(kindRepo, r.key)); {
		case err != nil:
			return TagList{}, err
		case !known || last == "":
			return TagList{}, r.missing("repository " + r.name)
		}
	}
	return list, nil
}

// Places yields the repositories of which something is stored, in no order. An
// error ends the iteration.
func (c *Cache) Places(ctx context.Context) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		if err := c.Ready(ctx); err != nil {
			yield(Place{}, err)
			return
		}
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
