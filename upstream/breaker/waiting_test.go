package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
	"registry-module/internal/via"
	"registry-module/upstream/breaker"
)

// TestFirstRequestGoesAlone has a hundred requests that wait for what comes of the
// first one.
func TestFirstRequestGoesAlone(t *testing.T) {
	tests := map[string]struct {
		answer error
		asked  int32 // when the first has ended
		check  func(t *testing.T, err error)
	}{
		"answers":           {nil, 101, nil},
		"answers not found": {cache.ErrNotFound, 101, nil},
		"fails":             {broken(), 101, nil},
		"is left by its caller, and the next one goes": {context.Canceled, 2, nil},
		"wants to be left alone": {limited(time.Minute), 1, func(t *testing.T, err error) {
			if e := notAsked(t, err, cache.ErrRateLimited); e.RetryAfter != time.Minute || !strings.HasPrefix(e.Op, "asking for manifest v") {
				t.Errorf("%+v", e)
			}
		}},
		"does not answer": {silence(), 1, func(t *testing.T, err error) {
			e, ok := errors.AsType[*cache.UpstreamError](err)
			if !ok || e.Kind != cache.ErrUnavailable || e.Status != 0 || !strings.HasPrefix(err.Error(), "asking for manifest v") ||
				!strings.HasSuffix(err.Error(), " of a at upstream.test: remote registry unavailable: connection refused") {
				t.Errorf("got %v", err)
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newGated()
				b := breaker.New(remote, breaker.Options{})
				var first, others clients
				first.resolve(t.Context(), b, 1)
				others.resolve(t.Context(), b, 100)
				time.Sleep(5 * time.Second) // of the bubble
				if n := remote.asked.Load(); n != 1 || len(others.ended()) != 0 {
					t.Fatalf("the remote was asked %d times; %d requests have ended", n, len(others.ended()))
				}
				remote.answers <- tt.answer
				if got := first.ended(); len(got) != 1 || got[0] != tt.answer {
					t.Errorf("the first: %v", got)
				}
				if n := remote.asked.Load(); n != tt.asked {
					t.Errorf("the remote was asked %d times, want %d", n, tt.asked)
				}
				if tt.check == nil {
					for range 100 {
						remote.answers <- nil
					}
					tt.check = func(t *testing.T, err error) {
						if err != nil {
							t.Error(err)
						}
					}
				}
				ended := others.ended()
				if len(ended) != 100 {
					t.Errorf("%d requests have ended", len(ended))
				}
				for _, err := range ended {
					tt.check(t, err)
				}
			})
		})
	}
}

// TestWaitersLeave has requests that do not wait for what comes of the first one.
func TestWaitersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		leaving, leave := context.WithCancel(t.Context())
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var first, canceled, expired clients
		first.resolve(t.Context(), b, 1)
		canceled.resolve(leaving, b, 3)
		expired.resolve(late, b, 3)
		leave()
		for _, err := range canceled.ended() {
			if _, is := errors.AsType[*cache.UpstreamError](err); is || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		time.Sleep(time.Second)
		for _, err := range expired.ended() {
			if notAsked(t, err, cache.ErrUnavailable); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}
		if len(canceled.ended()) != 3 || len(expired.ended()) != 3 || len(first.ended()) != 0 || remote.asked.Load() != 1 {
			t.Errorf("%v, %v, %v", canceled.ended(), expired.ended(), first.ended())
		}
		remote.answers <- nil
		if got := first.ended(); len(got) != 1 || got[0] != nil {
			t.Error(got)
		}
	})
}

// TestFirstCallerLeaves has each first one leave, and another one take its place.
func TestFirstCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var wg sync.WaitGroup
		leave := map[string]context.CancelFunc{}
		const requests = 5
		for i := range requests {
			ctx, cancel := context.WithCancel(t.Context())
			ref := fmt.Sprint("v", i)
			leave[ref] = cancel
			wg.Go(func() {
				if _, err := b.Resolve(ctx, "a", ref, ""); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			})
		}
		for left := range requests {
			synctest.Wait()
			if n := remote.asked.Load(); n != int32(left+1) {
				t.Errorf("after %d have left, the remote was asked %d times", left, n)
			}
			leave[remote.last.Load().(string)]()
		}
		wg.Wait()
		if s := b.Status(); s.State != breaker.Unknown || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
		wg.Go(func() { _ = resolve(b) })
		remote.answers <- nil
		wg.Wait()
		if s := b.Status(); s.State != breaker.Online {
			t.Errorf("%+v", s)
		}
	})
}

// TestPanic has a request that does not return; others go on.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var others clients
		go func() {
			defer func() { _ = recover() }() // it is the point
			_, _ = b.Resolve(t.Context(), "a", "panic", "")
		}()
		synctest.Wait()
		others.resolve(t.Context(), b, 2)
		remote.answers <- nil
		synctest.Wait()
		if n := remote.asked.Load(); n != 2 || b.Status().State != breaker.Unknown {
			t.Errorf("asked %d times: %+v", n, b.Status())
		}
		remote.answers <- nil
		remote.answers <- nil
		if got := others.ended(); len(got) != 2 || remote.asked.Load() != 3 {
			t.Errorf("%v, asked %d times", got, remote.asked.Load())
		}
	})
}

// TestNobodyWaitsForWhoIsBehind has requests that have passed other registries: in a
// ring of them, what the first one waits for may be one of these.
func TestNobodyWaitsForWhoIsBehind(t *testing.T) {
	for name, answer := range map[string]error{"online": nil, "offline": silence(), "no verdict": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newGated()
				b := breaker.New(remote, breaker.Options{})
				passed := via.With(t.Context(), []string{"registry-module-x"})
				var all clients
				for _, step := range []struct {
					ctx   context.Context
					asked int32
				}{
					{t.Context(), 1},
					{t.Context(), 1},
					{passed, 2}, // is not behind the first one
					{passed, 2},
					{t.Context(), 2},
				} {
					all.resolve(step.ctx, b, 1)
					if n := remote.asked.Load(); n != step.asked {
						t.Errorf("asked %d times, want %d", n, step.asked)
					}
				}
				for range 5 {
					select {
					case remote.answers <- answer:
					default: // the others have failed with the first ones
					}
					synctest.Wait()
				}
				all.wg.Wait()
				if got := all.ended(); len(got) != 5 {
					t.Errorf("%d have ended", len(got))
				}
				want := map[string]int32{"online": 5, "offline": 2, "no verdict": 5}[name]
				if n := remote.asked.Load(); n != want {
					t.Errorf("asked %d times, want %d", n, want)
				}
			})
		})
	}
}
