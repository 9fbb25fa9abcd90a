package cache

import (
	"context"
	"fmt"
	"sync"
)

// space keeps the account of what may be written. Bytes are reserved before the
// first of them is written, so that fills which run at the same time cannot
// together exceed what one of them has seen free.
type space struct {
	blobs   Blobs
	max     int64
	minFree func(total int64) int64

	mu       sync.Mutex
	used     int64 // committed bytes
	reserved int64 // reserved and not committed
	written  int64 // of the reserved ones, those that are already on disk
}

// reservation is a claim on space. It ends with commit or release, of which the
// first counts.
type reservation struct {
	s             *space
	size, written int64
	done          bool
}

// adopt claims n bytes that are on disk already.
func (s *space) adopt(n int64) *reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved += n
	s.written += n
	return &reservation{s: s, size: n, written: n}
}

// grow claims n bytes more.
func (r *reservation) grow(ctx context.Context, n int64) error {
	if n <= 0 {
		return nil
	}
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	free, total, err := s.blobs.Free(ctx)
	if err != nil {
		return err
	}
	if left := s.max - s.used - s.reserved; s.max > 0 && n > left {
		return &noSpace{n, left, fmt.Sprintf("left of the limit of %d", s.max)}
	}
	// What is reserved and not written is still counted as free by the
	// storage.
	if left := free - (s.reserved - s.written) - s.minFree(total); n > left {
		return &noSpace{n, left, "free beside the reserve"}
	}
	s.reserved += n
	r.size += n
	return nil
}

// noSpace is ErrNoSpace with what is needed and what is left, which is negative
// where there is less than what was promised.
type noSpace struct {
	needed, left int64
	of           string // says what is left of what
}

func (e *noSpace) Error() string {
	return fmt.Sprintf("%v: %d bytes needed, %d %s", ErrNoSpace, e.needed, max(e.left, 0), e.of)
}

func (e *noSpace) Unwrap() error { return ErrNoSpace }

// wrote tells that n bytes of the reservation are on disk.
func (r *reservation) wrote(n int64) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	n = min(n, r.size-r.written)
	r.written += n
	r.s.written += n
}

// hold makes the reservation one of n bytes that are all on disk.
func (r *reservation) hold(n int64) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.reserved += n - r.size
	r.s.written += n - r.written
	r.size, r.written = n, n
}

// commit turns what was written into used space. Replaced is the size of what
// was counted for the same content before.
func (r *reservation) commit(replaced int64) { r.end(r.written - replaced) }

// release gives the claim up.
func (r *reservation) release() { r.end(0) }

func (r *reservation) end(used int64) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.done {
		return
	}
	r.done = true
	r.s.used += used
	r.s.reserved -= r.size
	r.s.written -= r.written
}

// free tells that n used bytes were removed.
func (s *space) free(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}
