package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Volume is what a directory takes on its disk, in bytes, by file. A file that is
// renamed meanwhile is one file all the same.
type Volume map[volumeFile]int64

// volumeFile tells a file from one that gets its number later.
type volumeFile struct {
	inode uint64
	born  int64
}

// Allocated measures the blocks of all that is below a directory, as du(1) does.
// Files that come or go meanwhile are in it or not.
func Allocated(dir string) (Volume, error) {
	v := Volume{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Statx_t
		if err == nil {
			err = unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BLOCKS|unix.STATX_BTIME, &st)
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // gone
		}
		if err != nil {
			return err
		}
		const block = 512 // statx(2), whatever the file system has
		v[volumeFile{st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}] = int64(st.Blocks) * block
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", dir, err)
	}
	return v, nil
}

// Bytes is the sum. Since files are looked at one after the other, it can be of some
// that were never there at the same time.
func (v Volume) Bytes() (sum int64) {
	for _, n := range v {
		sum += n
	}
	return sum
}

// Both is what was there all the time from the end of one measurement to the start of
// the next: no more than was taken at any moment between.
func (v Volume) Both(next Volume) Volume {
	both := Volume{}
	for file, n := range v {
		if m, still := next[file]; still {
			both[file] = min(n, m)
		}
	}
	return both
}

// tmpfsPrefix begins the names of mount points. Next is the process that has made it.
const tmpfsPrefix = "e2e-tmpfs-"

// Tmpfs mounts a file system of a size in bytes that is in memory, for all users, and
// returns where. It takes root. The function that it returns removes it.
func Tmpfs(size int64) (dir string, remove func() error, err error) {
	if err := sweepTmpfs(); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(os.TempDir(), fmt.Sprintf("%s%d-%s", tmpfsPrefix, os.Getpid(), strings.ToLower(rand.Text()[:8])))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("making a mount point: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0777", size)); err != nil {
		return "", nil, errors.Join(fmt.Errorf("mounting a tmpfs: %w", err), os.Remove(dir))
	}
	return dir, func() error { return unmount(dir) }, nil
}

// sweepTmpfs removes what processes have left that were killed.
func sweepTmpfs() error {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), tmpfsPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), tmpfsPrefix), "-")
		if _, err := os.Stat(filepath.Join("/proc", pid)); errors.Is(err, fs.ErrNotExist) {
			_ = unmount(dir) // another one may do the same
		}
	}
	return nil
}

func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) {
		err = nil // it is none any more
	}
	if err := errors.Join(err, os.Remove(dir)); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}

// FillUp writes a file until its file system has no more than left bytes.
func FillUp(ctx context.Context, name string, left int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("filling up a disk: %w", err)
	}
	defer f.Close()
	page := make([]byte, 4<<10)
	for ctx.Err() == nil {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
			return fmt.Errorf("filling up a disk: %w", err)
		}
		if int64(st.Bavail)*int64(st.Bsize) <= left {
			return nil
		}
		if _, err := f.Write(page); errors.Is(err, unix.ENOSPC) {
			return nil
		} else if err != nil {
			return fmt.Errorf("filling up a disk: %w", err)
		}
	}
	return ctx.Err()
}
