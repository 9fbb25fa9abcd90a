package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

// Create implements cache.Blobs. The draft is a file in partial/.
func (s *Store) Create(_ context.Context, dgst digest.Digest) (cache.Draft, error) {
	final, err := s.blobPath(dgst)
	if err != nil {
		return nil, err
	}
	name := s.path(partialDir, fmt.Sprintf("%s-%s-%s", dgst.Algorithm(), dgst.Encoded(), rand.Text()))
	f, err := s.fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("new file for %s: %w", dgst, err)
	}
	return &draft{store: s, file: f, name: name, final: final}, nil
}

// draft is a file that grows in partial/ until it is moved to its place.
type draft struct {
	store *Store
	file  durable.File
	final string

	mu   sync.Mutex // guards name, which Commit changes while readers open it
	name string     // where the file is; empty once it is gone
}

// WriteAt implements cache.Draft.
func (d *draft) WriteAt(p []byte, off int64) (int, error) { return d.file.WriteAt(p, off) }

// Open implements cache.Draft.
func (d *draft) Open(context.Context) (io.ReadSeekCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.name == "" {
		return nil, errors.New("opening a draft that was discarded")
	}
	f, err := d.store.fs.OpenFile(d.name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return blob{File: f}, nil
}

// Commit implements cache.Draft: fsync, rename, fsync of the directory. The
// long part, the fsync of the file, does not keep readers from opening the draft.
func (d *draft) Commit(context.Context) error {
	if err := d.sync(); err != nil {
		return err
	}
	return d.place()
}

// sync makes the bytes durable.
func (d *draft) sync() error {
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("syncing the content of %s: %w", d.final, err)
	}
	return nil
}

// place moves the file, which is synced, to its final place.
func (d *draft) place() error {
	defer d.store.lockPath(filepath.Dir(d.final))() // who removes it does not take the directory away
	if err := d.store.made.MkdirAll(d.store.fs, filepath.Dir(d.final)); err != nil {
		return fmt.Errorf("directory of %s: %w", d.final, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := durable.Rename(d.store.fs, d.name, d.final); err != nil {
		return fmt.Errorf("moving %s to its place: %w", d.name, err)
	}
	d.name = d.final
	return d.file.Close()
}

// Discard implements cache.Draft.
func (d *draft) Discard() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.name == "" || d.name == d.final {
		return nil
	}
	err := d.store.fs.Remove(d.name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // Commit has failed after the rename
	}
	d.name = ""
	return errors.Join(err, d.file.Close())
}
