package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"registry-module/internal/extents"
	"registry-module/internal/verify"
)

// stream brings one span of a blob into its draft, over one connection.
type stream struct {
	f      *fill
	by     *Repository // whose name the remote is asked for
	res    *reservation
	span   extents.Span
	part   BlobPart // what the remote is asked for to get it
	end    int64    // of the blob; maxEnd where it is not known
	untold bool     // the remote does not tell the blob's size
	events chan<- event
}

// run fetches the span, from an answer that has begun or a new one. It returns
// whether there was an answer, and how many bytes the draft has gained. Where the
// answer ends early, but well, there is no error.
func (s *stream) run(ctx context.Context, o opened) (began bool, got int64, err error) {
	f := s.f
	if o.release == nil {
		if o.release, err = f.acquire(ctx, s.by.remote.streamSlots, f.size); err != nil {
			return false, 0, err
		}
	}
	defer o.release()
	if o.stream == nil {
		if o.stream, err = s.by.remote.current().Blob(ctx, s.by.name, f.dgst, s.part); err != nil {
			return false, 0, err
		}
	}
	defer func() { _ = o.stream.Body.Close() }() // it was only read
	switch size := o.stream.Size; {
	case f.size >= 0 && size >= 0 && size != f.size:
		return false, 0, s.by.bodyError(f.dgst, otherSize(size, f.size))
	case o.stream.Offset == 0 && s.span.Start > 0:
		return false, 0, errWhole
	case o.stream.Offset != s.span.Start:
		return false, 0, s.by.bodyError(f.dgst, otherOffset(o.stream.Offset, s.span.Start))
	}
	s.events <- event{by: s.by, opened: o.stream}
	got, err = s.copy(ctx, o.stream)
	if err != nil && !errors.Is(err, ErrNoSpace) {
		err = s.by.bodyError(f.dgst, err)
	}
	return true, got, err
}

// copy puts what comes into the draft.
func (s *stream) copy(ctx context.Context, from *BlobStream) (got int64, err error) {
	d := draftWriter{stream: s, other: errOther}
	if from.Size < 0 && !s.untold {
		// It has told the size before: this may be anything, such as the page of a
		// captive portal, and says nothing about what is there.
		d.other = verify.ErrMismatch
	}
	defer d.close()
	buf := s.f.c.buffer()
	defer s.f.c.recycle(buf)
	pos := s.span.Start
	for pos < s.span.End {
		n, readErr := from.Body.Read((*buf)[:min(int64(len(*buf)), s.span.End-pos)])
		if n > 0 {
			fresh, err := d.put(ctx, (*buf)[:n], pos)
			got += fresh
			if err != nil {
				return got, err
			}
			pos += int64(n)
		}
		switch {
		case readErr == nil, pos == s.span.End: // an error behind the last byte is none
			continue
		case readErr != io.EOF:
			return got, readErr
		case s.end == maxEnd, from.Length >= 0 && pos == from.Offset+from.Length && pos > s.span.Start:
			return got, nil
		}
		return got, fmt.Errorf("%w: the answer ends at byte %d, and should at %d", io.ErrUnexpectedEOF, pos, s.span.End)
	}
	// The connection can be used again only when the end of the answer was seen.
	// Should there be more instead: what was asked for is here.
	_, _ = from.Body.Read((*buf)[:1])
	return got, nil
}

// draftWriter writes to the draft what is not there, and compares what is.
type draftWriter struct {
	*stream
	other  error             // is what differs
	there  extents.Set       // when the first byte came
	looked bool              // there is set
	old    io.ReadSeekCloser // of the draft; nil until something is compared
	buf    []byte
}

// put takes bytes for a place. It returns how many of them are new.
func (d *draftWriter) put(ctx context.Context, p []byte, pos int64) (fresh int64, err error) {
	if !d.looked {
		// Only a stream that gives the whole again finds something in its span,
		// and that one has no others beside it.
		d.looked = true
		d.f.mu.Lock()
		for _, a := range d.f.have {
			d.there.Add(extents.Span{Start: max(a.Start, d.span.Start), End: min(a.End, d.span.End)})
		}
		d.f.mu.Unlock()
	}
	for len(p) > 0 {
		if n := min(d.there.EndAt(pos)-pos, int64(len(p))); n > 0 {
			if err := d.compare(ctx, p[:n], pos); err != nil {
				return fresh, err
			}
			p, pos = p[n:], pos+n
			continue
		}
		n := int64(len(p))
		for gap := range d.there.Gaps(extents.Span{Start: pos, End: pos + n}) {
			n = gap.Len()
			break
		}
		if err := d.write(ctx, p[:n], pos); err != nil {
			return fresh, err
		}
		p, pos, fresh = p[n:], pos+n, fresh+n
	}
	return fresh, nil
}

func (d *draftWriter) write(ctx context.Context, p []byte, pos int64) error {
	n := int64(len(p))
	if d.end == maxEnd {
		if err := d.f.c.fitMore(ctx, d.res, pos+n); err != nil {
			return err
		}
	}
	if _, err := d.f.draft.WriteAt(p, pos); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	d.res.wrote(n)
	d.f.advance(extents.Span{Start: pos, End: pos + n})
	return nil
}

// compare makes sure that the remote gives what it gave before.
func (d *draftWriter) compare(ctx context.Context, p []byte, pos int64) (err error) {
	if d.old == nil {
		if d.old, err = d.f.draft.Open(ctx); err != nil {
			return fmt.Errorf("%w: %w", errStorage, err)
		}
		d.buf = make([]byte, streamBuffer)
	}
	_, err = d.old.Seek(pos, io.SeekStart)
	if err == nil {
		_, err = io.ReadFull(d.old, d.buf[:len(p)])
	}
	if err != nil {
		return fmt.Errorf("%w: reading what was written: %w", errStorage, err)
	}
	if !bytes.Equal(p, d.buf[:len(p)]) {
		return fmt.Errorf("%w: other bytes than before, from byte %d on", d.other, pos)
	}
	return nil
}

func (d *draftWriter) close() {
	if d.old != nil {
		_ = d.old.Close() // it was only read
	}
}
