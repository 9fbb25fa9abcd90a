package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/seed/bundle"
)

// cacheSink stores what a bundle carries in a cache. It implements [bundle.Sink], for one
// bundle.
type cacheSink struct {
	*contents
	hold  *cache.Hold
	sizes map[digest.Digest]int64
}

// Missing implements bundle.Sink.
func (s *cacheSink) Missing(ctx context.Context, contents []bundle.Content) ([]bundle.Content, error) {
	var missing []bundle.Content
	for _, c := range contents {
		_, stored, err := s.cache.Stored(ctx, c.Digest)
		if err != nil {
			return nil, err
		}
		if !stored {
			missing = append(missing, c)
		}
	}
	return missing, nil
}

// Begin implements bundle.Sink.
func (s *cacheSink) Begin(ctx context.Context, images []bundle.Image, contents []bundle.Content) error {
	s.sizes = make(map[digest.Digest]int64, len(contents))
	for _, c := range contents {
		s.sizes[c.Digest] = c.Size
	}
	if err := s.remotes.check(images); err != nil {
		return err
	}
	fit, err := s.cache.Fit(ctx, s.linked(images))
	if err != nil {
		return err
	}
	if !fit.OK {
		return fmt.Errorf("%w: the images need %s more, and with what is pinned that is %s, of %s that there can be: "+
			"unpin what is not needed (`registry-module pin --list`), free the disk, or raise REGISTRY_CACHE_MAXSIZE",
			cache.ErrNoSpace, sizeText(fit.More), sizeText(fit.Kept), sizeText(fit.Limit))
	}
	if err := s.remotes.add(images); err != nil {
		return err
	}
	s.hold = s.cache.Hold()
	for _, c := range contents {
		s.hold.Keep(c.Digest)
	}
	return nil
}

// linked are the contents of images, once for each repository.
func (s *cacheSink) linked(images []bundle.Image) (all []cache.BlobEntry) {
	type link struct {
		remote, repository string
		dgst               digest.Digest
	}
	known := make(map[link]struct{}, len(s.sizes))
	add := func(i bundle.Image, dgst digest.Digest) {
		l := link{i.Remote, i.Repository, dgst}
		if _, ok := known[l]; !ok {
			known[l] = struct{}{}
			all = append(all, cache.BlobEntry{Digest: dgst, Size: s.sizes[dgst]})
		}
	}
	for _, i := range images {
		add(i, i.Digest)
		for _, m := range i.Manifests {
			add(i, m.Digest)
		}
		for _, b := range i.Blobs {
			add(i, b)
		}
	}
	return all
}

// Store implements bundle.Sink.
func (s *cacheSink) Store(ctx context.Context, c bundle.Content, r io.Reader) error {
	return s.cache.StoreBlob(ctx, c.Digest, c.Size, r)
}

// Add implements bundle.Sink.
func (s *cacheSink) Add(ctx context.Context, i bundle.Image, pin bool) error {
	place, err := s.remotes.place(i)
	if err != nil {
		return err
	}
	repository, ok := s.cache.Repository(place)
	if !ok {
		return fmt.Errorf("%s: %w", place.Host, cache.ErrNotServed)
	}
	for _, b := range i.Blobs {
		if err := repository.LinkBlob(ctx, b, s.sizes[b]); err != nil {
			return err
		}
	}
	for _, m := range append(i.Manifests[:len(i.Manifests):len(i.Manifests)], bundle.Manifest{Digest: i.Digest, MediaType: i.MediaType}) {
		if err := s.addManifest(ctx, repository, m); err != nil {
			return err
		}
	}
	if pin {
		p := cache.Pin{Pattern: imageName(repository.Key(), i.Tag), Reason: cache.PinnedBySeed, Since: time.Now().Round(time.Second)}
		if i.Tag == "" {
			p.Pattern = imageName(repository.Key(), i.Digest.String())
		}
		if _, err := s.cache.PinImages(ctx, p); err != nil {
			return err
		}
	}
	if i.Tag == "" {
		return nil
	}
	return repository.PointTag(ctx, i.Tag, i.Digest)
}

// addManifest makes a manifest that is stored part of a repository.
func (s *cacheSink) addManifest(ctx context.Context, repository *cache.Repository, m bundle.Manifest) error {
	r, size, err := s.cache.OpenContent(ctx, m.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it was only read
	if size > cache.MaxManifestSize {
		return fmt.Errorf("manifest %s has %s, which is too much", m.Digest, sizeText(size))
	}
	content, err := io.ReadAll(io.LimitReader(r, size))
	if err != nil {
		return fmt.Errorf("reading manifest %s: %w", m.Digest, err)
	}
	return repository.StoreManifest(ctx, cache.Manifest{
		Descriptor: cache.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: size}, Bytes: content,
	})
}

// End implements bundle.Sink.
func (s *cacheSink) End() {
	if s.hold != nil {
		s.hold.Release()
	}
}
