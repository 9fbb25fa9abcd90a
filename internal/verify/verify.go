// Package verify checks bytes against a digest while they pass.
//
// It promises that a [Reader] never gives out the last byte of content that
// does not match: instead of io.EOF its consumer gets an error, so that whoever
// treats a read error as a failure can neither store nor forward a whole wrong
// blob. It trusts nothing, and imports nothing of this module.
package verify

import (
	"bufio"
	"crypto"
	_ "crypto/sha256" // makes sha256 known to go-digest
	_ "crypto/sha512" // makes sha384 and sha512 known to go-digest
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// ErrMismatch means that content is not what its digest or its size says.
var ErrMismatch = errors.New("content does not match its digest")

// Hash sums content up and compares it with a digest.
type Hash struct {
	want digest.Digest
	h    hash.Hash
	n    int64
}

// NewHash returns a Hash for content of dgst. It fails on a malformed digest
// and on an algorithm other than sha256, sha384 and sha512.
func NewHash(dgst digest.Digest) (*Hash, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", dgst, err)
	}
	return &Hash{want: dgst, h: hashOf(dgst.Algorithm()).New()}, nil
}

func hashOf(a digest.Algorithm) crypto.Hash {
	switch a {
	case digest.SHA384:
		return crypto.SHA384
	case digest.SHA512:
		return crypto.SHA512
	default: // Validate admits no other
		return crypto.SHA256
	}
}

// Write adds p. It never fails.
func (h *Hash) Write(p []byte) (int, error) {
	h.n += int64(len(p))
	return h.h.Write(p)
}

// Size is the number of bytes that were written.
func (h *Hash) Size() int64 { return h.n }

// Verify compares what was written with the digest, and with size where that
// is not negative. The error is [ErrMismatch] or nil.
func (h *Hash) Verify(size int64) error {
	if size >= 0 && h.n != size {
		return fmt.Errorf("%w: %d bytes instead of %d for %s", ErrMismatch, h.n, size, h.want)
	}
	if got := digest.NewDigest(h.want.Algorithm(), h.h); got != h.want {
		return fmt.Errorf("%w: %s instead of %s", ErrMismatch, got, h.want)
	}
	return nil
}

// Bytes checks p against dgst in one go.
func Bytes(dgst digest.Digest, p []byte) error {
	h, err := NewHash(dgst)
	if err != nil {
		return err
	}
	_, _ = h.Write(p) // never fails
	return h.Verify(int64(len(p)))
}

// readAhead is how much a Reader takes from its source at once.
const readAhead = 64 << 10

// Reader passes content on, holding its last byte back until the whole is
// verified.
type Reader struct {
	src  *bufio.Reader
	hash *Hash
	size int64
	done error // sticky outcome, io.EOF when verified and all was read
	last bool  // verified: what is buffered may go out to the end
}

// NewReader returns a Reader of src, whose whole content must have digest dgst
// and, where size is not negative, be size bytes long. It reads at most one
// buffer beyond size.
func NewReader(src io.Reader, dgst digest.Digest, size int64) (*Reader, error) {
	h, err := NewHash(dgst)
	if err != nil {
		return nil, err
	}
	return &Reader{src: bufio.NewReaderSize(src, readAhead), hash: h, size: size}, nil
}

// Read implements io.Reader. The error is io.EOF only after content that
// matches; otherwise it is [ErrMismatch] or the source's own.
func (r *Reader) Read(p []byte) (int, error) {
	if r.done != nil {
		return 0, r.done
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !r.last {
		if err := r.advance(); err != nil {
			r.done = err
			return 0, err
		}
	}
	n := r.src.Buffered()
	if !r.last {
		n-- // the byte held back
	}
	if n == 0 { // only at the end of what was verified
		r.done = io.EOF
		return 0, io.EOF
	}
	n, err := r.src.Read(p[:min(n, len(p))])
	if !r.last {
		_, _ = r.hash.Write(p[:n]) // never fails
		if r.size >= 0 && r.hash.Size() >= r.size {
			// The byte held back is already one too many.
			r.done = fmt.Errorf("%w: more than %d bytes", ErrMismatch, r.size)
			return 0, r.done
		}
	}
	return n, err
}

// advance makes sure that either two bytes are buffered, so that one can go
// out, or that the content has ended and is verified.
func (r *Reader) advance() error {
	tail, err := r.src.Peek(2)
	if err == nil {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	_, _ = r.hash.Write(tail) // never fails
	if err := r.hash.Verify(r.size); err != nil {
		return err
	}
	r.last = true
	return nil
}
