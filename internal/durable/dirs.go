package durable

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
)

// maxKnown bounds the memory of [Dirs]: some 150 bytes for each directory. A
// store by digest has 256 directories for each algorithm, and a repository has
// about six.
const maxKnown = 4096

// Dirs makes directories durably. That a directory exists does not say that it
// survives a loss of power: another goroutine may be about to sync its parent, a
// sync may have failed, and a process may have died before it. So Dirs trusts
// no directory that it finds, but syncs its parent, once: it remembers the
// directories that it knows to be durable.
//
// That costs one fsync for each directory and life of the process, mostly of
// what is clean already. Callers that meet at a directory which is not known yet
// sync it each, rather than wait for one another: no lock is held during input
// and output, but for a removal, which syncs nothing.
//
// The zero value is ready. It may be used by many goroutines, on one file
// system. Who removes directories that others may be making does so by
// [Dirs.Remove].
type Dirs struct {
	// Root is a clean path. It, and what is above it, is trusted where it
	// exists: that is the operator's, often the mount point of a volume, and
	// the file system above it may refuse to sync. Where Root is empty, or not
	// above a directory, all are synced up to the root of the file system.
	Root string

	mu    sync.Mutex // guards known and removed; held while a directory is removed
	known map[string]struct{}
	// removed counts the directories that are gone: what was found out before one
	// went may not be so any more.
	removed uint64
}

// MkdirAll creates dir and those above it, where they are missing. When it
// returns nil, they are durable, whoever created them.
//
// What is above dir is remembered, but not dir: a store by digest has one for
// each file. So the parent is synced each time.
func (d *Dirs) MkdirAll(fsys FS, dir string) error {
	dir = filepath.Clean(dir)
	before := d.removals()
	err := d.mkdir(fsys, dir)
	for errors.Is(err, fs.ErrNotExist) {
		// A directory that was known is gone. It was removed by Remove, which may
		// happen again, or by somebody else: then nothing is known any more.
		now := d.removals()
		if now == before {
			d.forget()
			return d.mkdir(fsys, dir)
		}
		before = now
		err = d.mkdir(fsys, dir)
	}
	if err != nil || d.removals() == before {
		return err
	}
	// What is above dir may have been removed after it was taken for known, and
	// created again by somebody who has not synced it yet. Now that dir is there it
	// stays, and what is known of it is right.
	return d.mkdir(fsys, dir)
}

// Remove removes dir if it is empty; otherwise that is an error. What it removes,
// MkdirAll creates and syncs anew. The removal itself is not synced. Who has made dir,
// and is about to put something into it, must keep Remove of dir itself away; those
// above it are not empty then.
func (d *Dirs) Remove(fsys FS, dir string) error {
	dir = filepath.Clean(dir)
	d.mu.Lock() // nobody must find in known what is gone
	defer d.mu.Unlock()
	if err := fsys.Remove(dir); err != nil {
		return err
	}
	d.removed++
	delete(d.known, dir)
	return nil
}

// mkdir is MkdirAll without its second try.
func (d *Dirs) mkdir(fsys FS, dir string) error {
	parent := filepath.Dir(dir)
	if dir == d.Root || dir == parent {
		return mkdirTrusting(fsys, dir)
	}
	if before, known := d.isKnown(parent); !known {
		if err := d.mkdir(fsys, parent); err != nil {
			return err
		}
		d.remember(parent, before)
	}
	if err := fsys.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(fsys, parent)
}

func (d *Dirs) removals() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removed
}

// isKnown tells whether dir is durable, and how many directories were removed so
// far.
func (d *Dirs) isKnown(dir string) (removed uint64, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known = d.known[dir]
	return d.removed, known
}

// remember takes dir for durable, unless a directory was removed since removed of
// them were.
func (d *Dirs) remember(dir string, removed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed != removed {
		return
	}
	if d.known == nil || len(d.known) >= maxKnown {
		d.known = make(map[string]struct{})
	}
	d.known[dir] = struct{}{}
}

func (d *Dirs) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = nil
}

// mkdirTrusting creates dir and those above it. Those that it created are
// durable; those that it found are left alone.
func mkdirTrusting(fsys FS, dir string) error {
	parent := filepath.Dir(dir)
	err := fsys.Mkdir(dir, dirPerm)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := mkdirTrusting(fsys, parent); err != nil {
			return err
		}
		err = fsys.Mkdir(dir, dirPerm)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return SyncDir(fsys, parent)
}
