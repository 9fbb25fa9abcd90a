package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/upstream/breaker"
)

// limited is an answer that asks to wait.
func limited(wait time.Duration) error {
	return &cache.UpstreamError{
		Kind: cache.ErrRateLimited, Remote: "upstream.test", Op: "fetching manifest a:1", Status: 429, RetryAfter: wait,
		Err: errors.New("TOOMANYREQUESTS"),
	}
}

// down is an answer that asks to wait because the remote is down.
func down(wait time.Duration) error {
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching manifest a:1", Status: 503, RetryAfter: wait,
	}
}

// resolve asks up anything.
func resolve(up cache.Upstream) error {
	_, err := up.Resolve(context.Background(), "a", "v1", "")
	return err
}

// heldFor fails unless err is one of a request that was not made, with so much
// time left.
func heldFor(t *testing.T, err error, left time.Duration) {
	t.Helper()
	e, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok || e.Err == nil || !strings.HasPrefix(e.Err.Error(), "not asked, ") {
		t.Fatalf("got %v, want an error of a request that was not made", err)
	}
	if e.RetryAfter != left {
		t.Errorf("it is to be tried again after %v, want %v", e.RetryAfter, left)
	}
}

// TestEveryCallWaits has each call begin a hold, and all of them refused.
func TestEveryCallWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := new(cachetest.Upstream)
		blob := remote.AddBlob("a/b", []byte("0123456789"))
		remote.AddManifest("a/b", "v1", "application/json", []byte("{}"))
		up := breaker.New(remote, breaker.Options{})
		ctx := t.Context()
		calls := []struct {
			op, what string
			call     func() error
		}{
			{"manifest", "fetching manifest v1 of a/b", func() error { _, err := up.Manifest(ctx, "a/b", "v1"); return err }},
			{"resolve", "asking for manifest v1 of a/b", func() error { _, err := up.Resolve(ctx, "a/b", "v1", ""); return err }},
			{"blob", "asking for blob " + blob.String() + " of a/b", func() error { _, err := up.Blob(ctx, "a/b", blob, cache.BlobPart{}); return err }},
			{"stat", "asking for blob " + blob.String() + " of a/b", func() error { _, err := up.StatBlob(ctx, "a/b", blob); return err }},
			{"tags", "listing tags of a/b", func() error { _, _, err := up.Tags(ctx, "a/b", -1, ""); return err }},
			{"referrers", "listing referrers of " + blob.String() + " in a/b", func() error { _, err := up.Referrers(ctx, "a/b", blob); return err }},
		}
		for _, first := range calls {
			remote.Fail(fmt.Errorf("wrapped: %w", limited(time.Minute)))
			if err := first.call(); err == nil || !strings.HasPrefix(err.Error(), "wrapped: ") {
				t.Errorf("%s: the remote's own error became %v", first.op, err)
			}
			remote.Fail(nil)
			before := remote.Calls("")
			time.Sleep(time.Minute - 1500*time.Millisecond) // of the bubble
			for _, c := range calls {
				err := c.call()
				heldFor(t, err, 1500*time.Millisecond)
				want := c.what + " at upstream.test: rate limited by the remote registry (HTTP status 429): " +
					"not asked, because the remote wants to be left alone for another 2s"
				if err.Error() != want || !errors.Is(err, cache.ErrRateLimited) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
				if !errors.Is(err, cache.ErrNotAsked) {
					t.Errorf("%v is not one of a request that was not made", err)
				}
			}
			time.Sleep(1500*time.Millisecond - time.Nanosecond)
			heldFor(t, first.call(), time.Nanosecond)
			if n := remote.Calls("") - before; n != 0 {
				t.Errorf("%s: the remote was asked %d times", first.op, n)
			}
			time.Sleep(time.Nanosecond)
			for _, c := range calls {
				if err := c.call(); err != nil {
					t.Errorf("%s: after that time: %v", c.op, err)
				}
			}
			if n := remote.Calls("") - before; n != len(calls) {
				t.Errorf("%s: after that time the remote was asked %d times", first.op, n)
			}
		}
	})
}

