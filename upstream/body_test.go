package upstream

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// slowBody gives a byte each time that its Read has taken as long as the next
// of waits says, unless it is canceled before.
type slowBody struct {
	ctx   context.Context
	waits []time.Duration
}

func (s *slowBody) Read(p []byte) (int, error) {
	if len(s.waits) == 0 {
		return 0, io.EOF
	}
	wait := s.waits[0]
	s.waits = s.waits[1:]
	select {
	case <-time.After(wait):
		return copy(p, "x"), nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

func (s *slowBody) Close() error { return nil }

// newSlowBody makes a body with a stall timeout of a second.
func newSlowBody(t *testing.T, waits ...time.Duration) *body {
	ctx, cancel := context.WithCancelCause(t.Context())
	b := &body{rc: &slowBody{ctx, waits}, cancel: cancel, wait: time.Second}
	b.broken = func(error) error { return context.Cause(ctx) }
	b.timer = time.AfterFunc(b.wait, func() { cancel(errStalled) })
	b.timer.Stop()
	return b
}

func TestBodyStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSlowBody(t, 900*time.Millisecond, 900*time.Millisecond, time.Minute)
		start := time.Now()
		got, err := io.ReadAll(b)
		if len(got) != 2 || !errors.Is(err, errStalled) {
			t.Errorf("%d bytes, %v, want 2 and a stall", len(got), err)
		}
		if d := time.Since(start); d != 2800*time.Millisecond {
			t.Errorf("given up after %v, want a second after the last byte", d)
		}
	})
}

func TestSlowReaderIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSlowBody(t, 0, 900*time.Millisecond, 0)
		time.Sleep(time.Hour) // in a bubble: nothing is waited for
		for i := range 3 {
			if n, err := b.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Fatalf("read %d: %d bytes, %v", i, n, err)
			}
			time.Sleep(time.Hour)
		}
		if _, err := b.Read(make([]byte, 8)); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
