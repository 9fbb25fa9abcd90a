package server

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// timed notes the time that each write has, and how often it was set.
type timed struct {
	http.ResponseWriter // none
	header              http.Header
	deadline            time.Time
	sets                int
	left                time.Duration
}

func (w *timed) Header() http.Header { return w.header }
func (w *timed) WriteHeader(int)     { w.left = time.Until(w.deadline) }

func (w *timed) Write(p []byte) (int, error) {
	w.left = time.Until(w.deadline)
	return len(p), nil
}

func (w *timed) SetWriteDeadline(t time.Time) error {
	w.deadline = t
	w.sets++
	return nil
}

// Each write has its time, however long the one before has taken, and those that follow
// one another at once share one deadline.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &timed{header: make(http.Header)}
		x := newExchange(w, nil)
		write := func() {
			t.Helper()
			_, _ = x.Write([]byte("x")) // it never fails
			if w.left > x.stall || w.left <= x.stall-stallSlack {
				t.Errorf("a write has %v, want %v", w.left, x.stall)
			}
		}
		for range 100 {
			write()
		}
		if w.sets != 1 {
			t.Errorf("the deadline was set %d times", w.sets)
		}
		for _, x.stall = range []time.Duration{stall, blobStall, stall} {
			for _, pause := range []time.Duration{0, 10 * time.Millisecond, stallSlack - 1, 1, stallSlack, time.Minute, x.stall - 1, x.stall + 1} {
				time.Sleep(pause)
				write()
			}
		}
		// The next request of the connection sets its own.
		time.Sleep(time.Millisecond)
		before := w.sets
		x = newExchange(w, nil)
		if write(); w.sets != before+1 {
			t.Error("another request has no deadline of its own")
		}
	})
}
