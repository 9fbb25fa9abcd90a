package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/upstream/breaker"
)

// gated is a remote whose answers wait to be let through: to any request, or to the
// one for the tag "own".
type gated struct {
	cache.Upstream
	asked   atomic.Int32
	last    atomic.Value // what was asked for last
	answers chan error
	own     chan error
}

func newGated() *gated {
	return &gated{Upstream: new(cachetest.Upstream), answers: make(chan error), own: make(chan error)}
}

func (g *gated) Resolve(ctx context.Context, _, ref string, _ digest.Digest) (cache.Descriptor, error) {
	g.asked.Add(1)
	g.last.Store(ref)
	if ref == "panic" {
		<-g.answers
		panic("resolve")
	}
	answers := g.answers
	if ref == "own" {
		answers = g.own
	}
	select {
	case err := <-answers:
		return cache.Descriptor{}, err
	case <-ctx.Done():
		return cache.Descriptor{}, ctx.Err()
	}
}

// silence is a request for which no connection could be made.
func silence() error {
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching manifest a:1", Err: errors.New("connection refused"),
		NoConnection: true,
	}
}

// broken is an answer with an error of the remote's own.
func broken() error {
	return &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching manifest a:1", Status: 502}
}

// notAsked fails unless err is one of a request that was not made, of that kind.
func notAsked(t *testing.T, err, kind error) *cache.UpstreamError {
	t.Helper()
	e, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok || !errors.Is(err, cache.ErrNotAsked) || e.Kind != kind || e.Remote != "upstream.test" {
		t.Fatalf("got %v, want an error of a request that was not made: %v", err, kind)
	}
	return e
}

// clients are requests that run at the same time.
type clients struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

// resolve asks up for n tags and more, each by its own name.
func (c *clients) resolve(ctx context.Context, up cache.Upstream, n int) {
	for i := range n {
		c.wg.Go(func() {
			_, err := up.Resolve(ctx, "a", fmt.Sprint("v", i), "")
			c.mu.Lock()
			defer c.mu.Unlock()
			c.errs = append(c.errs, err)
		})
	}
	synctest.Wait()
}

// ended returns what has come of those that have ended.
func (c *clients) ended() []error {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.errs
}

func TestVerdicts(t *testing.T) {
	answer := func(kind error, status int, cause error) error {
		return &cache.UpstreamError{Kind: kind, Remote: "upstream.test", Op: "asking", Status: status, Err: cause}
	}
	elsewhere := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Status: 503, RetryAfter: time.Minute, Elsewhere: true}
	tests := map[string]struct {
		answer error
		want   breaker.State
		reason string
	}{
		"well":                          {nil, breaker.Online, ""},
		"404":                           {answer(cache.ErrNotFound, 404, nil), breaker.Online, ""},
		"401":                           {answer(cache.ErrDenied, 401, nil), breaker.Online, ""},
		"418":                           {answer(cache.ErrInvalid, 418, nil), breaker.Online, ""},
		"another digest":                {answer(cache.ErrInvalid, 200, errors.New("another digest")), breaker.Online, ""},
		"508":                           {answer(cache.ErrLoop, 508, nil), breaker.Online, ""},
		"not found, no more":            {fmt.Errorf("manifest: %w", cache.ErrNotFound), breaker.Online, ""},
		"where it has redirected us":    {elsewhere, breaker.Online, ""},
		"503":                           {answer(cache.ErrUnavailable, 503, nil), breaker.Failing, "HTTP status 503"},
		"407":                           {answer(cache.ErrUnavailable, 407, errors.New("proxy")), breaker.Failing, "HTTP status 407: proxy"},
		"429":                           {answer(cache.ErrRateLimited, 429, errors.New("TOOMANY")), breaker.Failing, "HTTP status 429: TOOMANY"},
		"rate limited, no more":         {cache.ErrRateLimited, breaker.Failing, "rate limited by the remote registry"},
		"login page":                    {answer(cache.ErrInvalid, 200, cache.ErrIntercepted), breaker.Failing, "HTTP status 200: not an answer of the registry"},
		"503 with time":                 {down(time.Minute), breaker.Failing, "HTTP status 503"},
		"429 with time":                 {limited(time.Minute), breaker.Limited, "HTTP status 429: TOOMANYREQUESTS"},
		"refused connection":            {answer(cache.ErrUnavailable, 0, errors.New("refused")), breaker.Offline, "refused"},
		"no connection in time":         {answer(cache.ErrUnavailable, 0, context.DeadlineExceeded), breaker.Offline, "context deadline exceeded"},
		"unavailable":                   {answer(cache.ErrUnavailable, 0, nil), breaker.Offline, "remote registry unavailable"},
		"unavailable, no more":          {cache.ErrUnavailable, breaker.Offline, "remote registry unavailable"},
		"nobody waits for it":           {fmt.Errorf("asking: %w", context.Canceled), breaker.Unknown, ""},
		"unavailable, as nobody waits":  {answer(cache.ErrUnavailable, 0, context.Canceled), breaker.Unknown, ""},
		"not asked":                     {answer(cache.ErrUnavailable, 0, cache.ErrNotAsked), breaker.Unknown, ""},
		"not asked, with a status":      {answer(cache.ErrRateLimited, 429, cache.ErrNotAsked), breaker.Unknown, ""},
		"offline mode":                  {answer(cache.ErrUnavailable, 0, cache.ErrOffline), breaker.Unknown, ""},
		"an error that says nothing":    {errors.New("no such file"), breaker.Unknown, ""},
		"an upstream error, of no kind": {answer(nil, 0, nil), breaker.Unknown, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := new(cachetest.Upstream)
				remote.Fail(tt.answer)
				b := breaker.New(remote, breaker.Options{})
				if s := b.Status(); s.State != breaker.Unknown || s.Remote != "upstream.test" {
					t.Errorf("at first it is %+v", s)
				}
				_, err := b.StatBlob(t.Context(), "a", "sha256:0")
				if tt.answer != nil && err != tt.answer {
					t.Errorf("got %v, want %v", err, tt.answer)
				}
				s := b.Status()
				if s.State != tt.want || s.Reason != tt.reason {
					t.Errorf("it is %q (%s), want %q (%s)", s.State, s.Reason, tt.want, tt.reason)
				}
				bad := tt.reason != ""
				why, due := b.Away()
				if (why != nil) != bad || due || (s.Failures == 1) != bad || s.NextTry.IsZero() == bad {
					t.Errorf("away: %v, %v; %+v", why, due, s)
				}
			})
		})
	}
}

