// Package durable makes changes of a file system survive a loss of power.
//
// It promises that when one of its functions returns nil, the change is on
// stable storage, as far as the file system tells the truth about fsync; and
// that a file written by [WriteFile] or moved by [Rename] is at any moment,
// crash included, either absent (or its old self) or whole. A file is no more
// durable than the directory that it lies in: [Dirs] makes those.
//
// It works on an [FS], so that tests can make any operation fail. It trusts the
// names that it is given, and imports nothing of this module.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// FS is what the package, and who stores through it, needs of a file system.
// Methods behave as the functions of package os that have their names.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Mkdir(name string, perm fs.FileMode) error
	Rename(oldname, newname string) error
	Remove(name string) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Lstat(name string) (fs.FileInfo, error)
}

// File is an open file or directory. *os.File is one.
type File interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Stat() (fs.FileInfo, error)
}

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// OpenFile implements FS. It does not wait for who opens the other end of a named pipe,
// which is no file of anybody's here.
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag|syscall.O_NONBLOCK, perm)
	if err != nil {
		return nil, err // not a nil *os.File in a non-nil File
	}
	return f, nil
}

// Mkdir implements FS.
func (OS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// Rename implements FS.
func (OS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// ReadDir implements FS.
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// Lstat implements FS.
func (OS) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(name) }

// filePerm and dirPerm let everybody look, so that an operator can.
const (
	filePerm fs.FileMode = 0o644
	dirPerm  fs.FileMode = 0o755
)

// SyncDir makes the entries of dir durable: files created in it, renamed into
// it, removed from it.
func SyncDir(fsys FS, dir string) error {
	d, err := fsys.OpenFile(dir, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Rename moves a file, whose content has been synced, to newname and makes the
// move durable. The directory must exist. After an error the file may be under
// either name, whole.
func Rename(fsys FS, oldname, newname string) error {
	if err := fsys.Rename(oldname, newname); err != nil {
		return err
	}
	return SyncDir(fsys, filepath.Dir(newname))
}

// WriteFile replaces the content of name by data: create a file beside it,
// write, fsync, rename, fsync of the directory, which must exist. Two writers of
// one name must not run at the same time.
func WriteFile(fsys FS, name string, data []byte) error {
	tmp := Unfinished(name)
	if err := writeSynced(fsys, tmp, data); err != nil {
		return errors.Join(err, removeIfThere(fsys, tmp))
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return errors.Join(err, removeIfThere(fsys, tmp))
	}
	return SyncDir(fsys, filepath.Dir(name))
}

// Unfinished is the file that a [WriteFile] of name leaves when it is cut off by a
// crash. It is one name only, so that there is at most one.
func Unfinished(name string) string { return name + ".tmp" }

// RemoveAll removes name, and all that is in it where it is a directory. Links are
// removed, not followed. Removing what is not there is no error.
func RemoveAll(fsys FS, name string) error {
	err := fsys.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if info, statErr := fsys.Lstat(name); statErr != nil || !info.IsDir() {
		return err
	}
	entries, err := fsys.ReadDir(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := RemoveAll(fsys, filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return removeIfThere(fsys, name)
}

// Allocated returns how many bytes of the file system name takes, with all that is
// in it where it is a directory, as du(1) counts. What vanishes meanwhile, and what
// is in a directory that cannot be read, counts for nothing.
func Allocated(fsys FS, name string) (int64, error) {
	info, err := fsys.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	size := allocated(info)
	if !info.IsDir() {
		return size, nil
	}
	entries, err := fsys.ReadDir(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return 0, err
	}
	for _, e := range entries {
		n, err := Allocated(fsys, filepath.Join(name, e.Name()))
		if err != nil {
			return 0, err
		}
		size += n
	}
	return size, nil
}

// allocated returns how many bytes of the file system a file takes: where that is
// not known, as many as it has, in whole blocks of 4096.
func allocated(info fs.FileInfo) int64 {
	const unit = 512 // of st_blocks, whatever the block size is; see stat(2)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * unit //nolint:unconvert // its type differs between architectures
	}
	const block = 4096
	return (info.Size() + block - 1) / block * block
}

func writeSynced(fsys FS, name string, data []byte) error {
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeIfThere(fsys FS, name string) error {
	if err := fsys.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ErrTooLong is the error of [ReadFile] for a file that is longer than its limit.
var ErrTooLong = errors.New("file is too long")

// ErrNotFile is the error for a directory, a named pipe, a socket or a device in the place
// of a file.
var ErrNotFile = errors.New("it is not a file")

// Open opens a file to read it, and tells what it is. The error for what is there and is
// no file is [ErrNotFile]; that is so for a symbolic link, too, if flag, which is 0
// otherwise, has O_NOFOLLOW.
func Open(fsys FS, name string, flag int) (File, fs.FileInfo, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY|flag, 0)
	switch {
	case errors.Is(err, syscall.ENXIO), // a socket, or a device that is not there
		flag&syscall.O_NOFOLLOW != 0 && errors.Is(err, syscall.ELOOP):
		return nil, nil, fmt.Errorf("%s: %w", name, ErrNotFile)
	case err != nil:
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", name, ErrNotFile)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// ReadFile returns the content of name, which must not be longer than limit
// bytes. What is not a file is [ErrNotFile].
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, _, err := Open(fsys, name, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: %w: more than %d bytes", name, ErrTooLong, limit)
	}
	return data, nil
}
