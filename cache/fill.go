package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

const (
	// fillBuffer is what a fill reads from the remote at once.
	fillBuffer = 256 << 10
	// Readers are told of progress when announceBytes have come since they were
	// last told, or announceEvery has passed. Waking fifty readers for each
	// segment that the remote sends costs more than serving them.
	announceBytes = 1 << 20
	announceEvery = 5 * time.Millisecond
	// blindStep is how much a reservation grows by at least where the remote
	// does not say how long the blob is.
	blindStep = 16 << 20
)

// fill is one download of one blob. It is owned by the cache: readers come and
// go, and it goes on. Its life:
//
//	starting -> filling -> verified -> gone (stored)
//	    \___________\___________\____> gone (failed)
//
// "gone" means that it is no longer in Cache.fills; readers that have it may
// use it on.
type fill struct {
	c    *Cache
	dgst digest.Digest
	by   *Repository // whose name the blob is asked for

	// started is closed when size and draft are known, or when the fill has
	// failed before.
	started chan struct{}
	size    int64 // of the whole blob in bytes, -1 where the remote does not say
	draft   Draft

	mu        sync.Mutex    // guards the fields below
	progress  chan struct{} // closed and replaced by each announcement
	written   int64
	announced int64     // of written, what readers know of
	lastTold  time.Time // when they were told
	later     *time.Timer
	waiting   bool // later is going to announce the rest
	verified  bool
	err       error
	// vouched are the repositories under which the remote serves the blob.
	vouched   map[string]*Repository
	allLinked bool // no more of them are linked
}

// errStored is the answer for a blob that needs no fill.
var errStored = errors.New("blob is stored")

// fill returns the running download of dgst, starting one by the name of r where
// there is none. Fresh tells that it was started.
func (c *Cache) fill(ctx context.Context, r *Repository, dgst digest.Digest) (f *fill, fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, ErrClosed
	}
	if f := c.fills[dgst]; f != nil {
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
		c: c, dgst: dgst, by: r, size: -1,
		started:  make(chan struct{}),
		progress: make(chan struct{}),
		vouched:  map[string]*Repository{r.key: r},
	}
	c.fills[dgst] = f
	c.wg.Go(f.run)
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
	ctx := f.c.ctx
	res, err := f.download(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = ErrClosed
		}
		if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNoSpace) {
			f.c.log.WithError(err).Warnf("download of %s failed after %d bytes", f.dgst, f.written)
		}
		f.drop() // first, so that who tries again does not meet this one
		f.fail(err)
		f.discard(res)
		return
	}
	// Readers have everything by now; what follows is for those to come.
	if err := f.store(ctx, res); err != nil {
		f.c.log.WithError(err).Warnf("blob %s could not be stored and was served uncached", f.dgst)
		f.drop()
		f.discard(res)
		return
	}
	f.drop()
}

