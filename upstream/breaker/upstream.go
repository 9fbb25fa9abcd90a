package breaker

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/internal/tracing"
)

// ask passes a request on, where it is to be, and learns from its outcome.
func ask[T any](ctx context.Context, b *Breaker, q question, call func() (T, error)) (got T, err error) {
	r, err := b.begin(ctx, q)
	if err != nil {
		tracing.In(ctx).Event("not asked", tracing.String("server.address", b.host), tracing.String("error.message", err.Error()))
		return got, err
	}
	err = context.Canceled // where call does not return, nobody waits in vain
	defer func() { b.end(r, err) }()
	got, err = call()
	return got, err
}

// Host implements [cache.Upstream].
func (b *Breaker) Host() string { return b.host }

// Manifest implements [cache.Upstream].
func (b *Breaker) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	return ask(ctx, b, question{op: fmt.Sprintf("fetching manifest %s of %s", ref, repo), repo: repo}, func() (cache.Manifest, error) {
		return b.up.Manifest(ctx, repo, ref)
	})
}

// Resolve implements [cache.Upstream].
func (b *Breaker) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	return ask(ctx, b, question{op: fmt.Sprintf("asking for manifest %s of %s", ref, repo), repo: repo}, func() (cache.Descriptor, error) {
		return b.up.Resolve(ctx, repo, ref, known)
	})
}

// Blob implements [cache.Upstream]. That its headers have come is what tells that the
// remote answers.
func (b *Breaker) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	return ask(ctx, b, question{op: fmt.Sprintf("asking for blob %s of %s", dgst, repo), repo: repo, blob: true}, func() (*cache.BlobStream, error) {
		return b.up.Blob(ctx, repo, dgst, part)
	})
}

// StatBlob implements [cache.Upstream].
func (b *Breaker) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	return ask(ctx, b, question{op: fmt.Sprintf("asking for blob %s of %s", dgst, repo), repo: repo, blob: true}, func() (int64, error) {
		return b.up.StatBlob(ctx, repo, dgst)
	})
}

// Tags implements [cache.Upstream].
func (b *Breaker) Tags(ctx context.Context, repo string, n int, last string) (tags []string, more bool, err error) {
	tags, err = ask(ctx, b, question{op: "listing tags of " + repo, repo: repo}, func() (tags []string, err error) {
		tags, more, err = b.up.Tags(ctx, repo, n, last)
		return tags, err
	})
	return tags, more, err
}

// Referrers implements [cache.Upstream].
func (b *Breaker) Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	return ask(ctx, b, question{op: fmt.Sprintf("listing referrers of %s in %s", dgst, repo), repo: repo}, func() ([]v1.Descriptor, error) {
		return b.up.Referrers(ctx, repo, dgst)
	})
}
