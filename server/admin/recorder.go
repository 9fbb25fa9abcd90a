package admin

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"registry-module/cache"
	"registry-module/server"
)

// RecorderOptions are where a [Recorder] gets what nobody tells it.
type RecorderOptions struct {
	// Fetched is how many bytes have come from remotes since the start. It is called once a
	// second at most, with a lock held. Nil is none.
	Fetched func() int64
}

// Recorder remembers what has happened, in a bounded amount of memory (some 100 KiB), for
// those who look later. It has neither goroutines nor timers, and writes nothing to disk. It
// is a [server.Observer] and a [cache.Observer]; it can be used by several goroutines, and
// returns at once.
type Recorder struct {
	opts     RecorderOptions
	changed  atomic.Uint64 // how often the list of images may have changed
	problems problems

	mu      sync.Mutex // guards what follows
	traffic Traffic
	history history
	served  map[string]int64 // bytes, by remote
	fetched time.Time        // when Fetched was last called
	damaged int64            // how many blobs were
}

// maxServed bounds how many remotes are told apart: those of the configuration are fewer.
const maxServed = 256

// fetchedEvery is how often Fetched is called at most.
const fetchedEvery = time.Second

// NewRecorder returns a recorder to which nothing has happened yet.
func NewRecorder(opts RecorderOptions) *Recorder {
	return &Recorder{opts: opts, served: make(map[string]int64), fetched: time.Now()}
}

var (
	_ server.Observer = (*Recorder)(nil)
	_ cache.Observer  = (*Recorder)(nil)
)

// Answered implements server.Observer.
func (r *Recorder) Answered(a server.Answer) {
	if a.Err != nil {
		r.failed(a)
	}
	if a.Kind == "manifest" && a.Fetched {
		r.ImagesChanged()
	}
	if a.Kind == "other" || a.Kind == "catalog" {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var times func(*Traffic) *int64
	switch a.Result {
	case server.Hit, server.Revalidated:
		times = hits
	case server.Miss:
		times = misses
	case server.Stale:
		times = stale
	case server.Failed:
		times = failures
	}
	if times != nil {
		*times(&r.traffic)++
		r.history.add(now, now, 1, times)
	}
	if a.Bytes > 0 {
		r.traffic.Served += a.Bytes
		r.history.add(now.Add(-a.Took), now, a.Bytes, served)
		if _, ok := r.served[a.Place.Host]; ok || len(r.served) < maxServed {
			r.served[a.Place.Host] += a.Bytes
		}
	}
	if a.Fetched {
		r.look(now, a.Took)
	}
}

// failed keeps what clients did not get, unless that is their own doing.
func (r *Recorder) failed(a server.Answer) {
	switch a.Result {
	case server.Failed:
	case server.Refused:
		if !errors.Is(a.Err, cache.ErrDenied) {
			return // by this module
		}
	case server.Absent:
		// Clients try for signatures by tags that are made of digests.
		if a.Kind != "manifest" || strings.HasPrefix(a.Reference, "sha256-") {
			return
		}
	default:
		return
	}
	r.problems.fail(a.Err)
}

// FillEnded implements cache.Observer.
func (r *Recorder) FillEnded(f cache.FillEnd) {
	if f.Err == nil && f.Unstored == nil {
		r.ImagesChanged()
	}
	for _, err := range []error{f.Err, f.Unstored} {
		if err != nil {
			r.problems.fail(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look(time.Now(), f.Took)
}

// Evicted implements cache.Observer.
func (r *Recorder) Evicted(cache.Eviction) { r.ImagesChanged() }

// RoomChanged implements cache.Observer.
func (r *Recorder) RoomChanged(room cache.Room) {
	if room.Short {
		r.Problem("there is no room for what is fetched: "+room.Reason, hintNoRoom)
	}
}

// RemoteChanged keeps that the state of a remote has become a bad one.
func (r *Recorder) RemoteChanged(now Remote) {
	if now.Good || now.State == "held" { // as the operator wants it
		return
	}
	r.problems.add(time.Now(), now.Host+"|"+now.State, now.Host+" is "+now.State+": "+now.Reason, hintOfText(now.Reason))
}

// health keeps that more of what is stored was found damaged than was known.
func (r *Recorder) health(h cache.Health) {
	r.mu.Lock()
	more := h.Damaged > r.damaged
	r.damaged = max(r.damaged, h.Damaged)
	r.mu.Unlock()
	if more {
		r.problems.add(time.Now(), "damaged", fmt.Sprintf("stored content was found damaged, and is not served: %d blobs since the start, of which %d are right again", h.Damaged, h.Healed+h.Repaired),
			"what can be fetched again is; if it goes on, the medium or the memory of this device is failing: look at the kernel's log (registry-module verify --repair)")
	}
}

// Problem keeps what went wrong, in words for people, and what can be done about it; an empty
// hint is one that is made of the text where it is known.
func (r *Recorder) Problem(text, hint string) {
	if hint == "" {
		hint = hintOfText(text)
	}
	r.problems.add(time.Now(), "", text, hint)
}

// ImagesChanged has who shows the list of images get it anew: something was pinned, removed
// or added.
func (r *Recorder) ImagesChanged() { r.changed.Add(1) }

func (r *Recorder) changes() uint64 { return r.changed.Load() }

// look counts what was fetched since it was last counted, which was in the time before now
// that is so long at most; 0 is any time. Mu is held.
func (r *Recorder) look(now time.Time, most time.Duration) {
	since := now.Sub(r.fetched)
	if r.opts.Fetched == nil || since >= 0 && since < fetchedEvery {
		return
	}
	since = max(since, 0)
	if most > 0 {
		since = min(since, most)
	}
	r.fetched = now
	total := r.opts.Fetched()
	if n := total - r.traffic.Fetched; n > 0 {
		r.traffic.Fetched = total
		r.history.add(now.Add(-since), now, n, fetched)
	}
}

// snapshot is what has happened.
func (r *Recorder) snapshot(now time.Time) (Traffic, []Sample, []Problem) {
	r.mu.Lock()
	r.look(now, 0)
	traffic, samples := r.traffic, r.history.samples(now)
	r.mu.Unlock()
	return traffic, samples, r.problems.list()
}

// period is another one when there is another sample than the last one.
func (r *Recorder) period(now time.Time) int64 { return minuteOf(now) }

// servedOf is how many bytes of a remote's content went to clients.
func (r *Recorder) servedOf(host string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served[host]
}
