package breaker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/upstream/breaker"
)

// TestAway has a remote that fails, and is found out about by nobody's request.
func TestAway(t *testing.T) {
	tests := map[string]struct {
		answer   error
		least    time.Duration // that it is away for
		most     time.Duration
		text     string
		isStatus int
		retry    time.Duration
	}{
		"no answer": {silence(), 800 * time.Millisecond, 1200 * time.Millisecond,
			"asking the remote at upstream.test: remote registry unavailable: connection refused", 0, 0},
		"errors": {broken(), 800 * time.Millisecond, 1200 * time.Millisecond,
			"asking the remote at upstream.test: remote registry unavailable (HTTP status 502)", 502, 0},
		"limited": {limited(time.Minute), time.Minute, time.Minute,
			"asking the remote at upstream.test: rate limited by the remote registry (HTTP status 429): TOOMANYREQUESTS", 429, time.Minute},
		// A pause that it asks for is at least as long as ours.
		"limited for a moment": {limited(time.Millisecond), 800 * time.Millisecond, 1200 * time.Millisecond,
			"asking the remote at upstream.test: rate limited by the remote registry (HTTP status 429): TOOMANYREQUESTS", 429, time.Millisecond},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newGated()
				b := breaker.New(remote, breaker.Options{})
				if why, due := b.Away(); why != nil || due {
					t.Errorf("at first: %v, %v", why, due)
				}
				var all clients
				all.resolve(t.Context(), b, 1)
				remote.answers <- tt.answer
				synctest.Wait()
				begun := time.Now()
				next := b.Status().NextTry
				for {
					why, due := b.Away()
					e, ok := errors.AsType[*cache.UpstreamError](why)
					if !ok || why.Error() != tt.text || e.Status != tt.isStatus {
						t.Fatalf("got %v, want %s", why, tt.text)
					}
					if left := max(tt.retry-time.Since(begun), 0); e.RetryAfter != left {
						t.Fatalf("to be tried again after %v, want %v", e.RetryAfter, left)
					}
					if due {
						break
					}
					time.Sleep(time.Millisecond)
				}
				if took := time.Since(begun); took < tt.least || took > tt.most+time.Millisecond || time.Now().Before(next) || time.Since(next) > 2*time.Millisecond {
					t.Errorf("due after %v; was announced for %v", took, next)
				}
				// It is being found out: still away, and nobody else is to ask.
				all.resolve(t.Context(), b, 1)
				if why, due := b.Away(); why == nil || due {
					t.Errorf("while it is asked: %v, %v", why, due)
				}
				remote.answers <- nil
				all.wg.Wait()
				if why, due := b.Away(); why != nil || due {
					t.Errorf("when it is back: %v, %v", why, due)
				}
			})
		})
	}
}

// TestAwayGrows has a remote that does not come back.
func TestAwayGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := new(cachetest.Upstream)
		b := breaker.New(remote, breaker.Options{})
		for round := range 2 {
			remote.Fail(silence())
			for want := time.Second; want <= 4*time.Minute; want *= 2 {
				if err := resolve(b); errors.Is(err, cache.ErrNotAsked) {
					t.Fatal(err)
				}
				left, d := time.Until(b.Status().NextTry), min(want, time.Minute)
				if left < d-d/5 || left > d+d/5+1 {
					t.Errorf("round %d: away for %v, want about %v", round, left, d)
				}
				time.Sleep(left)
				if _, due := b.Away(); !due {
					t.Error("not due")
				}
			}
			remote.Fail(nil)
			_ = resolve(b) // not found
		}
	})
}

