package breaker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"registry-module/cache"
)

// State is what is known of a remote.
type State string

// The states of a remote.
const (
	// Unknown is that it was not asked yet, since the start or since the operator
	// has allowed it again.
	Unknown State = "unknown"
	// Online is that it answers.
	Online State = "online"
	// Failing is that it answers, but with errors of its own, or that somebody else
	// does in its place.
	Failing State = "failing"
	// Offline is that it does not answer: no connection can be made, or none came on
	// one, see [cache.UpstreamError].NoConnection.
	Offline State = "offline"
	// Limited is that it has asked to be left alone for a while (Retry-After), or that
	// this while is over, and it was not asked since.
	Limited State = "limited"
	// Held is that the operator has ruled out that it is asked.
	Held State = "held"
)

// states are all of them.
var states = [...]State{Unknown, Online, Failing, Offline, Limited, Held}

// judge says what an outcome tells of the remote: Online, Failing, Offline or Limited,
// with the cause unless it is Online; nothing where it is no verdict.
func (b *Breaker) judge(err error) (State, *cache.UpstreamError) {
	switch {
	case err == nil:
		return Online, nil
	case errors.Is(err, context.Canceled), errors.Is(err, cache.ErrNotAsked), errors.Is(err, cache.ErrOffline):
		return "", nil
	}
	e, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok {
		e = b.bare(err)
	}
	unavailable, limited := errors.Is(e.Kind, cache.ErrUnavailable), errors.Is(e.Kind, cache.ErrRateLimited)
	switch {
	case e.Elsewhere:
		return Online, nil // it has redirected us, or asked for us
	case limited && e.RetryAfter > 0:
		return Limited, e
	case limited, unavailable && e.Status != 0, errors.Is(err, cache.ErrIntercepted):
		return Failing, e
	case unavailable:
		return Offline, e
	case e.Status != 0, errors.Is(err, cache.ErrNotFound), errors.Is(err, cache.ErrDenied),
		errors.Is(err, cache.ErrInvalid), errors.Is(err, cache.ErrLoop):
		return Online, nil
	}
	return "", nil // it does not say that the remote has answered, nor that it has not
}

// bare makes an error with a cause of one that has only a kind.
func (b *Breaker) bare(err error) *cache.UpstreamError {
	e := &cache.UpstreamError{Remote: b.host, Op: asking, Err: err}
	for _, kind := range []error{cache.ErrUnavailable, cache.ErrRateLimited, cache.ErrInvalid} {
		if errors.Is(err, kind) {
			e.Kind = kind
			break
		}
	}
	return e
}

// heed takes notice of whether the operator has ruled the remote out.
func (b *Breaker) heed(ruledOut error, now time.Time) {
	switch {
	case ruledOut != nil && b.state != Held:
		b.set(Held, now)
		if b.log != nil {
			b.log.Infof("%s is not asked any more: %v; what is stored is served as it was last known", b.host, ruledOut)
		}
		b.settle(nil)
	case ruledOut == nil && b.state == Held:
		// What was known before is old, but for what the remote has asked for.
		b.away.Reset()
		b.failures = 0
		if b.hold.Sub(now) > 0 {
			b.lost, b.failures = now, 1
			b.set(Limited, now)
		} else {
			b.cause = nil
			b.set(Unknown, now)
		}
		if b.log != nil {
			b.log.Infof("%s can be asked again", b.host)
		}
	}
}

// succeed notes that the remote has answered well.
func (b *Breaker) succeed(now time.Time) {
	b.silent = nil
	b.lastOK = b.count()
	if b.state == Held || b.hold.Sub(now) > 0 {
		return // of a request that was under way
	}
	was, failures, lost := b.state, b.failures, b.lost
	b.away.Reset()
	b.failures, b.cause = 0, nil
	b.set(Online, now)
	b.settle(nil)
	switch {
	case b.log == nil || was == Online:
	case was == Unknown:
		b.log.Infof("%s answers", b.host)
	default:
		b.log.Infof("%s answers again, after %v (failures: %d)", b.host, now.Sub(lost).Round(time.Second), failures)
	}
}

// fail notes that r has failed because of the remote.
func (b *Breaker) fail(r *request, state State, cause *cache.UpstreamError, now time.Time) {
	if state != Offline {
		b.silent = nil // it has answered
	}
	// Requests that were under way together tell the same. So does one since whose
	// beginning the remote has answered well: that it is not away. But what it asks
	// for is always heeded.
	counts := r.number > b.lastError && (r.number > b.lastOK || state == Limited)
	switch {
	case state == Limited:
		hold := now.Add(min(cause.RetryAfter, maxLimited))
		if hold.Sub(now) <= b.hold.Sub(now) {
			return // of a request that was under way
		}
		b.hold = hold
	case !counts || b.hold.Sub(now) > 0:
		return
	}
	b.cause = cause
	if counts {
		b.lastError = b.count()
		b.failures++
		b.counts.failures.Add(1)
		b.failedAt = now
		state = b.postpone(state, now)
	}
	if b.hold.After(b.until) {
		b.until = b.hold
	}
	if b.state == Held {
		return
	}
	b.lose(state, now)
	switch {
	case b.mute():
		b.tell(cause, r.repo) // the others that are under way may be answered
	case state == Offline:
		b.settle(cause)
	default:
		b.settle(nil)
	}
}

// postpone sets for how long the remote is assumed away after b.cause, and returns the
// state: it is another one where the remote has been down for long enough to be left
// alone.
func (b *Breaker) postpone(state State, now time.Time) State {
	d := b.away.NextBackOff()
	b.pause = min(d, b.tries.NextBackOff())
	if state == Failing {
		d = b.pause // who answers is not asked in vain for long
	}
	if state != Limited && errors.Is(b.cause.Kind, cache.ErrUnavailable) {
		if wait := min(b.cause.RetryAfter, maxDown); wait > 0 {
			d = max(d, wait)
			if b.failures >= downAfter {
				state, b.hold = Limited, now.Add(wait)
			}
		}
	}
	b.until = now.Add(d)
	return state
}

// lose notes that the remote is in a state that is not good.
func (b *Breaker) lose(state State, now time.Time) {
	was := b.state
	if was == state {
		return
	}
	if was == Online || was == Unknown {
		b.lost = now
	}
	b.set(state, now)
	if b.log == nil {
		return
	}
	says := map[State]string{
		Offline: b.host + " does not answer",
		Failing: b.host + " answers with errors",
		Limited: fmt.Sprintf("nothing is asked of %s for %v: it wants to be left alone", b.host, seconds(b.hold.Sub(now))),
	}[state]
	b.log.WithError(b.cause).Warn(says + "; what is stored is served as it was last known")
}

// set changes the state.
func (b *Breaker) set(state State, now time.Time) {
	if state == b.state {
		return
	}
	b.state, b.since = state, now
	b.counts.changes.Add(1)
}

// reason says on one line what was wrong, without the remote's name.
func reason(e *cache.UpstreamError) string {
	switch {
	case e == nil:
		return ""
	case e.Status == 0 && e.Err == nil:
		return e.Kind.Error()
	case e.Status == 0:
		return e.Err.Error()
	case e.Err == nil:
		return fmt.Sprintf("HTTP status %d", e.Status)
	}
	return fmt.Sprintf("HTTP status %d: %v", e.Status, e.Err)
}
