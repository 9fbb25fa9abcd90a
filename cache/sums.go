package cache

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"registry-module/internal/verify"
)

const (
	// sumPart is the length in bytes of the parts of a blob that have sums of their own.
	// It is doubled until there are at most maxSums: an entry of the index has less than
	// 64 KiB.
	sumPart = 1 << 20
	maxSums = 8192
)

// sums are what a blob, of which the whole was compared with its digest, consists of:
// with them, a part can be compared without the rest.
type sums struct {
	size, part int64    // bytes; the last part may be shorter
	crcs       []uint32 // CRC-32C of each part
}

// sumsRecord is how sums are kept in the index.
type sumsRecord struct {
	Size int64  `json:"s"`
	Part int64  `json:"p"`
	CRCs []byte `json:"c"` // big-endian
}

func (s *sums) record() sumsRecord {
	rec := sumsRecord{Size: s.size, Part: s.part}
	for _, crc := range s.crcs {
		rec.CRCs = binary.BigEndian.AppendUint32(rec.CRCs, crc)
	}
	return rec
}

// sums returns what rec says, or nil where that makes no sense.
func (rec sumsRecord) sums() *sums {
	n := len(rec.CRCs) / 4
	if rec.Size <= 0 || rec.Part <= 0 || n > maxSums || len(rec.CRCs)%4 != 0 || (rec.Size-1)/rec.Part+1 != int64(n) {
		return nil
	}
	s := &sums{size: rec.Size, part: rec.Part, crcs: make([]uint32, n)}
	for i := range s.crcs {
		s.crcs[i] = binary.BigEndian.Uint32(rec.CRCs[4*i:])
	}
	return s
}

func (s *sums) equal(other *sums) bool {
	return other != nil && s.size == other.size && s.part == other.part && slices.Equal(s.crcs, other.crcs)
}

// bounds returns where part i begins and ends.
func (s *sums) bounds(i int64) (start, end int64) {
	return i * s.part, min((i+1)*s.part, s.size)
}

// sumsOf returns the sums of dgst that are known, nil where none are. The index may
// lose them.
func (c *Cache) sumsOf(ctx context.Context, dgst digest.Digest) *sums {
	var rec sumsRecord
	if c.record(ctx, key(kindSums, dgst.String()), &rec) != nil {
		return nil
	}
	return rec.sums()
}

// sumsChange is the change that keeps s.
func sumsChange(dgst digest.Digest, s *sums) Change {
	return put(key(kindSums, dgst.String()), s.record())
}

// summer makes sums of what is written to it.
type summer struct {
	sums
	table   *crc32.Table
	pending int64 // bytes of the part that is not complete
	crc     uint32
}

// newSummer returns a summer for content of size bytes, -1 where that is not known.
func newSummer(size int64) *summer {
	s := &summer{sums: sums{part: sumPart}, table: crc32.MakeTable(crc32.Castagnoli)}
	for size > maxSums*s.part {
		s.part *= 2
	}
	return s
}

// Write implements io.Writer. It never fails.
func (s *summer) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		n := min(int64(len(rest)), s.part-s.pending)
		s.crc = crc32.Update(s.crc, s.table, rest[:n])
		rest = rest[n:]
		if s.pending += n; s.pending == s.part {
			s.complete()
		}
	}
	return len(p), nil
}

func (s *summer) complete() {
	if len(s.crcs) <= maxSums { // one too many tells that they are of no use
		s.crcs = append(s.crcs, s.crc)
	}
	s.crc, s.pending = 0, 0
}

// finish returns the sums of all that was written. It is nil where they are not worth
// keeping: what is small is compared with its digest each time, and more than was said
// may have come.
func (s *summer) finish() *sums {
	if s.pending > 0 {
		s.complete()
	}
	if s.size <= wholeFirst || len(s.crcs) > maxSums {
		return nil
	}
	return &s.sums
}

// pace says how content is read that nobody waits for. The zero value is as fast as
// possible.
type pace struct {
	limit *rate.Limiter // bytes; its burst is at least streamBuffer
	tell  func(n int64) // is told how many bytes were read; may be nil
	// forget is told what will not be read again soon; may be nil.
	forget func(off, n int64)
}

// read fills p from the position off.
func (p pace) read(ctx context.Context, b io.ReaderAt, buf []byte, off int64) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if p.limit != nil {
		if err := p.limit.WaitN(ctx, len(buf)); err != nil {
			return 0, err
		}
	}
	if n, err = b.ReadAt(buf, off); n == len(buf) {
		err = nil // io.EOF may come with the last bytes
	}
	if p.tell != nil {
		p.tell(int64(n))
	}
	if p.forget != nil {
		p.forget(off, int64(n))
	}
	return n, err
}

// compare reads all of b, compares it with its digest, and returns its sums; nil where
// they are not worth keeping. What is wrong with it is a [damage].
func (c *Cache) compare(ctx context.Context, b Blob, dgst digest.Digest, p pace) (*sums, error) {
	hash, err := verify.NewHash(dgst)
	if err != nil {
		return nil, err
	}
	parts := newSummer(b.Size())
	buf := c.buffer()
	defer c.recycle(buf)
	for pos := int64(0); pos < b.Size(); {
		n, err := p.read(ctx, b, (*buf)[:min(int64(len(*buf)), b.Size()-pos)], pos)
		_, _ = hash.Write((*buf)[:n])  // never fails
		_, _ = parts.Write((*buf)[:n]) // never fails
		pos += int64(n)
		if err != nil {
			return nil, readDamage(err, pos)
		}
	}
	if err := hash.Verify(b.Size()); err != nil {
		return nil, &damage{err: err}
	}
	return parts.finish(), nil
}
