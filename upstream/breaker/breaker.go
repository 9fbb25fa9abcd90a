// Package breaker knows whether a remote registry answers, as a decorator of any
// [cache.Upstream], so that nobody waits for one that does not.
//
// It promises that
//   - nothing is asked of a remote that wants fewer requests, and has said for how long
//     (Retry-After), before that time is over: what is asked meanwhile fails at once,
//     with an error of the same kind. The same holds for one that says so because it is
//     down, once it has failed three times in a row: before that, it may be about a
//     part of what it serves;
//   - one request at a time finds out whether a remote answers to which no connection
//     could be made, or that was not asked yet; those that come meanwhile wait for what
//     comes of it. Soon after such a failure nothing is asked, and requests fail at once;
//   - a repository that hangs does not take the others away: where a connection was
//     made, and no answer came, some requests at a time find out, and one of each
//     repository in any case. Others wait for a place, for five seconds or so, and then
//     fail;
//   - nobody waits for a request that has passed fewer registries, so that a ring of
//     them in which all find out about each other does not wait for itself;
//   - nothing is asked while the operator has ruled that out;
//   - it never takes a request to tell what is known of the remote (Away, Status).
//
// It changes nothing else about what passes. An outage is one of the host, and a limit
// one of the address or the account: nothing is remembered of repositories.
//
// It trusts the decorated Upstream to end each request in time, with how long the
// remote asks to wait, up to an hour, or five minutes where it is down, and with which
// failures are the remote's own. It imports, of this module, cache,
// internal/tracing and internal/via.
package breaker

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// One answer keeps us from asking for no longer than this: what comes after it can
// only be found out by asking, and what limits us need not be the remote, but may
// stand between.
const (
	maxLimited = time.Hour       // where we have asked for too much
	maxDown    = 5 * time.Minute // where the remote is down
)

// downAfter is how many failures in a row make what a remote asks for because it is
// down concern all requests.
const downAfter = 3

const (
	// maxProbes is how many requests at a time find out whether a remote answers to
	// which a connection can be made.
	maxProbes = 4
	// maxWait is how long a request waits for what comes of others, where that does
	// not say whether a connection can be made: a little longer than making one takes
	// at most, by default.
	maxWait = 5500 * time.Millisecond
)

// After a failure the remote is assumed away for minAway, doubled with each further
// one up to maxAway where it does not answer: who has a stored answer loses nothing by
// that. Who has none is told so for no longer than maxPause, and then asks it; and for
// no longer is a remote assumed away that answers with errors. All with jitter, since
// there may be many of us.
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
	// each request, takes no time, and must not use the Breaker, which is locked
	// meanwhile. Default: it always can be.
	Offline func() error
	// Counts are counted on. Default: they begin at 0.
	Counts *Counts

	// Changed is called with each change of state, in order and one at a time, by who has
	// noticed it, and holds that one up. From is what was told as to before. Default:
	// nobody is told.
	Changed func(from, to Status)
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

	// mu is held when offline is called, so that its locks come after this one.
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
	// silent are the requests under way since whose beginning nothing was answered,
	// in the order in which they have begun.
	silent []*request
	// probes are under way, to find out whether the remote answers.
	probes []*request
	// next is what others wait for.
	next *outcome

	counts *Counts

	// changed is told of changes: told is the last one, changes are those that it was not
	// told of yet, and telling that somebody tells them.
	changed func(from, to Status)
	told    Status
	changes []Status
	telling bool
}

// Counts are how often what has happened to a remote, for its metrics. The zero value is
// never. They can go on with another Breaker of the same remote.
type Counts struct{ failures, changes atomic.Uint64 }

var (
	_ cache.Upstream     = (*Breaker)(nil)
	_ cache.Availability = (*Breaker)(nil)
)

// New returns up, with a circuit breaker.
func New(up cache.Upstream, opts Options) *Breaker {
	b := &Breaker{
		up: up, host: up.Host(), log: opts.Log, now: opts.Now, slow: opts.Slow, offline: opts.Offline,
		state: Unknown, next: newOutcome(), counts: cmp.Or(opts.Counts, new(Counts)),
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
	b.changed, b.told = opts.Changed, Status{Remote: b.host, State: b.state, Since: wall(b.since, b.since)}
	return b
}

// end takes notice of what has come of r.
func (b *Breaker) end(r *request, err error) {
	verdict, cause := b.judge(err)
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	b.silent = slices.DeleteFunc(b.silent, func(other *request) bool { return other == r })
	switch verdict {
	case "":
	case Online:
		b.succeed(now)
	default:
		b.fail(r, verdict, cause, now)
	}
	if i := slices.Index(b.probes, r); i >= 0 {
		b.probes = slices.Delete(b.probes, i, i+1)
		b.tell(nil, "")
	}
}

// count returns a number that is greater than those before.
func (b *Breaker) count() uint64 {
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

// crowdedError is that of a request that would be one too many of its repository.
func (b *Breaker) crowdedError(op string) *cache.UpstreamError {
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: b.host, Op: op,
		Err: &notAsked{text: fmt.Sprintf("not asked: other requests for the same repository have not been answered for %v (%s)",
			maxWait.Truncate(time.Second), reason(b.cause))},
	}
}

// offlineError is that of a request soon after no connection could be made.
func (b *Breaker) offlineError(op string, now time.Time) *cache.UpstreamError {
	wait := seconds(b.pauseLeft(now))
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: b.host, Op: op, RetryAfter: wait,
		Err: &notAsked{text: fmt.Sprintf("not asked: it has not answered since %s (%s); tried again in %v",
			wall(b.since, now).Format(time.RFC3339), reason(b.cause), wait)},
	}
}

// seconds rounds a duration up, so that nobody is told to come too early.
func seconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// wall gives what the clock of the machine, which shows now, would have shown, or will
// show, at t: it may have been set meanwhile.
func wall(t, now time.Time) time.Time { return now.Round(0).Add(t.Sub(now)).UTC() }
