package bundle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/internal/verify"
)

// ErrIncomplete is the error for an image of which something is neither stored nor at the
// site.
var ErrIncomplete = errors.New("it is not complete")

// maxDepth is how many indexes may lie in one another, arbitrary: nobody has more than two.
const maxDepth = 8

// maxParts bounds how many objects a manifest has: arbitrary, far more than what is usual.
// Decoded, each takes some hundred bytes, and two in the file.
const maxParts = 50_000

// DescribeOptions are options of [Describe]. The zero value works.
type DescribeOptions struct {
	// Have is what the site has, and what is left out therefore.
	Have []Content
	// Child tells whether a manifest that an index of an image lists is to be carried;
	// nil is true for all. Those that are not whole are not carried, nor is what lies
	// outside of them asked for.
	Child func(i Image, child v1.Descriptor) bool
	// Skip is told which of the Manifests of a root are left out since they are not whole,
	// and why. With nil that is an error.
	Skip func(i Image, m Manifest, why error)
}

// Describe describes a bundle of roots: of each, Remote, Repository, Tag, Digest, MediaType
// and Attached are taken as they are; Manifests are those that the caller wants with it
// beside the children of an index, such as those that refer to it; and the rest is found
// out from the manifests, which src must have, even those that the site has.
//
// An index is carried with those of its children that are whole: that are stored, or at
// the site, with all that they name. The errors of all images are joined; that for one
// that is not whole is [ErrIncomplete]. Roots may be in any order, and more than once.
func Describe(ctx context.Context, src Source, roots []Image, o DescribeOptions) (Description, error) {
	s := &surveyor{
		ctx: ctx, src: src, o: o,
		have:  make(map[digest.Digest]struct{}, len(o.Have)),
		sizes: make(map[digest.Digest]int64),
		there: make(map[digest.Digest]error),
	}
	for _, c := range o.Have {
		s.have[c.Digest] = struct{}{}
	}
	d := Description{Version: Version, Images: []Image{}}
	var errs []error
	for _, root := range roots {
		i, err := s.image(root)
		if err != nil {
			if ctx.Err() != nil {
				return Description{}, context.Cause(ctx)
			}
			errs = append(errs, fmt.Errorf("image %s: %w", root.Reference(), err))
			continue
		}
		d.Images = append(d.Images, i)
	}
	if err := errors.Join(errs...); err != nil {
		return Description{}, err
	}
	slices.SortStableFunc(d.Images, compareImages)
	d.Images = slices.CompactFunc(d.Images, func(a, b Image) bool { return compareImages(a, b) == 0 })
	d.arrange(s.sizes, func(dgst digest.Digest) bool {
		_, has := s.have[dgst]
		return has
	})
	return d, d.Validate()
}

// surveyor walks manifests.
type surveyor struct {
	ctx  context.Context //nolint:containedctx // it lives as long as one call
	src  Source
	o    DescribeOptions
	have map[digest.Digest]struct{}
	// sizes are those of all content seen, and there why it is not there, if so.
	sizes map[digest.Digest]int64
	there map[digest.Digest]error
}

// found is what an image consists of, in order.
type found struct {
	manifests []Manifest
	blobs     []digest.Digest
	platforms []string
	seen      map[digest.Digest]struct{}
	// failed are manifests that are not whole, and why.
	failed map[digest.Digest]error
}

// mark says how far f is.
func (f *found) mark() (manifests, blobs, platforms int) {
	return len(f.manifests), len(f.blobs), len(f.platforms)
}

// undo takes back what was found since mark, which is not whole because of why: dgst, and
// what that names.
func (f *found) undo(dgst digest.Digest, why error, manifests, blobs, platforms int) {
	delete(f.seen, dgst)
	for _, m := range f.manifests[manifests:] {
		delete(f.seen, m.Digest)
	}
	for _, b := range f.blobs[blobs:] {
		delete(f.seen, b)
	}
	f.manifests, f.blobs, f.platforms = f.manifests[:manifests], f.blobs[:blobs], f.platforms[:platforms]
	f.failed[dgst] = why
}