// TestWhatHolds has answers that ask to wait, and answers that do not.
func TestWhatHolds(t *testing.T) {
	const hour = time.Hour // the most
	answer := func(kind error, status int, wait time.Duration) error {
		return &cache.UpstreamError{Kind: kind, Remote: "r", Op: "asking", Status: status, RetryAfter: wait}
	}
	tests := []struct {
		name   string
		answer error
		want   time.Duration
	}{
		{"429", answer(cache.ErrRateLimited, 429, time.Second), time.Second},
		{"among others", errors.Join(io.EOF, limited(time.Second)), time.Second},
		{"429, an hour", answer(cache.ErrRateLimited, 429, hour), hour},
		{"429, more than an hour", answer(cache.ErrRateLimited, 429, hour+1), hour},
		{"429, for ever", answer(cache.ErrRateLimited, 429, 1<<63-1), hour},
		{"503, for the first time", down(time.Minute), 0},
		{"429 without time", answer(cache.ErrRateLimited, 429, 0), 0},
		{"503 without time", answer(cache.ErrUnavailable, 503, 0), 0},
		{"in the past", answer(cache.ErrUnavailable, 503, -time.Second), 0},
		{"403 with time", answer(cache.ErrDenied, 403, time.Second), 0},
		{"404 with time", answer(cache.ErrNotFound, 404, time.Second), 0},
		{"another answer with time", answer(cache.ErrInvalid, 418, time.Second), 0},
		{"no kind", answer(nil, 0, time.Second), 0},
		{"not an answer", cache.ErrRateLimited, 0},
		{"nobody waits for it any more", context.Canceled, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := new(cachetest.Upstream)
				remote.Fail(tt.answer)
				up := breaker.New(remote, breaker.Options{})
				if err := resolve(up); err != tt.answer {
					t.Errorf("got %v, want %v", err, tt.answer)
				}
				err := resolve(up)
				if tt.want == 0 {
					if err != tt.answer || remote.Calls("") != 2 {
						t.Errorf("got %v with %d requests, want the remote to be asked", err, remote.Calls(""))
					}
					return
				}
				heldFor(t, err, tt.want)
				var e, want *cache.UpstreamError
				if !errors.As(err, &e) || !errors.As(tt.answer, &want) || e.Kind != want.Kind || e.Status != want.Status || e.Remote != want.Remote {
					t.Errorf("got %+v, want as in %+v", e, want)
				}
				time.Sleep(tt.want)
				if err := resolve(up); err != tt.answer || remote.Calls("") != 2 {
					t.Errorf("after %v: got %v with %d requests", tt.want, err, remote.Calls(""))
				}
			})
		})
	}
}

// TestDown has a remote that is down, or a part of it, and says for how long.
func TestDown(t *testing.T) {
	const most = 5 * time.Minute
	tests := map[string]struct {
		answers []error
		want    time.Duration // for which nothing is asked afterwards
		away    time.Duration // for which what is stored is not asked about
	}{
		"once":                  {[]error{down(time.Minute)}, 0, time.Minute},
		"twice":                 {[]error{down(time.Minute), down(time.Minute)}, 0, time.Minute},
		"three times":           {[]error{down(time.Minute), down(time.Minute), down(90 * time.Second)}, 90 * time.Second, 90 * time.Second},
		"five minutes":          {[]error{broken(), broken(), down(most)}, most, most},
		"longer":                {[]error{broken(), broken(), down(time.Hour)}, most, most},
		"after other failures":  {[]error{broken(), limited(time.Nanosecond), down(time.Minute)}, time.Minute, time.Minute},
		"without time, at last": {[]error{down(time.Minute), down(time.Minute), broken()}, 0, 3 * time.Second},
		"with a good answer in between": {
			[]error{down(time.Minute), down(time.Minute), cache.ErrNotFound, down(time.Minute), down(time.Minute)}, 0, time.Minute,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := new(cachetest.Upstream)
				b := breaker.New(remote, breaker.Options{})
				for _, answer := range tt.answers {
					remote.Fail(answer)
					if err := resolve(b); err != answer {
						t.Fatalf("got %v, want %v", err, answer)
					}
					time.Sleep(time.Nanosecond)
				}
				s := b.Status()
				if left := time.Until(s.NextTry) + time.Nanosecond; left > tt.away || left < tt.away && tt.away >= time.Minute {
					t.Errorf("away for %v, want %v", left, tt.away)
				}
				if want := tt.want != 0; (s.State == breaker.Limited) != want || (s.State == breaker.Failing) == want {
					t.Errorf("%+v", s)
				}
				err := resolve(b)
				if tt.want == 0 {
					if errors.Is(err, cache.ErrNotAsked) {
						t.Errorf("got %v", err)
					}
					return
				}
				heldFor(t, err, tt.want-time.Nanosecond)
				if e, _ := errors.AsType[*cache.UpstreamError](err); e.Kind != cache.ErrUnavailable || e.Status != 503 || e.Remote != "upstream.test" {
					t.Errorf("got %+v", e)
				}
			})
		})
	}
}

// TestLimitIsOver has many requests wait until the remote may be asked again.
func TestLimitIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var all clients
		all.resolve(t.Context(), b, 1)
		remote.answers <- limited(time.Minute)
		synctest.Wait()
		time.Sleep(time.Minute)
		all.resolve(t.Context(), b, 100)
		if n := remote.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
		remote.answers <- limited(time.Minute)
		all.wg.Wait()
		if n := remote.asked.Load(); n != 2 || len(all.ended()) != 101 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestRequestsUnderWay has answers to requests that were made before the first of
