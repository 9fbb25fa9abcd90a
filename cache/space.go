package cache

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// space keeps the account of what may be written. Bytes are reserved before the
// first of them is written, so that fills which run at the same time cannot
// together exceed what one of them has seen free.
type space struct {
	blobs Blobs
	usage Usage // nil: content takes its size, and nothing is beside it
	now   func() time.Time
	// tight is called when there is not much room left.
	tight func()
	// known is closed when it is known how much is stored.
	known chan struct{}

	mu       sync.Mutex
	max      int64
	minFree  func(total int64) int64
	used     int64 // taken by what is committed
	reserved int64 // reserved and not committed
	written  int64 // of the reserved ones, those that are already on disk
	beside   int64 // taken by what is neither
	looked   time.Time
	// unused and total are what the storage has told at asked.
	unused, total int64
	asked         time.Time
}

// reservation is a claim on space. It ends with commit or release, of which the
// first counts.
type reservation struct {
	s             *space
	size, written int64
	extra         int64 // beside size, for what content takes more than its size
	done          bool
}

// occupied is how much of the storage content of size bytes takes.
func (s *space) occupied(size int64) int64 {
	if s.usage == nil {
		return size
	}
	return s.usage.Occupies(size)
}

// extra is by how much content can take more than its size, where there is a Usage.
// With it come a journal and links.
func (s *space) extra() int64 { return s.occupied(1) + s.usage.OccupiesRef(RefManifest) }