// image completes root.
func (s *surveyor) image(root Image) (Image, error) {
	f := found{seen: map[digest.Digest]struct{}{root.Digest: {}}, failed: make(map[digest.Digest]error)}
	mediaType, err := s.manifest(root, root.Digest, &f, 0)
	if err != nil {
		return Image{}, err
	}
	platforms := f.platforms // what is with it has none
	// Who lists what refers to an image may do so in any order.
	attached := slices.SortedFunc(slices.Values(root.Manifests), func(a, b Manifest) int { return cmp.Compare(a.Digest, b.Digest) })
	for _, m := range attached {
		if _, known := f.seen[m.Digest]; known {
			continue
		}
		manifests, blobs, _ := f.mark()
		f.platforms = nil
		_, err := s.whole(root, v1.Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: -1}, &f, 0)
		switch {
		case err == nil:
		case s.o.Skip == nil || s.ctx.Err() != nil:
			return Image{}, fmt.Errorf("manifest %s: %w", m.Digest, err)
		default:
			f.undo(m.Digest, err, manifests, blobs, 0)
			s.o.Skip(root, m, err)
		}
	}
	f.platforms = platforms
	if root.MediaType == "" {
		root.MediaType = mediaType
	}
	if len(root.Platforms) == 0 {
		root.Platforms = f.platforms
	}
	root.Size, root.Manifests, root.Blobs = s.sizes[root.Digest], f.manifests, f.blobs
	return root, nil
}

// whole adds a manifest with all that it names to f, which is of no use after an error.
func (s *surveyor) whole(i Image, d v1.Descriptor, f *found, depth int) (mediaType string, err error) {
	f.seen[d.Digest] = struct{}{}
	if mediaType, err = s.manifest(i, d.Digest, f, depth); err != nil {
		delete(f.seen, d.Digest)
		return "", err
	}
	if d.MediaType != "" {
		mediaType = d.MediaType
	}
	f.manifests = append(f.manifests, Manifest{Digest: d.Digest, MediaType: mediaType})
	return mediaType, nil
}

// document is what is read of a manifest or an index, of any kind.
type document struct {
	MediaType string          `json:"mediaType"`
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Blobs     []v1.Descriptor `json:"blobs"` // of artifact manifests
	Manifests []v1.Descriptor `json:"manifests"`
	FSLayers  []struct {
		BlobSum digest.Digest `json:"blobSum"`
	} `json:"fsLayers"`
}

// manifest adds what a manifest names to f.
func (s *surveyor) manifest(i Image, dgst digest.Digest, f *found, depth int) (mediaType string, err error) {
	if depth > maxDepth {
		return "", fmt.Errorf("more than %d indexes lie in one another", maxDepth)
	}
	content, err := s.read(dgst, MaxManifestSize)
	if err != nil {
		return "", err
	}
	if bytes.Count(content, []byte("{")) > maxParts {
		return "", fmt.Errorf("manifest %s has more than %d parts", dgst, maxParts)
	}
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		return "", fmt.Errorf("manifest %s: %w", dgst, err)
	}
	if len(doc.FSLayers) > 0 {
		return "", fmt.Errorf("manifest %s is of Docker's schema 1, which is not carried: its layers have no sizes", dgst)
	}
	for _, l := range doc.parts() {
		if err := s.blob(l, f); err != nil {
			return "", fmt.Errorf("manifest %s: %w", dgst, err)
		}
	}
	mediaType = doc.MediaType
	if mediaType == "" {
		mediaType = v1.MediaTypeImageManifest
		if doc.Manifests != nil {
			mediaType = v1.MediaTypeImageIndex
		}
	}
	if doc.Manifests == nil {
		if depth == 0 && doc.Config != nil {
			f.platforms = s.platformOf(*doc.Config)
		}
		return mediaType, nil
	}
	return mediaType, s.children(i, doc, f, depth)
}

