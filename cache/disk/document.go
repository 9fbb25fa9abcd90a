package disk

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"registry-module/cache"
	"registry-module/internal/durable"
)

// maxDocument is how many bytes a document may have. Read refuses longer ones, which
// this program has not written.
const maxDocument = 16 << 20

// Document returns the document that is the file name at the root of the data
// directory. Names begin with "registry-module.", like those of all files that this
// program has there.
func (s *Store) Document(name string) cache.Document { return document{s, name} }

type document struct {
	s    *Store
	name string
}

var _ cache.Document = document{}

func (d document) path() (string, error) {
	if filepath.Base(d.name) != d.name || !strings.HasPrefix(d.name, ownPrefix) {
		return "", fmt.Errorf("a document cannot be called %q", d.name)
	}
	return d.s.path(d.name), nil
}

// Read implements cache.Document.
func (d document) Read(context.Context) ([]byte, error) {
	name, err := d.path()
	if err != nil {
		return nil, err
	}
	data, err := durable.ReadFile(d.s.fs, name, maxDocument)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.name, d.s.advise(err))
	}
	return data, nil
}

// Write implements cache.Document.
func (d document) Write(_ context.Context, content []byte) error {
	name, err := d.path()
	if err != nil {
		return err
	}
	if len(content) > maxDocument {
		return fmt.Errorf("writing %s: it has %d bytes, and at most %d can be read again", d.name, len(content), maxDocument)
	}
	defer d.s.lockPath(name)()
	if err := durable.WriteFile(d.s.fs, name, content); err != nil {
		return fmt.Errorf("writing %s: %w", d.name, err)
	}
	return nil
}
