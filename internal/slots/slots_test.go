package slots

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// take takes n slots of a class, which must be free.
func take(t *testing.T, s *Slots, class Class, n int) (release []func()) {
	t.Helper()
	for range n {
		r, ok := s.Try(class)
		if !ok {
			t.Fatalf("no slot of class %d with %d in use and %d waiting", class, s.InUse(), s.Waiting())
		}
		release = append(release, r)
	}
	return release
}

// full fails unless there is no slot for those classes.
func full(t *testing.T, s *Slots, classes ...Class) {
	t.Helper()
	for _, c := range classes {
		if release, ok := s.Try(c); ok {
			t.Errorf("there is a slot of class %d beyond the limit, with %d in use", c, s.InUse())
			release()
		}
	}
}

// expect compares the counters.
func expect(t *testing.T, s *Slots, inUse, waiting int) {
	t.Helper()
	if i, w := s.InUse(), s.Waiting(); i != inUse || w != waiting {
		t.Errorf("%d in use and %d waiting, want %d and %d", i, w, inUse, waiting)
	}
}

func TestLimits(t *testing.T) {
	tests := []struct {
		limits             Limits
		small, most, ahead int // that each class alone can have
	}{
		{Limits{}, 20, 16, 8},
		{Limits{Max: 4, Reserve: 2}, 6, 4, 2},
		{Limits{Max: 5, Reserve: -1}, 5, 5, 2},
		{Limits{Max: 1, Reserve: 1}, 2, 1, 1},
		{Limits{Max: -1}, 20, 16, 8},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.limits), func(t *testing.T) {
			for class, n := range map[Class]int{Small: tt.small, First: tt.most, Ahead: tt.ahead, Extra: tt.most, 200: tt.most} {
				s := New(tt.limits)
				release := take(t, s, class, n)
				full(t, s, class)
				expect(t, s, n, 0)
				for _, r := range release {
					r()
					r() // does nothing
				}
				expect(t, s, 0, 0)
			}
		})
	}
}

// TestLimitsTogether has all classes at once.
func TestLimitsTogether(t *testing.T) {
	s := New(Limits{Max: 4, Reserve: 2})
	ahead := take(t, s, Ahead, 2)
	full(t, s, Ahead)
	extra := take(t, s, Extra, 1)
	take(t, s, First, 1)
	full(t, s, First, Ahead, Extra)
	small := take(t, s, Small, 2)
	full(t, s, Small, First, Ahead, Extra)
	small[0]()
	full(t, s, First, Ahead, Extra) // it was one of the reserve
	small[1]()
	extra[0]()
	full(t, s, Ahead) // has its half
	ahead[0]()
	take(t, s, Ahead, 1)
	take(t, s, First, 1)
	full(t, s, First, Ahead, Extra)
}

// queue is a number of calls of Acquire in a bubble of synctest.
type queue struct {
	t *testing.T
	s *Slots

	mu      sync.Mutex
	ended   []string // names of calls since the last expect, with their errors
	release map[string]func()
}

// add has name wait for a slot.
func (q *queue) add(ctx context.Context, name string, class Class) {
	q.t.Helper()
	go func() {
		release, err := q.s.Acquire(ctx, class)
		if err != nil {
			name += ": " + err.Error()
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ended = append(q.ended, name)
		if q.release == nil {
			q.release = map[string]func(){}
		}
		q.release[name] = release
	}()
	synctest.Wait()
}

// expect compares which calls have ended since it was last called.
func (q *queue) expect(want ...string) {
	q.t.Helper()
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	slices.Sort(q.ended) // those that end at the same time do so in any order
	if !slices.Equal(q.ended, want) {
		q.t.Errorf("ended: %q, want %q", q.ended, want)
	}
	q.ended = nil
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Limits{Max: 1, Reserve: 1})
		q := &queue{t: t, s: s}
		held := take(t, s, Small, 2)
		for i, class := range []Class{Extra, Ahead, First, Small, Extra, Small, First, Ahead} {
			q.add(t.Context(), fmt.Sprintf("%d by %d", class, i), class)
		}
		expect(t, s, 2, 8)
		held[0]() // only the reserve
		q.expect("0 by 3")
		held[1]()
		q.expect("0 by 5")
		q.release["0 by 3"]()
		q.expect() // one slot is left of two, and it is of the reserve
		before := "0 by 5"
		for _, next := range []string{"1 by 2", "1 by 6", "2 by 1", "2 by 7", "3 by 0", "3 by 4"} {
			release := q.release[before]
			release()
			release() // does nothing
			q.expect(next)
			before = next
		}
		expect(t, s, 1, 0)
	})
}

