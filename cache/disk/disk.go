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
// and internal/durable.
package disk

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

// Options are the choices of [Open]. The zero value is good.
type Options struct {
	// FS is the file system; default [durable.OS].
	FS durable.FS
}

// Store is a data directory. It implements [cache.Blobs] and, by
// [Store.Refs], [cache.Refs].
type Store struct {
	fs   durable.FS
	root string
	lock *flock.Flock

	// linkLocks keep writers of one link apart; which one is for a link, its
	// hash says.
	linkLocks [64]sync.Mutex
	linkSeed  maphash.Seed
}

var _ cache.Blobs = (*Store)(nil)

// Places below the root of the data directory.
const (
	blobsDir   = "docker/registry/v2/blobs"
	reposDir   = "docker/registry/v2/repositories"
	partialDir = "partial"
	lockName   = "registry-module.lock"
)

// Open takes the data directory root into possession, creating it where
// necessary. It fails when another process has it, and when it was written by a
// newer version of this program.
func Open(root string, opts Options) (*Store, error) {
	if opts.FS == nil {
		opts.FS = durable.OS{}
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", root, err)
	}
	s := &Store{fs: opts.FS, root: root, linkSeed: maphash.MakeSeed()}
	// The others are made when something is put into them: each new directory
	// costs an fsync, and start-up is not the time for them.
	if err := durable.MkdirAll(s.fs, s.path(partialDir)); err != nil {
		return nil, notWritable(root, err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if _, err := s.format(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.dropPartials(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// notWritable tells the operator how to mend the most frequent mistake, a bind
// mount that belongs to root.
func notWritable(root string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("data directory %s is not writable for user %d: %w; on the host run: chown -R %[2]d:%[4]d DIRECTORY",
			root, os.Getuid(), err, os.Getgid())
	}
	return fmt.Errorf("data directory %s: %w", root, err)
}

// takeLock makes sure that one process writes to the directory. The kernel
// releases the lock with the process, so nothing stale is left by a crash.
func (s *Store) takeLock() error {
	s.lock = flock.New(s.path(lockName))
	ok, err := s.lock.TryLock()
	if err != nil {
		return notWritable(s.root, err)
	}
	if !ok {
		return fmt.Errorf("data directory %s is in use by another process: stop it, or choose another directory with REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", s.root)
	}
	return nil
}

// dropPartials removes what unfinished downloads have left behind.
func (s *Store) dropPartials() error {
	entries, err := s.fs.ReadDir(s.path(partialDir))
	if err != nil {
		return fmt.Errorf("unfinished downloads: %w", err)
	}
	for _, e := range entries {
		if err := s.fs.Remove(s.path(partialDir, e.Name())); err != nil {
			return fmt.Errorf("unfinished download: %w", err)
		}
	}
	return nil
}

// Close gives the directory up. Blobs that are open stay readable.
func (s *Store) Close() error {
	return s.lock.Close()
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
	f, err := s.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", dgst, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("blob %s: %w", dgst, err), f.Close())
	}
	return blob{File: f, size: info.Size()}, nil
}

// Remove implements cache.Blobs.
func (s *Store) Remove(_ context.Context, dgst digest.Digest) error {
	name, err := s.blobPath(dgst)
	if err != nil {
		return err
	}
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing blob %s: %w", dgst, err)
	}
	// The directory is of no use without its file, and does no harm either.
	_ = s.fs.Remove(filepath.Dir(name))
	return nil
}

// Free implements cache.Blobs.
func (s *Store) Free(context.Context) (free, total int64, err error) {
	free, total, err = statfs(s.root)
	if err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", s.root, err)
	}
	return free, total, nil
}

type blob struct {
	durable.File
	size int64
}

func (b blob) Size() int64 { return b.size }

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
