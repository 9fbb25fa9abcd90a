package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"mime"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Version is that of the format which is written, and the only one that is read.
const Version = 1

// Limits of what is read and written, more than what sites have: so that reading and loading
// take less than 200 MiB of memory, whatever is read. A description has some 200 bytes for
// each manifest or blob, and takes several times its size while it is loaded.
const (
	maxDescription = 16 << 20 // bytes
	maxIndex       = 8 << 20  // bytes
	maxImages      = 20_000
	maxContents    = 150_000
	maxSignature   = 4 << 10 // bytes
	maxPlatforms   = 1000    // of an image
	maxPlatform    = 200     // bytes
	maxMediaType   = 255     // bytes, twice what RFC 6838 section 4.2 allows, and the slash
	maxRepository  = 255     // bytes, as the distribution specification recommends
	maxSize        = math.MaxInt64 / 4
	// MaxManifestSize is the largest manifest that is carried, in bytes: what the
	// distribution specification has registries accept at least.
	MaxManifestSize = 4 << 20
)

// ErrInvalid is the error for what is no bundle, or none that can be read.
var ErrInvalid = errors.New("it is no bundle that can be read")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// Validate tells whether d can be written and loaded: names follow the grammar of
// references, all content that images name is there once, in the place that is given, and
// everything is within the limits of the format. It does not know what manifests say.
func (d Description) Validate() error {
	switch {
	case d.Version != Version:
		return invalid("its description has version %d instead of %d", d.Version, Version)
	case len(d.Images) > maxImages:
		return invalid("%d images are more than %d", len(d.Images), maxImages)
	case len(d.Contents) > maxContents:
		return invalid("%d manifests and blobs are more than %d", len(d.Contents), maxContents)
	}
	contents, err := d.checkContents()
	if err != nil {
		return err
	}
	used := make(map[digest.Digest]struct{}, len(contents))
	for n, i := range d.Images {
		if err := i.check(contents, used); err != nil {
			return invalid("image %.300q: %w", i.Reference(), err)
		}
		if n == 0 {
			continue
		}
		before := d.Images[n-1]
		switch {
		case compareImages(before, i) >= 0:
			return invalid("image %.300q is out of order, or twice", i.Reference())
		case i.Tag != "" && before.Remote == i.Remote && before.Repository == i.Repository && before.Tag == i.Tag:
			return invalid("image %.300q stands for two manifests", i.Reference())
		}
	}
	if len(used) != len(contents) {
		return invalid("%d manifests or blobs belong to no image", len(contents)-len(used))
	}
	return nil
}

// checkContents validates all contents and returns their sizes.
func (d Description) checkContents() (map[digest.Digest]int64, error) {
	sizes := make(map[digest.Digest]int64, len(d.Contents))
	var at, all int64
	for _, c := range d.Contents {
		if err := validDigest(c.Digest); err != nil {
			return nil, invalid("%w", err)
		}
		if _, twice := sizes[c.Digest]; twice {
			return nil, invalid("%s is described twice", c.Digest)
		}
		if c.Size < 0 || c.Size > maxSize || all > maxSize-c.Size {
			return nil, invalid("%s: a size of %d bytes", c.Digest, c.Size)
		}
		all += c.Size
		sizes[c.Digest] = c.Size
		var want int64
		if !c.Absent {
			want = at + headerSize(c)
			at = want + c.Size + padding(c.Size)
		}
		if c.Offset != want {
			return nil, invalid("%s: it cannot be at %d, but at %d", c.Digest, c.Offset, want)
		}
	}
	return sizes, nil
}

