package bundle_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/internal/verify"
	"registry-module/seed/bundle"
)

// store is content by digest. It is a Source.
type store struct {
	content map[digest.Digest][]byte
	opened  map[digest.Digest]int
}

func newStore() *store {
	return &store{content: map[digest.Digest][]byte{}, opened: map[digest.Digest]int{}}
}

func (s *store) Open(_ context.Context, dgst digest.Digest) (io.ReadCloser, error) {
	c, ok := s.content[dgst]
	if !ok {
		return nil, fmt.Errorf("opening %s: %w", dgst, fs.ErrNotExist)
	}
	s.opened[dgst]++
	return io.NopCloser(bytes.NewReader(c)), nil
}

func (s *store) add(mediaType string, content []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	s.content[d.Digest] = content
	return d
}

func (s *store) addJSON(mediaType string, v any) v1.Descriptor {
	content, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return s.add(mediaType, content)
}

// layer adds a layer of size bytes that depend on its name.
func (s *store) layer(name string, size int) v1.Descriptor {
	var seed [32]byte
	copy(seed[:], name)
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(content)
	return s.add(v1.MediaTypeImageLayer, content)
}

// image adds an image of one platform.
func (s *store) image(arch string, layers ...v1.Descriptor) v1.Descriptor {
	c := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: arch}, RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
	}
	config := s.addJSON(v1.MediaTypeImageConfig, c)
	m := s.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: layers,
	})
	m.Platform = &c.Platform
	return m
}

func (s *store) index(children ...v1.Descriptor) v1.Descriptor {
	return s.addJSON(v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: children,
	})
}

// signature adds a manifest that refers to subject.
func (s *store) signature(subject v1.Descriptor) v1.Descriptor {
	empty := s.add(v1.MediaTypeEmptyJSON, []byte("{}"))
	return s.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/vnd.example",
		Config: empty, Layers: []v1.Descriptor{empty}, Subject: &subject,
	})
}

func root(remote, repository, tag string, d v1.Descriptor) bundle.Image {
	return bundle.Image{Remote: remote, Repository: repository, Tag: tag, Digest: d.Digest, MediaType: d.MediaType}
}

// sample is three images, two of which share a layer, one with a referrer and a signature by tag.
func sample(tb testing.TB, layerSize int) (*store, []bundle.Image) {
	tb.Helper()
	s := newStore()
	base := s.layer("base", layerSize)
	amd := s.image("amd64", base, s.layer("a", layerSize))
	arm := s.image("arm64", base, s.layer("b", layerSize))
	multi := s.index(amd, arm)
	single := s.image("amd64", base, s.layer("c", layerSize))
	other := s.image("amd64", s.layer("d", layerSize))
	referrer := s.signature(multi)
	cosign := s.image("", s.layer("cosign", 100))
	app := root("registry-1.docker.io", "library/app", "1.0", multi)
	app.Manifests = []bundle.Manifest{{Digest: referrer.Digest, MediaType: referrer.MediaType}}
	attached := root("registry-1.docker.io", "library/app", "sha256-"+multi.Digest.Encoded()+".sig", cosign)
	attached.Attached = true
	return s, []bundle.Image{
		root("quay.example:5000", "team/tool", "", other),
		root("mcr.example.com", "azure/module", "1", single),
		attached, app,
	}
}

func describe(tb testing.TB, s *store, roots []bundle.Image, o bundle.DescribeOptions) bundle.Description {
	tb.Helper()
	d, err := bundle.Describe(context.Background(), s, roots, o)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func written(tb testing.TB, d bundle.Description, s *store, o bundle.WriteOptions) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := bundle.Write(context.Background(), &b, d, s, o); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// sink is a Sink that fails where what it is asked for is wrong.
type sink struct {
	tb      testing.TB
	content map[digest.Digest]bool
	images  []string
	pinned  []string
	stores  []digest.Digest // those that were stored now
	begun   int
	open    bool
	// fail fails the operation of that number, if it is not negative.
	fail int
	ops  int
}

var errSink = errors.New("no space left")

func newSink(tb testing.TB) *sink {
	return &sink{tb: tb, content: map[digest.Digest]bool{}, fail: -1}
}

func (s *sink) op() error {
	s.ops++
	if s.ops-1 == s.fail {
		return errSink
	}
	return nil
}

func (s *sink) Missing(_ context.Context, contents []bundle.Content) ([]bundle.Content, error) {
	return slices.DeleteFunc(slices.Clone(contents), func(c bundle.Content) bool { return s.content[c.Digest] }), s.op()
}

func (s *sink) Begin(context.Context, []bundle.Image, []bundle.Content) error {
	s.begun++
	if err := s.op(); err != nil {
		return err
	}
	s.open = true
	return nil
}

func (s *sink) Store(_ context.Context, c bundle.Content, r io.Reader) error {
	if !s.open {
		s.tb.Errorf("%s is stored before Begin", c.Digest)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("storing: %w", err)
	}
	if err := verify.Bytes(c.Digest, content); err != nil {
		s.tb.Errorf("wrong content comes without an error: %v", err)
	}
	if s.content[c.Digest] {
		s.tb.Errorf("%s is stored twice", c.Digest)
	}
	if err := s.op(); err != nil {
		return err
	}
	s.content[c.Digest] = true
	s.stores = append(s.stores, c.Digest)
	return nil
}

func (s *sink) Add(_ context.Context, i bundle.Image, pin bool) error {
	if !s.open {
		s.tb.Errorf("%s is added before Begin", i.Reference())
	}
	all := append([]digest.Digest{i.Digest}, i.Blobs...)
	for _, m := range i.Manifests {
		all = append(all, m.Digest)
	}
	for _, dgst := range all {
		if !s.content[dgst] {
			s.tb.Errorf("%s is added without %s", i.Reference(), dgst)
		}
	}
	if err := s.op(); err != nil {
		return err
	}
	s.images = append(s.images, i.Reference()+" "+i.Digest.String())
	if pin {
		s.pinned = append(s.pinned, i.Reference())
	}
	return nil
}

func (s *sink) End() { s.open = false }

// names are the images of d as a sink has them.
func names(d bundle.Description) []string {
	var n []string
	for _, i := range d.Images {
		n = append(n, i.Reference()+" "+i.Digest.String())
	}
	return n
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey {
	p, _ := k.Public().(ed25519.PublicKey)
	return p
}

func stream(tb testing.TB, p []byte) *bundle.Bundle {
	tb.Helper()
	b, err := bundle.NewStream(bytes.NewReader(p))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