// them asked to wait.
func TestRequestsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, hook := test.NewNullLogger()
		remote := newGated()
		up := breaker.New(remote, breaker.Options{Log: log})
		var wg sync.WaitGroup
		wg.Go(func() { _ = resolve(up) }) // the first goes alone
		remote.answers <- nil
		wg.Wait()
		const requests = 5
		for range requests {
			wg.Go(func() { _ = resolve(up) }) // the answers are what matters
		}
		synctest.Wait()
		for i, step := range []struct {
			answer error
			want   time.Duration
		}{
			{limited(time.Minute), time.Minute},
			{limited(time.Second), time.Minute},
			{nil, time.Minute},
			{limited(2 * time.Minute), 2 * time.Minute},
			{down(3 * time.Minute), 2 * time.Minute},
		} {
			remote.answers <- step.answer
			synctest.Wait()
			err := resolve(up)
			heldFor(t, err, step.want)
			if !errors.Is(err, cache.ErrRateLimited) {
				t.Errorf("answer %d: got %v", i, err)
			}
		}
		wg.Wait()
		if n := len(hook.AllEntries()); n != 2 {
			t.Errorf("%d lines in the log for a good answer and one time in which nothing is asked", n)
		}
	})
}

// TestLogOfLimits has a remote that wants to be left alone again and again.
func TestLogOfLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, hook := test.NewNullLogger()
		remote := new(cachetest.Upstream)
		remote.Fail(limited(59*time.Second + 1))
		up := breaker.New(remote, breaker.Options{Log: log})
		for range 3 {
			for range 4 {
				if err := resolve(up); err == nil {
					t.Fatal("no error")
				}
			}
			time.Sleep(time.Minute)
		}
		entries := hook.AllEntries()
		if len(entries) != 1 {
			t.Fatalf("%d lines in the log, want 1", len(entries))
		}
		const want = "nothing is asked of upstream.test for 1m0s: it wants to be left alone; what is stored is served as it was last known"
		if e := entries[0]; e.Level != logrus.WarnLevel || e.Message != want || !errors.Is(e.Data[logrus.ErrorKey].(error), cache.ErrRateLimited) {
			t.Errorf("got %v %q %v", e.Level, e.Message, e.Data)
		}
		if n := remote.Calls(""); n != 3 {
			t.Errorf("the remote was asked %d times", n)
		}
	})
}

func TestClock(t *testing.T) {
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	remote := new(cachetest.Upstream)
	remote.Fail(limited(time.Hour))
	up := breaker.New(remote, breaker.Options{Now: func() time.Time { return now }})
	if err := resolve(up); err == nil {
		t.Fatal("no error")
	}
	now = now.Add(20 * time.Minute)
	heldFor(t, resolve(up), 40*time.Minute)
	now = now.Add(40 * time.Minute)
	if _ = resolve(up); remote.Calls("") != 2 {
		t.Errorf("the remote was asked %d times", remote.Calls(""))
	}
}

func TestPassesOn(t *testing.T) {
	remote := new(cachetest.Upstream)
	blob := remote.AddBlob("a", []byte("0123456789"))
	remote.AddManifest("a", "v1", "application/json", []byte("{}"))
	up := breaker.New(remote, breaker.Options{})
	ctx := t.Context()
	if got, err := up.Manifest(ctx, "a", "v1"); err != nil || string(got.Bytes) != "{}" || got.Digest != digest.FromString("{}") {
		t.Errorf("%+v, %v", got, err)
	}
	if d, err := up.Resolve(ctx, "a", "v1", ""); err != nil || d.Size != 2 {
		t.Errorf("%+v, %v", d, err)
	}
	s, err := up.Blob(ctx, "a", blob, cache.BlobPart{Offset: 4, Length: 2})
	if err != nil || s.Offset != 4 || s.Size != 10 {
		t.Fatalf("%+v, %v", s, err)
	}
	if got, err := io.ReadAll(s.Body); err != nil || string(got) != "45" {
		t.Errorf("%q, %v", got, err)
	}
	if n, err := up.StatBlob(ctx, "a", blob); err != nil || n != 10 {
		t.Errorf("%d, %v", n, err)
	}
	if tags, more, err := up.Tags(ctx, "a", -1, ""); err != nil || more || len(tags) != 1 {
		t.Errorf("%q, %v, %v", tags, more, err)
	}
	subject := remote.AddManifest("a", "", "application/json", []byte(`{"subject":{"digest":"`+blob.String()+`"}}`))
	if all, err := up.Referrers(ctx, "a", blob); err != nil || len(all) != 1 || all[0].Digest != subject {
		t.Errorf("%+v, %v", all, err)
	}
	if up.Host() != "upstream.test" {
		t.Errorf("host %q", up.Host())
	}
}
