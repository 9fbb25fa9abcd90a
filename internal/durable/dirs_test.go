package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

func TestDirs(t *testing.T) {
	for name, tt := range map[string]struct {
		there string   // found in the root
		make  []string // made in turn
		want  []string // operations of the last of them
	}{
		"new":             {"", []string{"a/b/c"}, []string{"mkdir .", "mkdir a", "sync .", "mkdir a/b", "sync a", "mkdir a/b/c", "sync a/b"}},
		"found":           {"a/b/c", []string{"a/b/c"}, []string{"mkdir .", "mkdir a", "sync .", "mkdir a/b", "sync a", "mkdir a/b/c", "sync a/b"}},
		"sibling":         {"", []string{"a/b/c", "a/b/d"}, []string{"mkdir a/b/d", "sync a/b"}},
		"again":           {"", []string{"a/b/c", "a/b/c"}, []string{"mkdir a/b/c", "sync a/b"}},
		"below":           {"", []string{"a", "a/b/c"}, []string{"mkdir a", "sync .", "mkdir a/b", "sync a", "mkdir a/b/c", "sync a/b"}},
		"the root itself": {"", []string{"."}, []string{"mkdir ."}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, tt.there), 0o755); err != nil {
				t.Fatal(err)
			}
			d := &durable.Dirs{Root: dir}
			var got []string
			for _, name := range tt.make {
				f := &durabletest.FS{FS: durable.OS{}, At: -1}
				if err := d.MkdirAll(f, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				got = ops(f, dir)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("operations %q, want %q", got, tt.want)
			}
		})
	}
}

// A root that is missing is created, and so is what is above it.
func TestDirsRootMissing(t *testing.T) {
	dir := t.TempDir()
	d := &durable.Dirs{Root: filepath.Join(dir, "a/root")}
	f := &durabletest.FS{FS: durable.OS{}, At: -1}
	if err := d.MkdirAll(f, filepath.Join(dir, "a/root/b")); err != nil {
		t.Fatal(err)
	}
	want := []string{"mkdir a/root", "mkdir a", "sync .", "mkdir a/root", "sync a", "mkdir a/root/b", "sync a/root"}
	if got := ops(f, dir); !slices.Equal(got, want) {
		t.Errorf("operations %q, want %q", got, want)
	}
}

func TestDirsZeroValue(t *testing.T) {
	dir := t.TempDir()
	var d durable.Dirs
	if err := d.MkdirAll(durable.OS{}, filepath.Join(dir, "a/b")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a/b")); err != nil {
		t.Error(err)
	}
}

