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
	"iter"
	"os"
	"path"
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
	// BootID returns what stands for the time since the kernel was started, or
	// nothing where that is not known; default is what Linux tells in /proc.
	BootID func() string
}

// Store is a data directory. It implements [cache.Blobs] and, by [Store.Refs] and
// [Store.Partials], [cache.Refs] and [cache.Partials].
type Store struct {
	fs   durable.FS
	root string
	lock *flock.Flock
	made durable.Dirs

	// linkLocks keep writers of one link apart; which one is for a link, its
	// hash says.
	linkLocks [64]sync.Mutex
	linkSeed  maphash.Seed

	boot string // what BootID has returned

	partialsMu sync.Mutex // guards live
	// live are the partials that were resumed and have not ended.
	live map[digest.Digest]bool
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
	if opts.BootID == nil {
		opts.BootID = bootID
	}
	s := &Store{
		fs: opts.FS, root: root, made: durable.Dirs{Root: root}, linkSeed: maphash.MakeSeed(),
		boot: opts.BootID(), live: make(map[digest.Digest]bool),
	}
	// The others are made when something is put into them: each directory costs
	// an fsync, and start-up is not the time for them.
	if err := s.made.MkdirAll(s.fs, s.path(partialDir)); err != nil {
		return nil, notWritable(root, err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if _, err := s.format(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.sweepPartials(); err != nil {
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
	if !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("blob %s: %s is not a file", dgst, name), f.Close())
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
	// The directory stays: a commit of the same digest may be about to use it.
	return nil
}

// All implements cache.Blobs. Directories without content, which Remove and the
// stock registry can leave behind, and what does not belong into the layout are
// passed over.
func (s *Store) All(ctx context.Context) iter.Seq2[cache.BlobEntry, error] {
	return func(yield func(cache.BlobEntry, error) bool) {
		for alg, err := range s.dirs(blobsDir) {
			if err != nil {
				yield(cache.BlobEntry{}, err)
				return
			}
			for prefix, err := range s.dirs(path.Join(blobsDir, alg)) {
				if err != nil {
					if !yield(cache.BlobEntry{}, err) {
						return
					}
					continue
				}
				if !s.walkBlobs(ctx, alg, prefix, yield) {
					return
				}
			}
		}
	}
}

// walkBlobs yields the blobs of one algorithm whose digests begin with prefix. It
// returns false when the iteration has to end.
func (s *Store) walkBlobs(ctx context.Context, alg, prefix string, yield func(cache.BlobEntry, error) bool) bool {
	for hex, err := range s.dirs(path.Join(blobsDir, alg, prefix)) {
		if ctxErr := ctx.Err(); ctxErr != nil {
			yield(cache.BlobEntry{}, ctxErr)
			return false
		}
		entry := cache.BlobEntry{Digest: digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)}
		if err == nil {
			if entry.Digest.Validate() != nil || hex[:2] != prefix {
				continue
			}
			entry.Size, err = s.size(ctx, entry.Digest)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
		} else {
			entry.Digest = "" // the error is of the directory
		}
		if !yield(entry, err) {
			return false
		}
	}
	return true
}

func (s *Store) size(ctx context.Context, dgst digest.Digest) (int64, error) {
	b, err := s.Open(ctx, dgst)
	if err != nil {
		return 0, err
	}
	return b.Size(), b.Close()
}

// dirs yields the names of the directories in dir, which is relative to the
// root; none where dir is missing.
func (s *Store) dirs(dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := s.fs.ReadDir(s.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			yield("", fmt.Errorf("listing %s: %w", dir, err))
			return
		}
		for _, e := range entries {
			if e.IsDir() && !yield(e.Name(), nil) {
				return
			}
		}
	}
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