// TestAheadHasItsHalf has one wait that may not have what is free: it holds up
// nobody, and those of its class stay in order.
func TestAheadHasItsHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Limits{Max: 4, Reserve: 1})
		q := &queue{t: t, s: s}
		ahead := take(t, s, Ahead, 2)
		q.add(t.Context(), "ahead", Ahead)
		q.add(t.Context(), "behind", Ahead)
		full(t, s, Ahead)
		expect(t, s, 2, 2)
		q.add(t.Context(), "extra", Extra)
		q.add(t.Context(), "first", First)
		q.expect("extra", "first")
		ahead[0]()
		q.expect("ahead")
		ahead[1]()
		q.expect("behind")
		expect(t, s, 4, 0)
	})
}

func TestEndOfContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Limits{Max: 1})
		q := &queue{t: t, s: s}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		q.add(ended, "ended", First)
		q.expect("ended: context canceled") // although there is a slot
		expect(t, s, 0, 0)

		held := take(t, s, First, 1)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		q.add(short, "short", First)
		q.add(t.Context(), "long", First)
		expect(t, s, 1, 2)
		time.Sleep(time.Second) // of the bubble
		q.expect("short: context deadline exceeded")
		expect(t, s, 1, 1)
		held[0]()
		q.expect("long")
	})
}

// TestEndOfContextBeforeGrant has a slot granted when the context has ended and
// the waiter could not say so yet.
func TestEndOfContextBeforeGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Limits{Max: 1})
		q := &queue{t: t, s: s}
		take(t, s, First, 1)
		ctx, cancel := context.WithCancel(t.Context())
		q.add(ctx, "ended", First)
		q.add(t.Context(), "next", First)
		s.mu.Lock()
		cancel()
		s.putBack(First)
		s.mu.Unlock()
		q.expect("ended: context canceled", "next")
		expect(t, s, 1, 0)
		q.release["next"]()
		expect(t, s, 0, 0)
	})
}

// endsUnnoticed is a context that ends after Err was first called, which its Done
// does not tell.
type endsUnnoticed struct {
	context.Context
	ended bool
}

func (c *endsUnnoticed) Err() error {
	if !c.ended {
		c.ended = true
		return nil
	}
	return context.Canceled
}

// TestEndOfContextAfterGrant has a context end when a slot was granted, before
// the waiter takes notice of either.
func TestEndOfContextAfterGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Limits{Max: 1})
		q := &queue{t: t, s: s}
		held := take(t, s, First, 1)
		q.add(&endsUnnoticed{Context: t.Context()}, "ended", First)
		q.add(t.Context(), "next", First)
		held[0]()
		q.expect("ended: context canceled", "next")
		expect(t, s, 1, 0)
		q.release["next"]()
		expect(t, s, 0, 0)
	})
}

// TestModel compares what happens with what a slow and simple model says.
func TestModel(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) { testModel(t, rand.New(rand.NewPCG(seed, 0))) })
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

// call is one call of Acquire, and what has become of it.
type call struct {
	class   Class
	cancel  context.CancelFunc
	release func()
	err     error
}

