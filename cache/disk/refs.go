package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

// Refs returns the references that the directory holds.
func (s *Store) Refs() cache.Refs { return refs{s} }

// refs are the link files of distribution's layout. Each contains the digest
// that it points to.
type refs struct{ s *Store }

const (
	layersDir    = "_layers"
	revisionsDir = "_manifests/revisions"
	tagsDir      = "_manifests/tags"
	linkName     = "link"
	currentLink  = "current/link"
	tagIndexDir  = "index"
	uploadsDir   = "_uploads"

	maxLinkSize = 512 // bytes; the longest digest has 135
)

// file is the link file of ref, relative to the root.
func (r refs) file(ref cache.Ref) (string, error) {
	if err := validRepo(ref.Repo); err != nil {
		return "", err
	}
	repo := path.Join(reposDir, ref.Repo)
	switch ref.Kind {
	case cache.RefTag:
		if ref.Name == "" || strings.ContainsAny(ref.Name, "/\x00") || strings.HasPrefix(ref.Name, ".") {
			return "", fmt.Errorf("tag %q cannot be stored", ref.Name)
		}
		return path.Join(repo, tagsDir, ref.Name, currentLink), nil
	case cache.RefLayer, cache.RefManifest:
		dgst, err := digest.Parse(ref.Name)
		if err != nil {
			return "", fmt.Errorf("digest %q: %w", ref.Name, err)
		}
		dir := layersDir
		if ref.Kind == cache.RefManifest {
			dir = revisionsDir
		}
		return path.Join(repo, dir, dgst.Algorithm().String(), dgst.Encoded(), linkName), nil
	}
	return "", fmt.Errorf("unknown kind of reference %d", ref.Kind)
}

// Get implements cache.Refs.
func (r refs) Get(_ context.Context, ref cache.Ref) (digest.Digest, error) {
	name, err := r.file(ref)
	if err != nil {
		return "", err
	}
	return r.read(name)
}

// read returns the digest in the link file name. A link without a digest in it
// counts as absent, so that what it stood for is fetched again, which writes it
// anew: the stock registry does not sync its links, and a loss of power leaves
// empty ones.
func (r refs) read(name string) (digest.Digest, error) {
	data, err := durable.ReadFile(r.s.fs, r.s.path(name), maxLinkSize)
	if err != nil && !errors.Is(err, durable.ErrTooLong) && !errors.Is(err, durable.ErrNotFile) {
		return "", fmt.Errorf("link %s: %w", name, r.s.advise(err))
	}
	var dgst digest.Digest
	if err == nil {
		dgst, err = digest.Parse(strings.TrimSpace(string(data)))
	}
	if err != nil {
		return "", fmt.Errorf("link %s is damaged: %w (%v)", name, fs.ErrNotExist, err)
	}
	return dgst, nil
}

