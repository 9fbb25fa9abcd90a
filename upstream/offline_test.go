package upstream_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
)

func TestOfflineMode(t *testing.T) {
	o := upstream.NewOffline("registry.test")
	dgst := digest.FromString("x")
	ctx := t.Context()
	_, manifestErr := o.Manifest(ctx, "a", "v1")
	_, resolveErr := o.Resolve(ctx, "a", "v1", "")
	_, blobErr := o.Blob(ctx, "a", dgst, cache.BlobPart{})
	_, statErr := o.StatBlob(ctx, "a", dgst)
	_, _, tagsErr := o.Tags(ctx, "a", -1, "")
	for _, err := range []error{manifestErr, resolveErr, blobErr, statErr, tagsErr} {
		if !errors.Is(err, cache.ErrUnavailable) || !strings.Contains(err.Error(), "REGISTRY_PROXY_OFFLINE") || !strings.Contains(err.Error(), o.Host()) {
			t.Errorf("error %v, want ErrUnavailable that says why", err)
		}
	}
}
