package bundle

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/opencontainers/go-digest"
)

// stream is a bundle that is read from its first byte to its last.
type stream struct {
	r        io.Reader // what is behind the head
	contents []Content // all of the description
	used     bool
}

// blobs implements places.
//
// Which content comes is told by its header. Where that is damaged and nothing has been left
// out so far, it is what the description has next: so one wrong byte costs one content.
func (s *stream) blobs(ctx context.Context, want func(Content) bool) iter.Seq2[raw, error] {
	return func(yield func(raw, error) bool) {
		if s.used {
			yield(raw{}, invalid("a stream can be read once"))
			return
		}
		s.used = true
		var left []Content // what may still come
		for _, c := range s.contents {
			if !c.Absent {
				left = append(left, c)
			}
		}
		at := make(map[digest.Digest]int, len(left))
		for i, c := range left {
			at[c.Digest] = i
		}
		whole := true
		for next := 0; ; {
			i, end, err := s.next(left, at, next, whole)
			if err != nil {
				yield(raw{}, fmt.Errorf("reading the bundle: %w", err))
				return
			}
			if end {
				return
			}
			whole = whole && i == next
			next = i + 1
			c := left[i]
			content := &io.LimitedReader{R: &passing{ctx: ctx, r: s.r, m: newMeter(nil, nil)}, N: c.Size}
			if (want == nil || want(c)) && !yield(raw{content: c, r: content}, nil) {
				return
			}
			if _, err := io.CopyN(io.Discard, content, content.N); err != nil {
				yield(raw{}, fmt.Errorf("reading the bundle: it ends within %s: %w", c.Digest, noEOF(err)))
				return
			}
			if _, err := io.CopyN(io.Discard, s.r, padding(c.Size)); err != nil {
				yield(raw{}, fmt.Errorf("reading the bundle: it ends behind %s: %w", c.Digest, noEOF(err)))
				return
			}
		}
	}
}

// next reads a header, and returns which of left it is of, at or behind from; or that the
// end has come. Whole tells that nothing has been left out before.
func (s *stream) next(left []Content, at map[digest.Digest]int, from int, whole bool) (i int, end bool, err error) {
	h := make([]byte, block, 3*block)
	if _, err := io.ReadFull(s.r, h); err != nil {
		return 0, false, fmt.Errorf("it ends where %d manifests and blobs may follow: %w", len(left)-from, noEOF(err))
	}
	if isZero(h) {
		return 0, true, nil
	}
	// The header is that of one of those which may follow, to the byte.
	known := func() bool {
		var ok bool
		i, ok = at[nameOf(h)]
		return ok && i >= from && string(appendHeader(nil, blobName(left[i]), left[i].Size)) == string(h)
	}
	if known() {
		return i, false, nil
	}
	// Long names are in the second of three blocks.
	if string(h[:len(longLink)]) == longLink || whole && from < len(left) && headerSize(left[from]) > block {
		h = h[:3*block]
		if _, err := io.ReadFull(s.r, h[block:]); err != nil {
			return 0, false, noEOF(err)
		}
		if known() {
			return i, false, nil
		}
	}
	if whole && from < len(left) && headerSize(left[from]) == int64(len(h)) {
		return from, false, nil
	}
	return 0, false, invalid("what it has behind %d of %d manifests and blobs is none of its own", from, len(left))
}

// nameOf returns the digest whose blob a header is of, or something else.
func nameOf(h []byte) digest.Digest {
	field := func(p []byte) string {
		s, _, _ := strings.Cut(string(p), "\x00")
		return s
	}
	name := field(h[:maxName])
	switch {
	case len(h) > block:
		name = field(h[block : 2*block])
	case h[345] != 0:
		name = field(h[345:500]) + "/" + name
	}
	algorithm, encoded, _ := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/")
	return digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
}

// lost implements places.
func (s *stream) lost(c Content, err error) *LostError { return &LostError{Content: c, Err: err} }

// chunks implements places.
func (s *stream) chunks() []Chunk { return nil }

// Close implements places. The reader is its owner's.
func (s *stream) Close() error { return nil }

func isZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
