package main

import (
	"context"
	"time"
)

// turn is what one at a time can have. Make it by newTurn.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// turnPatience is how long is waited for a turn: who had it may have been killed, and the
// work for him ends when that is noticed.
const turnPatience = 5 * time.Second

// take waits for the turn, as long as patience where that is above 0. It returns false where
// it has not come to that.
func (t turn) take(ctx context.Context, patience time.Duration) bool {
	var over <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case t <- struct{}{}:
		return true
	case <-over:
	case <-ctx.Done():
	}
	return false
}

// leave gives the turn back.
func (t turn) leave() { <-t }
