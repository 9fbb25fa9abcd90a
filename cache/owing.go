package cache

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"sync"
	"sync/atomic"
	"syscall"
)

// owingIndex is an [Index] that takes deletions also where it has no room to write them
// down: what was removed to make room must be gone. They are made up for with the next
// changes. A crash before that costs nothing: what is stored is counted anew.
type owingIndex struct {
	Index

	owes atomic.Bool // whether there is any in owed
	mu   sync.Mutex
	owed map[string]bool
}

// owedAtOnce is how many deletions are made up for at a time.
const owedAtOnce = 128

// Get implements Index.
func (x *owingIndex) Get(ctx context.Context, key []byte) ([]byte, error) {
	if x.isOwed(key) {
		return nil, fs.ErrNotExist
	}
	return x.Index.Get(ctx, key)
}

func (x *owingIndex) isOwed(key []byte) bool {
	if !x.owes.Load() {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.owed[string(key)]
}

// Scan implements Index.
func (x *owingIndex) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range x.Index.Scan(ctx, prefix, from) {
			if err == nil && x.isOwed(e.Key) {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// Apply implements Index.
func (x *owingIndex) Apply(ctx context.Context, changes ...Change) error {
	due := x.due(changes)
	err := x.Index.Apply(ctx, append(changes[:len(changes):len(changes)], due...)...)
	if err == nil {
		x.settle(changes, due)
		return nil
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	for _, c := range changes {
		if !c.Delete {
			return err
		}
	}
	x.owe(changes)
	return nil
}

// makeUp makes all deletions that are owed.
func (x *owingIndex) makeUp(ctx context.Context) error {
	for x.owes.Load() {
		due := x.due(nil)
		if err := x.Index.Apply(ctx, due...); err != nil {
			return err
		}
		x.settle(due)
	}
	return nil
}

// due returns some of the deletions that are owed, but for keys that are changed.
func (x *owingIndex) due(changes []Change) (due []Change) {
	if !x.owes.Load() {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	changed := make(map[string]bool, len(changes))
	for _, c := range changes {
		changed[string(c.Key)] = true
	}
	for key := range x.owed {
		if len(due) == owedAtOnce {
			break
		}
		if !changed[key] {
			due = append(due, Change{Key: []byte(key), Delete: true})
		}
	}
	return due
}

// settle notes that changes were made.
func (x *owingIndex) settle(changes ...[]Change) {
	if !x.owes.Load() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, made := range changes {
		for _, c := range made {
			delete(x.owed, string(c.Key))
		}
	}
	x.owes.Store(len(x.owed) > 0)
}

func (x *owingIndex) owe(changes []Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.owed == nil {
		x.owed = make(map[string]bool)
	}
	for _, c := range changes {
		x.owed[string(c.Key)] = true
	}
	x.owes.Store(true)
}
