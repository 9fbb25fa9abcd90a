package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"registry-module/internal/extents"
	"registry-module/internal/slots"
	"registry-module/internal/verify"
)

const (
	// streamBuffer is what a stream reads from the remote at once.
	streamBuffer = 256 << 10

	// A blob of at least manyFrom bytes is fetched by several streams, in chunks
	// of minChunk to maxChunk: the way to the remote and back is waited for once
	// a chunk, and what came out of order has to be read again to be hashed.
	manyFrom = 32 << 20
	minChunk = 8 << 20
	maxChunk = 32 << 20
	// wantedChunk is what is fetched at least where a reader waits.
	wantedChunk = 1 << 20

	// syncEvery is how often what has come is made durable: a loss of power
	// costs the download of that time.
	syncEvery = 10 * time.Second
)

// download brings one blob into a draft: which spans are fetched by how many
// streams, what is done when they break, and whether the whole is right. One
// goroutine, run's, decides; each stream has one of its own, and so has the sum.
type download struct {
	f   *fill
	res *reservation
	// partial is f.draft where that can be kept, nil where it is too small to
	// be worth it.
	partial Partial

	end       int64 // of the blob; maxEnd where it is not known
	parts     bool  // the remote gives parts
	wholes    int   // how often in a row it gave the whole instead
	whole     bool  // that was too often
	chunk     int64 // what one stream fetches at a time; 0 is all that is missing
	validator string

	untold   bool        // the remote has not told the size at first
	known    partialNote // of what was taken up
	accepted bool        // the remote serves the blob in f.by

	claimed extents.Set // what streams are fetching
	streams int         // how many there are
	opening int         // how many of them wait for the remote's answer
	events  chan event
	summed  chan struct{} // closed when sumErr is set
	sumErr  error         // nil: all is there and right
	synced  chan error    // nil unless Sync runs

	retry retry
	pause *time.Timer // runs until a stream may be started again; nil: now
	// shy is set from a failure until a stream has been opened again: meanwhile
	// the remote is asked one thing at a time.
	shy bool
}

// event is what a stream tells.
type event struct {
	span extents.Span // what it was to fetch
	// opened is the remote's answer. Where it is nil, the stream has ended, having
	// fetched got bytes.
	opened *BlobStream
	began  bool // it was opened before
	got    int64
	err    error
}

// maxWholes is how often in a row the remote may give the whole instead of a part
// before it is taken: one of several servers may be of another kind.
const maxWholes = 2

var (
	// errWhole means that the remote does not give parts.
	errWhole = errors.New("the remote has given the whole blob, and a part was asked for")
	// errOther means that the remote gives another blob of the same length for a
	// digest than it gave before: one of them is wrong.
	errOther = fmt.Errorf("%w: the remote gives another blob", verify.ErrMismatch)
)

// run brings the blob into the draft and verifies it. The reservation is for what
// the draft holds, after an error, too.
func (d *download) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	// No stream sends more than two events, or has to wait to do it.
	d.events = make(chan event, 2*2*d.f.c.opts.Connections)
	d.summed = make(chan struct{})
	go func() {
		defer close(d.summed)
		d.sumErr = d.f.hash(ctx)
	}()
	d.f.begin()
	if first != nil {
		d.launch(ctx, *first)
	}
	if err = d.supervise(ctx); err == nil {
		d.f.finish() // nobody waits for the disk
	} else {
		cancel()
	}
	d.wait()
	return err
}

// opened is a stream whose answer has begun.
type opened struct {
	stream  *BlobStream
	span    extents.Span
	release func()
}

