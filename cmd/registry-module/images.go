package main

import (
	"context"
	"errors"
	"io"
	"iter"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/upstream/router"
)

// imageStore is what is stored, by the names under which it is. It is what a
// [cache.Cache] has for commands.
type imageStore interface {
	// Ready waits until it is known what is stored. Verify does not wait for that.
	Ready(ctx context.Context) error
	// Images are all images, by repository and tag, then manifests that have neither
	// tag nor index.
	Images(ctx context.Context) iter.Seq2[cache.Image, error]
	// InspectImage looks at one, by tag or digest. The error is [cache.ErrNotFound]
	// where it is not stored.
	InspectImage(ctx context.Context, repository, ref string) (cache.ImageDetail, error)
	// Explain tells what a pull would meet, see [cache.Cache.Explain].
	Explain(ctx context.Context, name, ref string, places ...cache.Place) (cache.Explanation, error)
	// PinImages keeps images from being removed to make room, and returns how many
	// those are now.
	PinImages(ctx context.Context, p cache.Pin) (matches int, err error)
	UnpinImages(ctx context.Context, pattern string, reason cache.PinReason) (was bool, err error)
	Pins(ctx context.Context) ([]cache.Pin, error)
	// RemoveImage removes one, or the whole repository where ref is empty. The error is
	// cache.ErrPinned where it is pinned.
	RemoveImage(ctx context.Context, repository, ref string) (cache.Removed, error)
	Collect(ctx context.Context, o cache.CollectOptions) (cache.Collection, error)
	Verify(ctx context.Context, o cache.VerifyOptions) (cache.VerifyReport, error)
}

var _ imageStore = (*cache.Cache)(nil)

// imageControl is what is stored, by the names that people give it: [HOST/]NAME[:TAG|@DIGEST]
// as clients pull it, with or without the address of this server in front, or as it is
// listed.
type imageControl interface {
	Images(ctx context.Context) iter.Seq2[cache.Image, error]
	// Inspect looks at an image. Without a tag it is latest. The error is
	// [cache.ErrNotFound] where it is not stored.
	Inspect(ctx context.Context, image string) (cache.ImageDetail, error)
	// Explain tells what a pull of an image would be answered now. Without a tag it is
	// latest.
	Explain(ctx context.Context, image string) (explanation, error)
	// Pin keeps what matches from being removed to make room, and tells how many that
	// is for each pattern, of names as they are stored, that this comes to.
	Pin(ctx context.Context, pattern string) ([]pinned, error)
	Unpin(ctx context.Context, pattern string) (unpinned, error)
	Pins(ctx context.Context) ([]cache.Pin, error)
	// Remove removes an image. Errors are [cache.ErrNotFound] and cache.ErrPinned.
	Remove(ctx context.Context, o removeOptions) (removal, error)
	Collect(ctx context.Context, o cache.CollectOptions) (cache.Collection, error)
	Verify(ctx context.Context, o cache.VerifyOptions) (cache.VerifyReport, error)
}

// pinned is a pattern that was pinned, and how many images it is for now.
type pinned struct {
	Pattern string `json:"pattern"`
	Matches int    `json:"matches"`
}

// unpinned are the pins that were removed, and those of the same pattern that cannot be.
type unpinned struct {
	Removed   []cache.Pin `json:"removed,omitempty"`
	Remaining []cache.Pin `json:"remaining,omitempty"`
}

// removeOptions say what to remove.
type removeOptions struct {
	Image string `json:"image"`
	// All tells that Image is a repository, of which everything is removed.
	All bool `json:"all,omitempty"`
	// Force removes pins that are for exactly this first.
	Force bool `json:"force,omitempty"`
}

// removal is what was removed.
type removal struct {
	// Image is the name under which it was stored.
	Image string `json:"image"`
	// Unpinned are the patterns of pins that were removed.
	Unpinned []string `json:"unpinned,omitempty"`
	cache.Removed
}

// saidError is an error of a kind that callers know, with a text that says all.
type saidError struct {
	kind error
	text string
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.kind }

// errBadPattern is the kind of errors for what cannot be a pattern or a name.
var errBadPattern = errors.New("not a pattern")

// openedImages are images, and how they were opened.
type openedImages struct {
	imageControl
	// seeding fetches images; nil where nobody is to be asked for any.
	seeding seeding
	// seeds tell how the schedule stands by which images are fetched.
	seeds seedStates
	// direct tells that no server runs, so that no remote is asked.
	direct bool
	// logTo has what is logged meanwhile written elsewhere; nil where nothing is.
	logTo func(io.Writer)
}

// withImages does something with what the data directory holds: by way of the server
// that runs on it, or directly where none does.
func withImages(ctx context.Context, cfg *config.Config, do func(openedImages) error) error {
	return withData(ctx, cfg,
		func(c *controlClient) error { return do(openedImages{imageControl: c, seeds: c}) },
		func(d dataDir) (err error) {
			remotes, routes, err := unasked(cfg, d.store)
			if err != nil {
				return err
			}
			i, err := d.openCache(ctx, cfg, remotes, routes)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, i.cache.Close()) }()
			err = do(openedImages{imageControl: i, seeds: storedSeedState{cfg.SeedFile, d.store.Document(seedStateName)}, direct: true, logTo: logTo(d.log)})
			if _, partly := errors.AsType[partlyError](err); !partly && errors.Is(err, context.Canceled) {
				err = interrupted(ctx, err)
			}
			return err
		})
}

// openCache opens the cache of the data directory for a command. The caller closes it.
func (d dataDir) openCache(ctx context.Context, cfg *config.Config, remotes []cache.Remote, routes []router.Remote) (cachedImages, error) {
	served, err := newServedRemotes(d.store, remotes, routes, len(cfg.Remotes) == 0)
	if err != nil {
		return cachedImages{}, err
	}
	opts, err := cacheOptions(cfg, d.store, d.index, remotes, routes, d.log)
	if err != nil {
		return cachedImages{}, err
	}
	// A command does what it is told, and nothing on the side.
	opts.Resume, opts.Prefetch, opts.Attached, opts.ScrubInterval = false, false, false, 0
	c, err := cache.New(ctx, opts)
	if err != nil {
		return cachedImages{}, err
	}
	i, err := newCachedImages(c, served, cfg)
	if err != nil {
		return cachedImages{}, errors.Join(err, c.Close())
	}
	return i, nil
}