// TestSlow has a remote that takes its time.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var all clients
		away := func(want string) {
			t.Helper()
			synctest.Wait()
			why, due := b.Away()
			if due || (why == nil) != (want == "") {
				t.Errorf("got %v, %v", why, due)
			}
			if why == nil {
				return
			}
			if e, ok := errors.AsType[*cache.UpstreamError](why); !ok || e.Kind != cache.ErrUnavailable ||
				why.Error() != "asking the remote at upstream.test: remote registry unavailable: it has not answered for "+want {
				t.Errorf("got %v", why)
			}
		}
		for _, state := range []breaker.State{breaker.Unknown, breaker.Online} {
			if s := b.Status().State; s != state {
				t.Errorf("it is %s, want %s", s, state)
			}
			all.resolve(t.Context(), b, 1)
			time.Sleep(time.Second)
			away("")
			time.Sleep(time.Nanosecond)
			away("2s")
			time.Sleep(30 * time.Second)
			away("32s")
			remote.answers <- nil
			away("")
		}
		// Another one that is answered shows that the remote is there,
		all.resolve(t.Context(), b, 1)
		time.Sleep(time.Second)
		all.resolve(t.Context(), b, 1)
		time.Sleep(time.Second)
		away("2s")
		remote.answers <- cache.ErrNotFound // to any of the two
		away("")
		// and that is no answer to those that come after it.
		time.Sleep(time.Hour)
		away("")
		all.resolve(t.Context(), b, 1)
		time.Sleep(3 * time.Second)
		away("3s")
		remote.answers <- cache.ErrNotFound
		remote.answers <- cache.ErrNotFound
		away("")
		// Nor is one whose caller leaves.
		all.resolve(t.Context(), b, 2)
		time.Sleep(2 * time.Second)
		remote.answers <- context.Canceled
		away("2s")
		remote.answers <- context.Canceled
		away("")
		// An error is an answer, too, and so is one that does not count.
		all.wg.Go(func() { _, _ = b.Resolve(t.Context(), "a", "own", "") })
		all.resolve(t.Context(), b, 1)
		remote.answers <- nil
		synctest.Wait()
		all.resolve(t.Context(), b, 1)
		time.Sleep(2 * time.Second)
		away("2s")
		remote.own <- broken()
		away("")
		if s := b.Status(); s.State != breaker.Online {
			t.Errorf("%+v", s)
		}
		remote.answers <- nil
		all.wg.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{Slow: time.Minute})
		var all clients
		all.resolve(t.Context(), b, 1)
		time.Sleep(time.Minute)
		if why, _ := b.Away(); why != nil {
			t.Error(why)
		}
		time.Sleep(time.Nanosecond)
		if why, _ := b.Away(); why == nil {
			t.Error("not away")
		}
		remote.answers <- nil
		all.wg.Wait()
	})
}

// TestHeld has an operator who rules the remote out for a while.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offline := fmt.Errorf("%w (REGISTRY_PROXY_OFFLINE)", cache.ErrOffline)
		var held atomic.Bool
		log, hook := test.NewNullLogger()
		remote := newGated()
		b := breaker.New(remote, breaker.Options{Log: log, Offline: func() error {
			if held.Load() {
				return offline
			}
			return nil
		}})
		var all clients
		all.resolve(t.Context(), b, 10) // one is under way, nine wait
		held.Store(true)
		for range 2 {
			why, due := b.Away()
			if notAsked(t, why, cache.ErrUnavailable); due || !errors.Is(why, cache.ErrOffline) ||
				why.Error() != "asking the remote at upstream.test: remote registry unavailable: offline mode is on (REGISTRY_PROXY_OFFLINE)" {
				t.Errorf("%v, %v", why, due)
			}
		}
		waited := all.ended()
		if len(waited) != 9 {
			t.Errorf("%d of nine requests do not wait any more", len(waited))
		}
		for _, err := range append(waited, resolve(b)) {
			if notAsked(t, err, cache.ErrUnavailable); !errors.Is(err, offline) || !strings.HasPrefix(err.Error(), "asking for manifest v") {
				t.Errorf("got %v", err)
			}
		}
		if s := b.Status(); s.State != breaker.Held || s.Reason != offline.Error() || !s.NextTry.IsZero() {
			t.Errorf("%+v", s)
		}
		remote.answers <- nil
		all.wg.Wait()
		if n := remote.asked.Load(); n != 1 || b.Status().State != breaker.Held {
			t.Errorf("asked %d times: %+v", n, b.Status())
		}

		held.Store(false)
		if s := b.Status(); s.State != breaker.Unknown {
			t.Errorf("%+v", s)
		}
		all.resolve(t.Context(), b, 1)
		remote.answers <- nil
		all.wg.Wait()

		// What the remote has asked for is heeded afterwards.
		all.resolve(t.Context(), b, 1)
		held.Store(true)
		b.Status()
		remote.answers <- limited(time.Minute)
		all.wg.Wait()
		if s := b.Status(); s.State != breaker.Held {
			t.Errorf("%+v", s)
		}
		held.Store(false)
		heldFor(t, resolve(b), time.Minute)
		time.Sleep(time.Minute)
		all.resolve(t.Context(), b, 1)
		remote.answers <- nil
		all.wg.Wait()

		var lines []string
		for _, e := range hook.AllEntries() {
			lines = append(lines, e.Message)
		}
		want := []string{
			"upstream.test is not asked any more: offline mode is on (REGISTRY_PROXY_OFFLINE); what is stored is served as it was last known",
			"upstream.test can be asked again",
			"upstream.test answers",
			"upstream.test is not asked any more: offline mode is on (REGISTRY_PROXY_OFFLINE); what is stored is served as it was last known",
			"upstream.test can be asked again",
			"upstream.test answers again, after 1m0s (failures: 1)",
		}
		if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("the log has\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	})
}