// adopt claims n bytes that are on disk already.
func (s *space) adopt(n int64) *reservation {
	r := &reservation{s: s, size: n, written: n}
	if s.usage != nil {
		r.extra = s.extra()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved += n + r.extra
	s.written += n
	return r
}

// account tells how much is taken.
type account struct {
	// taken is what all that is ours takes or may come to take; left is how much may be
	// reserved, of which kind of limit, and reserve is what is always left free.
	used, reserved, taken int64
	left                  int64
	of                    string
	free                  int64 // of the storage beside the reserve and what is reserved
	leftOfMax             int64 // of the limit, where there is one
	byMax                 bool  // left is of that
}

// limits returns the limits of now.
func (s *space) limits() (limit int64, minFree func(total int64) int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.max, s.minFree
}

// setLimits changes them. What is reserved stays so.
func (s *space) setLimits(limit int64, minFree func(total int64) int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max, s.minFree = limit, minFree
}

// look returns the account. The caller holds s.mu.
func (s *space) look(ctx context.Context) (a account, err error) {
	free, total, err := s.blobs.Free(ctx)
	if err != nil {
		return a, err
	}
	s.unused, s.total, s.asked = free, total, s.now()
	// The index grows and shrinks while it is written; so often is enough.
	const besideEvery = time.Second
	if s.usage != nil {
		if now := s.now(); !within(s.looked, now, besideEvery) {
			if s.beside, err = s.usage.Beside(ctx); err != nil {
				return a, err
			}
			s.looked = now
		}
	}
	a.used, a.reserved = s.used, s.reserved
	a.taken = s.used + s.reserved + s.beside
	// What is reserved and not written is still counted as free by the
	// storage.
	a.free = free - (s.reserved - s.written) - s.minFree(total)
	a.left, a.of = a.free, "free beside the reserve"
	margin := int64(0)
	if s.usage != nil {
		// Links are made, and the index grows, when the content is there already.
		margin = marginOf(s.max) + s.beside/8
	}
	if a.leftOfMax = s.max - margin - a.taken; s.max > 0 && a.leftOfMax < a.left {
		a.byMax = true
		a.left, a.of = a.leftOfMax, fmt.Sprintf("left of the limit of %d", s.max)
	}
	return a, nil
}

// marginOf is what of a limit is left for what is not reserved, in bytes.
func marginOf(limit int64) int64 { return min(limit/32, 16<<20) }

// account returns how much is taken.
func (s *space) account(ctx context.Context) (account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.look(ctx)
}

// left is how much may be reserved, 0 where that is not known.
func (s *space) left(ctx context.Context) int64 {
	a, err := s.account(ctx)
	if err != nil {
		return 0
	}
	return a.left
}

// holds tells whether n bytes have room where there is nothing else.
func (s *space) holds(ctx context.Context, n int64) bool {
	limit, minFree := s.limits()
	if limit > 0 && n > limit {
		return false
	}
	_, total, err := s.blobs.Free(ctx)
	return err != nil || n <= total-minFree(total)
}

// over returns how many bytes are to be freed so that there is room ahead of need, 0 where
// there is enough of it.
func (s *space) over(ctx context.Context) (int64, error) {
	a, err := s.account(ctx)
	if err != nil {
		return 0, err
	}
	return s.overBy(a), nil
}

func (s *space) overBy(a account) int64 {
	// All that could be ours.
	all := max(a.taken+a.left, a.taken/2)
	if a.left >= all/100*(100-highWatermark) {
		return 0
	}
	return all/100*(100-lowWatermark) - a.left
}

// state returns how much is taken, and of how much; 0 where there is no limit.
func (s *space) state(ctx context.Context) (taken, limit int64, err error) {
	limit, _ = s.limits()
	a, err := s.account(ctx)
	return a.taken, limit, err
}

// capacity is how much content there can be in all, at least 1.
func (s *space) capacity(ctx context.Context) int64 {
	if limit, _ := s.limits(); limit > 0 {
		return limit
	}
	_, total, err := s.blobs.Free(ctx)
	if err != nil {
		return 1 << 40 // nothing depends on it that matters
	}
	return max(total, 1)
}

// errCounting is why nothing is stored while it is not known how much is stored.
var errCounting = fmt.Errorf("%w: what is stored is still being counted", ErrNoSpace)

// countPatience is how long a download waits for that.
const countPatience = 10 * time.Second

// await waits until it is known how much is stored.
func (s *space) await(ctx context.Context) error {
	select {
	case <-s.known:
		return nil
	default:
	}
	timer := time.NewTimer(countPatience)
	defer timer.Stop()
	select {
	case <-s.known:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errCounting
	}
}

// counted tells how many bytes are taken by what was stored before.
func (s *space) counted(used int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += used
	close(s.known)
}

// grow claims n bytes more.
func (r *reservation) grow(ctx context.Context, n int64) error {
	if n <= 0 {
		return nil
	}
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.look(ctx)
	if err != nil {
		return err
	}
	extra := int64(0)
	if s.usage != nil {
		extra = n / 8192 // what is noted of an unfinished download
		if r.extra == 0 {
			extra += s.extra()
		}
	}
	if n+extra > a.left {
		full := &noSpace{needed: n + extra, left: a.left, of: a.of, minFree: s.minFree(s.total)}
		full.bare = a.free + full.minFree
		if a.byMax {
			full.max = s.max
		}
		return full
	}
	s.reserved += n + extra
	r.size += n
	r.extra += extra
	a.taken += n + extra
	a.left -= n + extra
	if s.overBy(a) > 0 {
		s.tight()
	}
	return nil
}

// noSpace is ErrNoSpace with what is needed and what is left, which is negative
// where there is less than what was promised.
type noSpace struct {
	needed, left int64
	of           string // says what is left of what
	// max is the limit that leaves no room, 0 where it is the storage, which is to keep
	// minFree bytes free and has bare bytes before that.
	max, minFree, bare int64
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

// commit turns the claim into used space, for content of size bytes. Replaced is how much
// was counted for the same content before.
func (r *reservation) commit(size, replaced int64) { r.end(r.s.occupied(size) - replaced) }

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
	r.s.reserved -= r.size + r.extra
	r.s.written -= r.written
}

// committed is how much is taken by what is stored.
func (s *space) committed() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// free tells that n used bytes were removed.
func (s *space) free(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}
