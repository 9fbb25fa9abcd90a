package access_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/auth/access"
	"registry-module/cache"
)

// serving answers as a remote whose only user, line1 with the password secret-line1, may
// pull what is in team, in which app has the tag v1.
func serving(_ context.Context, repo, kind, reference, user, password string) error {
	switch {
	case user != "line1" || password != "secret-line1":
		return &cache.UpstreamError{Kind: cache.ErrDenied, Remote: "r.example", Status: http.StatusUnauthorized}
	case !strings.HasPrefix(repo, "team/"):
		return &cache.UpstreamError{Kind: cache.ErrDenied, Remote: "r.example", Status: http.StatusForbidden}
	case repo != "team/app", kind == "manifest" && reference != "v1":
		return &cache.UpstreamError{Kind: cache.ErrNotFound, Remote: "r.example", Status: http.StatusNotFound}
	}
	return nil
}

func away(context.Context, string, string, string, string, string) error {
	return &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "r.example", RetryAfter: time.Minute}
}

// denying and letting answer the same to everybody.
func denying(context.Context, string, string, string, string, string) error { return cache.ErrDenied }
func letting(context.Context, string, string, string, string, string) error { return nil }

// hanging answers after some time, or fails with its context.
func hanging(d time.Duration, then answer) answer {
	return func(ctx context.Context, repo, kind, reference, user, password string) error {
		select {
		case <-time.After(d):
			return then(ctx, repo, kind, reference, user, password)
		case <-ctx.Done():
			return fmt.Errorf("asking: %w", ctx.Err())
		}
	}
}

func of(repo, tag string) access.Ask {
	return access.Ask{Resource: repo, Names: []string{repo}, Host: "r.example", Repo: repo, Kind: "manifest", Reference: tag}
}

// bench is a gate before one remote.
type bench struct {
	*testing.T
	gate   *access.Gate
	remote *remote
}

func newBench(t *testing.T, opts access.Options) *bench {
	b := &bench{T: t, remote: &remote{check: serving}}
	opts.PassThrough = map[string]access.PassThrough{"r.example": {Checker: b.remote, Grace: 168 * time.Hour}}
	b.gate = newGate(t, opts)
	return b
}

// try fails unless a request is answered so, after that time, with so many questions.
func (b *bench) try(r *http.Request, ask access.Ask, want string, took time.Duration, asked int) {
	b.Helper()
	before, start := b.remote.asked.all(), time.Now()
	_, err := b.gate.Authorize(r, ask)
	if got, d := outcome(b.T, err), time.Since(start); got != want || d != took {
		b.Errorf("%s: %s after %v, want %s after %v (%v)", ask.Repo, got, d, want, took, err)
	}
	if n := b.remote.asked.all() - before; n != asked {
		b.Errorf("%s: the remote was asked %d times, want %d", ask.Repo, n, asked)
	}
}

func (b *bench) line1() *http.Request  { return from(b.Context(), "line1", "secret-line1") }
func (b *bench) wrong() *http.Request  { return from(b.Context(), "line1", "secret-wrong") }
func (b *bench) nobody() *http.Request { return from(b.Context(), "", "") }

func TestThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.try(b.nobody(), of("team/app", "v1"), "401 Basic", 0, 0)
		b.try(showing(b.nobody(), "press-1"), of("team/app", "v1"), "401 Basic", 0, 0)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		b.try(b.line1(), of("team/app", "v2"), "200", 0, 0) // it is the repository that counts
		time.Sleep(10*time.Minute - time.Second)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 0)
		time.Sleep(time.Second)
		b.try(b.line1(), of("team/app", "v2"), "200", 0, 2) // there is none, and so the tags are asked for
		b.try(b.line1(), of("team/none", "v1"), "403", 500*time.Millisecond, 2)
		b.try(b.line1(), of("other/app", "v1"), "403", time.Second, 1)
		b.try(b.line1(), of("other/app", "v1"), "403", 2*time.Second, 0)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 0)
		time.Sleep(30 * time.Second)
		b.try(b.line1(), of("other/app", "v1"), "403", 4*time.Second, 1)
		b.try(b.wrong(), of("team/app", "v1"), "401 Basic", 4*time.Second, 1)
		b.try(b.wrong(), of("team/app", "v1"), "401 Basic", 4*time.Second, 0)
		time.Sleep(10 * time.Minute)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)                   // which resets
		b.try(b.wrong(), of("team/app", "v1"), "401 Basic", time.Second/2, 1) // the bad verdict has run out
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 0)
	})
}

