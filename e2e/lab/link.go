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
	// ConnRate is how many bytes a second each body gets, 0 for no limit. A
	// connection has one at a time.
	ConnRate int64
	// Latency is how long each request waits before it is answered: one round
	// trip, as over a connection that is open already.
	Latency time.Duration
	// Connect is how much longer the first request of a connection waits: the
	// round trips that opening it takes.
	Connect time.Duration

	shared pace
}

// pace is how far a line of some rate is taken.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the line is free again; guarded by mu
}

// Middleware puts the line in front of a handler.
func (l *Link) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		latency := l.Latency
		if fresh(r) {
			latency += l.Connect
		}
		if err := wait(r.Context(), latency); err != nil {
			panic(http.ErrAbortHandler) // the client has gone
		}
		if l.Rate > 0 || l.ConnRate > 0 {
			w = &linkWriter{ResponseWriter: w, link: l, ctx: r.Context()}
		}
		next.ServeHTTP(w, r)
	})
}

// reserve takes n bytes of a line of rate bytes a second, and returns how long
// they have to wait for their turn.
func (p *pace) reserve(n int, rate int64) time.Duration {
	if rate <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	// What a timer was late for is made up for, a longer pause is not.
	const late = 10 * time.Millisecond
	switch {
	case p.next.IsZero():
		p.next = now
	case p.next.Before(now.Add(-late)):
		p.next = now.Add(-late)
	}
	p.next = p.next.Add(time.Duration(int64(n) * int64(time.Second) / rate))
	return p.next.Sub(now)
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
	own  pace
	ctx  context.Context // the request's; a Writer cannot be given one
}

func (w *linkWriter) Write(p []byte) (int, error) {
	// Timers are about a millisecond off: being that far ahead of the line's
	// schedule is let pass, and later writes make up for it.
	const slack = 2 * time.Millisecond
	d := max(w.link.shared.reserve(len(p), w.link.Rate), w.own.reserve(len(p), w.link.ConnRate))
	if d > slack {
		if err := wait(w.ctx, d); err != nil {
			return 0, err
		}
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush and the like.
func (w *linkWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
