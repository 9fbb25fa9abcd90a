package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"registry-module/internal/durable"
)

// Remove implements cache.Blobs. The blob's directory goes, too: a cache that removes
// for years would be full of them. It is not synced: what a loss of power brings back
// is found again.
func (s *Store) Remove(_ context.Context, dgst digest.Digest) error {
	name, err := s.blobPath(dgst)
	if err != nil {
		return err
	}
	defer s.lockPath(filepath.Dir(name))()
	place, err := s.placeOf(name)
	if err == nil && place != "" {
		err = durable.RemoveAll(s.fs, place)
	}
	if err != nil {
		return fmt.Errorf("removing blob %s: %w", dgst, s.advise(err))
	}
	s.removeBlobDir(name)
	return nil
}

// placeOf returns what is there where the content name should be: itself, whatever
// kind of file it is, or a file in the place of a directory above it, which keeps
// content from being put there. It is empty where there is nothing.
func (s *Store) placeOf(name string) (string, error) {
	const levels = 3 // data, <hex>, <xx>
	for place, level := name, 0; level < levels; place, level = filepath.Dir(place), level+1 {
		info, err := s.fs.Lstat(place)
		switch {
		case errors.Is(err, unix.ENOTDIR):
			continue
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case err != nil:
			return "", err
		case place == name || !info.IsDir():
			return place, nil
		}
		return "", nil
	}
	return "", nil
}

// removeBlobDir removes the directory of the content name, which is gone, if there is
// nothing else in it. The caller holds the lock of the directory, so that nobody is
// about to put something there. The one above it stays: there are few, and each
// costs an fsync.
func (s *Store) removeBlobDir(name string) {
	// It is not known to s.made, which remembers what has directories in it.
	_ = s.fs.Remove(filepath.Dir(name)) // one that stays does no harm
}
