package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// namespace is the cache as the app sees it. What changes a registry is
// unsupported, as in the stock registry when it is a proxy.
type namespace struct {
	cache  *cache.Cache
	router Router
	log    logrus.FieldLogger
	// fresh is told how far an answer can be relied on.
	fresh func(x *exchange, kind string, f cache.Freshness)
}

func (n *namespace) show(ctx context.Context, kind string, f cache.Freshness) {
	if x := exchangeFrom(ctx); x != nil {
		n.fresh(x, kind, f)
	}
}

var (
	_ distribution.Namespace         = (*namespace)(nil)
	_ distribution.RepositoryRemover = (*namespace)(nil)
)

// Scope implements distribution.Namespace.
func (*namespace) Scope() distribution.Scope { return distribution.GlobalScope }

// Repository implements distribution.Namespace. Which one is meant is decided where
// the request comes in, since the app does not see all of it.
func (n *namespace) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	x := exchangeFrom(ctx)
	if x == nil || x.repo == nil {
		return nil, distribution.ErrRepositoryUnknown{Name: name.Name()}
	}
	return &repository{ns: n, named: name, repo: x.repo}, nil
}

// Repositories implements distribution.Namespace: the names, after last, by which
// what is stored can be pulled by who asks.
func (n *namespace) Repositories(ctx context.Context, repos []string, last string) (int, error) {
	var names []string // in order, one more than are wanted, and now and then twice as many
	first := func() {
		slices.Sort(names)
		names = slices.Compact(names)
		names = names[:min(len(names), len(repos)+1)]
	}
	var caller Caller
	if x := exchangeFrom(ctx); x != nil {
		caller = x.caller
	}
	for p, err := range n.cache.Places(ctx) {
		if err != nil {
			return 0, appError(ctx, repositoryContent, err)
		}
		if caller != nil && !caller.MayPull(p) {
			continue
		}
		if name, ok := n.router.Listed(p); ok && name > last {
			if names = append(names, name); len(names) > 2*(len(repos)+1) {
				first()
			}
		}
	}
	first()
	var err error
	if len(names) <= len(repos) {
		err = io.EOF
	}
	return copy(repos, names), err
}

// Remove implements distribution.RepositoryRemover.
func (*namespace) Remove(context.Context, reference.Named) error { return distribution.ErrUnsupported }

// Blobs implements distribution.Namespace. Nothing in the app calls it.
func (*namespace) Blobs() distribution.BlobEnumerator { return nil }

// BlobStatter implements distribution.Namespace. Nothing in the app calls it.
func (*namespace) BlobStatter() distribution.BlobStatter { return nil }

type repository struct {
	ns    *namespace
	named reference.Named
	repo  *cache.Name
}

func (r *repository) Named() reference.Named { return r.named }

func (r *repository) Manifests(context.Context, ...distribution.ManifestServiceOption) (distribution.ManifestService, error) {
	return manifests{r}, nil
}

func (r *repository) Blobs(context.Context) distribution.BlobStore { return blobs{r} }

func (r *repository) Tags(context.Context) distribution.TagService { return tags{r} }

// tags is the part of a repository that answers for tags.
type tags struct{ *repository }

func (t tags) Get(ctx context.Context, tag string) (v1.Descriptor, error) {
	m, err := t.tagged(ctx, tag)
	if err != nil {
		return v1.Descriptor{}, appError(ctx, manifestContent, err)
	}
	t.ns.show(ctx, tagAnswer, m.Freshness)
	if x := exchangeFrom(ctx); x != nil {
		x.manifest = m.Manifest
	}
	return v1.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}, nil
}

// tagged takes the short way first, if that was not tried, so that it gives the same
// answers.
func (t tags) tagged(ctx context.Context, tag string) (cache.Tagged, error) {
	x := exchangeFrom(ctx)
	if x != nil && !x.tried {
		if m, err := x.storedManifest(ctx, tag); err == nil {
			return m, nil
		}
	}
	m, err := t.repo.Tag(ctx, tag)
	if x != nil && err == nil {
		x.ofTag = new(x.outcome.Answered())
	}
	return m, err
}

func (t tags) List(ctx context.Context, limit int, last string) ([]string, error) {
	list, err := t.repo.Tags(ctx, limit, last)
	if err != nil {
		return nil, appError(ctx, repositoryContent, err)
	}
	t.ns.show(ctx, tagsAnswer, list.Freshness)
	if !list.More {
		err = io.EOF
	}
	return list.Tags, err
}

func (t tags) All(ctx context.Context) ([]string, error) {
	list, err := t.repo.Tags(ctx, -1, "")
	if err != nil {
		return nil, appError(ctx, repositoryContent, err)
	}
	t.ns.show(ctx, tagsAnswer, list.Freshness)
	return list.Tags, nil
}

func (tags) Tag(context.Context, string, v1.Descriptor) error { return distribution.ErrUnsupported }

func (tags) Untag(context.Context, string) error { return distribution.ErrUnsupported }

func (tags) Lookup(context.Context, v1.Descriptor) ([]string, error) {
	return nil, distribution.ErrUnsupported
}

// manifests is the part of a repository that answers for manifests.
type manifests struct{ *repository }