// prepare takes up what is kept of the blob, reserves room and asks the remote.
// There is no stream where nothing is missing.
func (d *download) prepare(ctx context.Context) (first *opened, err error) {
	f := d.f
	named := f.by.namedSize(ctx, f.dgst)
	d.takeUp(ctx, named)
	// A manifest tells the size before the remote does: what has no room is not
	// even asked for.
	if err := f.c.fit(ctx, &d.res, named); err != nil {
		return nil, err
	}
	size := cmp.Or(max(d.known.Size, named, 0), -1) // for a start: the remote decides
	d.setSize(size)
	if size > 0 && f.have.EndAt(0) == size {
		return nil, d.confirm(ctx, size)
	}
	release, err := f.acquire(ctx, named)
	if err != nil {
		return nil, err
	}
	span, _ := d.next()
	stream, err := d.knock(ctx, span)
	if unusablePart(err) && d.part(span) != (BlobPart{}) {
		// It has another copy by now, or less than what is kept, or it does not know
		// how: there is still the whole.
		d.forget()
		d.chunk, span = 0, extents.Span{End: d.end}
		if err = f.c.fit(ctx, &d.res, named); err == nil {
			stream, err = d.knock(ctx, span)
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	if err := d.accept(ctx, stream); err != nil {
		release()
		return nil, errors.Join(err, stream.Body.Close())
	}
	if !stream.Part {
		span = extents.Span{End: d.end}
	}
	return &opened{stream, span, release}, nil
}

// takeUp goes on with what is kept of the blob, unless it is of another size than
// a manifest says.
func (d *download) takeUp(ctx context.Context, named int64) {
	f := d.f
	if d.res = f.c.takeLeft(f.dgst); d.res == nil {
		return
	}
	p, err := f.c.opts.Partials.Resume(ctx, f.dgst)
	if err != nil {
		f.c.log.WithError(err).Warnf("what is kept of %s cannot be read; its download starts anew", f.dgst)
		d.forget()
		return
	}
	d.partial, f.draft = p, p
	d.known = readNote(p.Note())
	d.validator = d.known.Validator
	f.change(func() { f.have = slices.Clone(p.Held()) }) // somebody may wait for the whole already
	if size := cmp.Or(max(d.known.Size, 0), named); size > 0 && (named > 0 && named != size || f.have.End() > size) {
		d.forget()
		return
	}
	if n := f.have.Len(); n > 0 {
		f.c.log.Infof("download of %s goes on: %d bytes are there", f.dgst, n)
	}
	d.res.hold(f.have.Len()) // less than what was kept, where something was lost
}

// forget discards what was taken up.
func (d *download) forget() {
	d.discard()
	d.f.change(func() { d.f.have = nil })
	d.f.draft = nil
	d.partial, d.res, d.known, d.validator = nil, nil, partialNote{}, ""
}

// confirm makes sure that the remote serves the blob, of which none of size bytes
// is missing, in the repository.
func (d *download) confirm(ctx context.Context, size int64) error {
	f := d.f
	f.size = size
	if !d.known.vouchedFor(f.c.remote(), f.by.key) {
		if _, err := f.c.opts.Upstream.StatBlob(ctx, f.by.name, f.dgst); err != nil {
			return err
		}
	}
	d.accepted = true
	return nil
}

func (d *download) setSize(size int64) {
	d.end, d.chunk = size, 0
	if size < 0 {
		d.end = maxEnd
		return
	}
	if n := int64(d.f.c.opts.Connections); n > 1 && size >= manyFrom {
		chunk := size / (2 * n) / PartSize * PartSize
		d.chunk = min(max(chunk, minChunk), maxChunk)
	}
}

// maxEnd stands for the end of a blob whose length is not known.
const maxEnd = 1<<63 - 1

// part is what the remote is asked for to get a span.
func (d *download) part(span extents.Span) BlobPart {
	part := BlobPart{Offset: span.Start, Validator: d.validator}
	if span.End < d.end {
		part.Length = span.Len()
	}
	return part
}

// knock asks the remote for the first span. An answer of 5xx, or to come back in a
// moment, is no reason to disappoint a client at once; but it waits for a status.
func (d *download) knock(ctx context.Context, span extents.Span) (*BlobStream, error) {
	const tries = 3
	const patience = 2 * time.Second // for one try
	var r retry
	for try := 1; ; try++ {
		stream, err := d.f.c.opts.Upstream.Blob(ctx, d.f.by.name, d.f.dgst, d.part(span))
		if up, ok := errors.AsType[*UpstreamError](err); !ok || up.Status < 500 && up.RetryAfter == 0 || try == tries {
			return stream, err
		}
		wait := r.wait(err)
		if wait > patience {
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// unusablePart tells whether err is that the remote has understood a request for a
// part, and not given the one that was asked for.
func unusablePart(err error) bool {
	const partialContent, rangeNotSatisfiable = 206, 416 // of HTTP
	up, ok := errors.AsType[*UpstreamError](err)
	return ok && errors.Is(err, ErrInvalid) && (up.Status == partialContent || up.Status == rangeNotSatisfiable)
}

// accept takes the remote's first answer as the truth about the blob's size,
// makes room for it, and prepares the draft.
func (d *download) accept(ctx context.Context, stream *BlobStream) error {
	f := d.f
	f.size = stream.Size
	d.untold = f.size < 0 && d.known.Size <= 0
	if f.size < 0 { // it need not say how long the whole is; a manifest may
		f.size = cmp.Or(max(d.known.Size, f.by.namedSize(ctx, f.dgst), 0), -1)
	}
	if size := d.known.Size; size > 0 && f.size != size {
		return f.by.bodyError(f.dgst, otherSize(f.size, size))
	}
	if held := f.have.End(); f.size >= 0 && f.size < held {
		return f.by.bodyError(f.dgst, fmt.Errorf("%w: the remote says that it has %d bytes, and %d are there", verify.ErrMismatch, f.size, held))
	}
	d.setSize(f.size)
	d.parts, d.validator = stream.Part, stream.Validator
	if !stream.Part {
		d.chunk = 0 // until it turns out that the remote gives parts
	}
	if err := f.c.fit(ctx, &d.res, f.size); err != nil {
		return err
	}
	d.accepted = true
	if err := d.create(ctx); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

// otherSize is the error for a blob whose size the remote has changed.
func otherSize(now, before int64) error {
	if now < 0 {
		return fmt.Errorf("%w: the remote does not say how long it is, and said %d bytes before", verify.ErrMismatch, before)
	}
	return fmt.Errorf("%w: the remote says that it has %d bytes, and said %d before", verify.ErrMismatch, now, before)
}

// create makes the draft, if there is none, and has it kept if it is worth it.
func (d *download) create(ctx context.Context) (err error) {
	f := d.f
	if f.draft == nil {
		if f.size >= 0 && f.size <= PartSize {
			f.draft, err = f.c.opts.Blobs.Create(ctx, f.dgst)
			return err
		}
		if d.partial, err = f.c.opts.Partials.Resume(ctx, f.dgst); err != nil {
			return err
		}
		f.draft = d.partial
	}
	if err := d.partial.Keep(d.note()); err != nil {
		f.c.log.WithError(err).Warnf("the download of %s starts anew if it is interrupted", f.dgst)
	}
	return nil
}

// supervise starts streams and follows them until the blob is complete and
// verified.
func (d *download) supervise(ctx context.Context) error {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	var dirty int64
	for {
		d.more(ctx)
		if d.streams == 0 && d.pause == nil && d.missing() == nil {
			d.f.end()
			break
		}
		var paused <-chan time.Time
		if d.pause != nil {
			paused = d.pause.C
		}
		select {
		case e := <-d.events:
			if err := d.handle(ctx, e); err != nil {
				return err
			}
		case <-paused:
			d.pause = nil
		case <-d.f.wanted:
		case <-ticker.C:
			if held := d.f.held(); d.partial != nil && d.synced == nil && held != dirty {
				dirty = held
				d.sync(ctx)
			}
		case err := <-d.synced:
			d.synced = nil
			if err != nil && ctx.Err() == nil {
				d.f.c.log.WithError(err).Warnf("the unfinished download of %s is not durable", d.f.dgst)
			}
		case <-d.summed:
			return d.sumErr // too early: what was written cannot be read
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	<-d.summed
	return d.sumErr
}

// wait waits until nobody uses the draft any more.
func (d *download) wait() {
	for d.streams > 0 {
		if e := <-d.events; e.opened == nil {
			d.streams--
		}
	}
	<-d.summed
	if d.synced != nil {
		<-d.synced
	}
	if d.pause != nil {
		d.pause.Stop()
	}
}

func (d *download) sync(ctx context.Context) {
	d.synced = make(chan error, 1)
	go func() { d.synced <- d.partial.Sync(ctx) }()
}

// missing returns the first span that neither is there nor on its way; nil where
// there is none.
func (d *download) missing() *extents.Span {
	if span, ok := d.next(); ok {
		return &span
	}
	return nil
}

// more starts streams, as many as there is something to fetch for.
func (d *download) more(ctx context.Context) {
	for d.pause == nil {
		span, wanted := d.wantedSpan()
		if !wanted {
			var ok bool
			if span, ok = d.next(); !ok {
				return
			}
		}
		if d.streams == 0 {
			d.launch(ctx, opened{span: span})
			continue
		}
		limit := d.f.c.opts.Connections
		if wanted {
			limit *= 2 // who waits for a place far ahead is not to wait for a chunk, too
		}
		if d.chunk == 0 || d.streams >= limit || d.shy && d.opening > 0 {
			return
		}
		release, ok := d.f.c.slots.Try(slots.Extra)
		if !ok {
			return
		}
		d.launch(ctx, opened{span: span, release: release})
	}
}

// next returns the first span that is missing and that nobody fetches.
func (d *download) next() (extents.Span, bool) {
	busy := d.busy()
	for gap := range busy.Gaps(extents.Span{End: d.end}) {
		if d.whole {
			return extents.Span{End: d.end}, d.streams == 0
		}
		return cut(gap, d.chunk), true
	}
	return extents.Span{}, false
}

// wantedSpan returns a span that a reader waits for, and that nobody fetches.
func (d *download) wantedSpan() (extents.Span, bool) {
	if d.chunk == 0 {
		return extents.Span{}, false
	}
	busy := d.busy()
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	var first *want
	for w := range d.f.wants {
		if busy.EndAt(w.pos) == w.pos && w.pos < d.end && (first == nil || w.pos < first.pos) {
			first = w
		}
	}
	if first == nil {
		return extents.Span{}, false
	}
	start := first.pos / PartSize * PartSize
	for gap := range busy.Gaps(extents.Span{Start: start, End: d.end}) {
		if first.pos < gap.End {
			return cut(gap, min(max(first.pos+first.n-gap.Start, wantedChunk), d.chunk)), true
		}
	}
	return extents.Span{}, false
}

// busy is what is there, or on its way.
func (d *download) busy() extents.Set {
	d.f.mu.Lock()
	busy := slices.Clone(d.f.have)
	d.f.mu.Unlock()
	for _, s := range d.claimed {
		busy.Add(s)
	}
	return busy
}

// cut limits a gap to n bytes, up to a place from which a part can be kept.
func cut(gap extents.Span, n int64) extents.Span {
	if n > 0 && gap.Len() > n {
		gap.End = min(gap.End, (gap.Start+n+PartSize-1)/PartSize*PartSize)
	}
	return gap
}

// launch starts a stream: for an answer that has begun, or for a span.
func (d *download) launch(ctx context.Context, o opened) {
	d.claimed.Add(o.span)
	d.streams++
	d.opening++
	s := stream{f: d.f, res: d.res, span: o.span, part: d.part(o.span), end: d.end, untold: d.untold, events: d.events}
	go func() {
		began, got, err := s.run(ctx, o)
		d.events <- event{span: o.span, began: began, got: got, err: err}
	}()
}

// handle takes note of what a stream tells. An error ends the download.
func (d *download) handle(ctx context.Context, e event) error {
	if e.opened != nil {
		d.opening--
		d.shy = false
		d.validator = cmp.Or(e.opened.Validator, d.validator)
		if e.opened.Part {
			d.wholes = 0
			if !d.parts {
				d.parts = true
				d.setSize(d.f.size)
			}
		}
		return nil
	}
	d.streams--
	if !e.began {
		d.opening--
	}
	d.claimed.Remove(e.span)
	if e.got >= PartSize {
		d.retry.progress()
	}
	switch {
	case e.err == nil:
		if e.span.End == maxEnd { // it has ended well, so the end is known
			d.end = d.f.held()
		}
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(e.err, ErrNoSpace), errors.Is(e.err, errOther):
		return e.err
	case errors.Is(e.err, errWhole):
		if d.wholes++; d.wholes < maxWholes {
			return d.failed(e)
		}
		d.parts, d.whole, d.chunk = false, true, 0
		d.f.c.log.Infof("%s gives no parts of %s: it comes from its start again", d.f.c.remote(), d.f.dgst)
		return nil
	}
	return d.failed(e)
}

// failed decides whether a stream is worth another try, and when.
func (d *download) failed(e event) error {
	d.shy = true
	if d.pause != nil {
		return nil // another one has failed just before
	}
	log := d.f.c.log.WithError(e.err)
	wait, err := d.retry.again(e.err, d.f.idle(), d.f.c.opts.RetryFor)
	if err != nil {
		return err
	}
	if wait == 0 {
		log.Debugf("download of %s goes on at once", d.f.dgst)
		return nil
	}
	log.Infof("download of %s goes on in %v", d.f.dgst, wait.Round(10*time.Millisecond))
	d.pause = time.NewTimer(wait)
	return nil
}

// putAside ends a download that has failed: what is right of it is kept for the
// next one. It returns how many bytes that are.
func (d *download) putAside(cause error) (kept int64) {
	f := d.f
	if d.partial == nil || f.c.opts.PartialTTL < 0 || !d.worthKeeping(cause) {
		d.discard()
		return 0
	}
	var err error
	note := d.partial.Note()
	if d.accepted { // other repositories may have been vouched for meanwhile
		note = d.note()
		err = d.partial.Keep(note)
	}
	kept, suspendErr := d.partial.Suspend()
	if err = errors.Join(err, suspendErr); err != nil {
		f.c.log.WithError(err).Warnf("keeping the unfinished download of %s", f.dgst)
	}
	if kept == 0 {
		d.res.release()
		return 0
	}
	d.res.hold(kept)
	f.c.leave(f.dgst, d.res, note)
	return kept
}

// worthKeeping tells whether bytes that came before cause are of use after it.
func (d *download) worthKeeping(cause error) bool {
	if errors.Is(cause, ErrNotFound) {
		// What the remote has never served in this repository, it may in others.
		return !d.accepted && !d.known.vouchedFor(d.f.c.remote(), d.f.by.key)
	}
	return !errors.Is(cause, ErrNoSpace) && !errors.Is(cause, errWrong) && !errors.Is(cause, errOther)
}

// errWrong means that the blob is complete and wrong.
var errWrong = errors.New("the blob is wrong")

// discard gives up the draft and its space.
func (d *download) discard() {
	if d.f.draft != nil {
		if err := d.f.draft.Discard(); err != nil {
			d.f.c.log.WithError(err).Warnf("removing the unfinished download of %s", d.f.dgst)
		}
	}
	if d.res != nil {
		d.res.release()
	}
}
