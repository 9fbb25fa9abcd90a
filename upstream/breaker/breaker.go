// Package breaker knows whether a remote registry answers, as a decorator of any
// [cache.Upstream], so that nobody waits for one that does not.
//
// It promises that
//   - nothing is asked of a remote that has answered with a Retry-After, for requests
//     in general or because it is down, before that time is over: what is asked
//     meanwhile fails at once, with an error of the same kind;
//   - one request at a time finds out whether a remote answers that has not answered,
//     or was never asked; those that come meanwhile wait for what comes of it, and no
//     longer. Soon after such a failure nothing is asked, and requests fail at once.
//     Nobody waits for a request that has passed fewer registries, so that a ring of
//     them in which all find out about each other does not wait for itself;
//   - nothing is asked while the operator has ruled that out;
//   - it never takes a request to tell what is known of the remote (Away, Status).
//
// It changes nothing else about what passes, and knows nothing of repositories: an
// outage is one of the host, and a limit one of the address or the account.
//
// It trusts the decorated Upstream to end each request in time, with how long the
// remote asks to wait, up to an hour, or five minutes where it is down, and with which
// failures are the remote's own. It imports, of this module, cache and internal/via.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/internal/via"
)

// One answer keeps us from asking for no longer than this: what comes after it can
// only be found out by asking, and what limits us need not be the remote, but may
// stand between.
const (
	maxLimited = time.Hour       // where we have asked for too much
	maxDown    = 5 * time.Minute // where the remote is down
)

// After a failure the remote is assumed away for minAway, doubled with each further
// one up to maxAway: who has a stored answer loses nothing by that. Who has none is
// told so for no longer than maxPause, and then asks it. All with jitter, since there
// may be many of us.
const (
	minAway  = time.Second
	maxAway  = time.Minute
	maxPause = 2 * time.Second
	jitter   = 0.2 // of the duration, to both sides
)

// defaultSlow is that of [Options]: longer than a remote takes that is in order,
// shorter than a client takes for being stuck.
const defaultSlow = time.Second

// Options are optional; the zero value works.
type Options struct {
	// Log gets a line for each change of state. Default: nothing is logged.
	Log logrus.FieldLogger
	// Now is the clock. Default: time.Now, whose times are not moved when the
	// clock of the machine is set.
	Now func() time.Time
	// Slow is how long the remote may take for an answer before it is taken for
	// away by who has a stored one. Default: 1 s.
	Slow time.Duration
	// Offline returns why the operator has ruled out that the remote is contacted,
	// an error that wraps [cache.ErrOffline]; nil is that it can be. It is called for
	// each request, and takes no time. Default: it always can be.
	Offline func() error
}

// Breaker is a remote registry that is asked only where that leads to something. It
// is safe for use by several goroutines.
type Breaker struct {
	up      cache.Upstream
	host    string
	log     logrus.FieldLogger
	now     func() time.Time
	slow    time.Duration
	offline func() error

	mu    sync.Mutex
	state State
	since time.Time // of state
	// cause is the last failure, nil where there was none since the remote has
	// last answered well.
	cause *cache.UpstreamError
	// failures counts those in a row, and lost is when the remote was last in order
	// before them.
	failures int
	lost     time.Time
	failedAt time.Time
	// until is when it is time to find out whether the remote is still away, and
	// pause how long after failedAt who has nothing stored may find out.
	until time.Time
	pause time.Duration
	// hold is until when the remote wants to be left alone.
	hold  time.Time
	away  *backoff.ExponentialBackOff // durations for until
	tries *backoff.ExponentialBackOff // the longest pause, with jitter

	// number counts requests and verdicts, to tell which was first.
	number            uint64
	lastOK, lastError uint64
	underWay          int
	// silent are the requests under way since whose beginning nothing was answered,
	// in the order in which they have begun.
	silent []*request
	// probes are under way, each of which has come further than those before.
	probes []*probe

	totalFailures, totalChanges uint64
}

var (
	_ cache.Upstream     = (*Breaker)(nil)
	_ cache.Availability = (*Breaker)(nil)
)

// request is one that was passed on.
type request struct {
	number uint64
	begun  time.Time
	probe  *probe // nil where nobody waits for its verdict
}

// probe is a request whose verdict others wait for.
type probe struct {
	// hops is how many registries it has passed.
	hops int
	done chan struct{}
	// failure is set before done is closed where the remote has not answered. In all
	// other cases the state tells what is next: where there was no verdict, it is to
	// be found out by another.
	failure *cache.UpstreamError
}

// New returns up, with a circuit breaker.
func New(up cache.Upstream, opts Options) *Breaker {
	b := &Breaker{
		up: up, host: up.Host(), log: opts.Log, now: opts.Now, slow: opts.Slow, offline: opts.Offline,
		state: Unknown,
		away: &backoff.ExponentialBackOff{
			InitialInterval: minAway, MaxInterval: maxAway, Multiplier: 2, RandomizationFactor: jitter,
		},
		tries: &backoff.ExponentialBackOff{
			InitialInterval: maxPause, MaxInterval: maxPause, Multiplier: 1, RandomizationFactor: jitter,
		},
	}
	if b.now == nil {
		b.now = time.Now
	}
	if b.slow <= 0 {
		b.slow = defaultSlow
	}
	if b.offline == nil {
		b.offline = func() error { return nil }
	}
	b.since = b.now()
	return b
}