// What was known and is removed is made again.
func TestDirsRemoved(t *testing.T) {
	dir := t.TempDir()
	d := &durable.Dirs{Root: dir}
	for _, name := range []string{"a/b/c", "a/b/d"} {
		if err := d.MkdirAll(durable.OS{}, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
	}
}

// Each operation fails in turn; the next try, of the same process or of another,
// must not take for durable what the failed one has left.
func TestDirsFails(t *testing.T) {
	for _, mode := range []durabletest.Mode{durabletest.Absent, durabletest.Done} {
		for _, restart := range []bool{false, true} {
			for at := 0; ; at++ {
				dir := t.TempDir()
				model := &entries{FS: durable.OS{}, lost: make(map[string]bool)}
				d := &durable.Dirs{Root: dir}
				f := &durabletest.FS{FS: model, At: at, Mode: mode}
				name := filepath.Join(dir, "a/b/c")
				err := d.MkdirAll(f, name)
				if f.Injected() && err == nil {
					t.Errorf("the failure of %q went unnoticed", ops(f, dir)[at])
				}
				if restart {
					d = &durable.Dirs{Root: dir}
				}
				if err := d.MkdirAll(model, name); err != nil {
					t.Errorf("after %q: %v", ops(f, dir), err)
				}
				if err := model.durable(dir, name); err != nil {
					t.Errorf("after %q: %v", ops(f, dir), err)
				}
				if len(f.Ops()) <= at {
					break
				}
			}
		}
	}
}

// Between creating a directory and the sync of its parent, another caller comes:
// it must not return before the directory is durable.
func TestDirsBetween(t *testing.T) {
	for _, at := range []string{".", "a", "a/b"} {
		dir := t.TempDir()
		model := &entries{FS: durable.OS{}, lost: make(map[string]bool)}
		d := &durable.Dirs{Root: dir}
		came := false
		model.beforeSync = func(name string) {
			if came || name != filepath.Join(dir, at) {
				return
			}
			came = true
			other := filepath.Join(dir, "a/b/d")
			if err := d.MkdirAll(model, other); err != nil {
				t.Error(err)
			}
			if err := model.durable(dir, other); err != nil {
				t.Errorf("before the sync of %s: %v", at, err)
			}
		}
		if err := d.MkdirAll(model, filepath.Join(dir, "a/b/c")); err != nil {
			t.Error(err)
		}
		if !came {
			t.Errorf("%s was not synced", at)
		}
	}
}

func TestDirsConcurrent(t *testing.T) {
	dir := t.TempDir()
	model := &entries{FS: durable.OS{}, lost: make(map[string]bool)}
	d := &durable.Dirs{Root: dir}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			name := filepath.Join(dir, fmt.Sprintf("a/%d/%d", i%2, i))
			if err := d.MkdirAll(model, name); err != nil {
				t.Error(err)
			}
			if err := model.durable(dir, name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// entries is a file system that knows which directories a loss of power would
// take away.
type entries struct {
	durable.FS
	beforeSync  func(dir string)
	beforeMkdir func(dir string)

	mu   sync.Mutex
	lost map[string]bool
}

func (e *entries) Mkdir(name string, perm fs.FileMode) error {
	if e.beforeMkdir != nil {
		e.beforeMkdir(name)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.FS.Mkdir(name, perm)
	if err == nil {
		e.lost[name] = true
	}
	return err
}

func (e *entries) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	f, err := e.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &syncedDir{f, e, name}, nil
}

func (e *entries) Remove(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.FS.Remove(name)
}

// durable returns an error unless dir and what is above it, up to root, would
// survive.
func (e *entries) durable(root, dir string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ; dir != root; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err != nil {
			return err
		}
		if e.lost[dir] {
			return errors.New(dir + " would not survive")
		}
	}
	return nil
}

type syncedDir struct {
	durable.File
	e    *entries
	name string
}

func (d *syncedDir) Sync() error {
	if d.e.beforeSync != nil {
		d.e.beforeSync(d.name)
	}
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	for name := range d.e.lost {
		if filepath.Dir(name) == d.name {
			delete(d.e.lost, name)
		}
	}
	return d.File.Sync()
}

// What Remove has removed is made and synced again, also by who has taken it for
// known before, and finds it created by somebody who has not synced it yet.
func TestDirsRemove(t *testing.T) {
	dir := t.TempDir()
	model := &entries{FS: durable.OS{}, lost: make(map[string]bool)}
	d := &durable.Dirs{Root: dir}
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.MkdirAll(model, at("a/b/c")))
	if err := d.Remove(model, at("a/b")); err == nil {
		t.Error("a directory that is not empty is removed")
	}
	must(d.Remove(model, at("a/b/c")))
	must(d.Remove(model, at("a/b")))
	must(d.MkdirAll(model, at("a/b/d")))
	must(model.durable(dir, at("a/b/d")))

	must(d.Remove(model, at("a/b/d")))
	came := false
	model.beforeMkdir = func(name string) {
		if came || name != at("a/b/c") {
			return
		}
		came = true // who makes c has found that b is known
		must(d.Remove(model, at("a/b")))
		must(model.Mkdir(at("a/b"), 0o755)) // by somebody who is about to sync a
	}
	must(d.MkdirAll(model, at("a/b/c")))
	must(model.durable(dir, at("a/b/c")))
	if !came {
		t.Error("nobody has made c")
	}
}

// Directories are made and removed by many. Those that are made are durable.
func TestDirsRemoveConcurrent(t *testing.T) {
	dir := t.TempDir()
	model := &entries{FS: durable.OS{}, lost: make(map[string]bool)}
	d := &durable.Dirs{Root: dir}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				name := filepath.Join(dir, fmt.Sprintf("a/b/%d", i))
				if err := d.MkdirAll(model, name); err != nil {
					t.Error(err)
				}
				if err := model.durable(dir, name); err != nil {
					t.Error(err)
				}
				for ; name != dir; name = filepath.Dir(name) {
					if d.Remove(model, name) != nil {
						break
					}
				}
			}
		})
	}
	wg.Wait()
}
