package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/extents"
	"registry-module/internal/slots"
	"registry-module/internal/tracing"
)

const (
	// Readers are told of progress when announceBytes have come since they were
	// last told, or announceEvery has passed. Waking fifty readers for each
	// segment that the remote sends costs more than serving them.
	announceBytes = 1 << 20
	announceEvery = 5 * time.Millisecond
)

// fill is one download of one blob. It is owned by the cache: readers come and
// go, and it goes on. Its life:
//
//	starting -> filling -> verified -> gone (stored)
//	    \___________\___________\____> gone (failed)
//
// "gone" means that it is no longer in Cache.fills; readers that have it may
// use it on. How the bytes are brought is the business of [download].
type fill struct {
	c    *Cache
	ctx  context.Context // ends with the cache, and knows on whose behalf the fill is
	dgst digest.Digest
	by   *Repository // whose name the blob is asked for
	// begun is when it was, and resumed tells that it goes on with what was there.
	begun   time.Time
	resumed bool
	// named is the blob's size in bytes by who names it, until the remote tells; 0 where
	// nobody does.
	named atomic.Int64
	// queued is how many of its streams wait for a connection, and clients how many read it.
	queued, clients atomic.Int32
	span            tracing.Span
	// promised is the blob's size by who asks for it ahead of need; 0 where nobody has
	// told one.
	promised int64

	// sums are of the parts of a verified blob; nil where they are not worth keeping.
	sums *sums

	// urgent is closed when a client waits for the blob.
	urgent     chan struct{}
	urgentOnce sync.Once

	// started is closed when size and draft are known, or when the fill has
	// failed before.
	started chan struct{}
	size    int64 // of the whole blob in bytes, -1 where the remote does not say
	draft   Draft

	// gone is closed when the fill has ended, and unstored is set then, unless nil: why the
	// blob is verified and not stored.
	gone     chan struct{}
	unstored error

	// wanted tells the download that a reader waits for bytes; see wants.
	wanted chan struct{}

	mu       sync.Mutex    // guards the fields below
	progress chan struct{} // closed and replaced by each announcement
	have     extents.Set   // what is in the draft
	shown    extents.Set   // of have, what readers know of
	news     int64         // bytes that readers do not know of
	came     int64         // bytes that have come from the remote
	lastByte time.Time     // when have last grew
	lastTold time.Time     // when readers were told
	broke    error         // why it was last broken off, if no byte has come since
	later    *time.Timer
	waiting  bool // later is going to announce the rest
	complete bool // nothing is missing
	verified bool
	ending   bool // err is about to be set, and the draft is not this fill's any more
	err      error
	// wants are the places that readers wait for.
	wants map[*want]struct{}
	// vouched are the repositories under which the remote serves the blob.
	vouched   map[string]*Repository
	allLinked bool // no more of them are linked
}

// want is a place that a reader waits for.
type want struct{ pos, n int64 }

// errStored is the answer for a blob that needs no fill.
var errStored = errors.New("blob is stored")

// fill returns the running download of dgst, starting one by the name of r where
// there is none. Fresh tells that it was started.
func (c *Cache) fill(ctx context.Context, r *Repository, dgst digest.Digest) (f *fill, fresh bool, err error) {
	return c.fillAhead(ctx, r, dgst, 0)
}

// fillAhead is fill for who knows the size of the blob, unless that is 0, though no
// manifest that is stored tells it.
func (c *Cache) fillAhead(ctx context.Context, r *Repository, dgst digest.Digest, size int64) (f *fill, fresh bool, err error) {
	f, fresh, err = c.tryFill(ctx, r, dgst, size)
	if !damaging(err) || errors.Is(err, errStored) || errors.Is(err, ErrClosed) {
		return f, fresh, err
	}
	// What is in its place cannot be opened.
	if b, err := c.open(ctx, dgst); err == nil {
		return nil, false, errors.Join(errStored, b.Close())
	}
	if c.isBad(dgst) {
		return nil, false, errDamaged
	}
	return c.tryFill(ctx, r, dgst, size)
}

