package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// layout is the content of oci-layout.
	layout = `{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`
	// descriptionAnnotation has, in index.json, the digest of the description. So one that
	// is damaged is noticed where nothing is signed, too.
	descriptionAnnotation = "registry-module.bundle.description"
	// containerdName is the annotation by which containerd, and Docker with its store,
	// names an image that it imports. Others take that of the specification.
	containerdName = "io.containerd.image.name"
)

// head is what a bundle begins with, up to the first blob: the contents of its entries.
type head struct {
	index, description, signature []byte // signature is nil where there is none
}

// newHead makes the head of d. With a key it is signed.
func newHead(d Description, o WriteOptions) (head, error) {
	var h head
	var err error
	if h.description, err = json.Marshal(d); err != nil {
		return h, err
	}
	if len(h.description) > maxDescription {
		return h, invalid("its description has %d bytes, more than %d: make several bundles", len(h.description), maxDescription)
	}
	if h.index, err = json.Marshal(indexOf(d, digest.FromBytes(h.description))); err != nil {
		return h, err
	}
	if len(h.index) > maxIndex {
		return h, invalid("its index.json has %d bytes, more than %d: make several bundles", len(h.index), maxIndex)
	}
	if o.Sign != nil {
		h.signature, err = sign(o.Sign, h.description)
	}
	return h, err
}

// size is how many bytes h has in the tar.
func (h head) size() int64 {
	all := [][]byte{[]byte(layout), h.index, h.description}
	if h.signature != nil {
		all = append(all, h.signature)
	}
	var n int64
	for _, content := range all {
		n += block + int64(len(content)) + padding(int64(len(content)))
	}
	return n
}

// bytes returns the entries of h as they are in the tar.
func (h head) bytes() []byte {
	b := make([]byte, 0, h.size())
	add := func(name string, content []byte) {
		b = appendHeader(b, name, int64(len(content)))
		b = append(b, content...)
		b = append(b, make([]byte, padding(int64(len(content))))...)
	}
	add(v1.ImageLayoutFile, []byte(layout))
	add(v1.ImageIndexFile, h.index)
	add(DescriptionName, h.description)
	if h.signature != nil {
		add(SignatureName, h.signature)
	}
	return b
}

// indexOf makes the index.json by which other programs find the images: those all of whose
// content is there. What is attached to them is left out: it would be one more image to
// them, which they cannot run.
func indexOf(d Description, description digest.Digest) v1.Index {
	absent := make(map[digest.Digest]struct{})
	for _, c := range d.Contents {
		if c.Absent {
			absent[c.Digest] = struct{}{}
		}
	}
	index := v1.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   v1.MediaTypeImageIndex,
		Manifests:   []v1.Descriptor{},
		Annotations: map[string]string{descriptionAnnotation: description.String()},
	}
	for _, i := range d.Images {
		if i.Attached || i.lacks(absent) {
			continue
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: i.MediaType, Digest: i.Digest, Size: i.Size,
			Annotations: map[string]string{v1.AnnotationRefName: i.Reference(), containerdName: i.Reference()},
		})
	}
	return index
}

// lacks tells whether anything of i is in absent.
func (i Image) lacks(absent map[digest.Digest]struct{}) bool {
	if len(absent) == 0 {
		return false
	}
	for _, dgst := range i.all() {
		if _, ok := absent[dgst]; ok {
			return true
		}
	}
	return false
}

// Reference is how clients call the image: HOST/REPOSITORY:TAG, or with its digest where it
// has no tag. Docker Hub is docker.io there, by whatever host it is reached.
func (i Image) Reference() string {
	host := i.Remote
	switch host {
	case "registry-1.docker.io", "index.docker.io":
		host = "docker.io"
	}
	if i.Tag == "" {
		return host + "/" + i.Repository + "@" + i.Digest.String()
	}
	return host + "/" + i.Repository + ":" + i.Tag
}

// readHead reads what a bundle begins with, up to the first blob. Only a signature is
// found by looking beyond what is needed: next is the block behind the description
// where that is none.
func readHead(r io.Reader) (h head, next []byte, err error) {
	first := make([]byte, block)
	if n, err := io.ReadFull(r, first); err != nil {
		return h, nil, foreign(first[:n], noEOF(err))
	}
	r = io.MultiReader(bytes.NewReader(first), r)
	for _, e := range []struct {
		name    string
		limit   int64
		content *[]byte
	}{
		{v1.ImageLayoutFile, block, new([]byte)},
		{v1.ImageIndexFile, maxIndex, &h.index},
		{DescriptionName, maxDescription, &h.description},
	} {
		name, content, err := readEntry(r, e.limit)
		if err == nil && name != e.name {
			err = invalid("it has no %s where bundles have it", e.name)
		}
		if err != nil {
			return h, nil, foreign(first, err)
		}
		*e.content = content
	}
	next = make([]byte, block)
	if _, err := io.ReadFull(r, next); err != nil {
		return h, nil, invalid("it ends within its head: %w", noEOF(err))
	}
	if name, _, _ := bytes.Cut(next[:maxName], []byte{0}); string(name) == SignatureName {
		_, h.signature, err = readEntry(io.MultiReader(bytes.NewReader(next), r), maxSignature)
		if err != nil {
			return h, nil, invalid("its head is damaged: %s: %w", SignatureName, err)
		}
		next = nil
	}
	return h, next, h.intact()
}

// intact compares the description with its digest.
func (h head) intact() error {
	want, err := annotationOf(h.index, descriptionAnnotation)
	if err != nil {
		return invalid("its head is damaged: %s: %w", v1.ImageIndexFile, err)
	}
	if digest.FromBytes(h.description).String() != want {
		return invalid("its head is damaged: %s does not have the digest that %s gives", DescriptionName, v1.ImageIndexFile)
	}
	return nil
}

// foreign makes the error for a head that is none: what it is instead, as far as that can
// be told by its first block. Err is what reading it gave.
func foreign(first []byte, err error) error {
	for magic, program := range map[string]string{
		"\x1f\x8b": "gzip", "\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ\x00": "xz", "BZh": "bzip2", "\x04\x22\x4d\x18": "lz4", "PK\x03\x04": "zip",
	} {
		if bytes.HasPrefix(first, []byte(magic)) {
			return invalid("it is compressed: decompress it first (%s -d)", program)
		}
	}
	if len(first) == block && string(first[257:262]) == "ustar" {
		name, _, _ := strings.Cut(string(first[:maxName]), "\x00")
		if name != v1.ImageLayoutFile {
			return invalid("it is a tar that bundle create has not made: it begins with %.100q. Archives of other programs cannot be loaded; push them to a registry, and seed from there", name)
		}
		return invalid("its head is damaged, or it is an image layout of another program, which cannot be loaded: push it to a registry, and seed from there (%w)", err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("it ends within its head: %w", err)
	}
	return invalid("it is no tar, or its head is damaged: %w", err)
}
