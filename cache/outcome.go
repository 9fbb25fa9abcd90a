package cache

import (
	"context"
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
	// Source is empty where nothing was answered.
	Source Source
	// Place is the repository that was meant, where it could be several.
	Place Place
	// Joined tells that the remote was asked for another caller already.
	Joined bool
	// Stored tells that what was fetched is stored, or is going to be.
	Stored bool
}

// Answered returns what is known by now.
func (o *Outcome) Answered() Answered {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.told
}

type outcomeKey struct{}

// WithOutcome has o told how what is asked for with the returned context is answered.
func WithOutcome(ctx context.Context, o *Outcome) context.Context {
	return context.WithValue(ctx, outcomeKey{}, o)
}
