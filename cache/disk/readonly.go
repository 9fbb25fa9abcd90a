package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"registry-module/internal/durable"
)

// readOnly is a file system that nothing can be written to.
type readOnly struct {
	durable.FS
	err error
}

// onReadOnly makes s read what is in the directory, whose file system has refused to
// be written to with err, and refuse to write. It fails where there is nothing to read.
func (s *Store) onReadOnly(err error) error {
	if !errors.Is(err, unix.EROFS) {
		return notWritable(s.root, err)
	}
	if taken, existsErr := s.exists(path.Dir(blobsDir)); existsErr != nil || !taken {
		return errors.Join(fmt.Errorf("data directory %s is empty, and on a read-only file system: %w; mount it writable", s.root, err), existsErr)
	}
	s.fs = readOnly{s.fs, fmt.Errorf("data directory %s is on a read-only file system, and was opened to be read: %w (%w); mount it writable, and restart", s.root, unix.EROFS, fs.ErrPermission)}
	return nil
}

// ReadOnly tells whether the directory is on a file system that was read-only when it
// was opened. Then nobody owns it, and all that writes fails with an error that is
// both [unix.EROFS] and [fs.ErrPermission].
func (s *Store) ReadOnly() bool {
	_, ok := s.fs.(readOnly)
	return ok
}

// OpenFile implements durable.FS.
func (r readOnly) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if flag&^syscall.O_NOFOLLOW != os.O_RDONLY {
		return nil, r.err
	}
	return r.FS.OpenFile(name, flag, perm)
}

// Mkdir implements durable.FS.
func (r readOnly) Mkdir(string, fs.FileMode) error { return r.err }

// Rename implements durable.FS.
func (r readOnly) Rename(string, string) error { return r.err }

// Remove implements durable.FS.
func (r readOnly) Remove(string) error { return r.err }