// children adds those children of an index that are whole and wanted.
func (s *surveyor) children(i Image, doc document, f *found, depth int) error {
	var why error
	wanted, carried := 0, 0
	for _, child := range doc.Manifests {
		if child.Digest.Validate() != nil || s.o.Child != nil && !s.o.Child(i, child) {
			continue
		}
		wanted++
		if _, known := f.seen[child.Digest]; known {
			carried++
			continue
		}
		if err, known := f.failed[child.Digest]; known {
			why = cmp.Or(why, err)
			continue
		}
		manifests, blobs, platforms := f.mark()
		if _, err := s.whole(i, child, f, depth+1); err != nil {
			if !errors.Is(err, ErrIncomplete) {
				return err
			}
			f.undo(child.Digest, err, manifests, blobs, platforms)
			why = cmp.Or(why, err) // one says enough
			continue
		}
		carried++
		if p := child.Platform; p != nil && p.OS != "" && p.OS != "unknown" {
			f.platforms = append(f.platforms, platform(*p))
		}
	}
	if carried == 0 && len(doc.Manifests) > 0 {
		if wanted == 0 {
			return fmt.Errorf("%w: none of what it lists is wanted", ErrIncomplete)
		}
		return why
	}
	return nil
}

// parts are the blobs that are to be had: layers with URLs are elsewhere.
func (d document) parts() []v1.Descriptor {
	parts := append(slices.Clone(d.Layers), d.Blobs...)
	if d.Config != nil {
		parts = append(parts, *d.Config)
	}
	return slices.DeleteFunc(parts, func(p v1.Descriptor) bool {
		return p.Size < 0 || p.Digest.Validate() != nil || len(p.URLs) > 0
	})
}

// blob adds a blob, which must be stored or at the site.
func (s *surveyor) blob(d v1.Descriptor, f *found) error {
	if size, known := s.sizes[d.Digest]; known && size != d.Size {
		return fmt.Errorf("%s is said to have %d bytes, and elsewhere %d", d.Digest, d.Size, size)
	}
	if _, known := f.seen[d.Digest]; known {
		return nil
	}
	if err := s.stored(d.Digest); err != nil {
		return err
	}
	f.seen[d.Digest] = struct{}{}
	s.sizes[d.Digest] = d.Size
	f.blobs = append(f.blobs, d.Digest)
	return nil
}

// stored returns nil for what is stored or at the site.
func (s *surveyor) stored(dgst digest.Digest) error {
	if _, has := s.have[dgst]; has {
		return nil
	}
	if err, known := s.there[dgst]; known {
		return err
	}
	r, err := s.src.Open(s.ctx, dgst)
	if err == nil {
		err = r.Close()
	}
	err = incomplete(dgst, err)
	s.there[dgst] = err
	return err
}

func incomplete(dgst digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is not stored", ErrIncomplete, dgst)
	}
	if err != nil {
		return fmt.Errorf("looking for %s: %w", dgst, err)
	}
	return nil
}

// read returns content of at most limit bytes.
func (s *surveyor) read(dgst digest.Digest, limit int64) ([]byte, error) {
	r, err := s.src.Open(s.ctx, dgst)
	if err := incomplete(dgst, err); err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", dgst, err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", dgst, limit)
	}
	if err := verify.Bytes(dgst, content); err != nil {
		return nil, fmt.Errorf("reading %s: %w", dgst, err)
	}
	s.sizes[dgst] = int64(len(content))
	return content, nil
}

// platformOf returns the platform that a configuration gives, if that is to be had.
func (s *surveyor) platformOf(config v1.Descriptor) []string {
	if config.Size > MaxManifestSize || len(config.URLs) > 0 {
		return nil
	}
	content, err := s.read(config.Digest, MaxManifestSize)
	var p v1.Platform
	if err != nil || json.Unmarshal(content, &p) != nil || p.OS == "" || p.Architecture == "" {
		return nil
	}
	return []string{platform(p)}
}

func platform(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
