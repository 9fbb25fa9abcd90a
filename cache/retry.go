package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// refusedFor is for how long the remote may refuse to go on with a blob that it has
// begun to give: URLs and tokens run out, portals and proxies step in between, and
// that passes.
const refusedFor = 30 * time.Second

// retry decides whether a download that has broken off is tried again, and when.
// The zero value is ready.
type retry struct {
	backoff *backoff.ExponentialBackOff
	// refused is when it was refused first, since something else was said.
	refused time.Time
}

// progress notes that bytes have come: a fair amount makes the next try follow at
// once.
func (r *retry) progress(n int64) {
	if n > 0 {
		r.refused = time.Time{}
	}
	if n >= PartSize {
		r.backoff = nil
	}
}

// again returns how long to wait before the next try after err, or an error where
// it is not worth it. Idle is how long no byte has come, and budget how long none
// may come; negative is not at all. What the operator has ruled out is not tried
// again.
func (r *retry) again(err error, idle, budget time.Duration) (time.Duration, error) {
	if budget < 0 || errors.Is(err, ErrLoop) || errors.Is(err, ErrOffline) {
		return 0, err
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrInvalid) {
		if r.refused.IsZero() {
			r.refused = time.Now()
		}
		wait := r.wait(err)
		if refused := time.Since(r.refused) + wait; refused > min(refusedFor, budget) {
			return 0, fmt.Errorf("given up after refusals: %w", err)
		}
		return wait, nil
	}
	r.refused = time.Time{}
	if r.backoff == nil && retryAfter(err) == 0 && !errors.Is(err, ErrRateLimited) {
		r.wait(err) // the next time it will not be at once
		return 0, nil
	}
	wait := r.wait(err)
	if idle+wait > budget {
		return 0, fmt.Errorf("given up, %v after the last byte: %w", idle.Round(time.Second), err)
	}
	return wait, nil
}

// maxWait is the longest that is waited between two tries.
const maxWait = 30 * time.Second

// wait returns how long to wait after err: longer each time, or as long as the
// remote says.
func (r *retry) wait(err error) time.Duration {
	if r.backoff == nil {
		r.backoff = newBackOff(maxWait)
	}
	return max(r.backoff.NextBackOff(), retryAfter(err))
}

// newBackOff returns waits that begin with a quarter of a second and double up to
// most, with jitter.
func newBackOff(most time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.Multiplier, b.MaxInterval = 250*time.Millisecond, 2, most
	b.Reset()
	return b
}

// sleep waits, or returns the error of ctx where that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// atOnce does what gets a client a status. An answer of 5xx, or to come back in a
// moment, is no reason to disappoint the client at once; but it waits. Where there is no
// answer at all it has waited long enough.
func atOnce[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	const tries = 3
	const patience = 2 * time.Second // for one try
	var r retry
	for try := 1; ; try++ {
		got, err := ask()
		up, ok := errors.AsType[*UpstreamError](err)
		if again := ok && up.Status != 0 && (up.RetryAfter > 0 || errors.Is(err, ErrUnavailable)); !again || try == tries {
			return got, err
		}
		wait := r.wait(err)
		if wait > patience {
			return got, err
		}
		if err := sleep(ctx, wait); err != nil {
			return got, err
		}
	}
}

// retryAfter is how long the remote wants to be left alone, 0 where it does not
// say.
func retryAfter(err error) time.Duration {
	if up, ok := errors.AsType[*UpstreamError](err); ok {
		return up.RetryAfter
	}
	return 0
}
