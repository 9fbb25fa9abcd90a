package seed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// What a manifest may name is bounded, because it comes from outside: arbitrary, far more
// than what is usual.
const (
	maxBlobs = 10_000  // of one image
	maxBlob  = 1 << 48 // bytes of one blob
	// maxParts is how many objects a manifest has in all. Decoded, each takes some hundred
	// bytes, and two in the file.
	maxParts = 5 * maxBlobs
)

// Annotations of manifests in an index that tell about another one of it. They are those of
// BuildKit's attestations.
const (
	annotationAbout = "vnd.docker.reference.digest"
	annotationKind  = "vnd.docker.reference.type"
)

// document is what is read of a manifest.
type document struct {
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Blobs     []v1.Descriptor `json:"blobs"`     // of artifact manifests
	Manifests []v1.Descriptor `json:"manifests"` // of an index
	FSLayers  json.RawMessage `json:"fsLayers"`  // of Docker's schema 1
}

// errSchema1 is of manifests that tell neither sizes nor platforms.
var errSchema1 = errors.New("it is of Docker's schema 1, which cannot be seeded: push it again with a current program, or pull it once through the cache")

// parseDocument reads a manifest. All that it names has a digest and a size that can be.
func parseDocument(p []byte) (*document, error) {
	if len(p) > cache.MaxManifestSize {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(p), cache.MaxManifestSize)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(p, " \t\r\n"), []byte("{")) {
		return nil, fmt.Errorf("it is no manifest: it begins with %.32q", p)
	}
	if bytes.Count(p, []byte("{")) > maxParts {
		return nil, fmt.Errorf("it has more than %d parts", maxParts)
	}
	doc := new(document)
	if err := json.Unmarshal(p, doc); err != nil {
		return nil, fmt.Errorf("it is no manifest: %w", err)
	}
	switch {
	case len(doc.FSLayers) > 0:
		return nil, errSchema1
	case doc.Manifests == nil && doc.Config == nil && doc.Layers == nil && doc.Blobs == nil:
		return nil, errors.New("it is neither an index nor a manifest of an image")
	}
	for d := range doc.named {
		if err := d.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("it names %.100q: %w", d.Digest, err)
		}
		if d.Size < 0 || d.Size > maxBlob {
			return nil, fmt.Errorf("it says that %s has %d bytes", d.Digest, d.Size)
		}
	}
	return doc, nil
}

// isIndex tells whether it lists manifests.
func (d *document) isIndex() bool { return d.Manifests != nil }

// named yields all that it names.
func (d *document) named(yield func(v1.Descriptor) bool) {
	for _, list := range [][]v1.Descriptor{d.Manifests, d.Layers, d.Blobs} {
		for _, c := range list {
			if !yield(c) {
				return
			}
		}
	}
	if d.Config != nil {
		yield(*d.Config)
	}
}

// blobs returns the blobs that the registry has, each once, with nothing but what they are
// fetched by: layers with URLs are fetched from there, by who may.
func (d *document) blobs() (blobs []v1.Descriptor) {
	seen := make(map[digest.Digest]bool)
	add := func(b v1.Descriptor) {
		if len(b.URLs) == 0 && !seen[b.Digest] {
			seen[b.Digest] = true
			blobs = append(blobs, v1.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size})
		}
	}
	for _, list := range [][]v1.Descriptor{d.Layers, d.Blobs} {
		for _, b := range list {
			add(b)
		}
	}
	if d.Config != nil {
		add(*d.Config)
	}
	return blobs
}

// about is what an attestation in an index is of.
func about(d v1.Descriptor) (digest.Digest, bool) {
	dgst := digest.Digest(d.Annotations[annotationAbout])
	return dgst, d.Annotations[annotationKind] != "" && dgst.Validate() == nil
}

// sum adds sizes, which are not negative, and stays at the largest number.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
