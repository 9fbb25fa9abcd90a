package admin

import (
	"context"
	"errors"
)

// Kinds of errors of [Actions], beside those of cache.
var (
	// ErrInvalid means that what was asked for is none of what can be asked for.
	ErrInvalid = errors.New("invalid request")
	// ErrBusy means that something else is being done that has to end first.
	ErrBusy = errors.New("busy")
)

// Actions change something. Each says in a sentence for people what was done. An error is
// shown as it is, and has no secrets; its kind decides about the status: [ErrInvalid],
// [ErrBusy], cache.ErrPinned, and the others of cache.
type Actions interface {
	// Pin keeps the images that pattern names, as `registry-module pin` does, and Unpin
	// undoes that.
	Pin(ctx context.Context, pattern string) (said string, err error)
	Unpin(ctx context.Context, pattern string) (said string, err error)
	// Remove takes an image out of the cache.
	Remove(ctx context.Context, r Removal) (said string, err error)
	// Refresh asks the remote what a tag stands for now.
	Refresh(ctx context.Context, image string) (said string, err error)
	// Seed begins to fill the cache, and does not wait for the end: State.Seed and the
	// downloads tell how it goes.
	Seed(ctx context.Context, job SeedJob) (said string, err error)
	// SetOffline sets the mode: on, off or auto.
	SetOffline(ctx context.Context, mode string) (said string, err error)
	// Reload reads the configuration anew.
	Reload(ctx context.Context) (said string, err error)
}

// Removal is what to remove.
type Removal struct {
	// Image is REPOSITORY:TAG or REPOSITORY@DIGEST, or with All a REPOSITORY.
	Image string
	// All removes all of the repository, and Force takes back pins that are for exactly this
	// image first.
	All, Force bool
}

// SeedJob is what to seed.
type SeedJob struct {
	// Images are references, each REPOSITORY:TAG or REPOSITORY@DIGEST, at least one.
	Images []string
	// Platforms are those that are wanted, in the form os/architecture[/variant]; none for
	// those that seeding takes without being told.
	Platforms []string
}

// Said is what became of an action that a form has asked for.
type Said struct {
	// OK tells that it was done, and Text says what, or why not. It is no markup.
	OK   bool
	Text string
}
