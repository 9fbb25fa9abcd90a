package cache

import (
	"context"
	"fmt"
	"time"

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
// Only those share it whose requests have come the same way: of two registries that
// fetch from each other, each would otherwise wait for the other one's flight, and
// nobody would notice that it is a loop.
func flight[T any](ctx context.Context, r *Repository, kind, name string, ask func(context.Context) (T, error)) (T, error) {
	c := r.c
	var none T
	result := c.flights.DoChan(string(key(kind, r.key, name, via.Value(via.From(ctx)))), func() (any, error) {
		if !c.begin() {
			return none, ErrClosed
		}
		defer c.wg.Done()
		ctx, cancel := context.WithTimeoutCause(via.Carry(c.ctx, ctx), askTimeout,
			fmt.Errorf("%w: no answer within %v", ErrUnavailable, askTimeout))
		defer cancel()
		select {
		case r.remote.asking <- struct{}{}:
			defer func() { <-r.remote.asking }()
		case <-ctx.Done():
			return none, c.ended(context.Cause(ctx))
		}
		got, err := ask(ctx)
		if err != nil && ctx.Err() != nil {
			err = c.ended(context.Cause(ctx))
		}
		return got, err
	})
	select {
	case res := <-result:
		return res.Val.(T), res.Err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// ended names the reason for which the cache itself has ended an operation.
func (c *Cache) ended(cause error) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return cause
}
