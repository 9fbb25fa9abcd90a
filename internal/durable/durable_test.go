package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// ops are the operations that f has seen, with names relative to dir.
func ops(f *durabletest.FS, dir string) []string {
	var out []string
	for _, op := range f.Ops() {
		out = append(out, strings.ReplaceAll(strings.ReplaceAll(op, dir+"/", ""), " "+dir, " ."))
	}
	return out
}

func TestOrder(t *testing.T) {
	t.Run("write file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		f := &durabletest.FS{FS: durable.OS{}, At: -1}
		if err := durable.WriteFile(f, filepath.Join(dir, "a/b"), []byte("x")); err != nil {
			t.Fatal(err)
		}
		want := []string{"create a/b.tmp", "write a/b.tmp", "sync a/b.tmp", "rename a/b", "sync a"}
		if got := ops(f, dir); !slices.Equal(got, want) {
			t.Errorf("operations %q, want %q", got, want)
		}
	})
	t.Run("rename", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "old"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		f := &durabletest.FS{FS: durable.OS{}, At: -1}
		if err := durable.Rename(f, filepath.Join(dir, "old"), filepath.Join(dir, "a/new")); err != nil {
			t.Fatal(err)
		}
		want := []string{"rename a/new", "sync a"}
		if got := ops(f, dir); !slices.Equal(got, want) {
			t.Errorf("operations %q, want %q", got, want)
		}
	})
}

// Whatever fails, the file has its old content or its new one, and is reported
// as written only if it has the new one.
func TestWriteFileFails(t *testing.T) {
	for _, mode := range []durabletest.Mode{durabletest.Absent, durabletest.Done} {
		for at := 0; ; at++ {
			dir := t.TempDir()
			name := filepath.Join(dir, "b")
			if at%2 == 1 { // with and without an old one
				if err := durable.WriteFile(durable.OS{}, name, []byte("old")); err != nil {
					t.Fatal(err)
				}
			}
			f := &durabletest.FS{FS: durable.OS{}, At: at, Mode: mode}
			err := durable.WriteFile(f, name, []byte("new"))
			got, readErr := os.ReadFile(name)
			switch {
			case err == nil && string(got) != "new":
				t.Errorf("%q: no error, but the content is %q", ops(f, dir), got)
			case err != nil && !errors.Is(err, durabletest.ErrInjected):
				t.Errorf("%q: error %v", ops(f, dir), err)
			case readErr != nil && !errors.Is(readErr, fs.ErrNotExist):
				t.Error(readErr)
			case readErr == nil && string(got) != "old" && string(got) != "new":
				t.Errorf("%q: the content is %q", ops(f, dir), got)
			}
			if err := durable.WriteFile(durable.OS{}, name, []byte("again")); err != nil {
				t.Errorf("%q: writing again: %v", ops(f, dir), err)
			}
			if len(f.Ops()) <= at { // nothing was left to fail
				break
			}
		}
	}
}

func TestReadFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(name, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := durable.ReadFile(durable.OS{}, name, 3); err != nil || string(got) != "abc" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := durable.ReadFile(durable.OS{}, name, 2); !errors.Is(err, durable.ErrTooLong) {
		t.Errorf("error %v, want durable.ErrTooLong", err)
	}
	if _, err := durable.ReadFile(durable.OS{}, name+"y", 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}
