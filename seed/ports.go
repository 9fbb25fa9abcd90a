package seed

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// Cache is what is filled.
type Cache interface {
	// Find returns the repository that is called name, as in [Want].Image, without tag
	// and digest. Where several remotes can be meant, they are asked which of them has
	// ref, a tag or a digest, or, where ref is empty, the repository. The error is or
	// wraps one of package cache; where the remote is none of the cache's it is
	// [cache.ErrNotServed], and says what to configure.
	Find(ctx context.Context, name, ref string) (Repository, error)

	// Fit tells whether content has room, together with all that is pinned. Content that
	// is stored counts as well.
	Fit(ctx context.Context, content []cache.BlobEntry) (cache.Fit, error)

	// Hold returns a hold that keeps nothing yet.
	Hold() Hold

	// Ready waits until it is known what is stored.
	Ready(ctx context.Context) error

	// Pins, PinImages and UnpinImages are those of a [cache.Cache].
	Pins(ctx context.Context) ([]cache.Pin, error)
	PinImages(ctx context.Context, p cache.Pin) (matches int, err error)
	UnpinImages(ctx context.Context, pattern string, reason cache.PinReason) (was bool, err error)
}

// Hold keeps content from being removed to make room, whether it is stored already or comes
// to be.
type Hold interface {
	Keep(content ...digest.Digest)
	// Release lets all of it go. A second call does nothing.
	Release()
}

// Repository is a repository of a remote. It is what a [cache.Repository] has for who
// fills it.
type Repository interface {
	// Place says which one it is, and Key how it is called where it is stored.
	Place() cache.Place
	Key() string

	// Peek returns the manifest that ref, a tag or a digest, stands for, and keeps
	// nothing of it. A tag is asked for at the remote, whatever its lifetime; where that
	// does not answer, it is what is stored, with the reason in Stale.
	Peek(ctx context.Context, ref string) (cache.Tagged, error)

	// HasBlob tells whether a blob is stored and part of the repository, and otherwise
	// how many bytes of it need not be fetched any more: all of one that is stored for
	// another repository.
	HasBlob(ctx context.Context, dgst digest.Digest) (has bool, kept int64, err error)

	// HasManifest tells whether a manifest is stored and part of the repository.
	HasManifest(ctx context.Context, dgst digest.Digest) (bool, error)

	// FetchBlob brings a blob into the cache and makes it part of the repository, as a
	// client's pull does, and returns how many bytes came from the remote for it. Held is
	// called now and then with how many bytes are there; nil for nobody. That there is
	// no room, or that it cannot be stored, is an error here.
	FetchBlob(ctx context.Context, d v1.Descriptor, held func(int64)) (fetched int64, err error)

	// StoreManifest verifies a manifest and makes it part of the repository.
	StoreManifest(ctx context.Context, m cache.Manifest) error

	// PointTag has tag stand for a stored manifest, as the remote has said just now.
	PointTag(ctx context.Context, tag string, dgst digest.Digest) error

	// StoredTag returns what tag stands for where it is stored, whatever its lifetime, and
	// when the remote has last confirmed that; an empty digest where nothing is stored. It
	// asks nobody.
	StoredTag(ctx context.Context, tag string) (dgst digest.Digest, confirmed time.Time, err error)

	// Tags lists at most n tags that come after last: all where n is negative.
	Tags(ctx context.Context, n int, last string) (cache.TagList, error)

	// Referrers lists what refers to a manifest.
	Referrers(ctx context.Context, dgst digest.Digest) (cache.Referrers, error)
}