func TestThroughPingAndOthers(t *testing.T) {
	elsewhere := access.Ask{Resource: "a/b", Names: []string{"a/b"}, Host: "open.example", Repo: "a/b", Kind: "manifest", Reference: "v1"}
	catalog := access.Ask{Catalog: true}
	_, htpasswd := newController(t, "local")
	const team = `rules: [{users: [line1], pull: [team/**], catalog: true}, {users: [local], pull: ["**"], catalog: true}]`
	withPolicy := func(opts access.Options, text string) access.Options {
		opts.Policy = newPolicy(t, text)
		return opts
	}
	for name, tt := range map[string]struct {
		opts access.Options
		do   func(b *bench)
	}{
		"alone": {access.Options{}, func(b *bench) {
			b.try(b.nobody(), access.Ask{}, "401 Basic", 0, 0)
			b.try(showing(b.nobody(), "press-1"), access.Ask{}, "401 Basic", 0, 0)
			b.try(b.wrong(), access.Ask{}, "200", 0, 0)
			b.try(b.nobody(), elsewhere, "200", 0, 0)
			b.try(b.nobody(), catalog, "401 Basic", 0, 0)
			b.try(b.line1(), catalog, "200", 0, 0)
		}},
		"with a controller": {htpasswd, func(b *bench) {
			local := func() *http.Request { return from(b.Context(), "local", "secret-local") }
			b.try(b.nobody(), access.Ask{}, "401 Basic", 0, 0)
			b.try(b.line1(), access.Ask{}, "200", 0, 0)
			b.try(local(), access.Ask{}, "200", 0, 0)
			b.try(local(), elsewhere, "200", 0, 0)
			b.try(local(), of("team/app", "v1"), "401 Basic", time.Second/2, 1)
			b.try(b.line1(), elsewhere, "401 Basic", time.Second/2, 0)
			b.try(b.nobody(), elsewhere, "401 Basic", 0, 0)
			b.try(b.line1(), catalog, "401 Basic", time.Second, 0)
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
			b.try(b.line1(), catalog, "200", 0, 0)
			b.try(local(), catalog, "200", 0, 0)
		}},
		"with a policy": {withPolicy(access.Options{}, team), func(b *bench) {
			b.remote.set(letting)
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
			b.try(b.line1(), of("other/app", "v1"), "403", 0, 0)
			b.try(from(b.Context(), "other", "secret"), of("team/app", "v1"), "403", 0, 0)
			b.try(from(b.Context(), "other", "secret"), catalog, "401 Basic", 0, 0)
			b.try(b.line1(), catalog, "200", 0, 0)
			b.try(b.wrong(), catalog, "401 Basic", 0, 0)
			b.try(b.nobody(), catalog, "401 Basic", 0, 0)
			b.try(b.line1(), elsewhere, "401 Basic", 0, 0) // nobody knows who that is
			b.try(b.nobody(), access.Ask{}, "401 Basic", 0, 0)
			b.try(b.line1(), access.Ask{}, "200", 0, 0)
		}},
		"with an open policy": {withPolicy(access.Options{}, "rules: [{anonymous: true, pull: ['**']}]"), func(b *bench) {
			b.try(b.nobody(), access.Ask{}, "401 Basic", 0, 0)
			b.try(b.nobody(), elsewhere, "200", 0, 0)
			b.try(b.nobody(), of("team/app", "v1"), "401 Basic", 0, 0)
			b.try(b.wrong(), of("team/app", "v1"), "401 Basic", time.Second/2, 1)
			b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.do(newBench(t, tt.opts)) })
		})
	}
}

// TestVerdictsAreBounded has more callers, and more repositories, than are remembered: those
// that were not used for longest are forgotten.
func TestVerdictsAreBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		most int
		ask  func(i int) (user, repo string)
	}{
		"callers":      {1000, func(i int) (string, string) { return fmt.Sprint("user", i), "team/app" }},
		"repositories": {10_000, func(i int) (string, string) { return "line1", fmt.Sprint("team/", i) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, access.Options{})
				b.remote.set(letting)
				try := func(i int, want string) {
					t.Helper()
					user, repo := tt.ask(i)
					_, err := b.gate.Authorize(from(t.Context(), user, "secret"), of(repo, "v1"))
					if got := outcome(t, err); got != want {
						t.Fatalf("%d: %s, want %s", i, got, want)
					}
				}
				for i := range tt.most {
					try(i, "200")
				}
				try(0, "200")
				try(tt.most, "200")
				b.remote.set(away)
				try(1, "503")
				try(0, "200")
				try(2, "200")
				try(tt.most, "200")
			})
		})
	}
}

