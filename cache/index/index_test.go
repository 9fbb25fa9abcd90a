package index_test

import (
	"os"
	"path/filepath"
	"testing"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/index"
)

func open(t *testing.T, dir string) *index.Index {
	t.Helper()
	x, err := index.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() }) // may be closed already
	return x
}

func TestContract(t *testing.T) {
	cachetest.TestIndex(t, func(t *testing.T) cache.Index { return open(t, t.TempDir()) })
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := open(t, dir).Get(t.Context(), []byte("k")); err != nil || string(got) != "v" {
		t.Errorf("after reopening: %q, %v", got, err)
	}
}

// A database that cannot be opened is replaced by an empty one: the cache
// rebuilds it.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("no manifest of Badger's"), 0o644); err != nil {
		t.Fatal(err)
	}
	x := open(t, dir)
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Error(err)
	}
}

// The data directory of a gateway is small: the index must not reserve the
// gigabytes of Badger's defaults.
func TestFootprint(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	var apparent int64
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			apparent += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if apparent > 64<<20 {
		t.Errorf("an empty index reserves %d MiB", apparent>>20)
	}
}
