package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// counters are what a cache counts. The zero value is ready.
type counters struct {
	// remotes are those of one remote each, by its host: a remote can be replaced by
	// another one of the same host while the cache runs.
	remotes sync.Map // of string to *remoteCounters
	evicted [4]count // in the order of evictionCauses
	// passages are those that are under way.
	passages sync.Map // of *passage to struct{}
	// contents is how many manifests and blobs are stored, if that is known.
	contents      atomic.Int64
	contentsKnown atomic.Bool
	// pinned is how many bytes were pinned when room was last made.
	pinned atomic.Int64
	// inVain tells that there was not enough then that could go.
	inVain atomic.Bool
}

// count is a [Count] that grows.
type count struct{ times, bytes atomic.Int64 }

func (c *count) add(bytes int64) {
	c.times.Add(1)
	c.bytes.Add(bytes)
}

func (c *count) get() Count { return Count{c.times.Load(), c.bytes.Load()} }

type remoteCounters struct {
	started, resumed, retried, joined atomic.Int64
	stored, passed                    count
	failed                            [9]atomic.Int64 // in the order of failureCauses
}

// of returns the counters of a remote.
func (c *counters) of(host string) *remoteCounters {
	if got, ok := c.remotes.Load(host); ok {
		return got.(*remoteCounters)
	}
	got, _ := c.remotes.LoadOrStore(host, new(remoteCounters))
	return got.(*remoteCounters)
}

// evictionCauses returns all there are.
func evictionCauses() [4]EvictionCause {
	return [...]EvictionCause{EvictedForRoom, EvictedByAge, EvictedUnused, EvictedByHand}
}

// failureCauses returns all there are, the more telling first: an error can be several.
func failureCauses() [9]failureCause {
	return [...]failureCause{
		{"loop", []error{ErrLoop}},
		{"no_space", []error{ErrNoSpace}},
		{"not_found", []error{ErrNotFound}},
		{"denied", []error{ErrDenied}},
		{"rate_limited", []error{ErrRateLimited}},
		{"invalid", []error{ErrInvalid}},
		{"unavailable", []error{ErrUnavailable}},
		// After those of a remote: that it has not answered in time is a deadline, too.
		{"closed", []error{ErrClosed, context.Canceled, context.DeadlineExceeded}},
		{"error", nil},
	}
}

type failureCause struct {
	name  string
	kinds []error // none is all
}

// failedBy counts a download that has failed.
func (r *remoteCounters) failedBy(err error) {
	causes := failureCauses()
	for i, cause := range causes {
		for _, kind := range cause.kinds {
			if errors.Is(err, kind) {
				r.failed[i].Add(1)
				return
			}
		}
	}
	r.failed[len(causes)-1].Add(1)
}

// stats fills in what is counted of a remote.
func (r *remoteCounters) stats(to *RemoteStats) {
	to.Started, to.Resumed, to.Retried, to.Joined = r.started.Load(), r.resumed.Load(), r.retried.Load(), r.joined.Load()
	to.Stored, to.Passed = r.stored.get(), r.passed.get()
	causes := failureCauses()
	to.Failed = make(map[string]int64, len(causes))
	for i, cause := range causes {
		to.Failed[cause.name] = r.failed[i].Load()
	}
}

// counters returns those of the remote that r is at.
func (r *Repository) counters() *remoteCounters { return r.c.counters.of(r.remote.Host) }

// fillEnded counts a download that has ended, and tells of it. Have is how many bytes it
// has had in the end.
func (r *Repository) fillEnded(end FillEnd, have int64) {
	n := r.counters()
	switch {
	case end.Err != nil:
		n.failedBy(end.Err)
	case end.Unstored != nil:
		n.passed.add(have)
	default:
		n.stored.add(have)
	}
	r.c.opts.Observer.FillEnded(end)
}

// evicted counts content that was removed, and tells of it.
func (c *Cache) evicted(e Eviction) {
	for i, cause := range evictionCauses() {
		if cause == e.Cause {
			c.counters.evicted[i].add(e.Bytes)
		}
	}
	c.opts.Observer.Evicted(e)
}

// began counts that f has begun.
func (f *fill) began() {
	f.begun = time.Now()
	f.by.counters().started.Add(1)
}

// tellEnd counts that f has ended, with err.
func (f *fill) tellEnd(err error) {
	f.mu.Lock()
	have, came := f.have.Len(), f.came
	f.mu.Unlock()
	f.by.fillEnded(FillEnd{
		Place: f.by.Place(), Digest: f.dgst, Size: f.size, Fetched: came, Resumed: f.resumed,
		Took: time.Since(f.begun), Err: err, Unstored: f.unstored,
	}, have)
}

// brokenOff notes that f goes on after err.
func (f *fill) brokenOff(err error) {
	f.by.counters().retried.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broke = err
}
