package cache

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxRefusals is how often in a row the remote may refuse to go on with a blob
// that it has begun to give: URLs and tokens run out, portals and proxies step in
// between, and that passes.
const maxRefusals = 4

// retry decides whether a download that has broken off is tried again, and when.
// The zero value is ready.
type retry struct {
	backoff  *backoff.ExponentialBackOff
	refusals int
}

// progress notes that a fair amount of bytes has come.
func (r *retry) progress() {
	r.refusals = 0
	r.backoff = nil
}

// again returns how long to wait before the next try after err, or an error where
// it is not worth it. Idle is how long no byte has come, and budget how long none
// may come; negative is not at all.
func (r *retry) again(err error, idle, budget time.Duration) (time.Duration, error) {
	if budget < 0 {
		return 0, err
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrInvalid) {
		if r.refusals++; r.refusals >= maxRefusals {
			return 0, fmt.Errorf("given up after %d refusals in a row: %w", r.refusals, err)
		}
	} else if r.backoff == nil && retryAfter(err) == 0 {
		r.wait(err) // the next time it will not be at once
		return 0, nil
	}
	wait := r.wait(err)
	if idle+wait > budget {
		return 0, fmt.Errorf("given up, %v after the last byte: %w", idle.Round(time.Second), err)
	}
	return wait, nil
}

// wait returns how long to wait after err: longer each time, or as long as the
// remote says.
func (r *retry) wait(err error) time.Duration {
	if r.backoff == nil {
		r.backoff = backoff.NewExponentialBackOff()
		r.backoff.InitialInterval = 250 * time.Millisecond
		r.backoff.Multiplier = 2
		r.backoff.MaxInterval = 30 * time.Second
		r.backoff.Reset()
	}
	return max(r.backoff.NextBackOff(), retryAfter(err))
}

// retryAfter is how long the remote wants to be left alone, 0 where it does not
// say.
func retryAfter(err error) time.Duration {
	if up, ok := errors.AsType[*UpstreamError](err); ok {
		return up.RetryAfter
	}
	return 0
}
