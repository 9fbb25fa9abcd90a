package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

// Reader reads one blob: a stored one, one that is still being downloaded, or
// one that only passes through. It belongs to one goroutine. Reading waits for
// what is not there yet and ends with the context it was opened with. The end of
// the blob is reached only if the blob is right.
type Reader struct {
	ctx     context.Context
	src     io.ReadSeekCloser
	size    int64 // -1 where it is not known yet
	pos     int64
	fill    *fill       // nil unless the blob is being downloaded
	left    bool        // it does not count as a client of fill any more
	repo    *Repository // in which it is
	dgst    digest.Digest
	passing bool          // cannot seek
	stored  Blob          // nil unless the blob is stored
	check   *checker      // nil unless parts of stored have to be compared
	heals   int           // how often damage has been got over
	done    func(readEnd) // tells that nobody reads any more, if anybody wants to know
}

var _ io.ReadSeekCloser = (*Reader)(nil)

// Size is the length of the blob in bytes, or -1 where it is not known before
// the end; see [Reader.Whole].
func (b *Reader) Size() int64 { return b.size }

// Passing tells that the blob is verified while it passes, because it is not
// stored or was never compared with its digest: it can neither be sought in nor
// read again.
func (b *Reader) Passing() bool { return b.passing }

// Whole waits until the blob is complete, which makes its size known.
func (b *Reader) Whole() error {
	if b.fill == nil {
		return nil
	}
	size, err := b.fill.whole(b.ctx)
	if err == nil {
		b.size = size
	}
	return err
}

// ready waits until bytes at the position, of which the caller wants n, can be
// read, and returns how many can be without waiting again. At the end of the blob
// it returns io.EOF.
func (b *Reader) ready(n int64) (int64, error) {
	for {
		if b.fill != nil {
			n, err := b.fill.available(b.ctx, b.pos, n)
			if !errors.Is(err, ErrNoSpace) {
				return n, err
			}
			if err := b.detach(err); err != nil {
				return 0, err
			}
		}
		if err := b.ctx.Err(); err != nil {
			return 0, err
		}
		switch {
		case b.passing:
			return math.MaxInt64, nil // it waits by itself
		case b.pos >= b.size:
			return 0, io.EOF
		case b.check == nil:
			return b.size - b.pos, nil
		}
		end, err := b.check.until(b.ctx, b.pos, n)
		if err == nil {
			return end - b.pos, nil
		}
		if err := b.heal(err); err != nil {
			return 0, err
		}
	}
}

// detach goes on with the remote's own answer where the fill cannot: the client
// must not suffer from a full disk.
func (b *Reader) detach(cause error) error {
	b.repo.c.warnPassing(b.fill.dgst, cause)
	on, err := b.repo.through(b.ctx, b.fill.dgst, cause)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, on, b.pos); err != nil {
		return errors.Join(err, on.Close())
	}
	size := on.size
	err = b.become(on)
	b.size = size
	return err
}

// become makes b go on as on, which is at the same place.
func (b *Reader) become(on *Reader) error {
	err := b.Close()
	b.src, b.fill, b.passing, b.stored, b.check, b.done = on.src, on.fill, on.passing, on.stored, on.check, on.done
	b.left = on.left
	return err
}

// Read implements io.Reader.
func (b *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.ready(int64(len(p)))
	if err != nil {
		return 0, err
	}
	read, err := b.src.Read(p[:min(n, int64(len(p)))])
	b.pos += int64(read)
	if err == nil {
		return read, nil
	}
	if err = b.failed(err); err == nil && read == 0 {
		return b.Read(p)
	}
	return read, err
}

// failed decides what the error of reading the source means: nil where it has been
// got over.
func (b *Reader) failed(err error) error {
	switch {
	case b.passing && (err == io.EOF || errors.Is(err, verify.ErrMismatch)):
		return err // what it was is known only at the end
	case b.stored != nil:
		return b.heal(readDamage(err, b.pos))
	case err == io.EOF && !b.passing:
		return io.ErrUnexpectedEOF // ready has promised more: the file was cut short
	}
	return err
}

// Seek implements io.Seeker. Seeking relative to the end needs to know the size.
func (b *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += b.pos
	case io.SeekEnd:
		if b.size < 0 {
			if err := b.Whole(); err != nil {
				return b.pos, err
			}
		}
		offset += b.size
	default:
		return b.pos, fmt.Errorf("seek: invalid whence %d", whence)
	}
	switch {
	case offset < 0:
		return b.pos, errors.New("seek: position before the start")
	case offset == b.pos:
		return offset, nil
	case b.passing:
		return b.pos, errors.New("seek: the blob is passed through")
	}
	if _, err := b.src.Seek(offset, io.SeekStart); err != nil {
		return b.pos, err
	}
	b.pos = offset
	return offset, nil
}

// raw is implemented by blobs whose bytes the kernel can move by itself.
type raw interface{ Raw() io.Reader }

// CopyN writes the next n bytes to w as they become available. An io.ReaderFrom
// is given the store's own file, if there is one, so that a socket can be served
// by sendfile. The error is io.EOF where the blob ends before.
func (b *Reader) CopyN(w io.Writer, n int64) (copied int64, err error) {
	for copied < n {
		step, err := b.ready(n - copied)
		if err != nil {
			return copied, err
		}
		src := io.Reader(b.src)
		if f, ok := b.src.(raw); ok {
			src = f.Raw()
		}
		step, err = io.CopyN(w, src, min(step, n-copied))
		b.pos += step
		copied += step
		if err != nil && (err == io.EOF || b.stored == nil || b.broken()) {
			err = b.failed(err)
		}
		if err != nil {
			return copied, err
		}
	}
	return copied, nil
}

// broken tells whether it is the stored file that cannot be read at the position, after
// an error that may be of who was written to.
func (b *Reader) broken() bool {
	buf := b.repo.c.buffer()
	defer b.repo.c.recycle(buf)
	_, err := b.stored.ReadAt((*buf)[:min(int64(len(*buf)), b.size-b.pos)], b.pos)
	return err != nil
}

// Close ends reading. It does not disturb a download.
func (b *Reader) Close() error {
	if b.check != nil {
		b.check.close()
	}
	if b.fill != nil && !b.left {
		b.left = true
		b.fill.clients.Add(-1)
	}
	if b.done != nil {
		how := readSome
		if b.pos == b.size {
			how = readToEnd
		}
		b.done(how)
	}
	return b.src.Close()
}

// passing is a stream that verifies itself as the source of a Reader.
type passing struct {
	io.Reader
	io.Closer
}

// Seek implements io.Seeker; Reader does not call it.
func (passing) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
