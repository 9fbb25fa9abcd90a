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
	buf := f.c.buffer()
	defer f.c.recycle(buf)
	for {
		ready, end, err := f.contiguous(ctx, sum.Size())
		if err != nil {
			return err
		}
		if end {
			break
		}
		for ready > 0 {
			n, err := io.ReadFull(src, (*buf)[:min(ready, int64(len(*buf)))])
			if err != nil {
				return fmt.Errorf("%w: reading what was written: %w", errStorage, err)
			}
			_, _ = sum.Write((*buf)[:n]) // never fails
			ready -= int64(n)
		}
	}
	if err := sum.Verify(f.size); err != nil {
		return fmt.Errorf("%w: %w", errWrong, f.by.bodyError(f.dgst, err))
	}
	return nil
}

// contiguous waits until bytes from pos on are there, and returns how many are
// without a gap; end tells that pos is the end of the complete blob.
func (f *fill) contiguous(ctx context.Context, pos int64) (ready int64, end bool, err error) {
	for {
		f.mu.Lock()
		ready := f.shown.EndAt(pos) - pos
		complete, progress := f.complete, f.progress
		f.mu.Unlock()
		if ready > 0 || complete {
			return ready, ready == 0, nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}
