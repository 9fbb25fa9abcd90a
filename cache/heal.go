package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

// damage is what is wrong with stored content.
type damage struct {
	at  int64 // the byte where it was noticed; 0 where it is about the whole
	err error
}

func (d *damage) Error() string {
	if d.at == 0 {
		return d.err.Error()
	}
	return fmt.Sprintf("from byte %d on: %v", d.at, d.err)
}

func (d *damage) Unwrap() error { return d.err }

func isDamage(err error) bool {
	_, ok := errors.AsType[*damage](err)
	return ok
}

var (
	// errSum is the damage of a part that is not what it was.
	errSum = errors.New("other bytes than were stored")
	// errCut is the damage of content that ends too early, or too late.
	errCut = errors.New("the file has another length than what was stored")
)

// damaging tells whether err, of opening or reading stored content, is about that
// content: another try would fail in the same way. What the process has run out of, and
// storage that is not there at all, say nothing about it.
func damaging(err error) bool {
	if err == nil || absent(err) || errors.Is(err, fs.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return !slices.ContainsFunc([]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN,
		syscall.ETIMEDOUT, syscall.ESTALE, syscall.ENODEV, syscall.ENXIO, syscall.ENOTCONN,
	}, func(other error) bool { return errors.Is(err, other) })
}

// readDamage is what the error of reading at a place means: a [damage], or err.
func readDamage(err error, at int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errCut
	}
	if !damaging(err) {
		return err
	}
	return &damage{at, err}
}

// maxHeals is how often one reader gets over damage.
const maxHeals = 3

// heal goes on from the remote, or from what was stored anew, where the cause is that the
// stored blob is damaged: nothing of it was given out that is not right, or the reader
// ends with an error.
func (b *Reader) heal(cause error) error {
	if !isDamage(cause) {
		return cause
	}
	b.repo.c.takeAway(b.ctx, b.dgst, b.stored, cause)
	if b.heals++; b.heals > maxHeals {
		return fmt.Errorf("stored blob %s is damaged again and again: %w", b.dgst, cause)
	}
	on, err := b.repo.OpenBlob(b.ctx, b.dgst)
	if err != nil {
		return fmt.Errorf("stored blob %s is damaged (%v): %w", b.dgst, cause, err)
	}
	if err := b.align(on); err != nil {
		return errors.Join(fmt.Errorf("stored blob %s is damaged (%v): going on from what is fetched: %w", b.dgst, cause, err), on.Close())
	}
	if err := b.become(on); err != nil {
		b.repo.c.log.WithError(err).Debugf("closing the damaged blob %s", b.dgst)
	}
	return nil
}

// align brings on to the position of b.
func (b *Reader) align(on *Reader) error {
	switch {
	case on.size >= 0 && on.size != b.size: // and this was told
		return otherSize(on.size, b.size)
	case b.passing: // what was given out was not compared
		return b.sameUpTo(on)
	case on.passing:
		_, err := io.CopyN(io.Discard, on, b.pos)
		return err
	}
	_, err := on.Seek(b.pos, io.SeekStart)
	return err
}

// sameUpTo reads on up to the position of b, and makes sure that b has given out the
// same bytes.
func (b *Reader) sameUpTo(on *Reader) error {
	buf := b.repo.c.buffer()
	defer b.repo.c.recycle(buf)
	half := len(*buf) / 2
	for pos := int64(0); pos < b.pos; {
		n := min(int64(half), b.pos-pos)
		given, right := (*buf)[:n], (*buf)[half:][:n]
		if _, err := b.stored.ReadAt(given, pos); err != nil && err != io.EOF {
			return err
		}
		if _, err := io.ReadFull(on, right); err != nil {
			return err
		}
		if !bytes.Equal(given, right) {
			return fmt.Errorf("%w: other bytes than before, from byte %d on", verify.ErrMismatch, pos)
		}
		pos += n
	}
	return nil
}

const (
	// maxStanding and maxBad are how many blobs are remembered to be right, or to be
	// damaged and in the way.
	maxStanding = 16 << 10
	maxBad      = 4096
	// badFor is how long a damaged blob that cannot be taken away is not looked at again.
	badFor = 10 * time.Minute
)

// condition is what this process knows of the bytes that are stored.
type condition struct {
	// standings are of what was compared in part or whole, by digest.
	standings *lru.Cache[digest.Digest, *standing]
	// lost are those that were taken away, and not fetched again yet, with whether that
	// is being done in the background.
	lost *lru.Cache[digest.Digest, bool]
	// bad are damaged blobs that could not be taken away, with when that was tried.
	bad *lru.Cache[digest.Digest, time.Time]
}

func newCondition() (condition, error) {
	standings, err := lru.New[digest.Digest, *standing](maxStanding)
	if err != nil {
		return condition{}, err
	}
	lost, err := lru.New[digest.Digest, bool](maxBad)
	if err != nil {
		return condition{}, err
	}
	bad, err := lru.New[digest.Digest, time.Time](maxBad)
	return condition{standings, lost, bad}, err
}

// identity tells a stored file from what is stored in its place later, or has become of
// it by somebody else's writing.
type identity struct {
	size int64
	file any // what the blob gives; nil where it gives nothing
}

func identify(b Blob) identity {
	id := identity{size: b.Size()}
	if f, ok := b.(interface{ Identity() any }); ok {
		id.file = f.Identity()
	}
	return id
}