// TestOffline has a remote that does not answer, and is back later.
func TestOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := new(cachetest.Upstream)
		down := silence()
		remote.Fail(down)
		b := breaker.New(remote, breaker.Options{})
		since := time.Now().UTC().Format(time.RFC3339)
		if err := resolve(b); err != down {
			t.Fatalf("got %v", err)
		}
		err := resolve(b)
		e := notAsked(t, err, cache.ErrUnavailable)
		if !strings.HasPrefix(err.Error(), "asking for manifest v1 of a at upstream.test: remote registry unavailable: "+
			"not asked: it has not answered since "+since+" (connection refused); tried again in ") ||
			!strings.HasSuffix(err.Error(), fmt.Sprint(" ", e.RetryAfter)) || e.RetryAfter < time.Second || e.RetryAfter > 2*time.Second {
			t.Errorf("got %v, after %v", err, e.RetryAfter)
		}
		if n := remote.Calls(""); n != 1 {
			t.Errorf("asked %d times at once", n)
		}

		// Who has nothing stored asks every two seconds or so, however long it takes.
		last := time.Now()
		for calls := 1; calls < 50; {
			time.Sleep(10 * time.Millisecond)
			err := resolve(b)
			now := remote.Calls("")
			if now == calls {
				if left := notAsked(t, err, cache.ErrUnavailable).RetryAfter; left < time.Second || left > 3*time.Second || left%time.Second != 0 {
					t.Fatalf("to be tried again after %v", left)
				}
				continue
			}
			calls = now
			if err != down {
				t.Fatalf("got %v", err)
			}
			pause := time.Since(last)
			last = time.Now()
			least, most := 1600*time.Millisecond, 2410*time.Millisecond
			if calls == 2 {
				least, most = 800*time.Millisecond, 1210*time.Millisecond
			}
			if pause < least || pause > most {
				t.Errorf("asked for the %dth time after %v", calls, pause)
			}
		}
		if s := b.Status(); s.State != breaker.Offline || s.Failures != 49 && s.Failures != 50 || s.Since.Format(time.RFC3339) != since {
			t.Errorf("%+v", s)
		}

		remote.Fail(nil)
		remote.AddManifest("a", "v1", "application/json", []byte("{}"))
		for back := time.Now(); resolve(b) != nil; time.Sleep(time.Second) {
			if time.Since(back) > 3*time.Second {
				t.Fatal("it is back, and not found")
			}
		}
		if s := b.Status(); s.State != breaker.Online || s.Failures != 0 || s.Reason != "" || !s.NextTry.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// TestOneProbe has a hundred requests wait for what comes of the one that finds out
