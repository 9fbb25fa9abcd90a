package cache

import (
	"context"
	"errors"
	"sync"
)

// Source says where an answer comes from.
type Source string

// The sources of an answer.
const (
	// FromStore is for what was stored, and needed no remote.
	FromStore Source = "store"
	// FromRemote is for what was fetched, for this caller or one who has asked before.
	FromRemote Source = "remote"
	// Confirmed is for what was stored, and the remote has said that it is so still.
	Confirmed Source = "confirmed"
	// FromStaleStore is for what was stored, and could not be confirmed.
	FromStaleStore Source = "stale"
	// FromMemory is for what the remote has lately said not to exist.
	FromMemory Source = "memory"
)

// Outcome is how a request was answered, see [WithOutcome].
type Outcome struct {
	mu   sync.Mutex
	told Answered
}

// Answered is what an [Outcome] has.
type Answered struct {
	// Source is empty where nothing was answered: what was asked for is not at hand, the
	// remote has answered now that it does not exist, or it could not be asked.
	Source Source
	// Place is the repository that was meant, where it could be several; zero where none
	// of them is.
	Place Place
	// Joined tells that the remote was asked for another caller already.
	Joined bool
	// Stored tells that what was fetched is stored, or is going to be. Of a blob that turns
	// out to have no room while it is read, that changes.
	Stored bool
}

// Answered returns what is known by now.
func (o *Outcome) Answered() Answered {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.told
}

type outcomeKey struct{}

// WithOutcome has o told how what is asked for with the returned context is answered: by
// the methods of [Repository] and [Name], before they return, and by the [Reader] of a blob
// while it is read. O is for one request; of several, the last one counts.
func WithOutcome(ctx context.Context, o *Outcome) context.Context {
	return context.WithValue(ctx, outcomeKey{}, o)
}

// outcomeOf returns who is to be told, nil where nobody is.
func outcomeOf(ctx context.Context) *Outcome {
	o, _ := ctx.Value(outcomeKey{}).(*Outcome)
	return o
}

func (o *Outcome) set(a Answered) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = a
}

// told tells how a request of ctx is answered.
func (r *Repository) told(ctx context.Context, a Answered) {
	if o := outcomeOf(ctx); o != nil {
		a.Place = r.Place()
		o.set(a)
	}
}

// toldStored tells that what is stored is the answer, as far as f says.
func (r *Repository) toldStored(ctx context.Context, f Freshness) {
	from := FromStore
	if f.Stale != nil {
		from = FromStaleStore
	}
	r.told(ctx, Answered{Source: from})
}

// toldConfirmed tells that the remote, where it has said so itself, has confirmed what is
// stored.
func (r *Repository) toldConfirmed(ctx context.Context, f Freshness) {
	if f.Stale != nil {
		r.toldStored(ctx, f)
		return
	}
	r.told(ctx, Answered{Source: Confirmed})
}

// toldFailure tells that there is no answer because of err, unless that is what the remote
// has said before.
func (r *Repository) toldFailure(ctx context.Context, err error) {
	o := outcomeOf(ctx)
	if o == nil {
		return
	}
	a := Answered{Place: r.Place(), Joined: o.Answered().Joined}
	if _, remembered := errors.AsType[*rememberedError](err); remembered {
		a.Source, a.Joined = FromMemory, false
	}
	o.set(a)
}

// toldNowhere tells that no repository was meant.
func toldNowhere(ctx context.Context) {
	if o := outcomeOf(ctx); o != nil {
		a := o.Answered()
		a.Place = Place{}
		o.set(a)
	}
}

// toldFlight tells ctx what a flight was told, which ran for somebody else unless own.
func toldFlight(ctx context.Context, a Answered, own bool) {
	o := outcomeOf(ctx)
	if o == nil {
		return
	}
	a.Joined = a.Joined || !own
	if a.Source == "" { // it has asked in vain, or only for what is beside the answer
		before := o.Answered()
		before.Joined = a.Joined
		a = before
	}
	o.set(a)
}