func (m manifests) Get(ctx context.Context, dgst digest.Digest, _ ...distribution.ManifestServiceOption) (distribution.Manifest, error) {
	x := exchangeFrom(ctx)
	if x != nil && x.manifest.Digest == dgst && len(x.manifest.Bytes) > 0 {
		return manifest{x.manifest}, nil // what the tag has turned out to stand for
	}
	if x != nil && !x.tried {
		if t, err := x.storedManifest(ctx, dgst.String()); err == nil {
			x.manifest = t.Manifest
			return manifest{t.Manifest}, nil
		}
	}
	got, err := m.repo.Manifest(ctx, dgst)
	if err != nil {
		return nil, appError(ctx, manifestContent, err)
	}
	if x != nil {
		x.manifest = got
	}
	return manifest{got}, nil
}

func (m manifests) Exists(ctx context.Context, dgst digest.Digest) (bool, error) {
	_, err := m.repo.Manifest(ctx, dgst)
	if errors.Is(err, cache.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, appError(ctx, manifestContent, err)
	}
	return true, nil
}

func (manifests) Put(context.Context, distribution.Manifest, ...distribution.ManifestServiceOption) (digest.Digest, error) {
	return "", distribution.ErrUnsupported
}

func (manifests) Delete(context.Context, digest.Digest) error { return distribution.ErrUnsupported }

// manifest is served by the app as it is, whatever its kind.
type manifest struct{ m cache.Manifest }

func (m manifest) References() []v1.Descriptor { return m.m.References() }

func (m manifest) Payload() (mediaType string, payload []byte, err error) {
	return m.m.MediaType, m.m.Bytes, nil
}

// blobs is the part of a repository that answers for blobs.
type blobs struct{ *repository }

func (b blobs) Stat(ctx context.Context, dgst digest.Digest) (v1.Descriptor, error) {
	if x := exchangeFrom(ctx); x != nil {
		// The app asks before each ServeBlob, which will find out by itself, and
		// after it, for its notifications. Neither is worth a HEAD that the
		// remote would have to answer.
		return v1.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: x.blobSize}, nil
	}
	d, err := b.repo.StatBlob(ctx, dgst)
	if err != nil {
		return v1.Descriptor{}, appError(ctx, blobContent, err)
	}
	return v1.Descriptor{MediaType: d.MediaType, Digest: dgst, Size: d.Size}, nil
}

func (b blobs) ServeBlob(ctx context.Context, w http.ResponseWriter, r *http.Request, dgst digest.Digest) error {
	x := exchangeFrom(ctx)
	if x == nil {
		x = newExchange(w, b.ns.log)
	}
	if r.Method == http.MethodHead {
		d, err := b.size(ctx, x, dgst)
		if err != nil {
			return appError(ctx, blobContent, err)
		}
		x.blobSize = max(d.Size, 0)
		headBlob(w, r, d)
		return nil
	}
	content, err := b.open(ctx, x, dgst)
	if err != nil {
		return appError(ctx, blobContent, err)
	}
	defer func() { _ = content.Close() }() // it was only read
	// Not to w: the app's own writer hides the connection from sendfile.
	if err := serveBlob(x, r, content, dgst); err != nil {
		if x.status == 0 {
			return appError(ctx, blobContent, err)
		}
		x.abandon(ctx, blobName(b.named.Name(), dgst), err)
	}
	if x.blobSize = content.Size(); x.blobSize < 0 {
		x.blobSize = x.bytes // without its size it is sent as a whole
	}
	return nil
}

// open opens a blob, by the short way if that was not tried.
func (b blobs) open(ctx context.Context, x *exchange, dgst digest.Digest) (*cache.Reader, error) {
	if x.repo != nil && !x.tried {
		if content, err := x.storedBlob(ctx, dgst); err == nil {
			return content, nil
		}
	}
	return b.repo.OpenBlob(ctx, dgst)
}

// size is open for who wants nothing of the blob.
func (b blobs) size(ctx context.Context, x *exchange, dgst digest.Digest) (cache.Descriptor, error) {
	if x.repo != nil && !x.tried {
		if content, err := x.storedBlob(ctx, dgst); err == nil {
			return cache.Descriptor{Digest: dgst, Size: content.Size()}, content.Close()
		}
	}
	return b.repo.StatBlob(ctx, dgst)
}

// blobName is what a blob is called in the log.
func blobName(repo string, dgst digest.Digest) string {
	return fmt.Sprintf("blob %s of %s", dgst, repo)
}

// Get and Open are for who wants a blob in memory. Nothing in the app does.
func (blobs) Get(context.Context, digest.Digest) ([]byte, error) {
	return nil, distribution.ErrUnsupported
}

func (blobs) Open(context.Context, digest.Digest) (io.ReadSeekCloser, error) {
	return nil, distribution.ErrUnsupported
}

func (blobs) Put(context.Context, string, []byte) (v1.Descriptor, error) {
	return v1.Descriptor{}, distribution.ErrUnsupported
}

func (blobs) Create(context.Context, ...distribution.BlobCreateOption) (distribution.BlobWriter, error) {
	return nil, distribution.ErrUnsupported
}

func (blobs) Resume(context.Context, string) (distribution.BlobWriter, error) {
	return nil, distribution.ErrUnsupported
}

func (blobs) Delete(context.Context, digest.Digest) error { return distribution.ErrUnsupported }
