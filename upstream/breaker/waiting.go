package breaker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"registry-module/cache"
	"registry-module/internal/via"
)

// question is what a request is for.
type question struct {
	op   string // for errors
	repo string
	// blob says that another host may have to answer, to which the remote redirects.
	blob bool
}

// request is one that is passed on.
type request struct {
	question
	// hops is how many registries it has passed.
	hops   int
	number uint64
	begun  time.Time
}

// outcome is that of the next probe that ends, or a verdict.
type outcome struct {
	done chan struct{}
	// failure is set before done is closed where the remote has not answered: for all
	// if no connection could be made, otherwise for those who have waited for long for
	// repo. In all other cases the state tells what is next: where there was no
	// verdict, it is to be found out by another.
	failure *cache.UpstreamError
	repo    string
}

func newOutcome() *outcome { return &outcome{done: make(chan struct{})} }

// begin waits until it is known what is to become of a request, and returns either
// the request, to be passed on, or an error.
func (b *Breaker) begin(ctx context.Context, q question) (*request, error) {
	r := &request{question: q, hops: len(via.From(ctx))}
	var over <-chan time.Time
	for patient := true; ; {
		wait, err := b.admit(r, patient)
		switch {
		case err != nil:
			return nil, err
		case wait == nil:
			return r, nil
		case over == nil:
			timer := time.NewTimer(maxWait)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-wait.done:
			if f := wait.failure; f != nil && (f.NoConnection || !patient && wait.repo == q.repo) {
				told := *f
				told.Op = q.op
				return nil, &told
			}
		case <-over:
			patient = false
		case <-ctx.Done():
			return nil, b.unheard(q.op, ctx.Err())
		}
	}
}

// admit begins r, or returns what is to be waited for, or an error. Patient says that
// r has not waited for long.
func (b *Breaker) admit(r *request, patient bool) (*outcome, error) {
	b.mu.Lock()
	defer b.unlock()
	ruledOut, now := b.offline(), b.now()
	b.heed(ruledOut, now)
	switch {
	case ruledOut != nil:
		return nil, b.heldError(r.op, ruledOut)
	case b.hold.Sub(now) > 0:
		return nil, b.limitedError(r.op, b.hold.Sub(now))
	case b.state != Online && b.state != Failing:
		if wait, err := b.probe(r, patient, now); wait != nil || err != nil {
			return wait, err
		}
	}
	r.begun, r.number = now, b.count()
	if !r.blob {
		b.silent = append(b.silent, r)
	}
	return nil, nil
}

// probe makes r find out whether the remote answers, or returns what is to be waited
// for, or an error.
func (b *Breaker) probe(r *request, patient bool, now time.Time) (*outcome, error) {
	others, same := 0, false
	for _, p := range b.probes {
		if p.hops < r.hops {
			continue
		}
		others++
		if p.repo == r.repo {
			same = true
			patient = patient && (!b.mute() || now.Sub(p.begun) < maxWait)
		}
	}
	mute := b.mute()
	// Where no connection can be made, that is the same for all repositories.
	full := others >= maxProbes && (same || b.state == Offline && !mute)
	switch {
	case full && !patient && b.state == Offline:
		return nil, b.crowdedError(r.op)
	case full, others > 0 && patient && !mute:
		return b.next, nil
	case b.state == Offline && !mute && others == 0 && b.pauseLeft(now) > 0:
		return nil, b.offlineError(r.op, now)
	}
	b.probes = append(b.probes, r)
	return nil, nil
}

// mute tells whether a connection to the remote could be made, on which no answer came.
func (b *Breaker) mute() bool { return b.state == Offline && !b.cause.NoConnection }

// places is how many requests find out about the remote, which is not in order.
func (b *Breaker) places() int {
	if b.mute() {
		return maxProbes
	}
	return 1
}

// settle ends the search for a verdict. Failure is set where no connection could be made.
func (b *Breaker) settle(failure *cache.UpstreamError) {
	b.probes = nil
	b.tell(failure, "")
}

// tell makes those who wait look again, or fail, see outcome.
func (b *Breaker) tell(failure *cache.UpstreamError, repo string) {
	b.next.failure, b.next.repo = failure, repo
	close(b.next.done)
	b.next = newOutcome()
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
