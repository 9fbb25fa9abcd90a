package cache

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

const (
	// scrubDelay is how long after the start a pass begins or goes on at the earliest,
	// scrubSoon the same where the last process may have left something behind.
	scrubDelay = 5 * time.Minute
	scrubSoon  = 30 * time.Second
	// scrubBatch is how many blobs are looked up at a time.
	scrubBatch = 256
	// How far the scrub has come is noted when it has read scrubNoteBytes, or has worked
	// for scrubNoteEvery, since it was noted last.
	scrubNoteBytes = 1 << 30
	scrubNoteEvery = 5 * time.Minute
)

// scrubRecord is how far the scrub has come.
type scrubRecord struct {
	// After is the digest up to which all was compared in the pass that is under way;
	// empty between two passes.
	After string `json:"a,omitempty"`
	// Passed is when the last pass has ended, in Unix nanoseconds; 0 is never.
	Passed int64 `json:"e,omitempty"`
}

// scrubber compares all that is stored with its digest, pass by pass. It writes nothing
// where there is nothing to note, and nothing between two passes.
type scrubber struct {
	c    *Cache
	pace pace
	// passed tells that the last pass of this process was not cut off.
	passed bool
	at     scrubRecord
	noted  scrubRecord
	when   time.Time // of noted
	read   int64     // bytes since then
}

// limiter allows bytesPerSecond; 0 is no limit.
func limiter(bytesPerSecond int64) *rate.Limiter {
	return rate.NewLimiter(limitOf(bytesPerSecond), streamBuffer)
}

func limitOf(bytesPerSecond int64) rate.Limit {
	if bytesPerSecond <= 0 {
		return rate.Inf
	}
	return rate.Limit(bytesPerSecond)
}

// pass compares what is stored, from where the last one was interrupted.
func (s *scrubber) pass(ctx context.Context) {
	if s.c.Ready(ctx) != nil { // else what is stored is being counted, or cannot be
		return
	}
	s.when, s.read = time.Now(), 0
	s.c.refetch(ctx, s.c.condition.lost.Keys()) // whose remote was away
	for {
		batch, err := s.c.storedAfter(ctx, s.at.After, scrubBatch)
		if err != nil {
			if ctx.Err() == nil {
				s.c.log.WithError(err).Warn("comparing what is stored with its digests: the index cannot be read")
			}
			s.note(ctx)
			return
		}
		if len(batch) == 0 {
			break
		}
		var lost []digest.Digest
		for _, e := range batch {
			if s.blob(ctx, e) {
				lost = append(lost, e.Digest)
			}
			if ctx.Err() != nil { // it was not compared to its end
				s.note(ctx)
				return
			}
			s.at.After = e.Digest.String()
			if s.read >= scrubNoteBytes || time.Since(s.when) >= scrubNoteEvery {
				s.note(ctx)
			}
		}
		s.c.refetch(ctx, lost)
	}
	if err := s.c.dropSums(ctx); err != nil && ctx.Err() == nil {
		s.c.log.WithError(err).Warn("removing from the index what is known of blobs that are gone")
	}
	if s.at.After == "" { // nothing is stored
		return
	}
	s.at = scrubRecord{Passed: s.c.opts.Now().UnixNano()}
	s.c.health.passed.Store(s.at.Passed)
	s.note(ctx)
}

// dropSums removes the sums of what is not stored any more, and not about to be fetched again.
func (c *Cache) dropSums(ctx context.Context) error {
	changes := batch{index: c.opts.Index}
	for name, err := range c.names(ctx, "", kindSums) {
		if err != nil {
			return err
		}
		dgst := digest.Digest(name)
		running := c.running(dgst) != nil // what has ended before the index is asked is in it
		known, err := c.has(ctx, key(kindBlob, name))
		if err != nil {
			return err
		}
		if known || running || c.condition.lost.Contains(dgst) {
			continue
		}
		if err := changes.add(ctx, Change{Key: key(kindSums, name), Delete: true}); err != nil {
			return err
		}
	}
	if len(changes.changes) == 0 {
		return nil
	}
	return changes.flush(ctx)
}

// note keeps how far it has come, if that is news.
func (s *scrubber) note(ctx context.Context) {
	s.when, s.read = time.Now(), 0
	if s.at == s.noted {
		return
	}
	s.c.tryApply(context.WithoutCancel(ctx), put(key(kindMeta, metaScrub), s.at))
	s.noted = s.at
}

// blob compares one blob, and tells whether it is lost: damaged and taken away, or not
// there.
func (s *scrubber) blob(ctx context.Context, e BlobEntry) (lost bool) {
	c := s.c
	b, sum, err := c.examine(ctx, e.Digest, s.pace)
	if b != nil {
		defer func() { _ = b.Close() }() // it was only read
	}
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		if b.Size() != e.Size {
			c.recount(ctx, e.Digest)
		}
		if sum != nil && !sum.equal(c.sumsOf(ctx, e.Digest)) {
			c.tryApply(ctx, sumsChange(e.Digest, sum))
		}
		return false
	case absent(err):
		return c.miss(ctx, e.Digest)
	case isDamage(err):
		return c.takeAway(ctx, e.Digest, b, err) && !c.isBad(e.Digest)
	}
	c.log.WithError(err).Warnf("stored blob %s could not be compared with its digest", e.Digest)
	return false
}