func testModel(t *testing.T, random *rand.Rand) {
	limits := Limits{Max: 1 + random.IntN(5), Reserve: 1 + random.IntN(2)}
	s := New(limits)
	var waiting, holding []*call // as the model has it
	used := func(class Class) (n int) {
		for _, h := range holding {
			if h.class == class {
				n++
			}
		}
		return n
	}
	fits := func(class Class) bool {
		switch class {
		case Small:
			return len(holding) < limits.Max+limits.Reserve
		case Ahead:
			return len(holding) < limits.Max && used(Ahead) < max(1, limits.Max/2)
		}
		return len(holding) < limits.Max
	}
	// first is the index of who is served next, -1 if nobody can be.
	first := func() int {
		best := -1
		for i, w := range waiting {
			if fits(w.class) && (best < 0 || w.class < waiting[best].class) {
				best = i
			}
		}
		return best
	}
	remove := func(calls *[]*call, i int) *call {
		c := (*calls)[i]
		*calls = append((*calls)[:i:i], (*calls)[i+1:]...)
		return c
	}
	for step := range 150 {
		switch random.IntN(5) {
		case 0, 1:
			ctx, cancel := context.WithCancel(t.Context())
			c := &call{class: Class(random.IntN(classes)), cancel: cancel}
			waiting = append(waiting, c)
			go func() {
				release, err := s.Acquire(ctx, c.class)
				c.release, c.err = release, err
			}()
		case 2:
			c := &call{class: Class(random.IntN(classes)), cancel: func() {}}
			want := fits(c.class)
			for _, w := range waiting {
				want = want && w.class != c.class
			}
			var got bool
			if c.release, got = s.Try(c.class); got != want {
				t.Fatalf("step %d: Try(%d) is %v", step, c.class, got)
			}
			if got {
				holding = append(holding, c)
			}
		case 3:
			if len(holding) > 0 {
				remove(&holding, random.IntN(len(holding))).release()
			}
		case 4:
			if len(waiting) > 0 {
				c := remove(&waiting, random.IntN(len(waiting)))
				c.cancel()
				synctest.Wait()
				if !errors.Is(c.err, context.Canceled) || c.release != nil {
					t.Fatalf("step %d: a cancelled waiter got %v", step, c.err)
				}
			}
		}
		synctest.Wait()
		for i := first(); i >= 0; i = first() {
			holding = append(holding, remove(&waiting, i))
		}
		for _, h := range holding {
			if h.release == nil {
				t.Fatalf("step %d: a waiter of class %d was not served", step, h.class)
			}
		}
		for _, w := range waiting {
			if w.release != nil || w.err != nil {
				t.Fatalf("step %d: a waiter of class %d was served too early", step, w.class)
			}
		}
		expect(t, s, len(holding), len(waiting))
	}
	for _, c := range waiting {
		c.cancel()
	}
	synctest.Wait()
	for _, c := range holding {
		c.release()
		c.cancel()
	}
	expect(t, s, 0, 0)
}

// TestMany has many goroutines take, hold and give up slots at the same time.
func TestMany(t *testing.T) {
	limits := Limits{Max: 6, Reserve: 2}
	s := New(limits)
	var all, ahead, notSmall, served atomic.Int64
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			for range 300 {
				class := Class(random.IntN(classes))
				ctx, cancel := context.WithCancel(t.Context())
				switch random.IntN(4) {
				case 0:
					go cancel()
				case 1:
					time.AfterFunc(time.Duration(random.IntN(50))*time.Microsecond, cancel)
				}
				release, err := s.Acquire(ctx, class)
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("%v without end of the context", err)
					}
					cancel()
					continue
				}
				served.Add(1)
				if n := all.Add(1); n > int64(limits.Max+limits.Reserve) {
					t.Errorf("%d slots are out", n)
				}
				if class != Small {
					if n := notSmall.Add(1); n > int64(limits.Max) {
						t.Errorf("%d slots are out that are not for small ones", n)
					}
				}
				if class == Ahead {
					if n := ahead.Add(1); n > int64(limits.Max/2) {
						t.Errorf("%d slots are out that nobody waits for", n)
					}
				}
				runtime.Gosched()
				if class == Ahead {
					ahead.Add(-1)
				}
				if class != Small {
					notSmall.Add(-1)
				}
				all.Add(-1)
				release()
				go release()
				cancel()
			}
		})
	}
	wg.Wait()
	expect(t, s, 0, 0)
	if served.Load() == 0 {
		t.Error("nobody was served")
	}
}

// More slots are given to who waits, fewer take none away.
func TestSetMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Limits{Max: 2, Reserve: -1})
		release := take(t, s, First, 2)
		got := make(chan func(), 3)
		for range 3 {
			go func() {
				r, err := s.Acquire(context.Background(), First)
				if err != nil {
					t.Error(err)
				}
				got <- r
			}()
		}
		synctest.Wait()
		expect(t, s, 2, 3)
		s.SetMax(4)
		synctest.Wait()
		expect(t, s, 4, 1)
		s.SetMax(1)
		release[0]()
		release[1]()
		(<-got)()
		synctest.Wait()
		expect(t, s, 1, 1)
		(<-got)()
		synctest.Wait()
		expect(t, s, 1, 0)
		full(t, s, First, Extra)
		(<-got)()
		s.SetMax(0)
		take(t, s, First, DefaultMax)
		full(t, s, First)
	})
}