// download brings the blob into a draft and verifies it. The reservation is for
// what the draft holds, after an error, too.
func (f *fill) download(ctx context.Context) (*reservation, error) {
	select {
	case f.c.slots <- struct{}{}:
		defer func() { <-f.c.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	hash, err := verify.NewHash(f.dgst)
	if err != nil {
		return nil, err
	}
	// A manifest tells the size before the remote does: what has no room is not
	// even asked for.
	res, err := f.c.space.reserve(ctx, f.by.namedSize(ctx, f.dgst))
	if err != nil {
		return nil, err
	}
	stream, err := f.c.opts.Upstream.Blob(ctx, f.by.name, f.dgst, BlobPart{})
	if err != nil {
		return res, err
	}
	defer func() { _ = stream.Body.Close() }() // it was only read
	f.size = stream.Size
	if err := res.fit(ctx, f.size); err != nil {
		return res, err
	}
	if f.draft, err = f.c.opts.Blobs.Create(ctx, f.dgst); err != nil {
		return res, fmt.Errorf("%w: %w", errStorage, err)
	}
	close(f.started)
	if err := f.copy(ctx, stream.Body, hash, res); err != nil {
		return res, err
	}
	if err := hash.Verify(f.size); err != nil {
		return res, f.by.bodyError(f.dgst, err)
	}
	f.finish()
	return res, nil
}

// errStorage means that content cannot be stored, though the remote gives it.
// Readers get it from the remote then.
var errStorage = fmt.Errorf("%w: the storage fails", ErrNoSpace)

// copy appends what the remote sends to the draft.
func (f *fill) copy(ctx context.Context, body io.Reader, hash *verify.Hash, res *reservation) error {
	buf := make([]byte, fillBuffer)
	for {
		n, readErr := body.Read(buf)
		if n > 0 {
			if f.size >= 0 && hash.Size()+int64(n) > f.size {
				return f.by.bodyError(f.dgst, fmt.Errorf("%w: more than the announced %d bytes", verify.ErrMismatch, f.size))
			}
			if err := res.fit(ctx, hash.Size()+int64(n)); err != nil {
				return err
			}
			_, _ = hash.Write(buf[:n]) // never fails
			if _, err := f.draft.WriteAt(buf[:n], hash.Size()-int64(n)); err != nil {
				return fmt.Errorf("%w: %w", errStorage, err)
			}
			res.wrote(int64(n))
			f.advance(int64(n))
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return f.by.bodyError(f.dgst, readErr)
		}
	}
}

// bodyError says what has gone wrong in the middle of a blob: it is not what was
// asked for, or the remote has broken off.
func (r *Repository) bodyError(dgst digest.Digest, err error) error {
	if _, ok := errors.AsType[*UpstreamError](err); ok {
		return err
	}
	kind := ErrUnavailable
	if errors.Is(err, verify.ErrMismatch) {
		kind = ErrInvalid
	}
	return &UpstreamError{
		Kind: kind, Remote: r.c.opts.Upstream.Host(),
		Op: fmt.Sprintf("fetching blob %s of %s", dgst, r.name), Err: err,
	}
}

// namedSize is the size of dgst that a manifest of the repository tells, or 0.
func (r *Repository) namedSize(ctx context.Context, dgst digest.Digest) int64 {
	var rec contentRecord
	if err := r.c.record(ctx, key(kindNamed, r.key, dgst.String()), &rec); err != nil {
		return 0
	}
	return rec.Size
}

// store makes the verified draft durable, then links it into the repositories
// that the remote has vouched for.
func (f *fill) store(ctx context.Context, res *reservation) error {
	// Stopping is no reason to lose what is complete.
	ctx = context.WithoutCancel(ctx)
	if err := f.draft.Commit(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	size := f.written
	f.mu.Unlock()
	f.c.account(ctx, res, f.dgst, size)
	for linked := make(map[string]bool); ; {
		next := f.toLink(linked)
		if next == nil {
			return nil
		}
		next.tryLink(ctx, f.dgst, size, true)
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

// account counts content that was just stored under its reservation, once.
func (c *Cache) account(ctx context.Context, res *reservation, dgst digest.Digest, size int64) {
	c.accounts.Lock()
	defer c.accounts.Unlock()
	res.commit(c.counted(ctx, dgst)) // it is fetched again where its file was lost
	c.tryApply(ctx, put(key(kindBlob, dgst.String()), blobRecord{size}))
}

// serves tells whether the remote is known to serve the blob in r.
func (f *fill) serves(r *Repository) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.vouched[r.key] != nil
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

// discard gives up the draft and its space.
func (f *fill) discard(res *reservation) {
	if f.draft != nil {
		if err := f.draft.Discard(); err != nil {
			f.c.log.WithError(err).Warnf("removing the unfinished download of %s", f.dgst)
		}
	}
	if res != nil {
		res.release()
	}
}

// advance notes n bytes more, and tells readers of them now or soon.
func (f *fill) advance(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += n
	switch {
	case f.written-f.announced >= announceBytes, time.Since(f.lastTold) >= announceEvery:
		f.announce()
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
func (f *fill) announce() {
	f.announced, f.lastTold, f.waiting = f.written, time.Now(), false
	close(f.progress)
	f.progress = make(chan struct{})
}

// finish tells readers that all bytes are there, and right.
func (f *fill) finish() {
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

// cause is why the fill has failed, nil while it has not.
func (f *fill) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// change alters the state and tells readers.
func (f *fill) change(set func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set()
	f.announce()
}

// available waits until bytes at pos can be given out, and returns how many. At
// the end of a verified blob it returns io.EOF, after a failure its cause.
func (f *fill) available(ctx context.Context, pos int64) (int64, error) {
	for {
		f.mu.Lock()
		limit := f.announced
		if !f.verified {
			limit-- // the end is held back
		}
		verified, err, progress := f.verified, f.err, f.progress
		f.mu.Unlock()
		switch {
		case limit > pos:
			return limit - pos, nil
		case err != nil:
			return 0, err
		case verified:
			return 0, io.EOF
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// whole waits until the blob is verified and returns its size.
func (f *fill) whole(ctx context.Context) (int64, error) {
	for {
		f.mu.Lock()
		size, verified, err, progress := f.written, f.verified, f.err, f.progress
		f.mu.Unlock()
		switch {
		case verified:
			return size, nil
		case err != nil:
			return 0, err
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
