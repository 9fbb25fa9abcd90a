package lab

import (
	"bytes"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Media types that are written out here because no package of the module's
// dependencies that is light has them all.
const (
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociEmpty    = "application/vnd.oci.empty.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
	ociGzip     = ociLayer + "+gzip"
	ociZstd     = ociLayer + "+zstd"
	ociForeign  = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"

	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Image is something that can be pushed to a repository: a graph of manifests
// and blobs with a tag on its root.
type Image struct {
	// Kind says what is particular about it.
	Kind      string
	Repo, Tag string
	// Manifests are in the order of pushing: the root is the last.
	Manifests []RawManifest
	// Blobs are all that the manifests name and the registry has to serve.
	Blobs []RawBlob
}

// RawManifest is a manifest to the byte.
type RawManifest struct {
	MediaType string
	Digest    digest.Digest
	Bytes     []byte
}

// RawBlob is content that can be read again and again, from any place.
type RawBlob struct {
	Digest digest.Digest
	Size   int64
	// Content is of Size bytes.
	Content io.ReaderAt
}

// Open returns the content from its first byte on.
func (b RawBlob) Open() io.ReadSeeker { return io.NewSectionReader(b.Content, 0, b.Size) }

// Root is the manifest that the tag points to.
func (i Image) Root() RawManifest { return i.Manifests[len(i.Manifests)-1] }

// ByTag is the image's name below a registry's address.
func (i Image) ByTag(addr string) string { return addr + "/" + i.Repo + ":" + i.Tag }

// ByDigest is the name of the image's root by its digest.
func (i Image) ByDigest(addr string) string {
	return addr + "/" + i.Repo + "@" + i.Root().Digest.String()
}

// Size is the bytes of all blobs, each counted once.
func (i Image) Size() (size int64) {
	for _, b := range i.Blobs {
		size += b.Size
	}
	return size
}

// In returns the same content under another name.
func (i Image) In(repo, tag string) Image {
	i.Repo, i.Tag = repo, tag
	return i
}

// BytesBlob is a blob that is held in memory.
func BytesBlob(b []byte) RawBlob {
	return RawBlob{digest.FromBytes(b), int64(len(b)), bytes.NewReader(b)}
}

// newManifest wraps the bytes of a manifest.
func newManifest(mediaType string, b []byte) RawManifest {
	return RawManifest{mediaType, digest.FromBytes(b), b}
}

// join makes an image of several, with a root that names them.
func join(kind string, root RawManifest, children ...Image) Image {
	joined := Image{Kind: kind}
	for _, c := range children {
		for _, m := range c.Manifests {
			if !slices.ContainsFunc(joined.Manifests, func(o RawManifest) bool { return o.Digest == m.Digest }) {
				joined.Manifests = append(joined.Manifests, m)
			}
		}
		for _, b := range c.Blobs {
			if !slices.ContainsFunc(joined.Blobs, func(o RawBlob) bool { return o.Digest == b.Digest }) {
				joined.Blobs = append(joined.Blobs, b)
			}
		}
	}
	joined.Manifests = append(joined.Manifests, root)
	return joined
}
