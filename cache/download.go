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
	"registry-module/internal/tracing"
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
	f *fill
	// by is whose name the next stream asks for: f.by, or for once that of another
	// remote. Tried are the hosts of those that were asked so.
	by    *Repository
	tried map[string]bool
	named int64 // the blob's size by a manifest of f.by; 0 where none tells
	res   *reservation
	// partial is f.draft where that can be kept, nil where it is too small to
	// be worth it.
	partial Partial

	end       int64 // of the blob; maxEnd where it is not known
	parts     bool  // the remote gives parts
	wholes    int   // how often in a row it gave the whole instead
	whole     bool  // that was too often
	chunk     int64 // what one stream fetches at a time; 0 is all that is missing
	validator string

	left     *leftover   // what was taken up; nil where nothing was
	known    partialNote // of what was taken up
	untold   bool        // the remote has not told the size at first
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
	by   *Repository
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

// enter runs the download when it is its turn.
func (d *download) enter(ctx context.Context) error {
	release, err := d.f.acquire(ctx, d.by.remote.fillSlots, d.named)
	if err != nil {
		return err
	}
	defer release()
	return d.run(ctx)
}

// run brings the blob into the draft and verifies it. The reservation is for what
// the draft holds, after an error, too.
func (d *download) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	if d.left != nil && d.f.held() > 0 {
		d.f.resumed = true
		d.f.by.counters().resumed.Add(1)
	}
	// No stream sends more than two events, or has to wait to do it.
	d.events = make(chan event, 2*2*d.by.remote.Connections)
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

func (d *download) setSize(size int64) {
	d.end, d.chunk = size, 0
	if size < 0 {
		d.end = maxEnd
		return
	}
	if n := int64(d.by.remote.Connections); n > 1 && size >= manyFrom {
		chunk := size / (2 * n) / PartSize * PartSize
		d.chunk = min(max(chunk, minChunk), maxChunk)
	}
}

// maxEnd stands for the end of a blob whose length is not known.
const maxEnd = 1<<63 - 1

// part is what the remote is asked for to get a span.
func (d *download) part(span extents.Span) BlobPart {
	part := BlobPart{Offset: span.Start}
	if d.by == d.f.by {
		part.Validator = d.validator
	}
	if span.End < d.end {
		part.Length = span.Len()
	}
	return part
}

// otherSize is the error for a blob whose size the remote has changed.
func otherSize(now, before int64) error {
	if now < 0 {
		return fmt.Errorf("%w: the remote does not say how long it is, and said %d bytes before", verify.ErrMismatch, before)
	}
	return fmt.Errorf("%w: the remote says that it has %d bytes, and said %d before", verify.ErrMismatch, now, before)
}

// otherOffset is the error for an answer that begins elsewhere than was asked for.
func otherOffset(got, asked int64) error {
	return fmt.Errorf("%w: the answer begins at byte %d, and %d was asked for", verify.ErrMismatch, got, asked)
}

