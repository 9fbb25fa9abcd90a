package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/durable"
	"registry-module/seed/bundle"
)

// contentControl is what is stored by digest: what bundles are made of, and loaded into.
type contentControl interface {
	// Contents are all manifests and blobs, by digest.
	Contents(ctx context.Context) iter.Seq2[bundle.Content, error]
	// Open implements [bundle.Source].
	Open(ctx context.Context, dgst digest.Digest) (io.ReadCloser, error)
	// Load loads a bundle, see [bundle.Load]. The receipt says also after an error what is
	// there. The error of a second one, while one goes on being loaded, is errLoading.
	Load(ctx context.Context, b *bundle.Bundle, o loadOptions) (bundle.Receipt, error)
}

// loadOptions say how to load a bundle.
type loadOptions struct {
	// NoPin does not pin the images.
	NoPin bool
	// Progress is told how far it is; nil for nobody.
	Progress func(bundle.Progress)
}

// errLoading is the error for a bundle while another one is loaded.
var errLoading = errors.New("another bundle is being loaded: wait until that is done")

// contents are those of a cache.
type contents struct {
	cache   *cache.Cache
	remotes *servedRemotes
	// trusted are files with the keys with one of which a bundle has to be signed; with
	// none it need not be.
	trusted []string
	loading turn
}

// cachedImages are the images and the contents of one cache.
type cachedImages struct {
	*namedImages
	*contents
}

// newCachedImages finds what is in c.
func newCachedImages(c *cache.Cache, r *servedRemotes, cfg *config.Config) (cachedImages, error) {
	i, err := newNamedImages(c, c, r.remotes, r.routes)
	r.cache, r.names = c, i.names
	return cachedImages{i, &contents{cache: c, remotes: r, trusted: cfg.BundleTrustKeys, loading: newTurn()}}, err
}

// with is i for another configuration, with the same remotes.
func (i cachedImages) with(cfg *config.Config) cachedImages {
	c := *i.contents
	c.trusted = cfg.BundleTrustKeys
	return cachedImages{i.namedImages, &c}
}

var (
	_ contentControl = cachedImages{}
	_ contentControl = (*controlClient)(nil)
)

// Contents implements contentControl.
func (s *contents) Contents(ctx context.Context) iter.Seq2[bundle.Content, error] {
	return func(yield func(bundle.Content, error) bool) {
		for e, err := range s.cache.Contents(ctx) {
			if !yield(bundle.Content{Digest: e.Digest, Size: e.Size}, err) {
				return
			}
		}
	}
}

// Open implements contentControl.
func (s *contents) Open(ctx context.Context, dgst digest.Digest) (io.ReadCloser, error) {
	r, _, err := s.cache.OpenContent(ctx, dgst)
	if errors.Is(err, cache.ErrNotFound) {
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return r, err
}

// Load implements contentControl.
func (s *contents) Load(ctx context.Context, b *bundle.Bundle, o loadOptions) (bundle.Receipt, error) {
	keys, err := readPublicKeys(s.trusted)
	if err != nil {
		return bundle.Receipt{Version: bundle.Version}, fmt.Errorf("bundle.trustkeys (REGISTRY_BUNDLE_TRUSTKEYS): %w", err)
	}
	if !s.loading.take(ctx, turnPatience) {
		if err := ctx.Err(); err != nil {
			return bundle.Receipt{Version: bundle.Version}, err
		}
		return bundle.Receipt{Version: bundle.Version}, errLoading
	}
	defer s.loading.leave()
	if err := s.cache.Ready(ctx); err != nil {
		return bundle.Receipt{Version: bundle.Version}, err
	}
	return bundle.Load(ctx, &cacheSink{contents: s}, b, bundle.LoadOptions{TrustKeys: keys, NoPin: o.NoPin, Progress: o.Progress})
}

// maxKeyFile bounds the file of a key, in bytes.
const maxKeyFile = 64 << 10

// readPublicKeys reads files with public keys. All that is wrong with them is in the error.
func readPublicKeys(paths []string) (keys []ed25519.PublicKey, _ error) {
	var errs []error
	for _, path := range paths {
		text, err := durable.ReadFile(durable.OS{}, path, maxKeyFile)
		if err == nil {
			var key ed25519.PublicKey
			key, err = bundle.ReadPublicKey(text)
			keys = append(keys, key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("public key %s: %w", path, withoutPath(err)))
		}
	}
	return keys, errors.Join(errs...)
}

// withoutPath is err for a sentence that has the path already.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
