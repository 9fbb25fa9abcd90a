package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/auth/access"
)

// counter counts by kind.
type counter struct {
	mu sync.Mutex
	of map[string]int
}

func (c *counter) add(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[kind]++
}

// kinds returns what was counted so far.
func (c *counter) kinds() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.of)
}

func (c *counter) all() (n int) {
	for _, of := range c.kinds() {
		n += of
	}
	return n
}

func TestLoginIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, opts := newController(t, "line1", "line2")
		g := newGate(t, opts)
		login := func(user, password string, asked int) {
			t.Helper()
			before := c.count()
			want := "200"
			if password != "secret-"+user {
				want = "401 Basic"
			}
			_, err := g.Authorize(from(t.Context(), user, password), access.Ask{})
			if got := outcome(t, err); got != want {
				t.Errorf("%s: %s, want %s", user, got, want)
			}
			if n := c.count() - before; n != asked {
				t.Errorf("the controller was asked %d times about %s, want %d", n, user, asked)
			}
		}
		login("line1", "secret-line1", 1)
		for range 10 { // it is used, and so goes on to be remembered
			time.Sleep(4 * time.Minute)
			login("line1", "secret-line1", 0)
		}
		login("line2", "secret-line2", 1)
		login("line1", "secret-line2", 1) // of somebody else
		login("line1", "secret-line1", 0)
		time.Sleep(5 * time.Minute)
		login("line1", "secret-line1", 1)
		writePasswords(t, opts.PasswordFile, "line1")
		login("line1", "secret-line1", 1)
		login("line2", "secret-line2x", 1)
		_, err := g.Authorize(from(t.Context(), "line2", "secret-line2"), access.Ask{})
		if got := outcome(t, err); got != "401 Basic" {
			t.Errorf("who is not in the file any more gets %s", got)
		}
	})
}

func TestManyWithOneNewLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, opts := newController(t, "line1")
		c.gate = make(chan struct{})
		g := newGate(t, opts)
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
		if n := c.count(); n != 1 {
			t.Errorf("the controller was asked %d times, want once", n)
		}
	})
}

// TestHashingIsBounded has many log in at once: two are looked at at a time, some wait, and
// the others are told to come again. Who leaves makes room.
func TestHashingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users := make([]string, 100)
		for i := range users {
			users[i] = fmt.Sprintf("line%d", i)
		}
		c, opts := newController(t, users...)
		c.gate = make(chan struct{})
		g := newGate(t, opts)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var outcomes counter
		start := func(ctx context.Context, user string) {
			all.Go(func() {
				_, err := g.Authorize(from(ctx, user, "secret-"+user), access.Ask{})
				if errors.Is(err, context.Canceled) {
					outcomes.add("left")
					return
				}
				outcomes.add(outcome(t, err))
			})
		}
		for _, user := range users[:90] {
			start(ctx, user)
		}
		synctest.Wait()
		if n := outcomes.kinds()["429"]; n != 90-2-64 {
			t.Errorf("%d were told to come again, want %d", n, 90-2-64)
		}
		cancel()
		synctest.Wait()
		if n := outcomes.kinds()["left"]; n != 66 {
			t.Errorf("%d have left, want 66", n)
		}
		start(t.Context(), users[99])
		synctest.Wait()
		if n := c.count(); n != 2 {
			t.Errorf("the controller was asked %d times, want twice", n)
		}
		close(c.gate)
		all.Wait()
		if c.highest != 2 || c.count() != 3 || outcomes.kinds()["200"] != 1 {
			t.Errorf("the controller was asked %d times, and %d at a time; outcomes %v", c.count(), c.highest, outcomes.kinds())
		}
	})
}

func TestFailuresAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, opts := newController(t, "line1", "line2")
		var log bytes.Buffer
		logger := logrus.New()
		logger.SetOutput(&log)
		opts.Log = logger
		g := newGate(t, opts)
		try := func(user, password string) (string, time.Duration) {
			start := time.Now()
			_, err := g.Authorize(from(t.Context(), user, password), access.Ask{})
			return outcome(t, err), time.Since(start)
		}
		wants := func(user, password, want string, took time.Duration) {
			t.Helper()
			if got, d := try(user, password); got != want || d != took {
				t.Errorf("%s: %s after %v, want %s after %v", user, got, d, want, took)
			}
		}
		wants("line2", "secret-line2", "200", 0)
		for _, took := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
			wants("line1", "secret-wrong", "401 Basic", took)
			wants("line2", "secret-line2", "200", 0)
		}
		wants("line1", "secret-line1", "200", 0)
		wants("line1", "secret-wrong", "401 Basic", 500*time.Millisecond) // it was reset
		wants("line1", "secret-wrong", "401 Basic", time.Second)
		wants("line1", "secret-line1", "200", 0) // what is remembered
		time.Sleep(11 * time.Minute)
		wants("line1", "secret-wrong", "401 Basic", 500*time.Millisecond)
		wants("nobody \"\n"+strings.Repeat("x", 1000), "secret", "401 Basic", 500*time.Millisecond)
		text := log.String()
		for _, want := range []string{"level=warning", "a log-in has failed", "line1", "failures=5", "client=192.0.2.1"} {
			if !strings.Contains(text, want) {
				t.Errorf("the log does not say %q:\n%s", want, text)
			}
		}
		if strings.Contains(text, "secret") || strings.Contains(text, strings.Repeat("x", 80)) || strings.Count(text, "\n") != 9 {
			t.Errorf("the log is not as it is to be:\n%s", text)
		}
	})
}

// TestFailuresAreBounded has many fail at once.
func TestFailuresAreBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		user  func(i int) string
		first map[string]int // outcomes before anything that is held is answered
		asked int
	}{
		// After the first, four at a time are looked at.
		"one user": {func(int) string { return "line1" }, map[string]int{"429": 76}, 4},
		// All are looked at, and as many are held as there is room for.
		"many users": {func(i int) string { return fmt.Sprint("user", i) }, map[string]int{"429": 80 - 64}, 80},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, opts := newController(t, "line1", "good")
				g := newGate(t, opts)
				if _, err := g.Authorize(from(t.Context(), "good", "secret-good"), access.Ask{}); err != nil {
					t.Fatal(err)
				}
				_, err := g.Authorize(from(t.Context(), "line1", "secret-wrong"), access.Ask{})
				if got := outcome(t, err); got != "401 Basic" {
					t.Fatal(got)
				}
				before := c.count()
				var all sync.WaitGroup
				var outcomes counter
				for i := range 80 {
					all.Go(func() {
						_, err := g.Authorize(from(t.Context(), tt.user(i), fmt.Sprint("secret", i)), access.Ask{})
						outcomes.add(outcome(t, err))
					})
					synctest.Wait()
				}
				if got := outcomes.kinds()["429"]; got != tt.first["429"] || len(outcomes.kinds()) != 1 {
					t.Errorf("outcomes at once are %v, want %v", outcomes.kinds(), tt.first)
				}
				if n := c.count() - before; n != tt.asked {
					t.Errorf("the controller was asked %d times, want %d", n, tt.asked)
				}
				start := time.Now()
				if _, err := g.Authorize(from(t.Context(), "good", "secret-good"), access.Ask{}); err != nil || time.Since(start) > 0 {
					t.Errorf("who is remembered: %v after %v", err, time.Since(start))
				}
				all.Wait()
			})
		})
	}
}

func TestClientLeavesWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, opts := newController(t, "line1")
		g := newGate(t, opts)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := g.Authorize(from(ctx, "line1", "secret-wrong"), access.Ask{})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestLogIsBounded has many fail at once.
func TestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, opts := newController(t, "line1")
		var log bytes.Buffer
		opts.Log = &logrus.Logger{Out: &log, Formatter: new(logrus.TextFormatter), Level: logrus.InfoLevel}
		g := newGate(t, opts)
		fail := func(user string) {
			if _, err := g.Authorize(from(t.Context(), user, "secret"), access.Ask{}); err == nil {
				t.Error("let in")
			}
		}
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() { fail(fmt.Sprint("user", i)) })
		}
		all.Wait()
		if n := strings.Count(log.String(), "\n"); n != 10 {
			t.Errorf("%d lines, want 10:\n%s", n, log.String())
		}
		time.Sleep(time.Minute)
		fail("another")
		if !strings.Contains(log.String(), "unlogged=20") {
			t.Errorf("it is not said how many lines are missing:\n%s", log.String())
		}
	})
}
