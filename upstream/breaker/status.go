package breaker

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
)

// asking is the operation of errors that are of none.
const asking = "asking the remote"

// Status is what is known of a remote.
type Status struct {
	// Remote is its host.
	Remote string `json:"remote"`
	State  State  `json:"state"`
	// Since is when State has begun.
	Since time.Time `json:"since,omitzero"`
	// Failures counts those in a row, since the remote has last answered well.
	Failures int `json:"failures"`
	// Reason says why State is not a good one; empty where it is.
	Reason string `json:"reason,omitempty"`
	// NextTry is when who has a stored answer has the remote asked again; after it,
	// the next one does. Zero where it is not known, or not away.
	NextTry time.Time `json:"next_try,omitzero"`
}

// Away implements [cache.Availability].
func (b *Breaker) Away() (why error, due bool) {
	b.mu.Lock()
	defer b.unlock()
	now := b.now()
	why, known := b.why(now)
	due = known && b.until.Sub(now) <= 0 && len(b.probes) < b.places()
	if due {
		b.until = now.Add(b.tries.NextBackOff()) // it is for who was told
	}
	return why, due
}

// Why implements [cache.Availability].
func (b *Breaker) Why() error {
	b.mu.Lock()
	defer b.unlock()
	why, _ := b.why(b.now())
	return why
}

// why returns why no answer is to be waited for, and whether that is a failure that is
// known, of which can be found out whether it is over. The caller holds b.mu.
func (b *Breaker) why(now time.Time) (why error, known bool) {
	ruledOut := b.offline()
	b.heed(ruledOut, now)
	switch b.state {
	case Held:
		return b.heldError(asking, ruledOut), false
	case Unknown, Online:
		if quiet := b.quiet(now); quiet > b.slow {
			return &cache.UpstreamError{
				Kind: cache.ErrUnavailable, Remote: b.host, Op: asking,
				Err: fmt.Errorf("it has not answered for %v", seconds(quiet)),
			}, false
		}
		return nil, false
	}
	told := *b.cause
	told.Op, told.RetryAfter = asking, max(b.hold.Sub(now), 0)
	return &told, true
}

// quiet returns for how long it has been waited for an answer without any coming.
func (b *Breaker) quiet(now time.Time) time.Duration {
	if len(b.silent) == 0 {
		return 0
	}
	return now.Sub(b.silent[0].begun)
}

// Status returns what is known of the remote. It takes no time.
func (b *Breaker) Status() Status {
	b.mu.Lock()
	defer b.unlock()
	ruledOut, now := b.offline(), b.now()
	b.heed(ruledOut, now)
	return b.status(ruledOut, now)
}

// status is Status for who holds b.mu.
func (b *Breaker) status(ruledOut error, now time.Time) Status {
	s := Status{Remote: b.host, State: b.state, Since: wall(b.since, now), Failures: b.failures}
	switch b.state {
	case Held:
		s.Reason = ruledOut.Error()
	case Failing, Offline, Limited:
		s.Reason, s.NextTry = reason(b.cause), wall(b.until, now)
	}
	return s
}

// unlock lets go of b.mu, and tells who wants to know how the state has changed
// meanwhile. Only one tells at a time, without b.mu; others leave to that one what they
// have noticed, so that it is told in order.
func (b *Breaker) unlock() {
	last := b.told
	if n := len(b.changes); n > 0 {
		last = b.changes[n-1]
	}
	if b.changed != nil && b.state != last.State {
		var ruledOut error
		if b.state == Held {
			if ruledOut = b.offline(); ruledOut == nil {
				ruledOut = cache.ErrOffline // it was allowed again just now
			}
		}
		b.changes = append(b.changes, b.status(ruledOut, b.now()))
	}
	if !b.telling {
		b.telling = true
		for len(b.changes) > 0 {
			from, to := b.told, b.changes[0]
			b.told, b.changes = to, b.changes[1:]
			b.mu.Unlock()
			b.changed(from, to)
			b.mu.Lock()
		}
		b.telling = false
	}
	b.mu.Unlock()
}

// collector is the metrics of remotes.
type collector struct {
	current                  func() []*Breaker
	state, failures, changes *prometheus.Desc
}

// NewCollector returns the metrics of those that current returns, no two of them of the
// same remote, each time they are asked for:
//   - registry_module_remote_state by remote and state: 1 for the one that it is in,
//     0 for the others;
//   - registry_module_remote_failures_total by remote: failures that are the remote's
//     own, those of requests that were under way together counted as one;
//   - registry_module_remote_state_changes_total by remote.
func NewCollector(current func() []*Breaker) prometheus.Collector {
	return &collector{
		current: current,
		state: prometheus.NewDesc("registry_module_remote_state",
			"1 for the state that the remote registry is in, 0 for the others.", []string{"remote", "state"}, nil),
		failures: prometheus.NewDesc("registry_module_remote_failures_total",
			"Failures of the remote registry, those that happen together counted as one.", []string{"remote"}, nil),
		changes: prometheus.NewDesc("registry_module_remote_state_changes_total",
			"Changes of the state of the remote registry.", []string{"remote"}, nil),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	to <- c.state
	to <- c.failures
	to <- c.changes
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	for _, b := range c.current() {
		state := b.Status().State
		for _, s := range states {
			value := 0.0
			if s == state {
				value = 1
			}
			to <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, value, b.host, string(s))
		}
		to <- prometheus.MustNewConstMetric(c.failures, prometheus.CounterValue, float64(b.counts.failures.Load()), b.host)
		to <- prometheus.MustNewConstMetric(c.changes, prometheus.CounterValue, float64(b.counts.changes.Load()), b.host)
	}
}
