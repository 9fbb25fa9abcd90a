package disk_test

import (
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/disk"
)

// du returns what is allocated for dir and what is below it, but for skip.
func du(t *testing.T, dir string, skip ...string) (sum int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, s := range skip {
			if name == filepath.Join(dir, s) {
				return fs.SkipDir
			}
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}))
	return sum
}

func store(t *testing.T, s *disk.Store, content string) digest.Digest {
	t.Helper()
	dgst := digest.FromString(content)
	d, err := s.Create(t.Context(), dgst)
	must(t, err)
	_, err = d.WriteAt([]byte(content), 0)
	must(t, err)
	must(t, d.Commit(t.Context()))
	return dgst
}

func TestOccupies(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	// With a first blob there are the directories that all others share.
	first := store(t, s, "first")
	must(t, s.Refs().Put(t.Context(), cache.Ref{Repo: "a", Kind: cache.RefLayer, Name: first.String()}, first))
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000, 1 << 20} {
		content := strings.Repeat("x", size)
		dgst := digest.FromString(content)
		must(t, os.MkdirAll(filepath.Join(dir, "docker/registry/v2/blobs/sha256", dgst.Encoded()[:2]), 0o755))
		before := du(t, dir)
		store(t, s, content)
		must(t, s.Refs().Put(t.Context(), cache.Ref{Repo: "a", Kind: cache.RefLayer, Name: dgst.String()}, dgst))
		takes := du(t, dir) - before
		// Directories take nothing on some file systems.
		if got := s.Occupies(int64(size)) + s.OccupiesRef(cache.RefLayer); takes > got || takes < got-3*4096 {
			t.Errorf("%d bytes take %d, and Occupies says %d", size, takes, got)
		}
	}
	for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 4096} {
		if got := s.Occupies(size); got < size {
			t.Errorf("%d bytes occupy %d", size, got)
		}
	}
	if got, none := s.Occupies(-1), s.Occupies(0); got != none {
		t.Errorf("a size that is not known occupies %d, none %d", got, none)
	}
}

func TestBeside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	store(t, s, "content")
	_, err := s.Create(t.Context(), digest.FromString("x"))
	must(t, err)
	writeFile(t, filepath.Join(dir, "index/a.sst"), strings.Repeat("x", 100_000))
	writeFile(t, filepath.Join(dir, "index/b.mem"), "")
	must(t, os.Truncate(filepath.Join(dir, "index/b.mem"), 1<<30)) // sparse
	writeFile(t, filepath.Join(dir, "registry-module.json"), `{"version":1}`)
	writeFile(t, filepath.Join(dir, "quarantine/x/y"), strings.Repeat("x", 10_000))
	must(t, os.Symlink(".", filepath.Join(dir, "loop")))
	got, err := s.Beside(t.Context())
	must(t, err)
	// The root itself is counted by du.
	info, err := os.Lstat(dir)
	must(t, err)
	want := du(t, dir, "docker", "partial") - info.Sys().(*syscall.Stat_t).Blocks*512
	if got != want || got < 110_000 || got > 1<<29 {
		t.Errorf("beside the content there are %d bytes, want %d", got, want)
	}
}
