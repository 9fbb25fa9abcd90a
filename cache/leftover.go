package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// leftover is an unfinished download that nobody works on. Its bytes are kept by
// [Partials] and counted.
type leftover struct {
	res  *reservation
	kept int64     // bytes
	used time.Time // when the last of them came
	note partialNote
}

// leave notes that a download was put aside.
func (c *Cache) leave(dgst digest.Digest, l *leftover) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left[dgst] = l
}

// takeLeft returns what is kept of dgst, for a download that goes on; nil where
// nothing is kept.
func (c *Cache) takeLeft(dgst digest.Digest) *leftover {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.left[dgst]
	delete(c.left, dgst)
	return l
}

// findLeft takes the unfinished downloads of earlier processes into account, and
// drops those that are too old.
func (c *Cache) findLeft(ctx context.Context) error {
	for e, err := range c.opts.Partials.All(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.log.WithError(err).Warn("an unfinished download cannot be read and is left out")
			continue
		}
		c.left[e.Digest] = &leftover{c.space.adopt(e.Size), e.Size, e.Used, readNote(e.Note)}
	}
	c.expireLeft(ctx)
	return nil
}

// expireLeft drops the unfinished downloads that nobody has gone on with for
// long.
func (c *Cache) expireLeft(ctx context.Context) {
	now, ttl := c.opts.Now(), c.settings.Load().partialTTL
	c.dropLeft(ctx, func(l *leftover) bool {
		// From the future: the clock was wrong, then or now.
		return ttl < 0 || now.Sub(l.used) > ttl
	})
}

// dropOldest drops the unfinished download that was left alone the longest. It
// returns false where there is none.
func (c *Cache) dropOldest(ctx context.Context) bool {
	c.mu.Lock()
	var oldest *leftover
	for _, l := range c.left {
		if oldest == nil || l.used.Before(oldest.used) {
			oldest = l
		}
	}
	c.mu.Unlock()
	return oldest != nil && c.dropLeft(ctx, func(l *leftover) bool { return l == oldest }) > 0
}

// leftSize is how many bytes all unfinished downloads have that nobody works on, nor has
// since before, unless that is zero.
func (c *Cache) leftSize(before time.Time) (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.left {
		if before.IsZero() || l.used.Before(before) {
			n += l.res.size
		}
	}
	return n
}

// dropLeft removes the unfinished downloads that match, and returns how many.
func (c *Cache) dropLeft(ctx context.Context, match func(*leftover) bool) (dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock() // so that no download takes up what is being removed
	for dgst, l := range c.left {
		if !match(l) {
			continue
		}
		if err := c.opts.Partials.Remove(ctx, dgst); err != nil {
			c.log.WithError(err).Warnf("removing the unfinished download of %s", dgst)
		}
		c.log.Infof("the unfinished download of %s, of %d bytes, is given up", dgst, l.res.size)
		l.res.release()
		delete(c.left, dgst)
		dropped++
	}
	return dropped
}

// expireEvery is how often is looked for what has expired.
const expireEvery = time.Hour

// watchLeft expires unfinished downloads until the cache is closed. It is told by which
// settings that was done last.
func (c *Cache) watchLeft(now *settings) {
	for {
		timer := time.NewTimer(min(expireEvery, max(now.partialTTL, time.Second)))
		select {
		case <-timer.C:
		case <-now.replaced:
			timer.Stop()
		case <-c.ctx.Done():
			timer.Stop()
			return
		}
		now = c.settings.Load()
		c.expireLeft(c.ctx)
	}
}

// fit makes a reservation at least n bytes large, making one where there is none.
// Where there is no room, some is made, if enough can be: by what was left of downloads
// that nobody has gone on with for long, then by content that is worth least, then by
// other downloads that nobody works on.
func (c *Cache) fit(ctx context.Context, res **reservation, n int64) error {
	if *res == nil {
		*res = &reservation{s: c.space}
	}
	if n <= (*res).size {
		return nil
	}
	if err := c.space.await(ctx); err != nil {
		return err
	}
	// What was made may be taken by others.
	const rounds = 16
	var err error
	for range rounds {
		err = (*res).grow(ctx, n-(*res).size)
		full, ok := errors.AsType[*noSpace](err)
		if !ok {
			return err
		}
		need := full.needed - full.left
		switch abandoned := c.opts.Now().Add(-abandonedAfter); {
		case need <= c.leftSize(abandoned) && c.dropOldest(ctx):
		case c.makeRoom(ctx, full.needed):
		case need <= c.leftSize(time.Time{}) && c.dropOldest(ctx):
		default:
			return err
		}
	}
	return err
}

