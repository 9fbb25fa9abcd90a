// Package durabletest makes file systems fail on purpose, for tests of what is
// built on package durable: [FS] lets one operation fail, or all from one on, and
// [Mem] loses power.
//
// It is imported by tests only, and imports, of this module, only
// internal/durable.
package durabletest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"registry-module/internal/durable"
	"syscall"
)

// ErrInjected is what a failing operation returns.
var ErrInjected = errors.New("injected failure")

// Mode says what a failing operation does beside returning [ErrInjected].
type Mode int

// An operation that reports a failure may have had its effect or not, and both
// happen on real disks: Absent and Done come in a pair.
const (
	// Absent: nothing has happened.
	Absent Mode = iota
	// Done: it has happened all the same. A write has written the first half.
	Done
	// Dead: nothing has happened, and nothing does from then on, as for a process
	// that was killed, or a machine without power.
	Dead
)

// FS is a file system of which one operation fails: the one with number At,
// counted from 0 over everything that changes or syncs, or opens a file to change
// it. A negative At never comes.
type FS struct {
	durable.FS
	At   int
	Mode Mode
	// Err, if set, is what the operation fails with beside [ErrInjected], for
	// example syscall.ENOSPC.
	Err error

	mu       sync.Mutex
	ops      []string
	injected bool
}

// Ops returns the operations so far.
func (f *FS) Ops() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Injected tells whether the failure has happened. An operation that would have
// failed by itself does so instead.
func (f *FS) Injected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.injected
}

// do runs one operation, or makes it fail. Run is told when it is going to.
func (f *FS) do(op, name string, run func(failing bool) error) error {
	f.mu.Lock()
	number := len(f.ops)
	f.ops = append(f.ops, op+" "+name)
	f.mu.Unlock()
	if number != f.At && (f.Mode != Dead || f.At < 0 || number < f.At) {
		return run(false)
	}
	if f.Mode == Done {
		if err := run(true); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.injected = true
	f.mu.Unlock()
	if f.Err != nil {
		return fmt.Errorf("%s %s: %w: %w", op, name, ErrInjected, f.Err)
	}
	return fmt.Errorf("%s %s: %w", op, name, ErrInjected)
}

// OpenFile implements durable.FS. Opening for reading does not count.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (file durable.File, err error) {
	open := func(bool) error {
		file, err = f.FS.OpenFile(name, flag, perm)
		return err
	}
	switch {
	case flag&^syscall.O_NOFOLLOW == 0: // os.O_RDONLY
		err = open(false)
	case flag&os.O_CREATE == 0:
		err = f.do("open", name, open)
	default:
		err = f.do("create", name, open)
	}
	if err != nil {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, err
	}
	return &faultyFile{File: file, fs: f, name: name}, nil
}

// Mkdir implements durable.FS.
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	return f.do("mkdir", name, func(bool) error { return f.FS.Mkdir(name, perm) })
}

// Rename implements durable.FS.
func (f *FS) Rename(oldname, newname string) error {
	return f.do("rename", newname, func(bool) error { return f.FS.Rename(oldname, newname) })
}

// Remove implements durable.FS.
func (f *FS) Remove(name string) error {
	return f.do("remove", name, func(bool) error { return f.FS.Remove(name) })
}

type faultyFile struct {
	durable.File
	fs   *FS
	name string
}

func (f *faultyFile) Write(p []byte) (n int, err error) {
	return f.write(p, f.File.Write)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (n int, err error) {
	return f.write(p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *faultyFile) write(p []byte, write func([]byte) (int, error)) (n int, err error) {
	err = f.fs.do("write", f.name, func(failing bool) error {
		if failing {
			p = p[:len(p)/2]
		}
		n, err = write(p)
		return err
	})
	return n, err
}

func (f *faultyFile) Sync() error {
	return f.fs.do("sync", f.name, func(bool) error { return f.File.Sync() })
}