// TestThroughWhileAway shows for how long a good verdict holds, and what it costs.
func TestThroughWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		app := of("team/app", "v1")
		b.try(b.line1(), app, "200", 0, 1)
		b.remote.set(away)
		time.Sleep(10 * time.Minute)
		b.try(b.line1(), app, "200", 0, 1)
		b.try(b.line1(), app, "200", 0, 0) // it is left alone for a while
		time.Sleep(10 * time.Second)
		b.try(b.line1(), app, "200", 0, 1)
		b.try(b.line1(), of("team/other", "v1"), "503", 0, 1)
		b.try(b.wrong(), app, "503", 0, 1)
		_, err := b.gate.Authorize(b.wrong(), app)
		if e, ok := errors.AsType[*cache.UpstreamError](err); !ok || e.RetryAfter != time.Minute {
			t.Errorf("what the remote has said is lost: %v", err)
		}
		b.remote.set(hanging(20*time.Second, away))
		time.Sleep(10 * time.Second)
		b.try(b.line1(), app, "200", 1500*time.Millisecond, 1)
		b.try(b.line1(), app, "200", 0, 0) // the question is still under way
		time.Sleep(30 * time.Second)
		b.remote.set(hanging(2*time.Second, serving))
		b.try(b.line1(), app, "200", 1500*time.Millisecond, 1)
		time.Sleep(time.Second)
		b.try(b.line1(), app, "200", 0, 0) // it has been confirmed meanwhile
		b.remote.set(away)
		time.Sleep(168*time.Hour - 2*time.Second)
		b.try(b.line1(), app, "200", 0, 1)
		time.Sleep(10 * time.Second)
		b.try(b.line1(), app, "503", 0, 1)
		b.remote.set(serving)
		b.try(b.line1(), app, "200", 0, 1)
		// What is revoked is so as soon as the remote can say it.
		b.remote.set(hanging(2*time.Second, denying))
		time.Sleep(10 * time.Minute)
		b.try(b.line1(), app, "200", 1500*time.Millisecond, 1)
		time.Sleep(time.Second)
		b.try(b.line1(), app, "403", time.Second, 0)
		b.remote.set(away)
		time.Sleep(time.Minute)
		b.try(b.line1(), app, "503", 0, 1)
	})
}

func TestThroughWithoutGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &remote{check: serving}
		doc := new(document)
		g := newGate(t, access.Options{Document: doc, PassThrough: map[string]access.PassThrough{"r.example": {Checker: r, TTL: time.Minute}}})
		b := &bench{t, g, r}
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		r.set(hanging(3*time.Second, away))
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 0)
		time.Sleep(time.Minute)
		b.try(b.line1(), of("team/app", "v1"), "503", 3*time.Second, 1)
		if n := doc.written(); n != 0 {
			t.Errorf("the document was written %d times", n)
		}
	})
}

// TestThroughVague has a remote that does not let everybody list tags.
func TestThroughVague(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.remote.set(func(ctx context.Context, repo, kind, reference, user, password string) error {
			if kind == "tags" {
				return &cache.UpstreamError{Kind: cache.ErrDenied, Status: http.StatusUnauthorized}
			}
			return serving(ctx, repo, kind, reference, user, password)
		})
		b.try(b.line1(), of("team/app", "v2"), "401 Basic", time.Second/2, 2)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1) // nothing was remembered of it
	})
}

func TestThroughIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.remote.set(hanging(10*time.Second, serving))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var all sync.WaitGroup
		var outcomes counter
		for range 20 {
			all.Go(func() {
				_, err := b.gate.Authorize(from(ctx, "line1", "secret-line1"), of("team/app", "v1"))
				if errors.Is(err, context.DeadlineExceeded) {
					outcomes.add("left")
				}
			})
		}
		all.Wait()
		// The next one has the use of it.
		b.try(b.line1(), of("team/app", "v1"), "200", 5*time.Second, 0)
		if got := outcomes.kinds(); !maps.Equal(got, map[string]int{"left": 20}) || b.remote.asked.all() != 1 {
			t.Errorf("outcomes %v, and the remote was asked %d times", got, b.remote.asked.all())
		}
	})
}

// TestThroughIsBounded has many callers with credentials of their own ask for something of
// a remote that hangs.
func TestThroughIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		time.Sleep(10 * time.Minute)
		b.remote.set(hanging(time.Hour, serving))
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var outcomes counter
		for i := range 200 {
			all.Go(func() {
				_, err := b.gate.Authorize(from(ctx, fmt.Sprint("user", i), "secret"), of("team/app", "v1"))
				if !errors.Is(err, context.Canceled) {
					outcomes.add(outcome(t, err))
				}
			})
		}
		synctest.Wait()
		if got := outcomes.kinds(); !maps.Equal(got, map[string]int{"429": 200 - 16 - 64}) {
			t.Errorf("outcomes %v", got)
		}
		if n := b.remote.asked.all(); n != 1+16 {
			t.Errorf("the remote was asked %d times", n)
		}
		// Who was let in before does not wait behind strangers, nor for the remote.
		b.try(b.line1(), of("team/app", "v1"), "200", 1500*time.Millisecond, 1)
		cancel()
		all.Wait()
		time.Sleep(time.Minute + 10*time.Second) // then the remote has been given up
		b.remote.set(serving)
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
	})
}