// tryFill is fillAhead, and fails where what is stored cannot be opened.
func (c *Cache) tryFill(ctx context.Context, r *Repository, dgst digest.Digest, size int64) (f *fill, fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, ErrClosed
	}
	if f := c.fills[dgst]; f != nil {
		tracing.Join(ctx, f.ctx, "joined "+fillSpan)
		return f, false, nil
	}
	// A fill that we have just missed has stored and linked the blob before it
	// was dropped: look again, or its bytes would be fetched twice.
	if b, err := c.opts.Blobs.Open(ctx, dgst); err == nil {
		return nil, false, errors.Join(errStored, b.Close())
	} else if !absent(err) {
		return nil, false, err
	}
	f = &fill{
		c: c, ctx: carry(c.ctx, ctx), dgst: dgst, by: r, size: -1, promised: size,
		urgent:   make(chan struct{}),
		started:  make(chan struct{}),
		gone:     make(chan struct{}),
		wanted:   make(chan struct{}, 1),
		progress: make(chan struct{}),
		wants:    make(map[*want]struct{}),
		vouched:  map[string]*Repository{r.key: r},
	}
	f.startSpan()
	c.fills[dgst] = f
	f.began()
	done := c.pulls.begin(r.key, dgst, c.opts.Now)
	c.wg.Go(func() {
		f.run()
		how := readSome
		if f.cause() != nil {
			how = notRead
		}
		done(how)
	})
	return f, true, nil
}

// running returns the download of dgst that is under way, nil where there is
// none.
func (c *Cache) running(dgst digest.Digest) *fill {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fills[dgst]
}

// filling returns the size of a blob that is being downloaded, if the remote
// serves it in r and has told its size.
func (c *Cache) filling(r *Repository, dgst digest.Digest) (size int64, ok bool) {
	f := c.running(dgst)
	if f == nil || !f.serves(r) {
		return 0, false
	}
	select {
	case <-f.started:
		return f.size, f.size >= 0 && f.cause() == nil
	default:
		return 0, false
	}
}

// drop takes the fill out of those that can be joined.
func (f *fill) drop() {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	delete(f.c.fills, f.dgst)
}

// run downloads, verifies and stores the blob.
func (f *fill) run() {
	defer close(f.gone)
	defer f.endSpan()
	ctx := f.ctx
	d := &download{f: f, by: f.by, named: cmp.Or(f.by.namedSize(ctx, f.dgst), f.promised)}
	f.named.Store(d.named)
	err := d.enter(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = ErrClosed
		}
		// First, so that who tries again goes on with what is kept, and does not
		// meet this fill.
		f.change(func() { f.ending = true })
		kept := d.putAside(err)
		f.span.Event("put aside", tracing.Int(bytesAttr, kept))
		f.c.ranShort(f.dgst, f.size, err)
		f.drop()
		f.logFailure(err, kept)
		f.tellEnd(err)
		f.fail(err)
		return
	}
	// Readers have everything by now; what follows is for those to come.
	if err := f.store(ctx, d.res); err != nil {
		f.c.seldom("store "+f.dgst.String(), err)("blob %s could not be stored and was served uncached", f.dgst)
		f.span.Event("not stored", tracing.String(errorAttr, err.Error()))
		d.discard()
		f.c.ranShort(f.dgst, f.size, storageError(err))
		f.unstored = err
	} else {
		f.span.Event("stored")
	}
	f.drop()
	f.tellEnd(nil)
}

func (f *fill) logFailure(err error, kept int64) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNoSpace) {
		return // the one is an answer, and who passes the blob through tells of the other
	}
	log := f.c.log.WithError(err)
	switch {
	case errors.Is(err, ErrClosed) && kept > 0:
		log.Infof("download of %s is interrupted; %d bytes are kept to go on from", f.dgst, kept)
	case kept > 0:
		log.Warnf("download of %s has failed; %d bytes are kept to go on from", f.dgst, kept)
	default:
		log.Warnf("download of %s has failed", f.dgst)
	}
}

// errStorage means that content cannot be stored, though the remote gives it.
// Readers get it from the remote then.
var errStorage = fmt.Errorf("%w: the storage fails", ErrNoSpace)

