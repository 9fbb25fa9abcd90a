package access_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/auth/access"
	"registry-module/cache"
)

// TestGuessesDoNotLockOut has somebody at the same address guess at a password without
// end. Who had the right one before gets in, also when that is not remembered any more.
func TestGuessesDoNotLockOut(t *testing.T) {
	for name, guesser := range map[string]func(i int) string{
		"the user's":  func(int) string { return "line1" },
		"many users'": func(i int) string { return fmt.Sprint("line", 1+i%20) },
		"nobody's":    func(i int) string { return fmt.Sprint("x", i) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				users := []string{}
				for i := range 20 {
					users = append(users, fmt.Sprint("line", 1+i))
				}
				c, opts := newController(t, users...)
				g := newGate(t, opts)
				login := func() (string, time.Duration) {
					start := time.Now()
					_, err := g.Authorize(from(t.Context(), "line1", "secret-line1"), access.Ask{})
					return outcome(t, err), time.Since(start)
				}
				if got, _ := login(); got != "200" {
					t.Fatal(got)
				}
				_, err := g.Authorize(from(t.Context(), "line1", "secret-wrong"), access.Ask{})
				if got := outcome(t, err); got != "401 Basic" {
					t.Fatal(got)
				}
				time.Sleep(6 * time.Minute) // it is forgotten
				ctx, cancel := context.WithCancel(t.Context())
				var all sync.WaitGroup
				for i := range 300 {
					all.Go(func() {
						_, _ = g.Authorize(from(ctx, guesser(i), fmt.Sprint("secret", i)), access.Ask{}) // it fails in some way
					})
				}
				synctest.Wait()
				before := c.count()
				if got, took := login(); got != "200" || took > 0 || c.count() != before+1 {
					t.Errorf("%s after %v, and the controller was asked %d times", got, took, c.count()-before)
				}
				cancel()
				all.Wait()
			})
		})
	}
}

// TestGuessesDoNotQueue has somebody try many passwords of one user at once, before the
// first has failed: the others need not wait for all of them.
func TestGuessesDoNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, opts := newController(t, "line1", "line2")
		c.gate = make(chan struct{})
		g := newGate(t, opts)
		var all sync.WaitGroup
		var outcomes counter
		for i := range 100 {
			all.Go(func() {
				_, err := g.Authorize(from(t.Context(), "line1", fmt.Sprint("secret", i)), access.Ask{})
				outcomes.add(outcome(t, err))
			})
		}
		synctest.Wait()
		if n := outcomes.kinds()["429"]; n != 96 {
			t.Errorf("%d were told to come again, want all but 4", n)
		}
		all.Go(func() {
			if _, err := g.Authorize(from(t.Context(), "line2", "secret-line2"), access.Ask{}); err != nil {
				t.Errorf("another user: %v", err)
			}
		})
		synctest.Wait()
		close(c.gate)
		all.Wait()
	})
}

// TestCrowdAfterAFailure has many requests come with one good log-in, that nobody knows
// yet, after a mistyped one.
func TestCrowdAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, opts := newController(t, "line1")
		g := newGate(t, opts)
		if _, err := g.Authorize(from(t.Context(), "line1", "secret-wrong"), access.Ask{}); outcome(t, err) != "401 Basic" {
			t.Fatal(err)
		}
		c.gate = make(chan struct{})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := g.Authorize(from(t.Context(), "line1", "secret-line1"), access.Ask{}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(c.gate)
		all.Wait()
	})
}

// TestListIsNotPull shows that a remote that lets a caller list tags has not let him pull,
// and that who may pull may list.
func TestListIsNotPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var doc document
		b := newBench(t, access.Options{Document: &doc})
		b.remote.set(func(_ context.Context, _, kind, _, user, _ string) error {
			if kind == "tags" || user == "line1" {
				return nil
			}
			return &cache.UpstreamError{Kind: cache.ErrDenied, Remote: "r.example", Status: http.StatusForbidden}
		})
		lister := func() *http.Request { return from(t.Context(), "lister", "secret-lister") }
		tags := of("team/app", "")
		tags.Kind = "tags"
		b.try(lister(), tags, "200", 0, 1)
		b.try(lister(), of("team/app", "v1"), "403", time.Second/2, 1)
		b.try(lister(), tags, "200", 0, 0)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		b.try(b.line1(), tags, "200", 0, 0)
		// Nor after a restart, while the remote is away.
		if err := b.gate.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		b = newBench(t, access.Options{Document: &doc})
		b.remote.set(away)
		b.try(lister(), of("team/app", "v1"), "503", 0, 1)
		b.try(lister(), tags, "200", 0, 0)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		b.try(b.line1(), tags, "200", 0, 0)
	})
}

