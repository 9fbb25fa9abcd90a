// Package reloaded keeps values that are read from files, and reads them again when the
// files have changed.
//
// It promises that a value, once there, stays: what takes its place has been read and
// parsed completely. It trusts that a file that is written anew differs in its time, its
// size or its inode. It has no goroutines: who asks looks at the files, now and then. It
// imports nothing of this module.
package reloaded

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// DefaultEvery is how often files are looked at. It costs some µs, and what is renewed, be
// it a certificate or a policy, is expected to hold by the time a human tries it.
const DefaultEvery = time.Second

// MaxSize is how large a file may be in bytes. The largest that are known are lists of
// revoked certificates of public authorities, of some 30 MiB.
const MaxSize = 64 << 20

// unsettled is for how long after its last change a file may be changed again without a
// trace: kernels note times in steps of up to 10 ms, some file systems of 2 s (FAT).
const unsettled = 2 * time.Second

// attempts is how often files are read that change while they are.
const attempts = 3

// Options say how to look. The zero value works.
type Options struct {
	// Log is told of new versions, and of those that are no good. Nil is for nobody.
	Log logrus.FieldLogger

	// Every is how long a look at the files holds. Default: DefaultEvery.
	Every time.Duration

	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Value is a T that is read from files. It is safe for use by several goroutines.
type Value[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)
	log   logrus.FieldLogger
	every time.Duration
	now   func() time.Time

	current atomic.Pointer[T]
	next    atomic.Int64 // look, in ns since 1970

	looking sync.Mutex // for what follows
	seen    []stamp    // of the last version, nil if it has to be read in any case
	version string     // the last one that was looked at, good or bad
}

// stamp tells versions of a file apart without reading it.
type stamp struct {
	dev, inode, size uint64
	changed          time.Time // the later of the file's own two
}

// New returns the value that is in the files now, or why there is none. Parse gets what
// the files contain, in the order of paths. What it returns is shared by all who ask. It
// is never called by two goroutines at a time.
//
// Paths are opened anew each time, and symbolic links followed, so that a directory that
// is replaced by means of one, as Kubernetes does with secrets, is noticed. Each has to be
// that of a regular file of at most MaxSize bytes.
func New[T any](paths []string, parse func(contents [][]byte) (T, error), opts Options) (*Value[T], error) {
	v := &Value[T]{paths: paths, parse: parse, log: opts.Log, every: cmp.Or(opts.Every, DefaultEvery), now: opts.Now}
	if v.now == nil {
		v.now = time.Now
	}
	if v.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		v.log = silent
	}
	contents, seen, err := v.read()
	if err != nil {
		return nil, err
	}
	value, err := parse(contents)
	if err != nil {
		return nil, err
	}
	v.current.Store(&value)
	v.version = versionOf(contents)
	v.settle(seen)
	v.next.Store(v.now().Add(v.every).UnixNano())
	return v, nil
}

// Get returns the newest version that is good. Where it is time to look at the files, one
// caller does, and the others get what there is. A version that cannot be read or parsed
// is logged once; the one before it is kept until there is a better one.
func (v *Value[T]) Get() T {
	if v.due() && v.looking.TryLock() {
		defer v.looking.Unlock()
		v.look()
		v.next.Store(v.now().Add(v.every).UnixNano())
	}
	return *v.current.Load()
}

// due tells whether it is time to look at the files. That is also so where the clock was
// set back, which would otherwise put it off until it is again what it was.
func (v *Value[T]) due() bool {
	now, next := v.now().UnixNano(), v.next.Load()
	return now >= next || now < next-int64(v.every)
}

// look reads the files if they have changed.
func (v *Value[T]) look() {
	if v.seen != nil {
		if seen, err := stampsOf(v.paths); err == nil && equal(seen, v.seen) {
			return
		}
	}
	contents, seen, err := v.read()
	if err != nil {
		// Nothing that is there is known: it is read when it can be.
		v.seen = nil
		v.refuse(err.Error(), err)
		return
	}
	v.settle(seen)
	version := versionOf(contents)
	if version == v.version {
		return
	}
	value, err := v.parse(contents)
	if err != nil {
		v.refuse(version, err)
		return
	}
	v.version = version
	v.current.Store(&value)
	v.log.Infof("%s: read again", v.names())
}

// refuse notes that a version is no good.
func (v *Value[T]) refuse(version string, err error) {
	if version == v.version {
		return
	}
	v.version = version
	v.log.WithError(err).Warnf("%s: the new version cannot be used; the one before stays in use until the files change again", v.names())
}

func (v *Value[T]) names() string { return strings.Join(v.paths, ", ") }

// settle notes what was read, unless that might be changed without a trace.
func (v *Value[T]) settle(seen []stamp) {
	v.seen = seen
	for _, s := range seen {
		if v.now().Sub(s.changed) < unsettled {
			v.seen = nil
		}
	}
}

// read reads all files, if possible such that they belong together.
func (v *Value[T]) read() ([][]byte, []stamp, error) {
	for try := 1; ; try++ {
		before, err := stampsOf(v.paths)
		if err != nil {
			return nil, nil, err
		}
		contents := make([][]byte, len(v.paths))
		for i, path := range v.paths {
			if contents[i], err = readFile(path); err != nil {
				return nil, nil, err
			}
		}
		after, err := stampsOf(v.paths)
		if err != nil {
			return nil, nil, err
		}
		if try == attempts || equal(before, after) {
			// Those of before: what has changed since is read at the next look.
			return contents, before, nil
		}
	}
}

// stampsOf looks at the files.
func stampsOf(paths []string) ([]stamp, error) {
	stamps := make([]stamp, 0, len(paths))
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("reading: %w", err)
		}
		// Before it is opened: to open a pipe is to wait for somebody who writes to it.
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("reading %s: is no regular file", path)
		}
		if info.Size() > MaxSize {
			return nil, tooLarge(path)
		}
		s := stamp{size: uint64(info.Size()), changed: info.ModTime()}
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			s.dev, s.inode = uint64(sys.Dev), sys.Ino
			if changed := time.Unix(sys.Ctim.Unix()); changed.After(s.changed) {
				s.changed = changed
			}
		}
		stamps = append(stamps, s)
	}
	return stamps, nil
}

func equal(a, b []stamp) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		same := a[i].changed.Equal(b[i].changed)
		if x, y := a[i], b[i]; !same || x.dev != y.dev || x.inode != y.inode || x.size != y.size {
			return false
		}
	}
	return true
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	if len(content) > MaxSize { // it has grown since it was looked at
		return nil, tooLarge(path)
	}
	return content, nil
}

func tooLarge(path string) error {
	return fmt.Errorf("reading %s: is larger than %d MiB", path, MaxSize>>20)
}

// versionOf names what was read.
func versionOf(contents [][]byte) string {
	all := sha256.New()
	for _, c := range contents {
		sum := sha256.Sum256(c)
		_, _ = all.Write(sum[:]) // cannot fail
	}
	return string(all.Sum(nil))
}
