package cachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/extents"
)

// Blobs is a [cache.Blobs] in memory. The zero value is empty and ready, with
// room without limit. It panics on what no correct cache does: committing
// content under a digest that it does not have, and writing other bytes to a
// place that was written to.
type Blobs struct {
	// Room is what Free answers; 0 means plenty.
	Room int64
	// Fail, if set, is asked before each operation ("create", "write",
	// "open draft", "commit", "open", and "keep", "sync", "suspend" of
	// [Partials]); an error makes that operation fail.
	Fail func(op string) error
	// Others is what Beside answers.
	Others int64

	mu     sync.Mutex
	m      map[digest.Digest][]byte
	aside  []digest.Digest
	drafts int
	// life counts the restarts: drafts of an earlier one are dead.
	life int
}

var (
	_ cache.Blobs      = (*Blobs)(nil)
	_ cache.Usage      = (*Blobs)(nil)
	_ cache.Quarantine = (*Blobs)(nil)
)

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

// Occupies implements cache.Usage: content takes its bytes, and nothing else.
func (b *Blobs) Occupies(size int64) int64 { return size }

// OccupiesRef implements cache.Usage: references take nothing.
func (b *Blobs) OccupiesRef(cache.RefKind) int64 { return 0 }

// Beside implements cache.Usage.
func (b *Blobs) Beside(context.Context) (int64, error) { return b.Others, nil }

// Quarantine implements cache.Quarantine.
func (b *Blobs) Quarantine(_ context.Context, dgst digest.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.m[dgst]; ok {
		b.aside = append(b.aside, dgst)
		delete(b.m, dgst)
	}
	return nil
}

// Quarantined returns what was put into quarantine, in order.
func (b *Blobs) Quarantined() []digest.Digest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.aside)
}

// Create implements cache.Blobs.
func (b *Blobs) Create(_ context.Context, dgst digest.Digest) (cache.Draft, error) {
	if err := b.fail("create"); err != nil {
		return nil, err
	}
	return b.draft(dgst), nil
}

func (b *Blobs) draft(dgst digest.Digest) *memDraft {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drafts++
	return &memDraft{store: b, dgst: dgst, life: b.life}
}

// restart is the end of the process, as far as drafts know.
func (b *Blobs) restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drafts = 0
	b.life++
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

// Drafts returns how many drafts are neither committed nor discarded nor
// suspended.
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
	life  int

	mu      sync.Mutex
	p       []byte
	written extents.Set
	done    bool
}

// errRestarted is the error of drafts after [Partials.Restart].
var errRestarted = errors.New("cachetest: the process of this draft has ended")

// dead tells whether the draft is of an earlier process.
func (d *memDraft) dead() bool {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	return d.life != d.store.life
}

func (d *memDraft) WriteAt(p []byte, off int64) (int, error) {
	if err := d.store.fail("write"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead() {
		return 0, errRestarted
	}
	d.check(p, off)
	if end := off + int64(len(p)); end > int64(len(d.p)) {
		d.p = append(d.p, make([]byte, end-int64(len(d.p)))...)
	}
	d.written.Add(extents.Span{Start: off, End: off + int64(len(p))})
	return copy(d.p[off:], p), nil
}

// check panics if p differs from what was written before.
func (d *memDraft) check(p []byte, off int64) {
	for _, span := range d.written {
		start, end := max(span.Start, off), min(span.End, off+int64(len(p)))
		if start < end && !bytes.Equal(d.p[start:end], p[start-off:end-off]) {
			panic(fmt.Sprintf("cachetest: bytes %d to %d of %s are written again, and are others", start, end, d.dgst))
		}
	}
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
	if d.dead() {
		return errRestarted
	}
	if got := d.dgst.Algorithm().FromBytes(d.p); got != d.dgst {
		panic(fmt.Sprintf("cachetest: commit of %s under the digest %s", got, d.dgst))
	}
	d.finish(append([]byte{}, d.p...)) // not nil
	return nil
}

// finish ends the draft once, and stores content unless it is nil. The caller
// holds d.mu.
func (d *memDraft) finish(content []byte) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if !d.done && d.life == d.store.life {
		d.store.drafts--
	}
	d.done = true
	if content == nil {
		return
	}
	if d.store.m == nil {
		d.store.m = make(map[digest.Digest][]byte)
	}
	d.store.m[d.dgst] = content
}

func (d *memDraft) Discard() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.finish(nil)
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