// storedAfter returns up to n blobs that the index has, in the order of their digests,
// those after the given one.
func (c *Cache) storedAfter(ctx context.Context, after string, n int) ([]BlobEntry, error) {
	var batch []BlobEntry
	prefix := append(key(kindBlob), 0)
	from := prefix
	if after != "" {
		from = append(key(kindBlob, after), 0)
	}
	for e, err := range c.opts.Index.Scan(ctx, prefix, from) {
		if err != nil {
			return nil, err
		}
		rec := blobRecord{-1} // what cannot be read is put right when the blob is
		_ = json.Unmarshal(e.Value, &rec)
		batch = append(batch, BlobEntry{digest.Digest(e.Key[len(prefix):]), rec.Size})
		if len(batch) == n {
			break
		}
	}
	return batch, nil
}

// examine compares what is stored of dgst with it. B is open unless it is nil: it could
// not be opened. The error is a [damage], or satisfies [absent], or is of the moment.
func (c *Cache) examine(ctx context.Context, dgst digest.Digest, p pace) (b Blob, s *sums, err error) {
	b, err = c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		if damaging(err) {
			err = &damage{err: err}
		}
		return nil, nil, err
	}
	if f, ok := b.(interface{ Forget(off, n int64) }); ok && !c.hot(dgst) {
		p.forget = f.Forget
	}
	s, err = c.compare(ctx, b, dgst, p)
	return b, s, err
}

// hot tells whether this process has given dgst out, so that it may be in the page cache
// for a good reason.
func (c *Cache) hot(dgst digest.Digest) bool { return c.condition.standings.Contains(dgst) }

// recount corrects the account of dgst.
func (c *Cache) recount(ctx context.Context, dgst digest.Digest) {
	c.accounts.Lock()
	defer c.accounts.Unlock()
	b, err := c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return
	}
	_ = b.Close() // nothing was read
	c.count(ctx, dgst, b.Size())
}

// miss takes dgst, whose file is not there, out of the account. It returns false where it
// is not there any more because it was removed.
func (c *Cache) miss(ctx context.Context, dgst digest.Digest) bool {
	c.accounts.Lock()
	defer c.accounts.Unlock()
	if b, err := c.opts.Blobs.Open(ctx, dgst); err == nil || !absent(err) {
		if err == nil {
			_ = b.Close() // it is there again
		}
		return false
	}
	if known, err := c.has(ctx, key(kindBlob, dgst.String())); err != nil || !known {
		return false
	}
	c.log.Warnf("stored blob %s is missing; it will be fetched again", dgst)
	c.health.damaged.Add(1)
	c.condition.lost.Add(dgst, false)
	takes, times := c.counted(ctx, dgst)
	c.space.free(takes)
	c.counters.contents.Add(-times)
	c.tryApply(ctx, Change{Key: key(kindBlob, dgst.String()), Delete: true})
	return true
}

// linker is where a blob can be fetched again.
type linker struct {
	r        *Repository
	manifest bool
}

// linkers returns for each of dgsts where it can be fetched again, if it can.
func (c *Cache) linkers(ctx context.Context, dgsts []digest.Digest) map[digest.Digest]linker {
	found, wanted := make(map[digest.Digest]linker), make(map[digest.Digest]bool, len(dgsts))
	for _, dgst := range dgsts {
		wanted[dgst] = true
	}
	for _, kind := range []string{kindManifest, kindLayer} {
		prefix := append(key(kind), 0)
		for e, err := range c.opts.Index.Scan(ctx, prefix, nil) {
			if err != nil {
				return found
			}
			repo, name, _ := strings.Cut(string(e.Key[len(prefix):]), "\x00")
			dgst := digest.Digest(name)
			if _, known := found[dgst]; known || !wanted[dgst] {
				continue
			}
			if r := c.owner(repo); r != nil && r.remote.Upstream != nil {
				if found[dgst] = (linker{r, kind == kindManifest}); len(found) == len(wanted) {
					return found
				}
			}
		}
	}
	return found
}

// refetch fetches again what was lost, where the remote can be asked, without urgency. It
// returns which is there again; what is not is left to who asks for it.
func (c *Cache) refetch(ctx context.Context, lost []digest.Digest) map[digest.Digest]bool {
	if len(lost) == 0 {
		return nil
	}
	there := make(map[digest.Digest]bool)
	for dgst, l := range c.linkers(ctx, lost) {
		if why, _ := l.r.away(); why != nil {
			continue
		}
		if c.condition.lost.Contains(dgst) {
			c.condition.lost.Add(dgst, true)
		}
		if err := l.fetch(ctx, dgst); err != nil {
			if ctx.Err() != nil {
				return there
			}
			c.condition.lost.Add(dgst, false)
			c.log.WithError(err).Warnf("fetching %s again, which was lost", dgst)
			continue
		}
		there[dgst] = true
	}
	return there
}

func (l linker) fetch(ctx context.Context, dgst digest.Digest) error {
	c := l.r.c
	if l.manifest {
		m, ok := c.manifests.Get(manifestKey{l.r.key, dgst})
		if !ok {
			_, err := l.r.Manifest(ctx, dgst)
			return err
		}
		return c.storeBytes(ctx, dgst, m.Bytes) // it was right when it was read
	}
	f, _, err := c.fill(ctx, l.r, dgst)
	if errors.Is(err, errStored) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.whole(ctx)
	return err
}