// supervise starts streams and follows them until the blob is complete and
// verified.
func (d *download) supervise(ctx context.Context) error {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	var dirty int64
	for {
		d.more(ctx)
		if d.streams == 0 && d.pause == nil { // or more would have started one
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
		limit := d.by.remote.Connections
		if wanted {
			limit *= 2 // who waits for a place far ahead is not to wait for a chunk, too
		}
		if d.chunk == 0 || d.streams >= limit || d.shy && d.opening > 0 {
			return
		}
		class := slots.Extra
		if d.f.class(d.f.size) == slots.Ahead {
			class = slots.Ahead // what nobody waits for has a limit of its own
		}
		release, ok := d.by.remote.streamSlots.Try(class)
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
	s := stream{f: d.f, by: d.by, res: d.res, span: o.span, part: d.part(o.span), end: d.end, untold: d.untold, events: d.events}
	go func() {
		began, got, err := s.run(ctx, o)
		d.events <- event{by: s.by, span: o.span, began: began, got: got, err: err}
	}()
}

// handle takes note of what a stream tells. An error ends the download.
func (d *download) handle(ctx context.Context, e event) error {
	if e.opened != nil {
		d.opening--
		d.shy = false
		if e.by != d.f.by {
			return nil // what it can do says nothing about f.by
		}
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
	d.retry.progress(e.got)
	if e.began && e.span.Start > 0 && e.by == d.f.by {
		d.wholes = 0 // it was a part, whichever answer came first
	}
	switch {
	case e.err == nil && e.got < e.span.Len() && e.got < PartSize && e.span.End < maxEnd:
		e.err = fmt.Errorf("the remote has given %d bytes, and %d were asked for", e.got, e.span.Len())
		return d.failed(e) // not at once again, or it will take for ever
	case e.err == nil:
		if e.span.End == maxEnd { // it has ended well, so the end is known
			d.end = d.f.held()
		}
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(e.err, ErrNoSpace):
		return e.err
	case e.by != d.f.by:
		// That it does not go on there is no reason to give up.
		d.f.c.log.WithError(e.err).Infof("download of %s goes on at %s again", d.f.dgst, d.f.by.remote.Host)
		d.by = d.f.by
		return nil
	case errors.Is(e.err, errOther):
		return e.err
	case errors.Is(e.err, errWhole):
		if d.wholes++; d.wholes < maxWholes {
			return d.failed(e)
		}
		d.parts, d.whole, d.chunk = false, true, 0
		d.f.c.log.Infof("%s gives no parts of %s: it comes from its start again", d.by.remote.Host, d.f.dgst)
		return nil
	}
	return d.failed(e)
}

// failed decides whether a stream is worth another try, and when.
func (d *download) failed(e event) error {
	d.shy = true
	if d.pause != nil && !errors.Is(e.err, ErrOffline) {
		return nil // another one has failed just before
	}
	log := d.f.c.log.WithError(e.err)
	d.f.span.Event("broken off", tracing.String(errorAttr, e.err.Error()), tracing.Int(bytesAttr, e.got))
	wait, err := d.retry.again(e.err, d.f.idle(), d.f.by.remote.RetryFor)
	if err != nil && d.streams > 0 && (errors.Is(e.err, ErrUnavailable) || errors.Is(e.err, ErrRateLimited)) && !errors.Is(e.err, ErrOffline) {
		wait, err = maxWait, nil // the others bring something, whatever this one is told
	}
	if err != nil {
		return err
	}
	d.f.brokenOff(e.err)
	if wait == 0 {
		log.Debugf("download of %s goes on at once", d.f.dgst)
		return nil
	}
	d.turn()
	log.Infof("download of %s goes on in %v", d.f.dgst, wait.Round(10*time.Millisecond))
	d.pause = time.NewTimer(wait)
	return nil
}

// turn has the next streams ask another remote that serves the blob, too, if there is
// one that has not been asked yet: this one fails, and might for long.
func (d *download) turn() {
	next := d.f.elsewhere(d.tried)
	if next == nil {
		return
	}
	d.f.c.log.Infof("download of %s goes on at %s", d.f.dgst, next.remote.Host)
	d.f.span.Event("turned to another remote", tracing.String(remoteAttr, next.remote.Host))
	d.by = next
	if d.tried == nil {
		d.tried = make(map[string]bool)
	}
	d.tried[next.remote.Host] = true
}

// putAside ends a download that has failed: what is right of it is kept for the
// next one. It returns how many bytes that are.
func (d *download) putAside(cause error) (kept int64) {
	f := d.f
	if d.partial == nil || f.c.settings.Load().partialTTL < 0 || !d.worthKeeping(cause) {
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
	left := &leftover{res: d.res, used: f.c.opts.Now(), note: readNote(note)}
	if d.left != nil && kept <= d.left.kept {
		left.used = d.left.used // nothing has come since
	}
	d.res.hold(kept)
	left.kept = kept
	f.c.leave(f.dgst, left)
	return kept
}

// worthKeeping tells whether bytes that came before cause are of use after it.
func (d *download) worthKeeping(cause error) bool {
	if errors.Is(cause, ErrNotFound) {
		// In the middle of a blob it may pass. What the remote has never served in
		// this repository, it may in others. But what it does not begin to give any
		// more, though it did, is gone.
		return d.accepted || !d.known.vouchedFor(d.f.by.remote.Host, d.f.by.key)
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
