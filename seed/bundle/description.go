package bundle

import (
	"github.com/opencontainers/go-digest"
)

// Names of the entries of a bundle beside those of an OCI image layout (OCI image
// specification, "Image Layout").
const (
	// DescriptionName has a [Description] in JSON, and SignatureName a [Signature] of its
	// bytes, where there is one. They come right behind oci-layout and index.json.
	DescriptionName = "registry-module/bundle.json"
	SignatureName   = "registry-module/bundle.sig.json"
)

// Description says what a bundle carries. It has no times and no names of machines, so that
// the same content makes the same bytes.
type Description struct {
	// Version is that of the format.
	Version int `json:"version"`
	// Images are in the order of Remote, Repository, Tag and Digest.
	Images []Image `json:"images"`
	// Contents are all manifests and blobs of the images, each once, in the order in which
	// those that are not Absent follow in the tar.
	Contents []Content `json:"contents"`
}

// Image is a manifest under one of its names.
type Image struct {
	// Remote is the host of the registry that it is of, and Repository its name there.
	Remote     string `json:"remote"`
	Repository string `json:"repository"`
	// Tag is empty for one that has none.
	Tag       string        `json:"tag,omitempty"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"` // of the manifest, in bytes
	// Platforms are those that are carried, in the form os/architecture[/variant].
	Platforms []string `json:"platforms,omitempty"`
	// Manifests are the others that belong to it: of its platforms, and those that refer
	// to it, in an order in which no manifest comes before those that it lists.
	Manifests []Manifest `json:"manifests,omitempty"`
	// Blobs are the digests of the layers and configurations that all of these name and
	// that are carried, or left out because they are there already.
	Blobs []digest.Digest `json:"blobs,omitempty"`
	// Attached tells that it is attached to another image of the bundle by its tag, as
	// cosign does, and was not asked for itself.
	Attached bool `json:"attached,omitempty"`
}

// Manifest is a manifest that belongs to an [Image].
type Manifest struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
}

// Content is a manifest or a blob.
type Content struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // in bytes
	// Absent tells that it is left out, because the site has it.
	Absent bool `json:"absent,omitempty"`
	// Offset is where its bytes are, counted from the first byte behind the entries of
	// description and signature.
	Offset int64 `json:"offset,omitempty"`
}
