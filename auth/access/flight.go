package access

import (
	"context"
	"sync"
	"time"

	"registry-module/internal/tracing"
	"registry-module/internal/via"
)

// work is what goes on in the background, until life ends.
type work struct {
	sync.WaitGroup
	life context.Context
}

// flights are what is found out for all who want to know the same.
type flights[K comparable] struct {
	mu    sync.Mutex
	under map[K]*flight
}

// flight is something that is being found out. Err may be read when done is closed.
type flight struct {
	done    chan struct{}
	err     error
	started time.Time

	// Guarded by flights.mu: who waits, and whether it goes on when nobody does.
	waiting  int
	detached bool
	leave    context.CancelFunc
}

// join returns the flight for key, and starts it with fn at work if there is none. The
// context of fn is on behalf of ctx, and ends when nobody waits any more, unless fn has
// called detach. Who joins must leave.
func (f *flights[K]) join(ctx context.Context, w *work, key K, now time.Time, fn func(ctx context.Context, detach func()) error) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.under[key]; a != nil {
		a.waiting++
		return a
	}
	ctx, cancel := context.WithCancel(tracing.Carry(via.Carry(w.life, ctx), ctx))
	a := &flight{done: make(chan struct{}), started: now, waiting: 1, leave: cancel}
	if f.under == nil {
		f.under = make(map[K]*flight)
	}
	f.under[key] = a
	w.Go(func() {
		defer cancel()
		a.err = fn(ctx, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			a.detached = true
		})
		f.mu.Lock()
		if f.under[key] == a {
			delete(f.under, key)
		}
		f.mu.Unlock()
		close(a.done)
	})
	return a
}

// leave takes note that somebody does not wait for a any more. Nobody finds one later
// whose context has ended.
func (f *flights[K]) leave(key K, a *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.waiting--; a.waiting == 0 && !a.detached {
		if f.under[key] == a {
			delete(f.under, key)
		}
		a.leave()
	}
}

// slots bound how much work is done at a time, and how much waits for it.
type slots struct {
	free chan struct{} // has something for each that is taken

	mu              sync.Mutex
	waiting, queued int // who waits, and how many may
}

func newSlots(n, queued int) *slots { return &slots{free: make(chan struct{}, n), queued: queued} }

// take waits for a slot until ctx ends. Where too many wait already, the error is a
// [*BusyError].
func (s *slots) take(ctx context.Context) error {
	select {
	case s.free <- struct{}{}:
		return nil
	default:
	}
	s.mu.Lock()
	if s.waiting >= s.queued {
		s.mu.Unlock()
		return &BusyError{RetryAfter: maxDelay}
	}
	s.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	select {
	case s.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give gives a slot back.
func (s *slots) give() { <-s.free }
