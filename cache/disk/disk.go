// Package disk stores blobs and references as files, in the layout of
// distribution's filesystem driver, so that the stock registry can read what
// this program wrote and the other way round. docs/disk-format.md has the
// details.
//
// It promises durability in the order verify (the caller's), fsync, rename,
// fsync of the directory: a file under its final name is whole. It trusts the
// caller to have verified what it commits, and nobody for names: a digest, a
// repository or a tag that could lead out of its place is refused.
//
// It implements interfaces of package cache and imports, of this module, cache
// and internal packages.
package disk

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
	"registry-module/internal/idleio"
)

// Options are the choices of [Open]. The zero value is good.
type Options struct {
	// FS is the file system; default [durable.OS].
	FS durable.FS
	// BootID returns what stands for the time since the kernel was started, or
	// nothing where that is not known; default is what Linux tells in /proc.
	BootID func() string

	// Damaged content is kept in quarantine/ for QuarantineAge, default 30 days, as
	// long as there are no more than QuarantineFiles, default 16, which take no more
	// than QuarantineBytes, default 64 MiB. A negative limit keeps nothing.
	QuarantineFiles int
	QuarantineBytes int64
	QuarantineAge   time.Duration
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	if o.BootID == nil {
		o.BootID = durable.BootID
	}
	if o.QuarantineFiles == 0 {
		o.QuarantineFiles = 16
	}
	if o.QuarantineBytes == 0 {
		o.QuarantineBytes = 64 << 20 // a gateway has 8 GB
	}
	if o.QuarantineAge == 0 {
		o.QuarantineAge = 30 * 24 * time.Hour
	}
	return o
}

// Store is a data directory. It implements [cache.Blobs], [cache.Usage],
// [cache.Quarantine] and, by [Store.Refs], [Store.Partials] and [Store.Document],
// [cache.Refs], [cache.Partials] and [cache.Document].
type Store struct {
	fs   durable.FS
	root string
	lock *flock.Flock // nil where the directory is read-only
	made durable.Dirs

	// block is the unit in bytes in which the file system gives out space.
	block int64

	// locks keep apart who puts something into a directory that can be removed, a
	// blob's or a link's, and who removes it; which one is for a path, its hash says.
	// Nobody holds two.
	locks [256]sync.Mutex
	seed  maphash.Seed

	quarantine   Options    // the limits of it
	quarantineMu sync.Mutex // is held while something is put into it; after a path's lock

	boot string // what BootID has returned

	partialsMu sync.Mutex // guards live
	// live are the partials that were resumed and have not ended.
	live map[digest.Digest]bool

	unsaved atomic.Pointer[format] // what setFormat could not write, on a read-only file system
}

var _ cache.Blobs = (*Store)(nil)

// Places below the root of the data directory.
const (
	dockerDir  = "docker"
	blobsDir   = "docker/registry/v2/blobs"
	reposDir   = "docker/registry/v2/repositories"
	partialDir = "partial"

	// ownPrefix is how the files at the root begin that are this program's.
	ownPrefix = "registry-module."
)

// Open takes the data directory root into possession, creating it where
// necessary. It fails when another process has it, with an [*InUseError], and when it
// was written by a newer version of this program. One with content that is on a
// read-only file system is opened to be read: see [Store.ReadOnly].
func Open(root string, opts Options) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", root, err)
	}
	opts = opts.withDefaults()
	s := &Store{
		fs: opts.FS, root: root, made: durable.Dirs{Root: root}, seed: maphash.MakeSeed(),
		quarantine: opts, boot: opts.BootID(), live: make(map[digest.Digest]bool),
	}
	if err := s.possess(); err != nil {
		if err := s.onReadOnly(err); err != nil {
			return nil, err
		}
	}
	s.block = blockSize(root)
	if _, err := s.format(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.ReadOnly() {
		return s, nil
	}
	if err := s.sweepPartials(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.sweepQuarantine()
	return s, nil
}

// possess makes the directory ours.
func (s *Store) possess() error {
	// The others are made when something is put into them: each directory costs
	// an fsync, and start-up is not the time for them.
	if err := s.made.MkdirAll(s.fs, s.path(partialDir)); err != nil {
		return err
	}
	// The lock is taken on a file that is open for reading, which says nothing of the
	// file system.
	f, err := s.fs.OpenFile(s.path(lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return err
	}
	return s.takeLock()
}

// lockPath waits until nobody else holds the lock of name, and returns what gives
// it back.
func (s *Store) lockPath(name string) (unlock func()) {
	lock := &s.locks[maphash.String(s.seed, name)%uint64(len(s.locks))]
	lock.Lock()
	return lock.Unlock
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// blobPath is where the content of dgst lies: blobs/<algorithm>/<first two
// characters>/<hex>/data.
func (s *Store) blobPath(dgst digest.Digest) (string, error) {
	// Validate admits registered algorithms and hexadecimal digits only.
	if err := dgst.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", dgst, err)
	}
	hex := dgst.Encoded()
	return s.path(blobsDir, dgst.Algorithm().String(), hex[:2], hex, "data"), nil
}

// Open implements cache.Blobs.
func (s *Store) Open(_ context.Context, dgst digest.Digest) (cache.Blob, error) {
	name, err := s.blobPath(dgst)
	if err != nil {
		return nil, err
	}
	// A link could lead anywhere, and is not what was stored.
	f, info, err := durable.Open(s.fs, name, syscall.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", dgst, s.advise(err))
	}
	return blob{File: f, size: info.Size(), identity: identify(info)}, nil
}

// dirs yields the names of the directories in dir, which is relative to the
// root; none where dir is missing.
func (s *Store) dirs(dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := s.fs.ReadDir(s.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			yield("", fmt.Errorf("listing %s: %w", dir, s.advise(err)))
			return
		}
		for _, e := range entries {
			if e.IsDir() && !yield(e.Name(), nil) {
				return
			}
		}
	}
}

// blob is an open file of content. Beside the methods of [cache.Blob], and Raw, it has
// Forget, for who reads it all and is not to push out what others use.
type blob struct {
	durable.File
	size     int64
	identity identity
}

// identity is another one when a file was replaced, or written to.
type identity struct {
	inode             uint64
	modified, changed int64 // Unix nanoseconds; nobody can set the second one
}

func identify(info fs.FileInfo) identity {
	id := identity{modified: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		id.inode, id.changed = sys.Ino, sys.Ctim.Nano()
	}
	return id
}

func (b blob) Size() int64 { return b.size }

// Identity gives the file's, as it was when it was opened.
func (b blob) Identity() any { return b.identity }

// Forget drops the n bytes from off on from the page cache; see [idleio.Drop].
func (b blob) Forget(off, n int64) {
	if f, ok := b.File.(interface{ Fd() uintptr }); ok {
		idleio.Drop(f, off, n)
	}
}

// Raw gives the file itself, which the kernel can send to a socket.
func (b blob) Raw() io.Reader { return b.File }

// validRepo refuses names that do not stay below the repositories directory or
// that would collide with what the layout keeps in a repository. The names that
// come from requests have passed the grammar of the distribution specification,
// which admits none of these.
func validRepo(name string) error {
	if !filepath.IsLocal(name) || filepath.Clean(name) != name {
		return fmt.Errorf("repository name %q is not a relative path", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, "_") || strings.HasPrefix(part, ".") {
			return fmt.Errorf("repository name %q: %q cannot be a part of it", name, part)
		}
	}
	return nil
}
