// Package slots shares out a bounded number of connections among those who want
// one, the more urgent first.
//
// It promises that no more slots are out than [Limits] allow, that waiters of one
// class are served in the order in which they came and those of a more urgent
// class before them, and that nothing remains of a waiter whose context has
// ended. It trusts whoever holds a slot to give it back, and those of class
// [Small] to do so soon, since nothing protects the less urgent from them. It
// imports nothing of this module.
package slots

import (
	"container/list"
	"context"
	"sync"
)

// Class says how urgent it is to have a slot. A lower one is more urgent.
type Class uint8

const (
	// Small is for an answer of some KB that a client waits for.
	Small Class = iota
	// First is for the first connection for a blob that a client waits for.
	First
	// Ahead is for what nobody waits for.
	Ahead
	// Extra is for another connection for a blob that has one.
	Extra

	classes = iota
)

// Defaults of [Limits].
const (
	// DefaultMax is what a few large blobs at a time can use: a link that is not
	// full by then is not filled by more connections, and registries limit how
	// many one address may have.
	DefaultMax = 16
	// DefaultReserve lets the small blobs of one image through at a time.
	DefaultReserve = 4
)

// Limits are how many slots there are. The zero value has the defaults.
type Limits struct {
	// Max is how many slots can be out at a time. Those of class Ahead get at
	// most half of them, but one in any case. Default: DefaultMax.
	Max int
	// Reserve is how many more there are for class Small. Default:
	// DefaultReserve; a negative one is none.
	Reserve int
}

// Slots is a number of slots. It is safe for use by several goroutines.
type Slots struct {
	reserve int

	mu    sync.Mutex
	max   int
	inUse int
	ahead int // of inUse
	// waiters has a list of *waiter for each class, the longest waiting first.
	// What is at the front of a list cannot be served now.
	waiters [classes]list.List
	waiting int // in all of waiters
}

// waiter is one call of Acquire that waits.
type waiter struct {
	// granted is closed, with Slots.mu held, when a slot was taken for it.
	granted chan struct{}
}

// New returns slots that are all free.
func New(limits Limits) *Slots {
	s := &Slots{max: maxOf(limits.Max), reserve: limits.Reserve}
	if s.reserve == 0 {
		s.reserve = DefaultReserve
	}
	s.reserve = max(s.reserve, 0)
	return s
}

// maxOf is limit, or the default where there is none.
func maxOf(limit int) int {
	if limit <= 0 {
		return DefaultMax
	}
	return limit
}

// SetMax changes [Limits].Max. Slots that are out stay out: where there are more than
// that, nobody gets one until enough were given back.
func (s *Slots) SetMax(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = maxOf(limit)
	s.serve()
}

// Acquire waits for a slot. Whoever gets one calls release when done with it;
// more calls of release do nothing. The error is that of ctx, also where ctx ends
// in the very moment in which there is a slot.
func (s *Slots) Acquire(ctx context.Context, class Class) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	class = min(class, Extra)
	s.mu.Lock()
	if s.free(class) {
		defer s.mu.Unlock()
		return s.take(class), nil
	}
	w := &waiter{granted: make(chan struct{})}
	place := s.waiters[class].PushBack(w)
	s.waiting++
	s.mu.Unlock()

	select {
	case <-w.granted:
		if ctx.Err() == nil {
			return s.releaser(class), nil
		}
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.granted:
		s.putBack(class)
	default:
		s.waiters[class].Remove(place)
		s.waiting--
		s.serve() // who has waited behind it
	}
	return nil, ctx.Err()
}

// Try takes a slot if there is one that nobody waits for. It does not wait. See
// [Slots.Acquire] for release, which is nil where ok is false.
func (s *Slots) Try(class Class) (release func(), ok bool) {
	class = min(class, Extra)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.free(class) {
		return nil, false
	}
	return s.take(class), true
}

// InUse returns how many slots are out.
func (s *Slots) InUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inUse
}

// Waiting returns how many wait for a slot.
func (s *Slots) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// fits tells whether there is a slot for class where so many are out, ahead of
// them of class Ahead.
func (s *Slots) fits(class Class, inUse, ahead int) bool {
	switch class {
	case Small:
		return inUse-s.reserve < s.max
	case Ahead:
		return inUse < s.max && ahead < max(s.max/2, 1)
	}
	return inUse < s.max
}

// free tells whether there is a slot for who comes now. More urgent ones that wait
// do so because there is none, or, of class Ahead, because they have their half, and
// then the others are not theirs. Like all that follow, it is called with s.mu held.
func (s *Slots) free(class Class) bool {
	return s.waiters[class].Len() == 0 && s.fits(class, s.inUse, s.ahead)
}

// count takes a slot for class.
func (s *Slots) count(class Class) {
	s.inUse++
	if class == Ahead {
		s.ahead++
	}
}

func (s *Slots) take(class Class) (release func()) {
	s.count(class)
	return s.releaser(class)
}

// putBack gives a slot of class to who waits for it, or nobody.
func (s *Slots) putBack(class Class) {
	s.inUse--
	if class == Ahead {
		s.ahead--
	}
	s.serve()
}

// serve gives free slots to those who wait, the more urgent first.
func (s *Slots) serve() {
	for c := range Class(classes) {
		for front := s.waiters[c].Front(); front != nil && s.fits(c, s.inUse, s.ahead); front = s.waiters[c].Front() {
			w := s.waiters[c].Remove(front).(*waiter)
			s.waiting--
			s.count(c)
			close(w.granted)
		}
	}
}

// releaser returns the function that puts back a slot that was taken. Unlike
// others it does not need s.mu.
func (s *Slots) releaser(class Class) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.putBack(class)
	})
}