// TestOddReferenceIsNoGrace has somebody whom the remote does not let in any more ask for
// what it does not understand: that it cannot answer is no reason to go on letting him in.
func TestOddReferenceIsNoGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		time.Sleep(10 * time.Minute)
		b.remote.set(func(_ context.Context, _, _, reference, _, _ string) error {
			if reference == "odd" {
				return &cache.UpstreamError{Kind: cache.ErrInvalid, Remote: "r.example", Status: http.StatusBadRequest}
			}
			return &cache.UpstreamError{Kind: cache.ErrDenied, Remote: "r.example", Status: http.StatusForbidden}
		})
		_, err := b.gate.Authorize(b.line1(), of("team/app", "odd"))
		if got := outcome(t, err); got != "403" {
			t.Errorf("what it does not understand: %s", got)
		}
		_, err = b.gate.Authorize(b.line1(), of("team/app", "v1"))
		if got := outcome(t, err); got != "403" {
			t.Errorf("what it does: %s", got)
		}
	})
}

// TestCrowdIsNoGrace has somebody whom the remote does not let in any more keep it busy
// with other names: it is found out all the same.
func TestCrowdIsNoGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		time.Sleep(10 * time.Minute)
		slow := hanging(30*time.Second, denying)
		b.remote.set(func(ctx context.Context, repo, kind, reference, user, password string) error {
			if user == "line1" {
				return hanging(2*time.Second, denying)(ctx, repo, kind, reference, user, password)
			}
			return slow(ctx, repo, kind, reference, user, password)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				_, _ = b.gate.Authorize(from(ctx, fmt.Sprint("x", i), "secret"), of("team/app", "v1")) // it fails in some way
			})
		}
		synctest.Wait()
		b.try(b.line1(), of("team/app", "v1"), "200", 1500*time.Millisecond, 1) // it has not said anything yet
		time.Sleep(time.Second)
		_, err := b.gate.Authorize(b.line1(), of("team/app", "v1"))
		if got := outcome(t, err); got != "403" {
			t.Errorf("after the remote has refused: %s (%v)", got, err)
		}
		cancel()
		all.Wait()
	})
}

// TestClockIsSetBack shows that what a remote says counts as soon as it does, also where
// what it has said before was later by the clock.
func TestClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offset time.Duration
		var doc document
		opts := access.Options{Document: &doc, Now: func() time.Time { return time.Now().Add(offset).Round(0) }}
		b := newBench(t, opts)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		b.try(b.wrong(), of("team/app", "v1"), "401 Basic", time.Second/2, 1)
		for _, offset = range []time.Duration{-time.Hour, -48 * time.Hour} {
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 0)
		}
		if err := b.gate.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		offset = -72 * time.Hour
		b = newBench(t, opts)
		b.remote.set(away)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		time.Sleep(time.Minute)
		b.remote.set(serving)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 0)
	})
}

// TestOddCredentials has callers log in with what is hardly a name. None of it is taken for
// nobody, nor for somebody else, and nothing of it goes wrong.
func TestOddCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, opts := newController(t, "line1")
		opts.Policy = newPolicy(t, `rules: [{users: ["*"], pull: [team/**], catalog: true}]`)
		local := newGate(t, opts)
		through := newBench(t, access.Options{Policy: opts.Policy})
		elsewhere := access.Ask{Resource: "team/app", Names: []string{"team/app"}}
		for name, r := range map[string]*http.Request{
			"no user":      raw(from(t.Context(), "", ""), func(r *http.Request) { r.SetBasicAuth("", "secret-line1") }),
			"NUL":          from(t.Context(), "line1\x00", "secret-line1"),
			"NUL in front": from(t.Context(), "\x00line1", "secret-line1"),
			"case":         from(t.Context(), "LINE1", "secret-line1"),
			"space":        from(t.Context(), " line1", "secret-line1"),
			"long":         from(t.Context(), string(make([]byte, 5000)), "secret-line1"),
			"long secret":  from(t.Context(), "line1", "secret-line1"+string(make([]byte, 5000))),
			"Bearer":       raw(from(t.Context(), "", ""), func(r *http.Request) { r.Header.Set("Authorization", "Bearer line1") }),
			"not base64":   raw(from(t.Context(), "", ""), func(r *http.Request) { r.Header.Set("Authorization", "Basic !") }),
			"no colon":     raw(from(t.Context(), "", ""), func(r *http.Request) { r.Header.Set("Authorization", "Basic bGluZTE=") }),
		} {
			for what, ask := range map[string]access.Ask{"ping": {}, "pull": elsewhere, "catalog": {Catalog: true}} {
				if _, err := local.Authorize(r, ask); outcome(t, err) != "401 Basic" {
					t.Errorf("%s, %s: %v", name, what, err)
				}
			}
			if _, err := through.gate.Authorize(r, of("team/app", "v1")); outcome(t, err) != "401 Basic" && !errors.Is(err, access.ErrDenied) {
				t.Errorf("%s, passed through: %v", name, err)
			}
		}
	})
}

func raw(r *http.Request, change func(*http.Request)) *http.Request {
	change(r)
	return r
}

// TestCertificateExpires shows that a certificate does not hold for longer because the
// connection does.
func TestCertificateExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t, access.Options{Policy: newPolicy(t, "rules: [{certificates: [press-1], pull: [a]}]")})
		r, ask := showing(from(t.Context(), "", ""), "press-1"), access.Ask{Resource: "a", Names: []string{"a"}}
		if _, err := g.Authorize(r, ask); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour + time.Second)
		if _, err := g.Authorize(r, ask); outcome(t, err) != "401 Basic" {
			t.Errorf("after it has expired: %v", err)
		}
	})
}