// Put implements cache.Refs.
func (r refs) Put(_ context.Context, ref cache.Ref, dgst digest.Digest) error {
	name, err := r.file(ref)
	if err != nil {
		return err
	}
	if err := dgst.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", dgst, err)
	}
	defer r.s.lockPath(name)()
	full := r.s.path(name)
	err = r.write(full, dgst)
	// ENXIO was a pipe or a socket beside it, which is gone by now.
	if err != nil && (r.clear(full) || errors.Is(err, syscall.ENXIO)) {
		err = r.write(full, dgst)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

func (r refs) write(full string, dgst digest.Digest) error {
	if err := r.s.made.MkdirAll(r.s.fs, filepath.Dir(full)); err != nil {
		return fmt.Errorf("its directory: %w", err)
	}
	return durable.WriteFile(r.s.fs, full, []byte(dgst))
}

// clear removes what is in the way of the link file full: what is no file in its place, or
// beside it where it is written, and files in the place of directories below the
// repositories. It tells whether there was something.
func (r refs) clear(full string) (cleared bool) {
	for _, name := range []string{full, durable.Unfinished(full)} {
		if info, err := r.s.fs.Lstat(name); err == nil && !info.Mode().IsRegular() {
			cleared = durable.RemoveAll(r.s.fs, name) == nil || cleared
		}
	}
	for dir := filepath.Dir(full); dir != r.s.path(reposDir); dir = filepath.Dir(dir) {
		if info, err := r.s.fs.Lstat(dir); err == nil && info.Mode().IsRegular() {
			cleared = r.s.fs.Remove(dir) == nil || cleared
		}
	}
	return cleared
}

// Remove implements cache.Refs. Directories that have nothing in them any more go,
// too, up to the repository's and empty ones above it. It is not synced: what a loss
// of power brings back is found again.
func (r refs) Remove(_ context.Context, ref cache.Ref) error {
	name, err := r.file(ref)
	if err != nil {
		return err
	}
	defer r.s.lockPath(name)()
	if err := r.s.removeFile(r.s.path(name)); err != nil {
		return fmt.Errorf("removing link %s: %w", name, r.s.advise(err))
	}
	_ = r.s.removeFile(durable.Unfinished(r.s.path(name))) // of a crash; it is passed over
	dir := path.Dir(name)
	if ref.Kind == cache.RefTag {
		// The stock registry keeps there what the tag has ever pointed to.
		_ = durable.RemoveAll(r.s.fs, r.s.path(path.Dir(dir), tagIndexDir))
	}
	r.prune(path.Join(reposDir, ref.Repo), dir)
	return nil
}

// prune removes dir, and what is above it, as far as it is empty: that of repo, and
// the directories above it. Who is about to put something into one finds it gone, or
// keeps it from going: see [durable.Dirs].
func (r refs) prune(repo, dir string) {
	for ; dir != reposDir; dir = path.Dir(dir) {
		if dir == repo {
			_ = r.s.made.Remove(r.s.fs, r.s.path(dir, uploadsDir)) // of the stock registry
		}
		if err := r.s.made.Remove(r.s.fs, r.s.path(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// All implements cache.Refs.
func (r refs) All(ctx context.Context) iter.Seq2[cache.RefEntry, error] {
	return func(yield func(cache.RefEntry, error) bool) {
		r.walk(ctx, "", yield)
	}
}

// walk yields the references of repo and of the repositories below it. It
// returns false when the consumer has had enough.
func (r refs) walk(ctx context.Context, repo string, yield func(cache.RefEntry, error) bool) bool {
	if err := ctx.Err(); err != nil {
		return yield(cache.RefEntry{}, err) && false
	}
	for name, err := range r.s.dirs(path.Join(reposDir, repo)) {
		more := true
		switch {
		case err != nil:
			more = yield(cache.RefEntry{Ref: cache.Ref{Repo: repo}}, err)
		case name == layersDir:
			more = r.walkDigests(repo, cache.RefLayer, layersDir, yield)
		case name == path.Dir(revisionsDir):
			more = r.walkDigests(repo, cache.RefManifest, revisionsDir, yield) && r.walkTags(repo, yield)
		case strings.HasPrefix(name, "_"): // _uploads of the stock registry
		default:
			more = r.walk(ctx, path.Join(repo, name), yield)
		}
		if !more {
			return false
		}
	}
	return true
}

func (r refs) walkDigests(repo string, kind cache.RefKind, dir string, yield func(cache.RefEntry, error) bool) bool {
	base := path.Join(reposDir, repo, dir)
	for alg, err := range r.s.dirs(base) {
		if err != nil {
			return yield(cache.RefEntry{Ref: cache.Ref{Repo: repo, Kind: kind}}, err)
		}
		for hex, err := range r.s.dirs(path.Join(base, alg)) {
			entry := cache.RefEntry{Ref: cache.Ref{Repo: repo, Kind: kind, Name: alg + ":" + hex}}
			if err == nil {
				entry.Digest, err = r.read(path.Join(base, alg, hex, linkName))
			}
			if !missing(err) && !yield(entry, err) {
				return false
			}
		}
	}
	return true
}

func (r refs) walkTags(repo string, yield func(cache.RefEntry, error) bool) bool {
	base := path.Join(reposDir, repo, tagsDir)
	for tag, err := range r.s.dirs(base) {
		entry := cache.RefEntry{Ref: cache.Ref{Repo: repo, Kind: cache.RefTag, Name: tag}}
		if err == nil {
			entry.Digest, err = r.read(path.Join(base, tag, currentLink))
		}
		if !missing(err) && !yield(entry, err) {
			return false
		}
	}
	return true
}

// missing tells whether err says that there is no link file in a directory that is made
// for one: it was removed, or never written. One that is damaged is not missing.
func missing(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && errors.Is(err, fs.ErrNotExist)
}
