package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxLookedAt is of how many manifests, and tags, of a repository is looked whether they
// are about a platform that is missing: some milliseconds, and far more than most have.
const maxLookedAt = 1024

// missingPlatform is ErrNotFound for an image of a platform that is not stored, while its
// index is, where it is known that nobody can bring it.
type missingPlatform struct {
	platform, image string
	stored          []string // platforms
	err             error    // why it cannot be fetched
}

func (e *missingPlatform) Error() string {
	stored := "none of its platforms is stored"
	if len(e.stored) > 0 {
		stored = "stored are " + strings.Join(e.stored, ", ")
	}
	return fmt.Sprintf("the platform %s of %s is not stored here (%s), and cannot be fetched now: %v; "+
		"`registry-module seed --platform %s %s` fetches it where there is a link", e.platform, e.image, stored, e.err, e.platform, e.image)
}

func (e *missingPlatform) Unwrap() error { return ErrNotFound }

// explainMissing returns what err, with which a manifest could not be fetched, means: where
// an index that is stored lists it for a platform, that this platform is not stored, if
// there is nobody to ask, or the operator has decided so. It is err otherwise.
func (r *Repository) explainMissing(ctx context.Context, dgst digest.Digest, err error) error {
	var cause error // where it is sure that nobody is asked
	if _, ok := errors.AsType[*localError](err); ok {
		cause = errors.New("no remote registry is configured")
	} else if errors.Is(err, ErrOffline) {
		cause = ErrOffline
	}
	if cause == nil && !errors.Is(err, ErrUnavailable) {
		return err
	}
	index, platform := r.listing(ctx, dgst)
	if index == "" {
		return err
	}
	image, seeded := r.nameOfIndex(ctx, index)
	if cause == nil && !seeded {
		return err
	}
	// What cannot be read is not told, and nothing of what is stored for other repositories.
	stored, _ := r.c.platforms(ctx, r.isWhole, index)
	return &missingPlatform{platform: platform, image: image, stored: stored, err: cmp.Or(cause, err)}
}

// isWhole is [Cache.isWhole] for an image of the repository.
func (r *Repository) isWhole(ctx context.Context, dgst digest.Digest) (bool, error) {
	if has, err := r.c.has(ctx, key(kindManifest, r.key, dgst.String())); err != nil || !has {
		return false, err
	}
	return r.c.isWhole(ctx, dgst)
}

// listing returns an index of the repository that lists dgst for a platform.
func (r *Repository) listing(ctx context.Context, dgst digest.Digest) (index digest.Digest, platform string) {
	id, looked := idOf(dgst.String()), 0
	for name, err := range r.c.names(ctx, "", kindManifest, r.key) {
		if looked++; err != nil || looked > maxLookedAt {
			return "", ""
		}
		var rec partsRecord
		if r.c.record(ctx, key(kindParts, name), &rec) != nil || !rec.Index || !slices.Contains(rec.ids(), id) {
			continue
		}
		doc, err := r.c.readDoc(ctx, digest.Digest(name))
		if err != nil {
			continue
		}
		for _, d := range doc.Manifests {
			if platform := platformName(d.Platform); d.Digest == dgst && platform != "" {
				return digest.Digest(name), platform
			}
		}
	}
	return "", ""
}

// nameOfIndex is how people call an index, and tells whether it is pinned because it was
// seeded.
func (r *Repository) nameOfIndex(ctx context.Context, index digest.Digest) (image string, seeded bool) {
	pins := r.c.pins.all()
	bySeed := func(tag string) bool {
		return slices.ContainsFunc(of(pins, r.key, tag, index), func(p Pin) bool { return p.Reason == PinnedBySeed })
	}
	image = r.remote.Host + "/" + r.name
	first, looked := "", 0
	seeded = bySeed("")
	for n, err := range r.c.tagsIn(ctx, r.key) {
		if looked++; err != nil || looked > maxLookedAt {
			break
		}
		if n.dgst == index {
			if first == "" {
				first = n.tag
			}
			seeded = seeded || bySeed(n.tag)
		}
	}
	if first == "" {
		return image + "@" + index.String(), seeded
	}
	return image + ":" + first, seeded
}
