package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
// Only those share it whose requests have passed as many registries: what it asks of
// the next one has passed one more, so that no registry can come to wait for itself by
// way of others, and nobody notice that it is a loop. That the request of another one
// turned out to go round in a circle says nothing about this one: it is made anew.
func flight[T any](ctx context.Context, r *Repository, kind, name string, ask func(context.Context) (T, error)) (T, error) {
	hops := strconv.Itoa(len(via.From(ctx)))
	got, shared, err := fly(ctx, r, key(kind, r.key, name, hops), ask)
	if shared && errors.Is(err, ErrLoop) {
		got, _, err = fly(ctx, r, key(kind, r.key, name, hops, via.Value(via.From(ctx))), ask)
	}
	return got, err
}

// fly is flight for those with the same key. Shared tells that there were several.
func fly[T any](ctx context.Context, r *Repository, flightKey []byte, ask func(context.Context) (T, error)) (got T, shared bool, err error) {
	c := r.c
	var none T
	result := c.flights.DoChan(string(flightKey), func() (any, error) {
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
		return res.Val.(T), res.Shared, res.Err
	case <-ctx.Done():
		return none, false, ctx.Err()
	}
}

// ended names the reason for which the cache itself has ended an operation.
func (c *Cache) ended(cause error) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return cause
}
