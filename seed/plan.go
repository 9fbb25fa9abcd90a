package seed

import (
	"context"
	"fmt"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// content is a manifest or a blob, be it of several images.
type content struct {
	size int64
	// kept is how many bytes of it need not be fetched.
	kept int64
	// slot has an element while somebody brings it, so that nobody else does.
	slot chan struct{}
	// places are by the key of a repository.
	places map[string]*place
}

// place is content in one repository.
type place struct {
	has bool
	err error // why it could not be brought
}

// plan finds out what is there, and whether the rest has room.
func (r *run) plan(ctx context.Context) (Plan, error) {
	r.contents = make(map[digest.Digest]*content)
	p := Plan{Images: make([]PlannedImage, 0, len(r.images))}
	var all, pinned []cache.BlobEntry
	isPinned := make(map[digest.Digest]bool)
	for _, i := range r.images {
		if i.err != nil {
			continue
		}
		if err := r.look(ctx, i); err != nil {
			if ctx.Err() != nil {
				return Plan{}, err
			}
			i.fail(fmt.Errorf("looking for what is stored of it: %w", err))
			continue
		}
		for _, dgst := range i.digests() {
			if !i.loose && !isPinned[dgst] {
				isPinned[dgst] = true
				pinned = append(pinned, cache.BlobEntry{Digest: dgst, Size: r.contents[dgst].size})
			}
		}
	}
	for dgst, c := range r.contents {
		all = append(all, cache.BlobEntry{Digest: dgst, Size: c.size})
		p.Size = sum(p.Size, c.size)
		p.Present = sum(p.Present, c.kept)
	}
	p.Blobs, p.Fetch = len(all), p.Size-p.Present
	for _, i := range r.images {
		if i.err == nil {
			for _, dgst := range i.digests() {
				c := r.contents[dgst]
				i.planned.Fetch = sum(i.planned.Fetch, c.size-c.kept)
			}
		}
		p.Images = append(p.Images, i.planned)
	}
	if err := r.fit(ctx, &p, all, pinned); err != nil {
		return Plan{}, err
	}
	pins, err := r.cache.Pins(ctx)
	if err != nil {
		return Plan{}, fmt.Errorf("reading the pins: %w", err)
	}
	r.pinned = make(map[string]bool)
	for _, pin := range pins {
		if pin.Reason == cache.PinnedBySeed {
			r.pinned[pin.Pattern] = true
		}
	}
	p.Prune, _ = r.unwanted()
	return p, nil
}

// look finds out what is stored of an image.
func (r *run) look(ctx context.Context, i *image) error {
	at := i.repo.Key()
	see := func(dgst digest.Digest, size int64, look func() (has bool, kept int64, err error)) error {
		c := r.contents[dgst]
		if c == nil {
			c = &content{size: size, slot: make(chan struct{}, 1), places: make(map[string]*place)}
			r.contents[dgst] = c
		}
		if c.places[at] != nil {
			return nil
		}
		has, kept, err := look()
		if err != nil {
			return err
		}
		if has {
			kept = c.size
		}
		c.kept = max(c.kept, min(kept, c.size))
		c.places[at] = &place{has: has}
		return nil
	}
	for _, p := range i.parts {
		err := see(p.Digest, p.Size, func() (has bool, kept int64, err error) {
			has, err = i.repo.HasManifest(ctx, p.Digest)
			return has, 0, err
		})
		if err != nil {
			return err
		}
	}
	for _, b := range i.blobs {
		if err := see(b.Digest, b.Size, func() (bool, int64, error) { return i.repo.HasBlob(ctx, b.Digest) }); err != nil {
			return err
		}
	}
	return nil
}

// fit finds out whether what is to be pinned has room. What is not pinned goes when there
// is need of room, but takes some at first.
func (r *run) fit(ctx context.Context, p *Plan, all, pinned []cache.BlobEntry) error {
	byDigest := func(a, b cache.BlobEntry) int {
		if a.Digest < b.Digest {
			return -1
		}
		return 1 // each is there once
	}
	slices.SortFunc(all, byDigest)
	slices.SortFunc(pinned, byDigest)
	fit, err := r.cache.Fit(ctx, pinned)
	if err != nil {
		return fmt.Errorf("finding out whether there is room: %w", err)
	}
	p.Disk, p.Pinned, p.Limit, p.Fits = fit.More, fit.Kept, fit.Limit, fit.OK
	if len(all) > len(pinned) {
		whole, err := r.cache.Fit(ctx, all)
		if err != nil {
			return fmt.Errorf("finding out whether there is room: %w", err)
		}
		p.Disk = whole.More
	}
	switch {
	case fit.OK:
	case len(pinned) == 0:
		p.Fits = true // nothing more is pinned
	case fit.Limit > 0 && fit.Kept > fit.Limit:
		p.Why = fmt.Sprintf("all that is pinned would take %s, %s more than the %s that there are: raise REGISTRY_CACHE_MAXSIZE, seed fewer images or platforms, "+
			"or take pins back with registry-module unpin", bytesText(fit.Kept), bytesText(fit.Kept-fit.Limit), bytesText(fit.Limit))
	default:
		p.Why = fmt.Sprintf("%s more would be taken, for which the disk has no room: seed fewer images or platforms, or make room on the disk", bytesText(fit.More))
	}
	return nil
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// unwanted returns the pins that are taken back, and otherwise why none is.
func (r *run) unwanted() (patterns []string, why string) {
	if !r.prunes {
		return nil, ""
	}
	if len(r.images) == 0 {
		return nil, "no pin was taken back, since no image is named: take them back with registry-module unpin"
	}
	wanted := make(map[string]bool)
	for _, i := range r.images {
		if i.err != nil {
			return nil, fmt.Sprintf("no pin was taken back, since not all that is wanted is there: %s: %v", i.planned.Image, i.err)
		}
		if !i.loose {
			wanted[i.pattern()] = true
		}
	}
	if r.unsure != "" {
		return nil, "no pin was taken back, since it is not known what is wanted: " + r.unsure
	}
	for pattern := range r.pinned {
		if !wanted[pattern] {
			patterns = append(patterns, pattern)
		}
	}
	slices.Sort(patterns)
	return patterns, ""
}

// prune takes back the pins of what was seeded before and is not wanted any more.
func (r *run) prune(ctx context.Context) (pruned []string, warning string) {
	patterns, warning := r.unwanted()
	for _, pattern := range patterns {
		was, err := r.cache.UnpinImages(ctx, pattern, cache.PinnedBySeed)
		if err != nil {
			return pruned, fmt.Sprintf("the pin %s could not be taken back: %v", pattern, err)
		}
		if was {
			pruned = append(pruned, pattern)
		}
	}
	return pruned, warning
}
