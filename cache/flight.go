package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"registry-module/internal/tracing"
	"registry-module/internal/via"
)

const (
	// askTimeout bounds a request whose answer is small: a manifest, a HEAD.
	// Docker Engine waits a minute for a manifest.
	askTimeout = 45 * time.Second
	// maxAsking bounds the requests to one remote at the same time, whoever has
	// asked for them and left.
	maxAsking = 128
	// maxFilling bounds the fills that have begun from one remote: each has files,
	// and its room. A
	// quarter more are for small blobs.
	maxFilling = 64
	// maxListing bounds the lists of tags that are fetched from one remote at the same
	// time.
	maxListing = 16
)

// begin notes that the cache works on something that Close waits for. It returns
// false after Close.
func (c *Cache) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	return true
}

// flight runs ask once for all who want the same of r at the same time; kind and
// name say what. It belongs to the cache: it goes on when the caller leaves.
//
// Only those share it whose requests have passed as many registries: what it asks of
// the next one has passed one more, so that no registry can come to wait for itself by
// way of others, and nobody notice that it is a loop. That the request of another one
// turned out to go round in a circle says nothing about this one: it is made anew.
func flight[T any](ctx context.Context, r *Repository, kind, name string, ask func(context.Context) (T, error)) (T, error) {
	return flightAs(ctx, r, r.step(fetchSpan, kind, name), ask)
}

// flightAs is flight for who says what it is.
func flightAs[T any](ctx context.Context, r *Repository, s step, ask func(context.Context) (T, error)) (T, error) {
	kind, name := s.kind, s.reference
	do := func(ctx context.Context) (T, error) { return asks(ctx, r, ask) }
	got, shared, err := fly(ctx, r.c, s, r.flightKey(ctx, kind, name), do)
	if shared && errors.Is(err, ErrLoop) {
		got, _, err = fly(ctx, r.c, s, r.flightKey(ctx, kind, name, via.Value(via.From(ctx))), do)
	}
	return got, err
}

// later is flight for a result that nobody waits for. Nothing happens where somebody
// waits for the same, or nobody does already.
func later[T any](ctx context.Context, r *Repository, kind, name string, ask func(context.Context) (T, error)) {
	c, k := r.c, r.flightKey(ctx, kind, name)
	if _, running := c.unwatched.LoadOrStore(k, false); running {
		return
	}
	if !c.begin() {
		c.unwatched.Delete(k)
		return
	}
	done, _ := launch(ctx, c, r.step(revalidateSpan, kind, name), k, func(ctx context.Context) (T, error) { return asks(ctx, r, ask) })
	go func() {
		defer c.wg.Done()
		<-done
		c.unwatched.Delete(k)
	}()
}

// flightKey is the key of what those share who want the same of r. Who wants to know what
// the remote says now does not share the request of who has not asked for that, and no
// two share one who ask somebody else.
func (r *Repository) flightKey(ctx context.Context, kind, name string, more ...string) string {
	fresh := ""
	if r.force {
		fresh = "fresh"
	}
	return flightKey(ctx, kind, append([]string{r.key, r.remote.epoch, name, fresh}, more...)...)
}

// flightKey is the key of what those share whose requests have passed as many
// registries.
func flightKey(ctx context.Context, kind string, parts ...string) string {
	return string(key(kind, append(parts, strconv.Itoa(len(via.From(ctx))))...))
}

// asks does ask when the remote may be asked something more, and within askTimeout.
func asks[T any](ctx context.Context, r *Repository, ask func(context.Context) (T, error)) (got T, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout,
		fmt.Errorf("%w: no answer within %v", ErrUnavailable, askTimeout))
	defer cancel()
	select {
	case r.remote.asking <- struct{}{}:
		defer func() { <-r.remote.asking }()
	case <-ctx.Done():
		return got, r.c.ended(context.Cause(ctx))
	}
	got, err = ask(ctx)
	if err != nil && ctx.Err() != nil {
		err = r.c.ended(context.Cause(ctx))
	}
	return got, err
}

// fly runs do once for those with the same key, and on behalf of the first of them. It
// goes on when they leave. Shared tells that there were several. The [Outcome] of each is
// told what that of the flight is.
func fly[T any](ctx context.Context, c *Cache, s step, flightKey string, do func(context.Context) (T, error)) (got T, shared bool, err error) {
	done, own := launch(ctx, c, s, flightKey, do)
	select {
	case res := <-done:
		f := res.Val.(flown[T])
		first := f.outcome == own
		toldFlight(ctx, f.outcome.Answered(), first)
		if !first {
			tracing.Join(ctx, f.ctx, "joined "+s.name)
		}
		return f.got, res.Shared, res.Err
	case <-ctx.Done():
		var none T
		return none, false, ctx.Err()
	}
}

// flown is what has come of a flight, its context, and what its outcome was told, which
// belongs to who has launched it.
type flown[T any] struct {
	got     T
	ctx     context.Context
	outcome *Outcome
}

// launch is fly for who need not wait. The flight is that of the caller if its outcome is
// own.
func launch[T any](ctx context.Context, c *Cache, s step, flightKey string, do func(context.Context) (T, error)) (done <-chan singleflight.Result, own *Outcome) {
	own = new(Outcome)
	return c.flights.DoChan(flightKey, func() (any, error) {
		f := flown[T]{ctx: c.ctx, outcome: own}
		if !c.begin() {
			return f, ErrClosed
		}
		defer c.wg.Done()
		var span tracing.Span
		f.ctx, span = s.start(carry(c.ctx, ctx))
		var err error
		f.got, err = do(WithOutcome(f.ctx, own))
		endStep(span, err)
		return f, err
	}), own
}

// stripes are locks for things by name: as good as one for each, and fewer. The zero value
// is ready.
type stripes [64]sync.Mutex

// lock takes the lock of name, and returns how to let go of it.
func (s *stripes) lock(name string) (unlock func()) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	mu := &s[h.Sum32()%uint32(len(s))]
	mu.Lock()
	return mu.Unlock
}

// ended names the reason for which the cache itself has ended an operation.
func (c *Cache) ended(cause error) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return cause
}
