package cache

import (
	"context"
	"hash/crc32"
	"sync"

	"github.com/opencontainers/go-digest"
)

// firstChecked is the size in bytes up to which a stored blob is compared as a whole
// before it is given out for the first time: who asks for it gets a proper error if it
// is damaged and cannot be fetched again. Of what is larger that is so for the first
// part, if it has sums.
const firstChecked = 4 << 20

// standing is what has been found out of a file.
type standing struct {
	of identity

	mu    sync.Mutex
	right []bool // by part; nil: the whole is right
	left  int    // how many parts are not known to be right
}

// done tells whether the whole is right.
func (st *standing) done() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.right == nil
}

// from returns the first part from i on that is not known to be right.
func (st *standing) from(i int64) int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.right == nil {
		return 1<<63 - 1
	}
	for i < int64(len(st.right)) && st.right[i] {
		i++
	}
	return i
}

// found notes that part i is right.
func (st *standing) found(i int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.right == nil || st.right[i] {
		return
	}
	st.right[i] = true
	if st.left--; st.left == 0 {
		st.right = nil
	}
}

// checker compares the parts of a stored blob with their sums, each before it is given
// out: then the kernel can send it from its page cache, where it has just been looked
// at. What one reader has found is known to all. While a part is sent, the next one is
// compared.
type checker struct {
	c    *Cache
	b    Blob
	sums *sums
	st   *standing

	// ahead gets what came of comparing part next; nil if nothing is compared.
	ahead chan error
	next  int64
}

// newChecker returns a checker for b, which is as long as s says.
func (c *Cache) newChecker(dgst digest.Digest, b Blob, s *sums) *checker {
	id := identify(b)
	st, ok := c.condition.standings.Get(dgst)
	if !ok || st.of != id {
		st = &standing{of: id, right: make([]bool, len(s.crcs)), left: len(s.crcs)}
		c.condition.standings.Add(dgst, st) // if another reader does so, too, parts are compared twice
	}
	return &checker{c: c, b: b, sums: s, st: st}
}

// until makes sure that the byte at pos can be given out, and returns up to where that
// is so. N is how many bytes are wanted. What is wrong is a [damage].
func (k *checker) until(ctx context.Context, pos, n int64) (end int64, err error) {
	i := pos / k.sums.part
	first := k.st.from(i)
	if first == i {
		if err := k.part(ctx, i); err != nil {
			return 0, err
		}
		first = k.st.from(i + 1)
	}
	if first >= int64(len(k.sums.crcs)) {
		return k.sums.size, nil
	}
	if end, _ = k.sums.bounds(first); end < pos+n && k.ahead == nil {
		k.begin(ctx, first)
	}
	return end, nil
}

// part compares part i, or waits for who does.
func (k *checker) part(ctx context.Context, i int64) error {
	if k.ahead != nil {
		err := <-k.ahead
		k.ahead = nil
		if k.next == i {
			return err
		}
	}
	return k.compare(ctx, i)
}

// begin compares part i meanwhile.
func (k *checker) begin(ctx context.Context, i int64) {
	ahead := make(chan error, 1)
	k.ahead, k.next = ahead, i
	go func() { ahead <- k.compare(ctx, i) }()
}

// compare reads part i. Where it is wrong, it is read again: what is only read wrongly
// now and then is not damaged.
func (k *checker) compare(ctx context.Context, i int64) (err error) {
	buf := k.c.buffer()
	defer k.c.recycle(buf)
	for range 2 {
		if err = k.read(ctx, *buf, i); err == nil {
			k.st.found(i)
			return nil
		}
	}
	return err
}

func (k *checker) read(ctx context.Context, buf []byte, i int64) error {
	start, end := k.sums.bounds(i)
	var crc uint32
	table := crc32.MakeTable(crc32.Castagnoli)
	for pos := start; pos < end; {
		n, err := pace{}.read(ctx, k.b, buf[:min(int64(len(buf)), end-pos)], pos)
		if err != nil {
			return readDamage(err, pos+int64(n))
		}
		crc = crc32.Update(crc, table, buf[:n])
		pos += int64(n)
	}
	if crc != k.sums.crcs[i] {
		return &damage{start, errSum}
	}
	return nil
}

// close waits for what still reads.
func (k *checker) close() {
	if k.ahead != nil {
		<-k.ahead
		k.ahead = nil
	}
}
