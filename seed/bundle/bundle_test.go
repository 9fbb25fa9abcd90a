package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/internal/verify"
	"registry-module/seed/bundle"
)

// What is written is loaded, from a file and from a stream.
func TestRoundTrip(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	p := written(t, d, s, bundle.WriteOptions{})
	file := filepath.Join(t.TempDir(), "site.tar")
	if err := os.WriteFile(file, p, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*bundle.Bundle, error){
		"file":   func() (*bundle.Bundle, error) { return bundle.Open(file, bundle.OpenOptions{}) },
		"stream": func() (*bundle.Bundle, error) { return bundle.NewStream(bytes.NewReader(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			b, err := open()
			if err != nil {
				t.Fatal(err)
			}
			to := newSink(t)
			var last bundle.Progress
			r, err := bundle.Load(context.Background(), to, b, bundle.LoadOptions{Progress: func(p bundle.Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if !sameSet(to.images, names(d)) || len(to.pinned) != len(d.Images) || to.open {
				t.Errorf("images %q, pinned %q, still open %v", to.images, to.pinned, to.open)
			}
			if len(r.Images) != 4 || len(r.Failed) != 0 || len(r.Missing) != 0 || len(r.Contents) != len(s.content) {
				t.Errorf("receipt %+v", r)
			}
			want := bundle.Progress{Contents: len(d.Contents), TotalContents: len(d.Contents), Images: 4, TotalImages: 4}
			for _, c := range d.Contents {
				want.Bytes += c.Size
			}
			want.TotalBytes = want.Bytes
			if last != want {
				t.Errorf("progress %+v, want %+v", last, want)
			}
			// The signature by tag is there before what it is for.
			sig := slices.IndexFunc(to.images, func(s string) bool { return strings.Contains(s, ".sig ") })
			app := slices.IndexFunc(to.images, func(s string) bool { return strings.Contains(s, "library/app:1.0") })
			if sig > app {
				t.Errorf("images in the order %q", to.images)
			}
		})
	}
}

// The bytes depend on nothing but the content: not on the order of roots, nor on the run.
func TestReproducible(t *testing.T) {
	s, roots := sample(t, 3000)
	first := written(t, describe(t, s, roots, bundle.DescribeOptions{}), s, bundle.WriteOptions{Sign: key(1)})
	slices.Reverse(roots)
	roots = append(roots, roots[0])
	second := written(t, describe(t, s, roots, bundle.DescribeOptions{}), s, bundle.WriteOptions{Sign: key(1)})
	if !bytes.Equal(first, second) {
		t.Error("the bytes differ")
	}
	// The format must not change unnoticed: what is written now is read by what is installed.
	const want = "sha256:ac70f976fa262a0b4edb5da38fe8113d99a05b813c881363d3ac1e3dcce95901"
	if got := digest.FromBytes(first); got != want {
		t.Errorf("the bundle has become %s", got)
	}
}

// Each entry of the tar is a plain file without time or owner, and none comes twice.
func TestTar(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	p := written(t, d, s, bundle.WriteOptions{Sign: key(1)})
	var got []string
	r := tar.NewReader(bytes.NewReader(p))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("header %+v", h)
		}
		got = append(got, h.Name)
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			if err := verify.Bytes(digest.NewDigestFromEncoded(digest.SHA256, hex), content); err != nil {
				t.Errorf("%s: %v", h.Name, err)
			}
		}
	}
	want := []string{"oci-layout", "index.json", bundle.DescriptionName, bundle.SignatureName}
	for _, c := range d.Contents {
		want = append(want, "blobs/sha256/"+c.Digest.Encoded())
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries %q, want %q", got, want)
	}
	if len(d.Contents) != len(s.content) {
		t.Errorf("%d contents of %d", len(d.Contents), len(s.content))
	}
}

// A library for OCI image layouts finds the images and all of their content.
func TestLayout(t *testing.T) {
	s, roots := sample(t, 3000)
	p := written(t, describe(t, s, roots, bundle.DescribeOptions{}), s, bundle.WriteOptions{})
	dir := t.TempDir()
	untar(t, p, dir)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range m.Manifests {
		got = append(got, d.Annotations[v1.AnnotationRefName])
		if d.Annotations["io.containerd.image.name"] != d.Annotations[v1.AnnotationRefName] {
			t.Errorf("annotations %v", d.Annotations)
		}
		if d.MediaType.IsIndex() {
			i, err := index.ImageIndex(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(i, validate.Fast); err != nil {
				t.Error(err)
			}
			continue
		}
		i, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(i, validate.Fast); err != nil {
			t.Error(err)
		}
	}
	want := []string{"mcr.example.com/azure/module:1", "quay.example:5000/team/tool@" + roots[0].Digest.String(), "docker.io/library/app:1.0"}
	if !slices.Equal(got, want) {
		t.Errorf("images %q, want %q", got, want)
	}
}

func untar(t *testing.T, p []byte, dir string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(p))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Content that is not what it is described as fails the write.
func TestWriteWrongContent(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"changed": func(p []byte) []byte { p = bytes.Clone(p); p[7] ^= 1; return p },
		"shorter": func(p []byte) []byte { return p[:len(p)-1] },
		"longer":  func(p []byte) []byte { return append(bytes.Clone(p), 0) },
		"gone":    func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s, roots := sample(t, 3000)
			d := describe(t, s, roots, bundle.DescribeOptions{})
			blob := d.Images[0].Blobs[0]
			if s.content[blob] = change(s.content[blob]); s.content[blob] == nil {
				delete(s.content, blob)
			}
			dir := t.TempDir()
			err := bundle.WriteFile(context.Background(), filepath.Join(dir, "b"), d, s, bundle.FileOptions{})
			if err == nil || !strings.Contains(err.Error(), blob.String()) {
				t.Errorf("error %v, want one that names %s", err, blob)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// Sizes that the fields of ustar cannot hold, and names, are read by others.
func TestHeaders(t *testing.T) {
	for name, c := range map[string]bundle.Content{
		"empty":   {Digest: digest.FromString("x")},
		"8 GiB-1": {Digest: digest.FromString("x"), Size: 8<<30 - 1},
		"8 GiB":   {Digest: digest.FromString("x"), Size: 8 << 30},
		"1 PiB":   {Digest: digest.FromString("x"), Size: 1 << 50},
		"sha384":  {Digest: digest.SHA384.FromString("x"), Size: 5},
		"sha512":  {Digest: digest.SHA512.FromString("x"), Size: 9 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			h := bundle.AppendHeader(nil, bundle.BlobName(c), c.Size)
			if int64(len(h)) != bundle.HeaderSize(c) {
				t.Errorf("%d bytes, want %d", len(h), bundle.HeaderSize(c))
			}
			got, err := tar.NewReader(io.MultiReader(bytes.NewReader(h), endless{})).Next()
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != bundle.BlobName(c) || got.Size != c.Size || got.Typeflag != tar.TypeReg {
				t.Errorf("got %+v", got)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The description in the tar is what Describe has made.
func TestDescriptionInTar(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	want, _ := json.Marshal(d)
	if !bytes.Contains(written(t, d, s, bundle.WriteOptions{}), want) {
		t.Error("the tar does not have it")
	}
	got, _ := json.Marshal(stream(t, written(t, d, s, bundle.WriteOptions{})).Description())
	if !bytes.Equal(got, want) {
		t.Errorf("read %s, want %s", got, want)
	}
}