// trusts tells whether b was found right as a whole.
func (c *Cache) trusts(dgst digest.Digest, b Blob) bool {
	st, ok := c.condition.standings.Get(dgst)
	return ok && st.of == identify(b) && st.done()
}

// trust notes that b was found right as a whole.
func (c *Cache) trust(dgst digest.Digest, b Blob) {
	c.condition.standings.Add(dgst, &standing{of: identify(b)})
}

// trustFilled notes that dgst, which has just been stored, is right, with its sums; nil
// where it has none.
func (c *Cache) trustFilled(ctx context.Context, dgst digest.Digest, s *sums) {
	c.replaced(dgst)
	if s != nil {
		c.tryApply(ctx, sumsChange(dgst, s))
	}
	if b, err := c.opts.Blobs.Open(ctx, dgst); err == nil {
		c.trust(dgst, b)
		_ = b.Close() // nothing was read
	}
}

// replaced notes that dgst was stored anew.
func (c *Cache) replaced(dgst digest.Digest) {
	c.condition.bad.Remove(dgst)
	if background, ok := c.condition.lost.Get(dgst); ok {
		c.condition.lost.Remove(dgst)
		if background {
			c.health.repaired.Add(1)
		} else {
			c.health.healed.Add(1)
		}
	}
}

// isBad tells whether what is stored of dgst is damaged, and cannot be taken away.
func (c *Cache) isBad(dgst digest.Digest) bool {
	since, ok := c.condition.bad.Get(dgst)
	if !ok {
		return false
	}
	if age := c.opts.Now().Sub(since); age >= 0 && age < badFor {
		return true
	}
	c.condition.bad.Remove(dgst)
	return false
}

// open opens stored content. What is there and cannot be opened is damaged, and absent
// then.
func (c *Cache) open(ctx context.Context, dgst digest.Digest) (Blob, error) {
	if c.isBad(dgst) {
		return nil, errDamaged
	}
	b, err := c.opts.Blobs.Open(ctx, dgst)
	if !damaging(err) || dgst.Validate() != nil {
		return b, err
	}
	if c.takeAway(ctx, dgst, nil, err) {
		return nil, errDamaged
	}
	return c.opts.Blobs.Open(ctx, dgst) // it could not be opened for a moment
}

// takeAway puts stored content that was found damaged into quarantine, so that it is
// fetched again, and takes it out of the account. B is where the damage was found, nil
// where it cannot be opened. It is done once, whoever finds it: where something else is
// stored by now, it does nothing and returns false.
func (c *Cache) takeAway(ctx context.Context, dgst digest.Digest, b Blob, cause error) bool {
	ctx = context.WithoutCancel(ctx) // whoever has found it may leave
	c.healing.Lock()
	defer c.healing.Unlock()
	if c.isBad(dgst) {
		return true
	}
	now, err := c.opts.Blobs.Open(ctx, dgst)
	switch {
	case absent(err):
		return true // somebody was faster
	case err == nil:
		replaced := b == nil || identify(now) != identify(b)
		if err := now.Close(); err != nil || replaced {
			return false
		}
	}
	c.health.damaged.Add(1)
	c.condition.standings.Remove(dgst)
	log := c.log.WithError(cause)
	// The sums stay: who has opened it before finds the damage by them, too, and they are
	// those of what is fetched again.
	if err := c.removeBy(ctx, dgst, c.putAway); err != nil {
		c.condition.bad.Add(dgst, c.opts.Now())
		log.Warnf("stored blob %s is damaged and cannot be taken away (%v); it is passed through uncached: "+
			"see that the data directory can be written to", dgst, err)
		return true
	}
	c.condition.lost.Add(dgst, false)
	log.Warnf("stored blob %s is damaged and was taken away; it will be fetched again", dgst)
	return true
}

// putAway takes damaged content out of its place: into quarantine, where there is one.
func (c *Cache) putAway(ctx context.Context, dgst digest.Digest) error {
	if c.opts.Quarantine == nil {
		return c.opts.Blobs.Remove(ctx, dgst)
	}
	err := c.opts.Quarantine.Quarantine(ctx, dgst)
	if err != nil {
		if removeErr := c.opts.Blobs.Remove(ctx, dgst); removeErr != nil {
			return errors.Join(err, removeErr)
		}
	}
	return nil
}

// health are the counters of [Health].
type health struct {
	scrubbed, damaged, healed, repaired atomic.Int64
	passed                              atomic.Int64 // Unix nanoseconds
}

// Health tells what has become of stored content since the start.
type Health struct {
	// Scrubbed is how many bytes were compared in the background.
	Scrubbed int64 `json:"scrubbed"`
	// Damaged is how many blobs were found damaged, by whomever, Healed how many of them
	// were fetched again for a request, and Repaired how many in the background.
	Damaged  int64 `json:"damaged"`
	Healed   int64 `json:"healed"`
	Repaired int64 `json:"repaired"`
	// Passed is when the last pass over all that is stored has ended; zero where none has.
	Passed time.Time `json:"passed,omitzero"`
}

// Health returns what has become of stored content.
func (c *Cache) Health() Health {
	h := Health{
		Scrubbed: c.health.scrubbed.Load(), Damaged: c.health.damaged.Load(),
		Healed: c.health.healed.Load(), Repaired: c.health.repaired.Load(),
	}
	if passed := c.health.passed.Load(); passed != 0 {
		h.Passed = time.Unix(0, passed).UTC()
	}
	return h
}
