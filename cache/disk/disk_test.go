package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/disk"
)

func open(t *testing.T, dir string) *disk.Store {
	t.Helper()
	s, err := disk.Open(dir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	t.Run("blobs", func(t *testing.T) {
		cachetest.TestBlobs(t, func(t *testing.T) cache.Blobs { return open(t, t.TempDir()) })
	})
	t.Run("refs", func(t *testing.T) {
		cachetest.TestRefs(t, func(t *testing.T) cache.Refs { return open(t, t.TempDir()).Refs() })
	})
}

// The layout is distribution's, so that the stock registry can read it.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	dgst := digest.FromString("abc")
	d, err := s.Create(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	refs := s.Refs()
	for _, ref := range []cache.Ref{
		{Repo: "a/b", Kind: cache.RefLayer, Name: dgst.String()},
		{Repo: "a/b", Kind: cache.RefManifest, Name: dgst.String()},
		{Repo: "a/b", Kind: cache.RefTag, Name: "v1"},
	} {
		if err := refs.Put(t.Context(), ref, dgst); err != nil {
			t.Fatal(err)
		}
	}
	hex := dgst.Encoded()
	for name, want := range map[string]string{
		"blobs/sha256/" + hex[:2] + "/" + hex + "/data":                 "abc",
		"repositories/a/b/_layers/sha256/" + hex + "/link":              dgst.String(),
		"repositories/a/b/_manifests/revisions/sha256/" + hex + "/link": dgst.String(),
		"repositories/a/b/_manifests/tags/v1/current/link":              dgst.String(),
	} {
		got, err := os.ReadFile(filepath.Join(dir, "docker/registry/v2", name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestUnfinishedDownloadsAreDropped(t *testing.T) {
	dir := t.TempDir()
	s, err := disk.Open(dir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), digest.FromString("abc")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // as a crash would leave it
		t.Fatal(err)
	}
	open(t, dir)
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) != 0 {
		t.Errorf("left in partial: %v", left)
	}
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := disk.Open(dir, disk.Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second owner: error %v", err)
	}
}

func TestNotWritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(filepath.Join(file, "data"), disk.Options{}); err == nil || !strings.Contains(err.Error(), "data directory") {
		t.Errorf("error %v, want one that names the data directory", err)
	}
}

// Names that would leave their place are refused, whoever sends them.
func TestHostileNames(t *testing.T) {
	s := open(t, t.TempDir())
	dgst := digest.FromString("")
	for _, ref := range []cache.Ref{
		{Repo: "", Kind: cache.RefTag, Name: "v1"},
		{Repo: "..", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/../../b", Kind: cache.RefTag, Name: "v1"},
		{Repo: "/etc", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a//b", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/_layers", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/.hidden", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a", Kind: cache.RefTag, Name: ""},
		{Repo: "a", Kind: cache.RefTag, Name: ".."},
		{Repo: "a", Kind: cache.RefTag, Name: "x/y"},
		{Repo: "a", Kind: cache.RefLayer, Name: "sha256:../../../x"},
		{Repo: "a", Kind: cache.RefManifest, Name: "v1"},
		{Repo: "a", Kind: 0, Name: dgst.String()},
	} {
		if err := s.Refs().Put(t.Context(), ref, dgst); err == nil {
			t.Errorf("put %+v is accepted", ref)
		}
		if _, err := s.Refs().Get(t.Context(), ref); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("get %+v: error %v, want a refusal", ref, err)
		}
		if err := s.Refs().Remove(t.Context(), ref); err == nil {
			t.Errorf("remove %+v is accepted", ref)
		}
	}
	for _, bad := range []digest.Digest{"", "sha256:../x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Open(t.Context(), bad); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("open %q: error %v, want a refusal", bad, err)
		}
		if _, err := s.Create(t.Context(), bad); err == nil {
			t.Errorf("create %q is accepted", bad)
		}
	}
}

// The bare names stay with the remote that had them first.
func TestPrefix(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, tt := range []struct{ host, want string }{
		{"", ""}, // no remote yet
		{"first.test", ""},
		{"second.test:5000", "second.test:5000/"},
		{"first.test", ""},
		{"", ""},
	} {
		if got, err := s.Prefix(tt.host); err != nil || got != tt.want {
			t.Errorf("prefix of %q: %q, %v, want %q", tt.host, got, err, tt.want)
		}
	}
}

func TestFormat(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"newer":   {`{"version":2}`, "use a newer version"},
		"damaged": {"", "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "registry-module.json"), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := disk.Open(dir, disk.Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// Many may write one link at the same time.
func TestConcurrentPut(t *testing.T) {
	refs := open(t, t.TempDir()).Refs()
	ref := cache.Ref{Repo: "a", Kind: cache.RefTag, Name: "v1"}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := refs.Put(t.Context(), ref, digest.FromString(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := refs.Get(t.Context(), ref); err != nil {
		t.Error(err)
	}
}
