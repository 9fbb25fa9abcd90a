// Package cachetest holds what tests of the cache and of its stores share:
// contract suites for the interfaces that package cache consumes, and in-memory
// fakes that pass them.
//
// It trusts nothing, is imported by tests only, and imports, of this module,
// only cache.
package cachetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// Index is a [cache.Index] in memory. The zero value is empty and ready.
type Index struct {
	mu sync.Mutex
	m  map[string][]byte
}

// Get implements cache.Index.
func (x *Index) Get(_ context.Context, key []byte) ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	v, ok := x.m[string(key)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return v, nil
}

// Apply implements cache.Index.
func (x *Index) Apply(_ context.Context, changes ...cache.Change) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = make(map[string][]byte)
	}
	for _, c := range changes {
		if c.Delete {
			delete(x.m, string(c.Key))
		} else {
			x.m[string(c.Key)] = bytes.Clone(c.Value)
		}
	}
	return nil
}

// Scan implements cache.Index.
func (x *Index) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	return func(yield func(cache.Entry, error) bool) {
		x.mu.Lock()
		m := maps.Clone(x.m)
		x.mu.Unlock()
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !strings.HasPrefix(k, string(prefix)) || k < string(from) {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(cache.Entry{}, err)
				return
			}
			if !yield(cache.Entry{Key: []byte(k), Value: m[k]}, nil) {
				return
			}
		}
	}
}

// Blobs is a [cache.Blobs] in memory. The zero value is empty and ready, with
// room without limit. It panics on what no correct cache does: committing
// content under a digest that it does not have.
type Blobs struct {
	// Room is what Free answers; 0 means plenty.
	Room int64
	// Fail, if set, is asked before each operation ("create", "write",
	// "open draft", "commit", "open"); an error makes that operation fail.
	Fail func(op string) error

	mu     sync.Mutex
	m      map[digest.Digest][]byte
	drafts int
}

var _ cache.Blobs = (*Blobs)(nil)

func (b *Blobs) fail(op string) error {
	if b.Fail == nil {
		return nil
	}
	return b.Fail(op)
}

// Open implements cache.Blobs.
func (b *Blobs) Open(_ context.Context, dgst digest.Digest) (cache.Blob, error) {
	if err := b.fail("open"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.m[dgst]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", dgst, fs.ErrNotExist)
	}
	return memBlob{bytes.NewReader(p)}, nil
}

// Remove implements cache.Blobs.
func (b *Blobs) Remove(_ context.Context, dgst digest.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.m, dgst)
	return nil
}

// All implements cache.Blobs.
func (b *Blobs) All(ctx context.Context) iter.Seq2[cache.BlobEntry, error] {
	return func(yield func(cache.BlobEntry, error) bool) {
		b.mu.Lock()
		m := maps.Clone(b.m)
		b.mu.Unlock()
		for dgst, p := range m {
			if err := ctx.Err(); err != nil {
				yield(cache.BlobEntry{}, err)
				return
			}
			if !yield(cache.BlobEntry{Digest: dgst, Size: int64(len(p))}, nil) {
				return
			}
		}
	}
}

// Free implements cache.Blobs.
func (b *Blobs) Free(context.Context) (free, total int64, err error) {
	if b.Room != 0 {
		return b.Room, b.Room, nil
	}
	return 1 << 50, 1 << 50, nil
}

// Create implements cache.Blobs.
func (b *Blobs) Create(_ context.Context, dgst digest.Digest) (cache.Draft, error) {
	if err := b.fail("create"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drafts++
	return &memDraft{store: b, dgst: dgst}, nil
}

// Rot changes the stored content of dgst.
func (b *Blobs) Rot(dgst digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := bytes.Clone(b.m[dgst])
	p[len(p)/2] ^= 1
	b.m[dgst] = p
}

// Len returns how many blobs are stored.
func (b *Blobs) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.m)
}

// Drafts returns how many drafts are neither committed nor discarded.
func (b *Blobs) Drafts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.drafts
}

type memBlob struct{ *bytes.Reader }

func (m memBlob) Size() int64  { return m.Reader.Size() }
func (m memBlob) Close() error { return nil }

type memDraft struct {
	store *Blobs
	dgst  digest.Digest

	mu   sync.Mutex
	p    []byte
	done bool
}

func (d *memDraft) WriteAt(p []byte, off int64) (int, error) {
	if err := d.store.fail("write"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if end := off + int64(len(p)); end > int64(len(d.p)) {
		d.p = append(d.p, make([]byte, end-int64(len(d.p)))...)
	}
	return copy(d.p[off:], p), nil
}

func (d *memDraft) Open(context.Context) (io.ReadSeekCloser, error) {
	if err := d.store.fail("open draft"); err != nil {
		return nil, err
	}
	return &memDraftReader{d: d}, nil
}

func (d *memDraft) Commit(context.Context) error {
	if err := d.store.fail("commit"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := d.dgst.Algorithm().FromBytes(d.p); got != d.dgst {
		panic(fmt.Sprintf("cachetest: commit of %s under the digest %s", got, d.dgst))
	}
	d.finish()
	if d.store.m == nil {
		d.store.m = make(map[digest.Digest][]byte)
	}
	d.store.m[d.dgst] = d.p
	d.store.mu.Unlock()
	return nil
}

// finish ends the draft once and leaves the store locked.
func (d *memDraft) finish() {
	d.store.mu.Lock()
	if !d.done {
		d.done = true
		d.store.drafts--
	}
}

func (d *memDraft) Discard() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.finish()
	d.store.mu.Unlock()
	return nil
}

type memDraftReader struct {
	d   *memDraft
	pos int64
}

func (r *memDraftReader) Read(p []byte) (int, error) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if r.pos >= int64(len(r.d.p)) {
		return 0, io.EOF
	}
	n := copy(p, r.d.p[r.pos:])
	r.pos += int64(n)
	return n, nil
}

func (r *memDraftReader) Seek(offset int64, whence int) (int64, error) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	s := io.NewSectionReader(bytes.NewReader(r.d.p), 0, int64(len(r.d.p)))
	_, _ = s.Seek(r.pos, io.SeekStart) // cannot fail
	pos, err := s.Seek(offset, whence)
	if err == nil {
		r.pos = pos
	}
	return pos, err
}

func (r *memDraftReader) Close() error { return nil }

// Refs is a [cache.Refs] in memory. The zero value is empty and ready.
type Refs struct {
	mu sync.Mutex
	m  map[cache.Ref]digest.Digest
}

var _ cache.Refs = (*Refs)(nil)

// Get implements cache.Refs.
func (r *Refs) Get(_ context.Context, ref cache.Ref) (digest.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dgst, ok := r.m[ref]
	if !ok {
		return "", fs.ErrNotExist
	}
	return dgst, nil
}

// Put implements cache.Refs.
func (r *Refs) Put(_ context.Context, ref cache.Ref, dgst digest.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = make(map[cache.Ref]digest.Digest)
	}
	r.m[ref] = dgst
	return nil
}

// Remove implements cache.Refs.
func (r *Refs) Remove(_ context.Context, ref cache.Ref) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, ref)
	return nil
}

// All implements cache.Refs.
func (r *Refs) All(context.Context) iter.Seq2[cache.RefEntry, error] {
	r.mu.Lock()
	m := maps.Clone(r.m)
	r.mu.Unlock()
	return func(yield func(cache.RefEntry, error) bool) {
		for ref, dgst := range m {
			if !yield(cache.RefEntry{Ref: ref, Digest: dgst}, nil) {
				return
			}
		}
	}
}
