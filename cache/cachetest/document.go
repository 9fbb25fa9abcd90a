package cachetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// Document is a [cache.Document] in memory. The zero value was never written.
type Document struct {
	mu      sync.Mutex
	content []byte
}

var _ cache.Document = (*Document)(nil)

// Read implements cache.Document.
func (d *Document) Read(context.Context) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.content == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(d.content), nil
}

// Write implements cache.Document.
func (d *Document) Write(_ context.Context, content []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.content = append([]byte{}, content...) // not nil
	return nil
}

// TestDocument checks that what fresh returns keeps the contract of cache.Document.
func TestDocument(t *testing.T, fresh func(t *testing.T) cache.Document) {
	d := fresh(t)
	if _, err := d.Read(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: error %v, want fs.ErrNotExist", err)
	}
	for _, content := range []string{"one", "", "three"} {
		must(t, d.Write(t.Context(), []byte(content)))
		if got, err := d.Read(t.Context()); err != nil || string(got) != content {
			t.Errorf("%q, %v, want %q", got, err, content)
		}
	}
}

// TestQuarantine checks that what fresh returns keeps the contract of
// cache.Quarantine: it is both.
func TestQuarantine(t *testing.T, fresh func(t *testing.T) (cache.Blobs, cache.Quarantine)) {
	s, q := fresh(t)
	const content = "content"
	dgst := digest.FromString(content)
	must(t, q.Quarantine(t.Context(), dgst))
	for range 2 {
		d := create(t, s, dgst)
		write(t, d, content)
		must(t, d.Commit(t.Context()))
		b, err := s.Open(t.Context(), dgst)
		must(t, err)
		must(t, q.Quarantine(t.Context(), dgst))
		wantRead(t, b, content)
		must(t, b.Close())
		if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
		for e, err := range s.All(t.Context()) {
			t.Errorf("%v is listed, %v", e, err)
		}
	}
}