// whether the remote is back.
func TestOneProbe(t *testing.T) {
	for name, answer := range map[string]error{"it is": nil, "it is not": silence()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newGated()
				b := breaker.New(remote, breaker.Options{})
				var all clients
				all.resolve(t.Context(), b, 1)
				remote.answers <- silence()
				time.Sleep(2500 * time.Millisecond)
				all.resolve(t.Context(), b, 101)
				if n := remote.asked.Load(); n != 2 || len(all.ended()) != 1 {
					t.Fatalf("the remote was asked %d times; %d requests have ended", n, len(all.ended()))
				}
				remote.answers <- answer
				if answer == nil {
					for range 100 {
						remote.answers <- nil
					}
				}
				got := all.ended()
				if len(got) != 102 {
					t.Fatalf("%d requests have ended", len(got))
				}
				for _, err := range got[1:] {
					if (err == nil) != (answer == nil) || answer != nil && !errors.Is(err, cache.ErrUnavailable) {
						t.Errorf("got %v", err)
					}
				}
				want := 2
				if answer == nil {
					want = 0
				}
				if n := b.Status().Failures; n != want {
					t.Errorf("%d failures, want %d", n, want)
				}
			})
		})
	}
}

// TestFailuresTogether has requests that were under way together.
func TestFailuresTogether(t *testing.T) {
	tests := map[string]struct {
		answers  []error
		failures int
		state    breaker.State
	}{
		"all fail":                   {[]error{silence(), silence(), silence()}, 1, breaker.Offline},
		"all fail in different ways": {[]error{broken(), silence(), broken()}, 1, breaker.Failing},
		"fail, then answer well":     {[]error{silence(), nil, nil}, 0, breaker.Online},
		// One is slow or unlucky: the remote is there.
		"answer well, then fail":         {[]error{nil, silence(), broken()}, 0, breaker.Online},
		"answer well, then want a pause": {[]error{nil, limited(time.Minute), nil}, 1, breaker.Limited},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newGated()
				b := breaker.New(remote, breaker.Options{})
				var all clients
				all.resolve(t.Context(), b, 1)
				remote.answers <- nil
				synctest.Wait()
				all.resolve(t.Context(), b, len(tt.answers))
				for _, answer := range tt.answers {
					remote.answers <- answer
					synctest.Wait()
				}
				if s := b.Status(); s.State != tt.state || s.Failures != tt.failures {
					t.Errorf("%+v, want %d failures and %q", s, tt.failures, tt.state)
				}
				all.wg.Wait()
			})
		})
	}
}

// TestFailuresDuringLimit has requests from before the remote wanted to be left alone
// fail afterwards.
func TestFailuresDuringLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var all clients
		all.resolve(t.Context(), b, 1)
		remote.answers <- nil
		all.wg.Wait()
		all.wg.Go(func() { _, _ = b.Resolve(t.Context(), "a", "own", "") }) // the answer is what matters
		all.resolve(t.Context(), b, 1)
		remote.answers <- broken()
		synctest.Wait()
		all.resolve(t.Context(), b, 1)
		remote.own <- limited(time.Minute)
		synctest.Wait()
		remote.answers <- silence()
		all.wg.Wait()
		heldFor(t, resolve(b), time.Minute)
		if err, s := resolve(b), b.Status(); !errors.Is(err, cache.ErrRateLimited) || s.State != breaker.Limited || s.Reason != "HTTP status 429: TOOMANYREQUESTS" {
			t.Errorf("%v, %+v", err, s)
		}
	})
}

// TestOldAnswerEndsTheWait has a request from before the outage answered well, while
// another one finds out whether the remote is back.
func TestOldAnswerEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var all clients
		all.resolve(t.Context(), b, 1)
		remote.answers <- nil
		all.wg.Wait()
		all.resolve(t.Context(), b, 2)
		remote.answers <- silence()
		time.Sleep(2500 * time.Millisecond)
		all.resolve(t.Context(), b, 2) // finds out; waits
		if n := remote.asked.Load(); n != 4 {
			t.Fatalf("asked %d times", n)
		}
		remote.answers <- nil // to any of the two
		synctest.Wait()
		if n := remote.asked.Load(); n != 5 || b.Status().State != breaker.Online {
			t.Errorf("asked %d times: %+v", n, b.Status())
		}
		remote.answers <- nil
		remote.answers <- silence()
		all.wg.Wait()
	})
}

// TestAtOnce has all that can happen happen at the same time, for the race detector.
func TestAtOnce(t *testing.T) {
	var n atomic.Uint32
	remote := &cachetest.Upstream{}
	answers := []error{nil, silence(), broken(), context.Canceled, limited(time.Nanosecond), nil, &net.OpError{Err: errors.New("x")}}
	var held atomic.Bool
	b := breaker.New(remote, breaker.Options{Slow: time.Nanosecond, Offline: func() error {
		if held.Load() {
			return cache.ErrOffline
		}
		return nil
	}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 200 {
				i := n.Add(1)
				remote.Fail(answers[int(i)%len(answers)])
				held.Store(i%100 == 0)
				_ = resolve(b)
				_, _ = b.Away()
				b.Status()
			}
		})
	}
	wg.Wait()
}
