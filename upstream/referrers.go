package upstream

import (
	"context"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// Referrers implements [cache.Upstream].
func (r *Remote) Referrers(_ context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	return nil, r.failure(cache.ErrUnavailable, "listing referrers of "+dgst.String()+" in "+clean(repo), 0, nil)
}
