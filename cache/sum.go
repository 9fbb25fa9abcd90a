package cache

import (
	"context"
	"fmt"
	"io"

	"registry-module/internal/verify"
)

// hash reads the draft as it grows, and returns nil when all of it is there and
// right.
func (f *fill) hash(ctx context.Context) error {
	sum, err := verify.NewHash(f.dgst)
	if err != nil {
		return err
	}
	src, err := f.draft.Open(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	defer func() { _ = src.Close() }() // it was only read
	parts := newSummer(f.size)
	for {
		ready, end, err := f.contiguous(ctx, sum.Size())
		if err != nil {
			return err
		}
		if end {
			break
		}
		if err := f.add(io.MultiWriter(sum, parts), src, ready); err != nil {
			return err
		}
	}
	if err := sum.Verify(f.size); err != nil {
		return fmt.Errorf("%w: %w", errWrong, f.by.bodyError(f.dgst, err))
	}
	f.sums = parts.finish()
	return nil
}

// add hashes the next n bytes of src. It has a buffer for no longer than that:
// downloads wait for most of their time, and there may be many.
func (f *fill) add(sum io.Writer, src io.Reader, n int64) error {
	buf := f.c.buffer()
	defer f.c.recycle(buf)
	copied, err := io.CopyBuffer(sum, io.LimitReader(src, n), *buf)
	if err == nil && copied < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%w: reading what was written: %w", errStorage, err)
	}
	return nil
}

// contiguous waits until bytes from pos on are there, and returns how many are
// without a gap; end tells that pos is the end of the complete blob.
func (f *fill) contiguous(ctx context.Context, pos int64) (ready int64, end bool, err error) {
	err = f.await(ctx, func() bool {
		ready = f.shown.EndAt(pos) - pos
		end = ready == 0 && f.complete
		return ready > 0 || end
	})
	return ready, end, err
}
