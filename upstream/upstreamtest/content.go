package upstreamtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// content is what a blob has. It is read by several answers at a time.
type content interface {
	io.ReaderAt
	Size() int64
}

// Generated returns size bytes that look random, always the same for a seed.
// They take no memory: each is made up when it is read.
func Generated(size int64, seed uint64) *io.SectionReader {
	return io.NewSectionReader(generator{mix(seed)}, 0, size)
}

// AddGenerated puts [Generated] content into repo and returns its sha256 digest,
// for which the content is made up once.
func (r *Registry) AddGenerated(repo string, size int64, seed uint64) digest.Digest {
	c := Generated(size, seed)
	dgst, err := digest.SHA256.FromReader(io.NewSectionReader(c, 0, size))
	if err != nil {
		r.fail("making up a blob for %s: %v", repo, err)
	}
	r.addBlob(repo, dgst, c)
	return dgst
}

// generator is an endless sequence of random words of 8 bytes, any of which can
// be had without those before it: SplitMix64 (Steele, Lea, Flood: "Fast
// Splittable Pseudorandom Number Generators").
type generator struct{ key uint64 }

// ReadAt implements io.ReaderAt.
func (g generator) ReadAt(p []byte, off int64) (int, error) {
	var word [8]byte
	for n := 0; n < len(p); {
		at := uint64(off) + uint64(n)
		binary.LittleEndian.PutUint64(word[:], mix(g.key+at/8))
		n += copy(p[n:], word[at%8:])
	}
	return len(p), nil
}

func mix(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// ranged returns req as it is to be answered under f, for content of size bytes.
func (f *Fault) ranged(req *http.Request, size int64) *http.Request {
	first, last, ok := parseRange(req.Header.Get("Range"), size)
	req = req.Clone(req.Context())
	if f.IgnoreRange {
		req.Header.Del("Range")
	}
	if f.IgnoreIfRange {
		req.Header.Del("If-Range")
	}
	if f.IgnoreRange || !ok || f.RangeShift == 0 && f.RangeMax == 0 {
		return req
	}
	first, last = max(first+f.RangeShift, 0), max(last+f.RangeShift, 0)
	if f.RangeMax > 0 {
		last = min(last, first+f.RangeMax-1)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, last))
	return req
}

// parseRange reads a Range header of one range that has a beginning.
func parseRange(value string, size int64) (first, last int64, ok bool) {
	value, _ = strings.CutPrefix(value, "bytes=")
	from, to, _ := strings.Cut(value, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil || first >= size {
		return 0, 0, false
	}
	last, err = strconv.ParseInt(to, 10, 64)
	if to != "" && err != nil || last < 0 {
		return 0, 0, false
	}
	if to == "" || last >= size {
		last = size - 1
	}
	return first, last, true
}