// store makes the verified draft durable, then links it into the repositories
// that the remote has vouched for.
func (f *fill) store(ctx context.Context, res *reservation) error {
	// Stopping is no reason to lose what is complete.
	ctx = context.WithoutCancel(ctx)
	size := f.held()
	if err := f.c.commit(ctx, f.draft, res, f.dgst, size); err != nil {
		return err
	}
	f.c.trustFilled(ctx, f.dgst, f.sums)
	for linked := make(map[string]bool); ; {
		next := f.toLink(linked)
		if next == nil {
			return nil
		}
		next.tryLink(ctx, f.dgst, size)
		linked[next.key] = true
	}
}

// toLink returns a repository that the remote has vouched for and that is not
// linked. When there is none, it is too late for others.
func (f *fill) toLink(linked map[string]bool) *Repository {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, r := range f.vouched {
		if !linked[k] {
			return r
		}
	}
	f.allLinked = true
	return nil
}

// commit makes a draft of size bytes durable, and counts it, once.
func (c *Cache) commit(ctx context.Context, d Draft, res *reservation, dgst digest.Digest, size int64) error {
	err := d.Commit(ctx)
	if err != nil {
		// It may be in its place all the same, and not durable. Who asks for it next
		// finds it, and it takes room.
		b, openErr := c.opts.Blobs.Open(ctx, dgst)
		if openErr != nil {
			return err
		}
		err = errors.Join(err, b.Close())
	}
	c.accounts.Lock()
	defer c.accounts.Unlock()
	before, known := c.counted(ctx, dgst) // it is fetched again where its file was lost
	res.commit(size, before)
	c.counters.contents.Add(1 - known)
	c.room.stored(size)
	c.uses.fill(size)
	c.tryApply(ctx, put(key(kindBlob, dgst.String()), blobRecord{size}))
	return err
}

// serves tells whether the remote is known to serve the blob in r.
func (f *fill) serves(r *Repository) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	by := f.vouched[r.key]
	return by != nil && by.remote.Host == r.remote.Host
}

// vouch notes that the remote serves the blob in r as well. It returns false
// when it is too late for the fill to link it.
func (f *fill) vouch(r *Repository) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.allLinked {
		return false
	}
	f.vouched[r.key] = r
	return true
}

// elsewhere returns a repository of another remote that serves the blob as well, nil
// where there is none, or none but tried.
func (f *fill) elsewhere(tried map[string]bool) *Repository {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, other := range f.vouched {
		if other.remote.Host != f.by.remote.Host && !tried[other.remote.Host] {
			return other
		}
	}
	return nil
}

// hurry tells that a client waits for the blob.
func (f *fill) hurry() { f.urgentOnce.Do(func() { close(f.urgent) }) }

// class is how urgent the first stream of the blob is. Size is the blob's, 0
// where it is not known.
func (f *fill) class(size int64) slots.Class {
	select {
	case <-f.urgent:
	default:
		return slots.Ahead
	}
	return classOf(size)
}

// classOf is how urgent a blob of so many bytes is to a client that waits for it; 0
// where the size is not known.
func classOf(size int64) slots.Class {
	if size > 0 && size <= wholeFirst {
		return slots.Small
	}
	return slots.First
}

// acquire waits for one of the slots, as urgently as the blob is wanted. Size is the
// blob's, 0 where it is not known.
func (f *fill) acquire(ctx context.Context, from *slots.Slots, size int64) (release func(), err error) {
	f.queued.Add(1)
	defer f.queued.Add(-1)
	class := f.class(size)
	if class != slots.Ahead {
		return from.Acquire(ctx, class)
	}
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	hurried := make(chan struct{})
	go func() {
		defer close(hurried)
		select {
		case <-f.urgent:
			cancel() // to queue again, with others of its kind
		case <-patient.Done():
		}
	}()
	release, err = from.Acquire(patient, class)
	cancel()
	<-hurried
	if err != nil && ctx.Err() == nil {
		return from.Acquire(ctx, f.class(size))
	}
	return release, err
}