// abandonedAfter is how long nobody has gone on with a download that goes before content
// does.
const abandonedAfter = 24 * time.Hour

// blindStep is how much a reservation grows by at least where the remote does not
// say how long the blob is.
const blindStep = 16 << 20

// fitMore is fit for a download of which nobody knows how long it gets: it grows
// in steps, or by what is needed where there is no room for a step.
func (c *Cache) fitMore(ctx context.Context, res *reservation, n int64) error {
	if n <= res.size || res.written > 0 && res.grow(ctx, max(n-res.size, blindStep)) == nil {
		return nil
	}
	return c.fit(ctx, &res, n)
}

// partialNote is what is needed to go on with a download.
type partialNote struct {
	// Size is the blob's in bytes, -1 where the remote does not say.
	Size int64 `json:"size"`
	// Remote is the host that the bytes are from.
	Remote string `json:"remote"`
	// Repositories are those, by the names under which they are stored, that
	// the remote serves the blob in.
	Repositories []string `json:"repositories"`
	// Validator is the remote's, see [BlobPart].
	Validator string `json:"validator,omitempty"`
}

func (d *download) note() []byte {
	n := partialNote{Size: d.f.size, Remote: d.f.by.remote.Host, Validator: d.validator}
	if d.known.Remote == n.Remote {
		n.Repositories = slices.Clone(d.known.Repositories)
	}
	d.f.mu.Lock()
	for key, r := range d.f.vouched {
		if r.remote.Host == n.Remote {
			n.Repositories = append(n.Repositories, key)
		}
	}
	d.f.mu.Unlock()
	slices.Sort(n.Repositories)
	n.Repositories = slices.Compact(n.Repositories)
	p, err := json.Marshal(n)
	if err != nil { // strings and numbers always can be
		panic(fmt.Sprintf("cache: note of %s: %v", d.f.dgst, err))
	}
	return p
}

// readNote reads a note. What cannot be understood says nothing.
func readNote(p []byte) partialNote {
	var n partialNote
	if err := json.Unmarshal(p, &n); err != nil {
		return partialNote{}
	}
	return n
}

// vouchedFor tells whether the remote has served the blob in the repository.
func (n partialNote) vouchedFor(remote, key string) bool {
	return n.Remote == remote && slices.Contains(n.Repositories, key)
}

// resumeWait is the longest that resumeLeft waits between two tries: nobody waits
// for it, and each of them is a line in the log.
const resumeWait = 5 * time.Minute

// resumeLeft goes on with the unfinished downloads from one remote of earlier
// processes, one after the other, and waits for the remote where it is away. The end of
// ctx ends none of them.
func (c *Cache) resumeLeft(ctx context.Context, host string) {
	var todo []digest.Digest
	c.mu.Lock()
	for dgst, l := range c.left {
		if l.note.Remote == host {
			todo = append(todo, dgst)
		}
	}
	c.mu.Unlock()
	waits := newBackOff(resumeWait)
	for {
		var away error
		todo = slices.DeleteFunc(todo, func(dgst digest.Digest) bool {
			if away != nil {
				return false // it has to come back first
			}
			err := c.resume(ctx, dgst)
			if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRateLimited) {
				away = err
			}
			return away == nil
		})
		if len(todo) == 0 || ctx.Err() != nil {
			return
		}
		if sleep(ctx, max(waits.NextBackOff(), retryAfter(away))) != nil {
			return
		}
	}
}

// resume goes on with one unfinished download, if its remote can be asked.
func (c *Cache) resume(ctx context.Context, dgst digest.Digest) error {
	c.mu.Lock()
	l := c.left[dgst]
	c.mu.Unlock()
	if l == nil {
		return nil
	}
	var r *Repository
	for _, key := range l.note.Repositories {
		if r = c.stored(l.note.Remote, key); r != nil {
			break
		}
	}
	if r == nil {
		return nil
	}
	f, _, err := c.fill(ctx, r, dgst)
	if err != nil {
		return err
	}
	_, err = f.whole(ctx)
	return err
}
