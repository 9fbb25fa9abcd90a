package breaker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
	"registry-module/upstream/breaker"
)

// TestChanged shows that each change is told, with what is known then, and by somebody
// who can ask the breaker.
func TestChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held error
		var told []string
		g := newGated()
		var b *breaker.Breaker
		b = breaker.New(g, breaker.Options{
			Offline: func() error { return held },
			Changed: func(from, to breaker.Status) {
				if now := b.Status(); now.State != to.State || to.Remote != "upstream.test" || to.Since.IsZero() {
					t.Errorf("told %+v, and it is %+v", to, now)
				}
				told = append(told, fmt.Sprintf("%s-%s", from.State, to.State))
				if bad := to.State != breaker.Online && to.State != breaker.Unknown; (to.Reason != "") != bad {
					t.Errorf("%s because of %q", to.State, to.Reason)
				}
			},
		})
		answer := func(err error) {
			go func() { g.answers <- err }()
			_, _ = b.Resolve(t.Context(), "a", "v1", "") // what comes of it is told
			time.Sleep(time.Minute)
		}
		answer(nil)
		answer(nil)
		answer(silence())
		answer(broken())
		answer(nil)
		held = fmt.Errorf("%w: by command", cache.ErrOffline)
		_ = b.Status()
		held = nil
		_ = b.Status()
		if want := []string{"unknown-online", "online-offline", "offline-failing", "failing-online", "online-held", "held-unknown"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

// TestChangedInOrder shows that changes come in order, whoever notices them.
func TestChangedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var held error
		var last breaker.State = breaker.Unknown
		telling, changes := 0, 0
		b := breaker.New(newGated(), breaker.Options{
			Offline: func() error { mu.Lock(); defer mu.Unlock(); return held },
			Changed: func(from, to breaker.Status) {
				mu.Lock()
				telling++
				if telling > 1 || from.State != last || to.State == last {
					t.Errorf("%d tell; from %s to %s, after %s", telling, from.State, to.State, last)
				}
				last = to.State
				changes++
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				telling--
				mu.Unlock()
			},
		})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				mu.Lock()
				if held = nil; i%2 == 0 {
					held = errors.New("by command " + strings.Repeat("x", i))
				}
				mu.Unlock()
				_ = b.Status()
			})
		}
		all.Wait()
		mu.Lock()
		defer mu.Unlock()
		if changes == 0 {
			t.Error("nothing was told")
		}
	})
}