// advance notes that a span is in the draft, and tells readers of it now or soon.
func (f *fill) advance(span extents.Span) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.came == 0 {
		f.span.Event("first byte")
	}
	f.have.Add(span)
	f.news += span.Len()
	f.came += span.Len()
	f.lastByte, f.broke = now, nil
	switch {
	case f.news >= announceBytes, now.Sub(f.lastTold) >= announceEvery:
		f.announce(now)
	case f.waiting:
	case f.later == nil:
		f.waiting = true
		f.later = time.AfterFunc(announceEvery, func() { f.change(func() {}) })
	default:
		f.waiting = true
		f.later.Reset(announceEvery)
	}
}

// announce wakes the readers. The caller holds f.mu.
func (f *fill) announce(now time.Time) {
	f.shown = append(f.shown[:0], f.have...)
	f.news, f.lastTold, f.waiting = 0, now, false
	close(f.progress)
	f.progress = make(chan struct{})
}

// begin tells readers that the remote has answered.
func (f *fill) begin() {
	f.mu.Lock()
	f.lastByte = time.Now()
	f.mu.Unlock()
	close(f.started) // who waits for bytes hears of the first ones at once
}

// end tells that nothing is missing.
func (f *fill) end() { f.change(func() { f.complete = true }) }

// finish tells readers that all bytes are there, and right.
func (f *fill) finish() {
	f.span.Event("verified")
	f.change(func() { f.verified = true })
}

// fail tells readers that no more will come.
func (f *fill) fail(err error) {
	f.change(func() { f.err = err })
	select {
	case <-f.started:
	default:
		close(f.started)
	}
}

// isEnding tells whether the fill is failing.
func (f *fill) isEnding() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ending
}

// cause is why the fill has failed, nil while it has not.
func (f *fill) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// held is how many bytes there are.
func (f *fill) held() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Len()
}

// idle is how long no byte has come.
func (f *fill) idle() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.lastByte)
}

// change alters the state and tells readers.
func (f *fill) change(set func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set()
	f.announce(time.Now())
}

// await waits until done, which is called with f.mu held after each announcement,
// returns true.
func (f *fill) await(ctx context.Context, done func() bool) error {
	for {
		f.mu.Lock()
		ok, progress := done(), f.progress
		f.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// available waits until bytes at pos can be given out, and returns how many. At
// the end of a verified blob it returns io.EOF, after a failure its cause. N is
// how many the caller is going to read: what it has to wait for is fetched out of
// turn, if the remote gives parts.
func (f *fill) available(ctx context.Context, pos, n int64) (ready int64, err error) {
	var waits *want
	ended := f.await(ctx, func() bool {
		if ready, err = f.look(pos); ready > 0 || err != nil {
			return true
		}
		if waits == nil {
			waits = &want{pos, n}
			f.want(waits)
		}
		return false
	})
	if waits != nil {
		f.got(waits)
	}
	return ready, cmp.Or(ended, err)
}

// look tells how many bytes can be given out at a place, or why none ever can; 0
// and no error where it is not known yet. The caller holds f.mu.
func (f *fill) look(pos int64) (ready int64, err error) {
	end := f.shown.EndAt(pos)
	if !f.verified { // the end is held back
		last := f.size - 1
		if f.size < 0 {
			last = f.shown.EndAt(0) - 1
		}
		end = min(end, last)
	}
	switch {
	case end > pos:
		return end - pos, nil
	case f.err != nil:
		return 0, f.err
	case f.verified:
		return 0, io.EOF
	}
	return 0, nil
}

// want tells the download that a place is wanted. The caller holds f.mu.
func (f *fill) want(w *want) {
	f.wants[w] = struct{}{}
	select {
	case f.wanted <- struct{}{}:
	default: // it knows that there is something new
	}
}

// got takes back that a place is wanted.
func (f *fill) got(w *want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.wants, w)
}

// whole waits until the blob is verified and returns its size.
func (f *fill) whole(ctx context.Context) (size int64, err error) {
	ended := f.await(ctx, func() bool {
		size, err = f.have.Len(), f.err
		return f.verified || f.err != nil
	})
	if err = cmp.Or(ended, err); err != nil {
		return 0, err
	}
	return size, nil
}