// TestLog has a line for each change of state, and none for anything else.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, hook := test.NewNullLogger()
		remote := new(cachetest.Upstream)
		b := breaker.New(remote, breaker.Options{Log: log})
		for _, step := range []struct {
			answer error
			level  logrus.Level
			line   string
		}{
			{cache.ErrNotFound, logrus.InfoLevel, "upstream.test answers"},
			{silence(), logrus.WarnLevel, "upstream.test does not answer; what is stored is served as it was last known"},
			{broken(), logrus.WarnLevel, "upstream.test answers with errors; what is stored is served as it was last known"},
			{limited(time.Second), logrus.WarnLevel, "nothing is asked of upstream.test for 1s: it wants to be left alone; what is stored is served as it was last known"},
			{nil, logrus.InfoLevel, "upstream.test answers again, after 1h40m0s (failures: 5)"},
		} {
			hook.Reset()
			remote.Fail(step.answer)
			if step.answer == nil {
				remote.AddManifest("a", "v1", "application/json", []byte("{}"))
			}
			again := 2
			if errors.Is(step.answer, cache.ErrRateLimited) {
				again = 1
			}
			for range again {
				_ = resolve(b)
				time.Sleep(20 * time.Minute)
			}
			entries := hook.AllEntries()
			if len(entries) != 1 {
				t.Fatalf("%v: %d lines", step.answer, len(entries))
			}
			e := entries[0]
			if e.Level != step.level || e.Message != step.line {
				t.Errorf("%v: %s %q, want %q", step.answer, e.Level, e.Message, step.line)
			}
			if cause, _ := e.Data[logrus.ErrorKey].(error); step.level == logrus.WarnLevel && cause.Error() != step.answer.Error() {
				t.Errorf("cause %v, want %v", cause, step.answer)
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := new(cachetest.Upstream)
		b := breaker.New(remote, breaker.Options{})
		reg := prometheus.NewPedanticRegistry()
		current := []*breaker.Breaker{b, breaker.New(&cachetest.Upstream{Name: "other.test"}, breaker.Options{})}
		if err := reg.Register(breaker.NewCollector(func() []*breaker.Breaker { return current })); err != nil {
			t.Fatal(err)
		}
		_ = resolve(b) // online
		remote.Fail(silence())
		_ = resolve(b) // offline
		_ = resolve(b) // is not asked
		time.Sleep(time.Minute)
		_ = resolve(b) // still offline
		want := `# HELP registry_module_remote_failures_total Failures of the remote registry, those that happen together counted as one.
# TYPE registry_module_remote_failures_total counter
registry_module_remote_failures_total{remote="other.test"} 0
registry_module_remote_failures_total{remote="upstream.test"} 2
# HELP registry_module_remote_state 1 for the state that the remote registry is in, 0 for the others.
# TYPE registry_module_remote_state gauge
`
		for _, remote := range []struct {
			host  string
			state breaker.State
		}{{"other.test", breaker.Unknown}, {"upstream.test", breaker.Offline}} {
			for _, s := range []breaker.State{breaker.Failing, breaker.Held, breaker.Limited, breaker.Offline, breaker.Online, breaker.Unknown} {
				value := 0
				if s == remote.state {
					value = 1
				}
				want += fmt.Sprintf("registry_module_remote_state{remote=%q,state=%q} %d\n", remote.host, s, value)
			}
		}
		want += `# HELP registry_module_remote_state_changes_total Changes of the state of the remote registry.
# TYPE registry_module_remote_state_changes_total counter
registry_module_remote_state_changes_total{remote="other.test"} 0
registry_module_remote_state_changes_total{remote="upstream.test"} 2
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	})
}

// TestStatusJSON has the form that scripts read.
func TestStatusJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock begins with 2000-01-01
		remote := new(cachetest.Upstream)
		remote.Fail(limited(time.Minute))
		b := breaker.New(remote, breaker.Options{})
		time.Sleep(time.Second)
		for _, want := range []string{
			`{"remote":"upstream.test","state":"unknown","since":"2000-01-01T00:00:00Z","failures":0}`,
			`{"remote":"upstream.test","state":"limited","since":"2000-01-01T00:00:01Z","failures":1,"reason":"HTTP status 429: TOOMANYREQUESTS","next_try":"2000-01-01T00:01:01Z"}`,
		} {
			if got, err := json.Marshal(b.Status()); err != nil || string(got) != want {
				t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
			}
			_ = resolve(b)
		}
	})
}
