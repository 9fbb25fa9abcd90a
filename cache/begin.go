package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"registry-module/internal/extents"
	"registry-module/internal/slots"
	"registry-module/internal/tracing"
)

// prepare takes up what is kept of the blob, reserves room and asks the remote.
// There is no stream where nothing is missing.
func (d *download) prepare(ctx context.Context) (first *opened, err error) {
	f := d.f
	if err := d.takeUp(ctx); err != nil {
		return nil, err
	}
	// A manifest tells the size before the remote does: what has no room is not
	// even asked for.
	if err := f.c.fit(ctx, &d.res, d.named); err != nil {
		return nil, err
	}
	size := cmp.Or(max(d.known.Size, d.named, 0), -1) // for a start: the remote decides
	d.setSize(size)
	if size > 0 && f.have.EndAt(0) == size {
		return nil, d.confirm(ctx, size)
	}
	release, err := f.acquire(ctx, d.by.remote.streamSlots, d.named)
	if err != nil {
		return nil, err
	}
	span, _ := d.next()
	stream, err := d.ask(ctx, span)
	if errors.Is(err, ErrNoPart) && d.part(span) != (BlobPart{}) {
		// It has another copy by now, or less than what is kept, or it does not know
		// how: there is still the whole.
		d.forget()
		d.chunk, span = 0, extents.Span{End: d.end}
		if err = f.c.fit(ctx, &d.res, d.named); err == nil {
			stream, err = d.ask(ctx, span)
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	if !stream.Part {
		span = extents.Span{End: d.end}
	}
	return &opened{stream, span, release}, nil
}

// takeUp goes on with what is kept of the blob, unless it is of another size than
// a manifest says.
func (d *download) takeUp(ctx context.Context) error {
	f := d.f
	left := f.c.takeLeft(f.dgst)
	if left == nil {
		return nil
	}
	p, err := f.c.opts.Partials.Resume(ctx, f.dgst)
	if err != nil {
		f.c.leave(f.dgst, left) // it may be readable later
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	d.left, d.res, d.partial, f.draft = left, left.res, p, p
	d.known = readNote(p.Note())
	d.validator = d.known.Validator
	f.change(func() { f.have = slices.Clone(p.Held()) }) // somebody may wait for the whole already
	if size := cmp.Or(max(d.known.Size, 0), d.named); size > 0 && (d.named > 0 && d.named != size || f.have.End() > size) {
		d.forget()
		return nil
	}
	if n := f.have.Len(); n > 0 {
		f.c.log.Infof("download of %s goes on: %d bytes are there", f.dgst, n)
		f.span.Event("resumed", tracing.Int(bytesAttr, n))
	}
	d.res.hold(f.have.Len()) // less than what was kept, where something was lost
	return nil
}

// forget discards what was taken up.
func (d *download) forget() {
	d.discard()
	d.f.change(func() { d.f.have = nil })
	d.f.draft = nil
	d.left, d.partial, d.res, d.known, d.validator = nil, nil, nil, partialNote{}, ""
}

// confirm makes sure that the remote serves the blob, of which none of size bytes
// is missing, in the repository.
func (d *download) confirm(ctx context.Context, size int64) error {
	f := d.f
	f.size = size
	if !d.known.vouchedFor(f.by.remote.Host, f.by.key) {
		if _, err := f.by.remote.current().StatBlob(ctx, f.by.name, f.dgst); err != nil {
			return err
		}
	}
	d.accepted = true
	return nil
}

// ask asks the remote for the first span, and accepts its answer.
func (d *download) ask(ctx context.Context, span extents.Span) (*BlobStream, error) {
	stream, err := atOnce(ctx, func() (*BlobStream, error) {
		return d.by.remote.current().Blob(ctx, d.by.name, d.f.dgst, d.part(span))
	})
	if err != nil {
		return nil, err
	}
	if err := d.accept(ctx, stream); err != nil {
		return nil, errors.Join(err, stream.Body.Close())
	}
	return stream, nil
}

// accept takes the remote's first answer as the truth about the blob's size,
// makes room for it, and prepares the draft.
func (d *download) accept(ctx context.Context, stream *BlobStream) error {
	f := d.f
	f.size = stream.Size
	if f.promised > 0 && f.size >= 0 && f.size != f.promised && f.class(0) == slots.Ahead {
		return f.by.bodyError(f.dgst, otherThanNamed(f.size, f.promised)) // no client waits for it
	}
	d.untold = f.size < 0 && d.known.Size <= 0
	if f.size < 0 { // it need not say how long the whole is; a manifest may
		f.size = cmp.Or(max(d.known.Size, d.named, 0), -1)
	}
	if before := max(d.known.Size, f.have.End()); d.known.Size > 0 && f.size != before || f.size >= 0 && f.size < before {
		err := otherSize(f.size, before)
		if stream.Part {
			err = fmt.Errorf("%w: %w", ErrNoPart, err) // it means it
		}
		return f.by.bodyError(f.dgst, err)
	}
	d.setSize(f.size)
	d.parts, d.validator = stream.Part, cmp.Or(stream.Validator, d.validator)
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
