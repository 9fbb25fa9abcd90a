package bundle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"registry-module/internal/verify"
)

// Bundle is a bundle that is being read. It is not for several goroutines at a time.
type Bundle struct {
	head head
	d    Description
	from places
}

// places is where the bytes of contents are.
type places interface {
	// blobs yields those of contents that are wanted, with readers of their bytes, which
	// nobody has verified yet.
	blobs(ctx context.Context, want func(Content) bool) iter.Seq2[raw, error]
	// lost makes the error for content that cannot be read because of err.
	lost(c Content, err error) *LostError
	chunks() []Chunk
	io.Closer
}

// raw is content whose bytes nobody has verified.
type raw struct {
	content Content
	r       io.Reader
}

// Blob is content of a bundle that is being read.
type Blob struct {
	Content Content
	// Reader gives the content, until the next blob is asked for. The last byte comes only
	// if all are right. Otherwise the error is a [*LostError].
	io.Reader
}

// LostError is the error for content that a bundle has lost: its bytes are missing or wrong.
type LostError struct {
	Content Content
	// Chunks are the files that are to blame, as far as is known.
	Chunks []string
	Err    error
}

// Error implements error.
func (e *LostError) Error() string {
	s := fmt.Sprintf("%s is lost", e.Content.Digest)
	if len(e.Chunks) > 0 {
		s += " with " + strings.Join(e.Chunks, ", ")
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *LostError) Unwrap() error { return e.Err }

// ChunkState is what is known of a chunk.
type ChunkState string

// The states of a chunk.
const (
	ChunkPresent ChunkState = "present" // nothing is known to be wrong with it
	ChunkMissing ChunkState = "missing"
	ChunkSize    ChunkState = "wrong size"
	ChunkDamaged ChunkState = "damaged" // it does not have its sum, or cannot be read
)

// Chunk is a file of a bundle.
type Chunk struct {
	Name  string     `json:"name"` // without the directory
	Size  int64      `json:"size"` // in bytes, as it is
	State ChunkState `json:"state"`
	// Want is how large it has to be.
	Want int64 `json:"want"`
}

// newBundle makes a Bundle of what was read.
func newBundle(h head, from places) (*Bundle, error) {
	d, err := decodeDescription(h.description)
	if err != nil {
		return nil, err
	}
	return &Bundle{head: h, d: d, from: from}, nil
}

// Description returns what the bundle carries. It is valid, but not signed for that: see
// [Bundle.Trust]. It must not be changed.
func (b *Bundle) Description() Description { return b.d }

// Chunks returns the files of the bundle, and what is known of them so far; nothing for a
// stream. What is damaged is found out when content is read.
func (b *Bundle) Chunks() []Chunk { return b.from.chunks() }

// Close closes the files of the bundle.
func (b *Bundle) Close() error { return b.from.Close() }

// Blobs yields the contents that want tells, in the order of the description, each until
// the next is asked for; nil wants all. Of those that are absent it asks nothing.
//
// Content of which it is known that it is lost comes with a [*LostError], and others
// follow. An error with content that has no digest ends it: a stream that is damaged so
// that it is not known what follows. A stream may leave content out; it is yielded once
// only.
func (b *Bundle) Blobs(ctx context.Context, want func(Content) bool) iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		for raw, err := range b.from.blobs(ctx, want) {
			blob := Blob{Content: raw.content}
			if err == nil {
				blob.Reader, err = b.verified(ctx, raw)
			}
			if !yield(blob, err) {
				return
			}
		}
	}
}

// verified compares raw with its digest.
func (b *Bundle) verified(ctx context.Context, raw raw) (io.Reader, error) {
	r, err := verify.NewReader(raw.r, raw.content.Digest, raw.content.Size)
	if err != nil { // the description is valid
		return nil, err
	}
	return &blobReader{ctx: ctx, r: r, from: b.from, c: raw.content}, nil
}

// blobReader has what is wrong be a [*LostError].
type blobReader struct {
	ctx    context.Context //nolint:containedctx // it lives as long as one step of an iteration
	r      io.Reader
	from   places
	c      Content
	failed error // what was wrong; nil until then
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	if r.failed != nil {
		return 0, r.failed
	}
	n, err := r.r.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	r.failed = err
	if r.ctx.Err() == nil {
		r.failed = r.from.lost(r.c, err)
	}
	return n, r.failed
}

// NewStream reads a bundle that comes once, from its first byte to its last, as from
// standard input. What was left out by [WriteSubset] may be missing.
func NewStream(r io.Reader) (*Bundle, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	h, next, err := readHead(buffered)
	if err != nil {
		return nil, err
	}
	s := &stream{r: io.MultiReader(strings.NewReader(string(next)), buffered)}
	b, err := newBundle(h, s)
	if err != nil {
		return nil, err
	}
	s.contents = b.d.Contents
	return b, nil
}

// WriteSubset writes a bundle with the same description and signature, but only with those
// contents that want tells, for who has the others already; nil wants all. It is for
// [NewStream] alone. Content that is lost is left out, or comes as something that does not
// have its digest; the error tells, and joins a [*LostError] for each.
func WriteSubset(ctx context.Context, w io.Writer, b *Bundle, want func(Content) bool) error {
	if _, err := w.Write(b.head.bytes()); err != nil {
		return fmt.Errorf("writing the head of the bundle: %w", err)
	}
	var lost []error
	for blob, err := range b.Blobs(ctx, want) {
		if err != nil {
			lost = append(lost, err)
			continue
		}
		counted := &counter{w: w}
		err := writeEntry(ctx, counted, blob.Content, blob, newMeter(nil, nil))
		if failed := (*LostError)(nil); errors.As(err, &failed) {
			lost = append(lost, failed)
			// What follows has to be in its place.
			rest := headerSize(blob.Content) + blob.Content.Size + padding(blob.Content.Size) - counted.n
			_, err = io.CopyN(w, &passing{ctx: ctx, r: zeros{}, m: newMeter(nil, nil)}, rest)
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", blob.Content.Digest, err)
		}
	}
	if _, err := w.Write(make([]byte, trailer)); err != nil {
		return fmt.Errorf("writing the end of the bundle: %w", err)
	}
	return errors.Join(lost...)
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// zeros is an endless reader of them.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
