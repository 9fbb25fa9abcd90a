package bundle

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
)

// Source gives the content that a bundle is made of.
type Source interface {
	// Open opens a manifest or blob. What it gives is compared with the digest by who
	// reads it. The error for what is not stored wraps [fs.ErrNotExist].
	Open(ctx context.Context, dgst digest.Digest) (io.ReadCloser, error)
}

// Sink takes what a bundle carries.
type Sink interface {
	// Missing returns those of contents that are not stored, in their order.
	Missing(ctx context.Context, contents []Content) ([]Content, error)

	// Begin says what is going to come, so that there is room for it and nothing of it is
	// removed before End: images with their contents, all of them. It refuses what does
	// not fit, or is of a remote that cannot be served, before anything is stored.
	Begin(ctx context.Context, images []Image, contents []Content) error

	// Store stores content, which it compares with the digest. Nobody sees it before Add.
	Store(ctx context.Context, c Content, r io.Reader) error

	// Add makes an image visible, all of whose content is stored, and, if pin is set, pins
	// it: first what it consists of, then its tag.
	Add(ctx context.Context, i Image, pin bool) error

	// End ends what Begin has begun.
	End()
}
