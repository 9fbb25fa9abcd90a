package upstream

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// Offline is a remote registry that the operator has ruled out: no packet leaves.
// What is stored is served as when the remote is away; of what is not stored
// nobody can say whether it exists, which is [cache.ErrUnavailable].
type Offline struct {
	host string
}

var _ cache.Upstream = Offline{}

// NewOffline returns the registry host, unreachable.
func NewOffline(host string) Offline { return Offline{host} }

var errOffline = errors.New("offline mode (REGISTRY_PROXY_OFFLINE) is on")

func (o Offline) err(op string) error {
	return &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: o.host, Op: op, Err: errOffline}
}

// Host implements [cache.Upstream].
func (o Offline) Host() string { return o.host }

// Manifest implements [cache.Upstream].
func (o Offline) Manifest(_ context.Context, repo, ref string) (cache.Manifest, error) {
	return cache.Manifest{}, o.err("fetching manifest " + ref + " of " + repo)
}

// Resolve implements [cache.Upstream].
func (o Offline) Resolve(_ context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	return cache.Descriptor{}, o.err("asking for manifest " + ref + " of " + repo)
}

// Blob implements [cache.Upstream].
func (o Offline) Blob(_ context.Context, repo string, dgst digest.Digest, _ cache.BlobPart) (*cache.BlobStream, error) {
	return nil, o.err("asking for blob " + dgst.String() + " of " + repo)
}

// StatBlob implements [cache.Upstream].
func (o Offline) StatBlob(_ context.Context, repo string, dgst digest.Digest) (int64, error) {
	return 0, o.err("asking for blob " + dgst.String() + " of " + repo)
}

// Tags implements [cache.Upstream].
func (o Offline) Tags(_ context.Context, repo string, _ int, _ string) ([]string, bool, error) {
	return nil, false, o.err("listing tags of " + repo)
}

// Referrers implements [cache.Upstream].
func (o Offline) Referrers(_ context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	return nil, o.err("listing referrers of " + dgst.String() + " in " + repo)
}