// check validates i. All that it names must be in contents, and is added to used.
func (i Image) check(contents map[digest.Digest]int64, used map[digest.Digest]struct{}) error {
	if err := i.checkName(); err != nil {
		return err
	}
	if err := checkMediaType(i.MediaType); err != nil {
		return err
	}
	if size, ok := contents[i.Digest]; !ok || size != i.Size || size > MaxManifestSize {
		return fmt.Errorf("its manifest %.200q of %d bytes is not among the contents, or is too large", i.Digest, i.Size)
	}
	if len(i.Platforms) > maxPlatforms {
		return fmt.Errorf("%d platforms are more than %d", len(i.Platforms), maxPlatforms)
	}
	for _, p := range i.Platforms {
		if err := checkPlatform(p, 0); err != nil {
			return err
		}
	}
	seen := make(map[digest.Digest]struct{}, 1+len(i.Manifests)+len(i.Blobs))
	seen[i.Digest], used[i.Digest] = struct{}{}, struct{}{}
	add := func(dgst digest.Digest, limit int64) error {
		size, ok := contents[dgst]
		_, twice := seen[dgst]
		switch {
		case !ok:
			return fmt.Errorf("%.200q is not among the contents", dgst)
		case twice:
			return fmt.Errorf("%s is named twice", dgst)
		case size > limit:
			return fmt.Errorf("manifest %s of %d bytes is larger than %d", dgst, size, limit)
		}
		seen[dgst], used[dgst] = struct{}{}, struct{}{}
		return nil
	}
	for _, m := range i.Manifests {
		if err := cmp.Or(add(m.Digest, MaxManifestSize), checkMediaType(m.MediaType)); err != nil {
			return err
		}
	}
	for _, dgst := range i.Blobs {
		if err := add(dgst, maxSize); err != nil {
			return err
		}
	}
	return nil
}

// checkName validates remote, repository, tag and digest by the grammar of references.
func (i Image) checkName() error {
	if len(i.Repository) > maxRepository || len(i.Remote) > maxRepository {
		return fmt.Errorf("its name is longer than %d bytes", maxRepository)
	}
	named, err := reference.WithName(i.Remote + "/" + i.Repository)
	if err != nil {
		return err
	}
	if reference.Domain(named) != i.Remote || reference.Path(named) != i.Repository {
		return errors.New("its remote is no host")
	}
	if i.Tag != "" {
		if _, err := reference.WithTag(named, i.Tag); err != nil {
			return err
		}
	}
	return i.Digest.Validate()
}

// checkPlatform validates a platform of an image that has others before it.
func checkPlatform(p string, others int) error {
	if others >= maxPlatforms {
		return fmt.Errorf("it has more than %d platforms", maxPlatforms)
	}
	if p == "" || len(p) > maxPlatform || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%.250q is no platform", p)
	}
	return nil
}

func validDigest(dgst digest.Digest) error {
	if err := dgst.Validate(); err != nil {
		return fmt.Errorf("digest %.200q: %w", dgst, err)
	}
	return nil
}

func checkMediaType(s string) error {
	base, _, err := mime.ParseMediaType(s)
	if err != nil || len(s) > maxMediaType || !strings.Contains(base, "/") {
		return fmt.Errorf("%.300q is no media type", s)
	}
	return nil
}

// compareImages gives the order of images.
func compareImages(a, b Image) int {
	return cmp.Or(
		cmp.Compare(a.Remote, b.Remote),
		cmp.Compare(a.Repository, b.Repository),
		cmp.Compare(a.Tag, b.Tag),
		cmp.Compare(a.Digest, b.Digest))
}

// all yields what i consists of, its manifest first.
func (i Image) all() []digest.Digest {
	all := make([]digest.Digest, 0, 1+len(i.Manifests)+len(i.Blobs))
	all = append(all, i.Digest)
	for _, m := range i.Manifests {
		all = append(all, m.Digest)
	}
	return append(all, i.Blobs...)
}

// arrange puts contents in order and computes their places.
//
// Images follow one another, each with its manifests and then what blobs no earlier one
// has: so a chunk that is lost hurts those images that lie in it, and those that share
// something with them. Within a repository those that are attached come first, so that
// who loads has a signature not later than the image.
func (d *Description) arrange(sizes map[digest.Digest]int64, absent func(digest.Digest) bool) {
	order := slices.Clone(d.Images)
	slices.SortStableFunc(order, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Remote, b.Remote), cmp.Compare(a.Repository, b.Repository),
			-compareBool(a.Attached, b.Attached))
	})
	d.Contents = nil
	done := make(map[digest.Digest]struct{}, len(sizes))
	var at int64
	for _, i := range order {
		for _, dgst := range i.all() {
			if _, ok := done[dgst]; ok {
				continue
			}
			done[dgst] = struct{}{}
			c := Content{Digest: dgst, Size: sizes[dgst], Absent: absent(dgst)}
			if !c.Absent {
				c.Offset = at + headerSize(c)
				at = c.Offset + c.Size + padding(c.Size)
			}
			d.Contents = append(d.Contents, c)
		}
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// length is how many bytes the blobs of d take in the tar, with their headers.
func (d Description) length() int64 {
	for _, c := range slices.Backward(d.Contents) {
		if !c.Absent {
			return c.Offset + c.Size + padding(c.Size)
		}
	}
	return 0
}
