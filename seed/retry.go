package seed

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"registry-module/cache"
)

const (
	// tries is how often something is asked for in all. The cache has tried by then, too.
	tries = 3
	// maxWait is the longest that is waited for a remote which asks for that: seeding has
	// time, but one remote must not keep it for hours.
	maxWait = 2 * time.Minute
)

// again asks until there is an answer, a few times where the remote cannot be asked for the
// moment, and leaves it alone in between for as long as it says.
func again[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.Multiplier, waits.MaxInterval = time.Second, 3, maxWait
	waits.Reset()
	for try := 1; ; try++ {
		got, err := ask(ctx)
		if try == tries || !passes(err) {
			return got, err
		}
		wait := waits.NextBackOff()
		if up, ok := errors.AsType[*cache.UpstreamError](err); ok {
			wait = max(wait, up.RetryAfter)
		}
		if wait > maxWait || ctx.Err() != nil {
			return got, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return got, err // which says more than that time is over
		}
	}
}

// passes tells whether what has gone wrong can be over soon.
func passes(err error) bool {
	return (errors.Is(err, cache.ErrUnavailable) || errors.Is(err, cache.ErrRateLimited)) && !errors.Is(err, cache.ErrOffline)
}
