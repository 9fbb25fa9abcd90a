package lab_test

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// TestCheckStore shows that the checker finds what is wrong.
func TestCheckStore(t *testing.T) {
	data := t.TempDir()
	put := func(dgst digest.Digest, content string) {
		t.Helper()
		path := lab.BlobPath(data, dgst)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, blobs int, ok bool) {
		t.Helper()
		n, _, err := lab.CheckStore(data)
		if n != blobs || (err == nil) != ok {
			t.Errorf("%s: %d blobs, %v", what, n, err)
		}
	}
	check("empty", 0, true)
	put(digest.FromString("a"), "a")
	put(digest.SHA512.FromString("b"), "b")
	check("good", 2, true)
	put(digest.FromString("a"), "x")
	if _, _, err := lab.CheckStore(data); err == nil {
		t.Error("a wrong byte is not found")
	}
	put(digest.FromString("a"), "a")
	stray := filepath.Join(filepath.Dir(lab.BlobPath(data, digest.FromString("a"))), "data.tmp")
	if err := os.WriteFile(stray, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := lab.CheckStore(data); err == nil {
		t.Error("a stray file is not found")
	}
}

// TestNoiseLayer reads a generated layer as what it is.
func TestNoiseLayer(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 513, 100_000} {
		b, err := lab.NoiseLayer(7, size)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(b.Open())
		if err != nil || int64(len(all)) != b.Size || digest.FromBytes(all) != b.Digest {
			t.Errorf("size %d: the blob is not what it says: %d bytes, %v", size, len(all), err)
		}
		for off := int64(0); off < b.Size; off += 1 + b.Size/7 {
			part := make([]byte, 100)
			n, err := b.Content.ReadAt(part, off)
			if want := all[off:min(b.Size, off+100)]; string(part[:n]) != string(want) || (n < 100) != (err == io.EOF) {
				t.Errorf("size %d: at %d: %d bytes, %v, want the %d bytes that are there", size, off, n, err, len(want))
			}
		}
		files := tar.NewReader(b.Open())
		h, err := files.Next()
		if err != nil || h.Size != size {
			t.Fatalf("size %d: %v, %v", size, h, err)
		}
		if _, err := files.Next(); err != io.EOF {
			t.Errorf("size %d: %v, want the end", size, err)
		}
	}
}

// TestSamples checks that the samples are what their manifests say, and that
// their programs run.
func TestSamples(t *testing.T) {
	samples, err := lab.Samples()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, img := range samples {
		if kinds[img.Kind] {
			t.Errorf("%s is there twice", img.Kind)
		}
		kinds[img.Kind] = true
		for _, m := range img.Manifests {
			if digest.FromBytes(m.Bytes) != m.Digest || len(m.Bytes) > 4<<20 {
				t.Errorf("%s: a manifest of %d bytes does not match its digest", img.Kind, len(m.Bytes))
			}
		}
		if len(img.Repo) > 255 {
			t.Errorf("%s: its name has %d characters", img.Kind, len(img.Repo))
		}
	}
	again, err := lab.Samples()
	if err != nil || !slices.EqualFunc(samples, again, func(a, b lab.Image) bool { return a.Root().Digest == b.Root().Digest }) {
		t.Errorf("the samples are not the same each time: %v", err)
	}
}

// TestProgram runs the program of the images, where this machine can.
func TestProgram(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64", "arm"} {
		program, err := lab.ExitProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		if arch != runtime.GOARCH {
			continue
		}
		path := filepath.Join(t.TempDir(), "exit")
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(path).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}
