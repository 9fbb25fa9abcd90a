package lab

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Link makes an upstream as slow as a line to it. The zero value is as fast as
// the machine.
type Link struct {
	// Rate is how many bytes a second all bodies together get, 0 for no limit.
	Rate int64
	// Latency is how long each request waits before it is answered: one round
	// trip, as over a connection that is open already.
	Latency time.Duration

	mu   sync.Mutex
	next time.Time // when the line is free again; guarded by mu
}

// Middleware puts the line in front of a handler.
func (l *Link) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := wait(r.Context(), l.Latency); err != nil {
			panic(http.ErrAbortHandler) // the client has gone
		}
		if l.Rate > 0 {
			w = &linkWriter{ResponseWriter: w, link: l, ctx: r.Context()}
		}
		next.ServeHTTP(w, r)
	})
}

// reserve takes n bytes of the line and returns how long they have to wait for
// their turn.
func (l *Link) reserve(n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	l.next = l.next.Add(time.Duration(int64(n) * int64(time.Second) / l.Rate))
	return l.next.Sub(now)
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type linkWriter struct {
	http.ResponseWriter
	link *Link
	ctx  context.Context // the request's; a Writer cannot be given one
}

func (w *linkWriter) Write(p []byte) (int, error) {
	// Timers are about a millisecond off: being that far ahead of the line's
	// schedule is let pass, and later writes make up for it.
	const slack = 2 * time.Millisecond
	if d := w.link.reserve(len(p)); d > slack {
		if err := wait(w.ctx, d); err != nil {
			return 0, err
		}
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush and the like.
func (w *linkWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
