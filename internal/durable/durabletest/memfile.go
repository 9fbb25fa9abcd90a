package durabletest

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// memFile is an open file or directory of a [Mem].
type memFile struct {
	m       *Mem
	n       *node
	name    string
	appends bool

	// Guarded by m.mu.
	pos    int64
	closed bool
}

// use runs f with the file system locked, unless the file is closed.
func (f *memFile) use(op string, run func() (int64, error)) (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	var n int64
	err := fs.ErrClosed
	if !f.closed {
		n, err = run()
	}
	if err != nil && err != io.EOF {
		err = &fs.PathError{Op: op, Path: f.name, Err: err}
	}
	return n, err
}

// readAt is ReadAt. The caller holds m.mu, as for what is below.
func (f *memFile) readAt(p []byte, off int64) (int64, error) {
	switch {
	case f.n.dir:
		return 0, syscall.EISDIR
	case off < 0:
		return 0, errors.New("negative offset")
	case len(p) == 0:
		return 0, nil
	case off >= int64(len(f.n.content)):
		return 0, io.EOF
	}
	return int64(copy(p, f.n.content[off:])), nil
}

func (f *memFile) writeAt(p []byte, off int64) (int64, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if len(p) == 0 {
		return 0, nil
	}
	if grown := off + int64(len(p)) - int64(len(f.n.content)); grown > 0 {
		f.n.content = append(f.n.content, make([]byte, grown)...)
	}
	f.n.modified = time.Now()
	return int64(copy(f.n.content[off:], p)), nil
}

func (f *memFile) Read(p []byte) (int, error) {
	n, err := f.use("read", func() (int64, error) {
		n, err := f.readAt(p, f.pos)
		f.pos += n
		return n, err
	})
	return int(n), err
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.use("read", func() (int64, error) { return f.readAt(p, off) })
	if err == nil && int(n) < len(p) {
		err = io.EOF
	}
	return int(n), err
}

func (f *memFile) Write(p []byte) (int, error) {
	n, err := f.use("write", func() (int64, error) {
		if f.appends {
			f.pos = int64(len(f.n.content))
		}
		n, err := f.writeAt(p, f.pos)
		f.pos += n
		return n, err
	})
	return int(n), err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.use("write", func() (int64, error) {
		if f.appends {
			return 0, errors.New("WriteAt on a file that was opened to append") // as *os.File
		}
		return f.writeAt(p, off)
	})
	return int(n), err
}

func (f *memFile) Seek(offset int64, whence int) (int64, error) {
	return f.use("seek", func() (int64, error) {
		switch whence {
		case io.SeekCurrent:
			offset += f.pos
		case io.SeekEnd:
			offset += int64(len(f.n.content))
		}
		if offset < 0 {
			return 0, syscall.EINVAL
		}
		f.pos = offset
		return offset, nil
	})
}

func (f *memFile) Sync() error {
	if _, err := f.use("sync", func() (int64, error) { return 0, nil }); err != nil {
		return err
	}
	f.m.sync(f.n)
	return nil
}

func (f *memFile) Stat() (info fs.FileInfo, err error) {
	_, err = f.use("stat", func() (int64, error) {
		info = f.n.info(filepath.Base(f.name))
		return 0, nil
	})
	return info, err
}

func (f *memFile) Close() error {
	_, err := f.use("close", func() (int64, error) {
		f.closed = true
		return 0, nil
	})
	return err
}

// info describes n as it is now.
func (n *node) info(name string) fs.FileInfo {
	return memInfo{name: name, dir: n.dir, size: int64(len(n.content)), modified: n.modified}
}

type memInfo struct {
	name     string
	dir      bool
	size     int64
	modified time.Time
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return i.modified }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }

func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}
