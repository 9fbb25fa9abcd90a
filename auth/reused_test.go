package auth_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
)

// fetcher is a source of credentials that counts.
type fetcher struct {
	mu     sync.Mutex
	calls  int
	config authn.AuthConfig
	err    error
	takes  time.Duration
	ended  int // calls that were canceled
}

func (f *fetcher) fetch(ctx context.Context) (authn.AuthConfig, error) {
	f.mu.Lock()
	f.calls++
	takes := f.takes
	f.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended++
		return authn.AuthConfig{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config, f.err
}

func (f *fetcher) set(config authn.AuthConfig, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config, f.err = config, err
}

func (f *fetcher) wantCalls(t *testing.T, want int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls != want {
		t.Errorf("asked %d times, want %d", f.calls, want)
	}
}

func TestReusedLifetime(t *testing.T) {
	for name, tt := range map[string]struct {
		lifetime time.Duration
		config   authn.AuthConfig
		// calls after 2 uses at once, and 1 more after 29 s, 31 s, 5 min and 1 year each.
		calls [5]int
	}{
		"not at all":                      {0, user("me", "one"), [5]int{2, 3, 4, 5, 6}},
		"for a minute":                    {time.Minute, user("me", "one"), [5]int{1, 1, 2, 3, 4}},
		"for good":                        {auth.ForGood, user("me", "one"), [5]int{1, 1, 1, 1, 1}},
		"none, for good":                  {auth.ForGood, authn.AuthConfig{}, [5]int{1, 1, 2, 3, 4}},
		"none, for longer than a pause":   {5 * time.Minute, authn.AuthConfig{}, [5]int{1, 1, 2, 3, 4}},
		"none, for shorter than a pause":  {time.Second, authn.AuthConfig{}, [5]int{1, 2, 3, 4, 5}},
		"for five minutes, as of helpers": {5 * time.Minute, user("me", "one"), [5]int{1, 1, 1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fetcher{config: tt.config}
				a := auth.NewReused(tt.lifetime, f.fetch)
				wantConfig(t, a, tt.config)
				wantConfig(t, a, tt.config)
				f.wantCalls(t, tt.calls[0])
				for i, wait := range []time.Duration{29 * time.Second, 31 * time.Second, 5 * time.Minute, 365 * 24 * time.Hour} {
					time.Sleep(wait)
					wantConfig(t, a, tt.config)
					f.wantCalls(t, tt.calls[i+1])
				}
			})
		})
	}
}

func TestReusedErrorsAreNotKept(t *testing.T) {
	f := &fetcher{err: errors.New("no")}
	a := auth.NewReused(auth.ForGood, f.fetch)
	wantError(t, a, "no")
	wantError(t, a, "no")
	f.wantCalls(t, 2)
	f.set(user("me", "one"), nil)
	wantConfig(t, a, user("me", "one"))
	wantConfig(t, a, user("me", "one"))
	f.wantCalls(t, 3)
}

func TestReusedIsAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetcher{config: user("me", "one"), takes: time.Second}
		a := auth.NewReused(0, f.fetch)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { wantConfig(t, a, user("me", "one")) })
		}
		all.Wait()
		f.wantCalls(t, 1)
	})
}

func TestReusedCallersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetcher{config: user("me", "one"), takes: time.Second}
		a := auth.NewReused(auth.ForGood, f.fetch)
		ask := func(ctx context.Context) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := a.AuthorizationContext(ctx)
				done <- err
			}()
			synctest.Wait()
			return done
		}
		ctx, leave := context.WithCancel(t.Context())
		first, second := ask(ctx), ask(t.Context())
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("who has left gets %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("who has stayed gets %v", err)
		}
		f.wantCalls(t, 1)

		// When all have left, nobody waits for the answer, and who comes next does
		// not get the end of that.
		a.Renew(user("me", "one"))
		ctx, leave = context.WithCancel(t.Context())
		first = ask(ctx)
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("who has left gets %v", err)
		}
		for _, done := range []<-chan error{ask(t.Context()), ask(t.Context())} {
			if err := <-done; err != nil {
				t.Errorf("who comes next gets %v", err)
			}
		}
		f.wantCalls(t, 3)
		if f.ended != 1 {
			t.Errorf("%d calls were canceled, want 1", f.ended)
		}
	})
}

func TestReusedRenew(t *testing.T) {
	one, two := user("me", "one"), user("me", "two")
	synctest.Test(t, func(t *testing.T) {
		f := &fetcher{config: one}
		a := auth.NewReused(auth.ForGood, f.fetch)
		wantConfig(t, a, one)

		// The same again: it is asked for once, and then left alone for a while.
		for range 3 {
			a.Renew(one)
			wantConfig(t, a, one)
		}
		f.wantCalls(t, 2)
		if a.Renew(one) {
			t.Error("what is still the same may be renewed at once")
		}
		time.Sleep(time.Minute)
		f.set(two, nil)
		wantConfig(t, a, one)
		if !a.Renew(one) {
			t.Error("what was the same may not be renewed after a while")
		}
		wantConfig(t, a, two)
		f.wantCalls(t, 3)

		// Who comes late with the old ones finds the new ones.
		for range 3 {
			if !a.Renew(one) {
				t.Error("there are others, but none may be had")
			}
		}
		wantConfig(t, a, two)
		f.wantCalls(t, 3)

		// And the new ones may be renewed at once.
		f.set(one, nil)
		if !a.Renew(two) {
			t.Error("what is new may not be renewed")
		}
		wantConfig(t, a, one)
		f.wantCalls(t, 4)
	})
}

func TestReusedRenewAtOnce(t *testing.T) {
	one, two := user("me", "one"), user("me", "two")
	for name, lifetime := range map[string]time.Duration{"for good": auth.ForGood, "not at all": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fetcher{config: one}
				a := auth.NewReused(lifetime, f.fetch)
				wantConfig(t, a, one)
				f.set(two, nil)
				f.mu.Lock()
				f.takes = time.Second
				f.mu.Unlock()
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() {
						if !a.Renew(one) {
							t.Error("none may be had")
						}
						wantConfig(t, a, two)
					})
				}
				all.Wait()
				f.wantCalls(t, 2)
			})
		})
	}
}