// begin waits until it is known what is to become of a request, and returns either
// the request, to be passed on, or an error. op is what it is for.
func (b *Breaker) begin(ctx context.Context, op string) (*request, error) {
	for {
		r, wait, err := b.admit(op, len(via.From(ctx)))
		if r != nil || err != nil {
			return r, err
		}
		select {
		case <-wait.done:
		case <-ctx.Done():
			return nil, b.unheard(op, ctx.Err())
		}
		if wait.failure != nil {
			told := *wait.failure
			told.Op = op
			return nil, &told
		}
	}
}

// admit returns a request that is to be passed on, or a probe whose verdict is to be
// waited for, or an error. Hops is how many registries the request has passed.
func (b *Breaker) admit(op string, hops int) (*request, *probe, error) {
	ruledOut := b.offline()
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.heed(ruledOut, now)
	r := &request{begun: now}
	switch {
	case ruledOut != nil:
		return nil, nil, b.heldError(op, ruledOut)
	case b.hold.Sub(now) > 0:
		return nil, nil, b.limitedError(op, b.hold.Sub(now))
	case b.state != Unknown && b.state != Offline:
	case len(b.probes) > 0 && hops <= b.probes[len(b.probes)-1].hops:
		return nil, b.probes[len(b.probes)-1], nil
	case b.state == Offline && b.pauseLeft(now) > 0:
		return nil, nil, b.offlineError(op, now)
	default:
		r.probe = &probe{hops: hops, done: make(chan struct{})}
		b.probes = append(b.probes, r.probe)
	}
	r.number = b.next()
	b.underWay++
	b.silent = append(b.silent, r)
	return r, nil, nil
}

// end takes notice of what has come of r.
func (b *Breaker) end(r *request, err error) {
	verdict, cause := b.judge(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.underWay--
	b.silent = slices.DeleteFunc(b.silent, func(other *request) bool { return other == r })
	switch verdict {
	case "":
	case Online:
		b.succeed(now)
	default:
		b.fail(r, verdict, cause, now)
	}
	if i := slices.Index(b.probes, r.probe); i >= 0 {
		b.probes = slices.Delete(b.probes, i, i+1)
		close(r.probe.done)
	}
}

// settle ends the wait of those who wait for a verdict. Failure is set where the remote
// has not answered.
func (b *Breaker) settle(failure *cache.UpstreamError) {
	for _, p := range b.probes {
		p.failure = failure
		close(p.done)
	}
	b.probes = nil
}

// next returns a number that is greater than those before.
func (b *Breaker) next() uint64 {
	b.number++
	return b.number
}

// pauseLeft returns for how long nobody asks the remote, which has not answered.
func (b *Breaker) pauseLeft(now time.Time) time.Duration { return b.pause - now.Sub(b.failedAt) }

// notAsked is why the remote was not asked.
type notAsked struct {
	text  string
	cause error // nil where the text is all there is to say
}

func (e *notAsked) Error() string { return e.text }

func (e *notAsked) Unwrap() []error {
	if e.cause == nil {
		return []error{cache.ErrNotAsked}
	}
	return []error{cache.ErrNotAsked, e.cause}
}

// heldError is that of a request that the operator has ruled out.
func (b *Breaker) heldError(op string, ruledOut error) *cache.UpstreamError {
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: b.host, Op: op, Err: &notAsked{ruledOut.Error(), ruledOut},
	}
}

// limitedError is that of a request while the remote wants to be left alone.
func (b *Breaker) limitedError(op string, left time.Duration) *cache.UpstreamError {
	return &cache.UpstreamError{
		Kind: b.cause.Kind, Remote: b.cause.Remote, Status: b.cause.Status, Op: op, RetryAfter: left,
		Err: &notAsked{text: fmt.Sprintf("not asked, because the remote wants to be left alone for another %v", seconds(left))},
	}
}

// offlineError is that of a request soon after the remote has not answered.
func (b *Breaker) offlineError(op string, now time.Time) *cache.UpstreamError {
	wait := seconds(b.pauseLeft(now))
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: b.host, Op: op, RetryAfter: wait,
		Err: &notAsked{text: fmt.Sprintf("not asked: it has not answered since %s (%s); tried again in %v",
			wall(b.since, now).Format(time.RFC3339), reason(b.cause), wait)},
	}
}

// unheard is the error of a request whose caller did not wait for the verdict.
func (b *Breaker) unheard(op string, err error) error {
	if errors.Is(err, context.Canceled) {
		// Not the remote's doing, and so not an UpstreamError.
		return fmt.Errorf("%s at %s: %w", op, b.host, err)
	}
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: b.host, Op: op,
		Err: &notAsked{"not asked: whether it answers was not found out in time", err},
	}
}

// seconds rounds a duration up, so that nobody is told to come too early.
func seconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// wall gives what the clock of the machine, which shows now, would have shown, or will
// show, at t: it may have been set meanwhile.
func wall(t, now time.Time) time.Time { return now.Round(0).Add(t.Sub(now)).UTC() }
