package disk_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// blobFile is where the content of dgst lies.
func blobFile(dir string, dgst digest.Digest) string {
	return filepath.Join(dir, "docker/registry/v2/blobs/sha256", dgst.Encoded()[:2], dgst.Encoded(), "data")
}

// wantGone checks that nothing is left of dgst, and that it can be stored again.
func wantGone(t *testing.T, dir string, s *disk.Store, content string) {
	t.Helper()
	dgst := digest.FromString(content)
	if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if _, err := os.Lstat(filepath.Dir(blobFile(dir, dgst))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory of the blob: %v", err)
	}
	store(t, s, content)
	if got, err := os.ReadFile(blobFile(dir, dgst)); err != nil || string(got) != content {
		t.Errorf("stored again: %q, %v", got, err)
	}
}

func quarantined(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "quarantine"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestQuarantine(t *testing.T) {
	const content = "content"
	dgst := digest.FromString(content)
	for name, tt := range map[string]struct {
		damage func(t *testing.T, file string)
		opts   disk.Options
		kept   bool
	}{
		"rotten":     {func(t *testing.T, file string) { writeFile(t, file, "CONTENT") }, disk.Options{}, true},
		"unreadable": {func(t *testing.T, file string) { must(t, os.Chmod(file, 0)) }, disk.Options{}, true},
		"too large":  {func(t *testing.T, file string) { writeFile(t, file, strings.Repeat("x", 9000)) }, disk.Options{QuarantineBytes: 8192}, false},
		"not wanted": {func(*testing.T, string) {}, disk.Options{QuarantineFiles: -1}, false},
		"not stored": {func(t *testing.T, file string) { must(t, os.RemoveAll(filepath.Dir(file))) }, disk.Options{}, false},
		"no content": {func(t *testing.T, file string) { must(t, os.Remove(file)) }, disk.Options{}, false},
		"a directory": {func(t *testing.T, file string) {
			must(t, os.Remove(file))
			writeFile(t, filepath.Join(file, "a/b"), "x")
		}, disk.Options{}, true},
		"a directory that is not wanted": {func(t *testing.T, file string) {
			must(t, os.Remove(file))
			writeFile(t, filepath.Join(file, "a/b"), "x")
		}, disk.Options{QuarantineBytes: -1}, false},
		"a link": {func(t *testing.T, file string) {
			must(t, os.Remove(file))
			must(t, os.Symlink("data", file))
		}, disk.Options{}, true},
		"a file in the place of its directory": {func(t *testing.T, file string) {
			must(t, os.RemoveAll(filepath.Dir(file)))
			writeFile(t, filepath.Dir(file), "x")
		}, disk.Options{}, true},
		"a file in the place of the one above": {func(t *testing.T, file string) {
			must(t, os.RemoveAll(filepath.Dir(filepath.Dir(file))))
			writeFile(t, filepath.Dir(filepath.Dir(file)), "x")
		}, disk.Options{}, true},
	} {
		for how, drop := range map[string]func(*testing.T, *disk.Store) error{
			"quarantine": func(t *testing.T, s *disk.Store) error { return s.Quarantine(t.Context(), dgst) },
			"remove":     func(t *testing.T, s *disk.Store) error { return s.Remove(t.Context(), dgst) },
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				dir := t.TempDir()
				s, err := disk.Open(dir, tt.opts)
				must(t, err)
				defer func() { must(t, s.Close()) }()
				store(t, s, content)
				open, err := s.Open(t.Context(), dgst)
				must(t, err)
				tt.damage(t, blobFile(dir, dgst))
				must(t, drop(t, s))
				got := quarantined(t, dir)
				if kept := how == "quarantine" && tt.kept; kept != (len(got) == 1) || kept && !strings.HasPrefix(got[0], "sha256-"+dgst.Encoded()+"-") {
					t.Errorf("in quarantine: %q", got)
				}
				if _, err := io.ReadAll(open); err != nil {
					t.Errorf("a blob that was open: %v", err)
				}
				must(t, open.Close())
				wantGone(t, dir, s, content)
			})
		}
	}
	for _, bad := range []digest.Digest{"", "sha256:../x"} {
		if err := open(t, t.TempDir()).Quarantine(t.Context(), bad); err == nil {
			t.Errorf("%q is put into quarantine", bad)
		}
	}
}

// What is in quarantine has limits; the oldest goes first.
func TestQuarantineIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		opts disk.Options
		want int // of 20 files of one block, an hour between them
	}{
		"default": {disk.Options{}, 16},
		"files":   {disk.Options{QuarantineFiles: 3}, 3},
		"bytes":   {disk.Options{QuarantineBytes: 5*4096 + 1}, 5},
		"age":     {disk.Options{QuarantineAge: 4*time.Hour + time.Minute}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			foreign := filepath.Join(dir, "quarantine/of-somebody-else")
			writeFile(t, foreign, strings.Repeat("x", 100_000))
			synctest.Test(t, func(t *testing.T) {
				s, err := disk.Open(dir, tt.opts)
				must(t, err)
				for i := range 20 {
					must(t, s.Quarantine(t.Context(), store(t, s, fmt.Sprint(i))))
					time.Sleep(time.Hour)
				}
				got := quarantined(t, dir)
				if len(got) != tt.want+1 {
					t.Errorf("%d are in quarantine, want %d", len(got)-1, tt.want)
				}
				for i := range 20 {
					kept := strings.Contains(strings.Join(got, " "), digest.FromString(fmt.Sprint(i)).Encoded())
					if kept != (i >= 20-tt.want) {
						t.Errorf("number %d is kept: %v", i, kept)
					}
				}
				must(t, s.Close())

				time.Sleep(31 * 24 * time.Hour)
				s, err = disk.Open(dir, tt.opts)
				must(t, err)
				if got := quarantined(t, dir); len(got) != 1 {
					t.Errorf("after a month: %q", got)
				}
				must(t, s.Close())
			})
		})
	}
}

// The same content may be damaged again within a second.
func TestQuarantineTwice(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for range 3 {
		must(t, s.Quarantine(t.Context(), store(t, s, "content")))
	}
	if got := quarantined(t, dir); len(got) != 3 {
		t.Errorf("in quarantine: %q", got)
	}
}

// Whatever fails, damaged content is not stored when Quarantine says so.
func TestQuarantineFails(t *testing.T) {
	for _, mode := range []durabletest.Mode{durabletest.Absent, durabletest.Done, durabletest.Dead} {
		for at := 0; ; at++ {
			dir := t.TempDir()
			s := open(t, dir)
			dgst := store(t, s, "content")
			must(t, s.Close())
			faulty := &durabletest.FS{FS: durable.OS{}, At: at, Mode: mode}
			s, err := disk.Open(dir, disk.Options{FS: faulty})
			if err == nil {
				err = s.Quarantine(t.Context(), dgst)
				must(t, s.Close())
			}
			_, statErr := os.Lstat(blobFile(dir, dgst))
			if gone := errors.Is(statErr, fs.ErrNotExist); err == nil && !gone {
				t.Errorf("the failure of %q went unnoticed", faulty.Ops()[at])
			}
			must(t, open(t, dir).Quarantine(t.Context(), dgst))
			if len(faulty.Ops()) <= at {
				break
			}
		}
	}
}
