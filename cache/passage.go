package cache

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

// through reads a blob from the remote without storing it, because of cause.
func (r *Repository) through(ctx context.Context, dgst digest.Digest, cause error) (*Reader, error) {
	p := &passage{ctx: ctx, r: r, dgst: dgst, size: -1, cause: cause, begun: time.Now()}
	p.known.size.Store(-1)
	r.counters().started.Add(1)
	r.c.counters.passages.Store(p, struct{}{})
	if err := p.begin(); err != nil {
		p.end(err)
		return nil, err
	}
	r.told(ctx, Answered{Source: FromRemote})
	v, err := verify.NewReader(p, dgst, p.size)
	if err != nil {
		_ = p.Close() // nothing was read
		return nil, err
	}
	if p.size == 0 { // see wholeFirst
		if _, err := v.Read(make([]byte, 1)); err != io.EOF {
			p.end(r.bodyError(dgst, err))
			_ = p.Close() // it gave something else
			return nil, r.bodyError(dgst, err)
		}
	}
	return &Reader{ctx: ctx, src: passing{&explained{Reader: v, p: p}, p}, size: p.size, repo: r, dgst: dgst, passing: true}, nil
}

// passage is the content of a blob as the remote gives it. Where the remote breaks
// off, it goes on from there. It holds one of the connections for blobs, unless its
// reader takes nothing for idleReader: a client that has paused is not to keep
// others from theirs.
type passage struct {
	ctx  context.Context // of the one reader
	r    *Repository
	dgst digest.Digest

	release   func()
	paused    *time.Timer   // runs between reads, then releases
	body      io.ReadCloser // nil: to be opened
	size      int64         // of the blob, -1 where the remote does not say
	validator string

	pos   int64 // of the next byte
	fresh int64 // how many have come since body was opened
	last  time.Time
	retry retry

	// cause is why the blob is not stored, begun when the passage was, and ended that
	// nobody has to be told any more.
	cause error
	begun time.Time
	ended bool
	// known is for who only wants to know: times are in Unix nanoseconds, 0 is never.
	known struct {
		pos, size, last atomic.Int64
		streams         atomic.Bool // it does not wait for a connection
	}
}

// end counts how the passage has ended, unless that is done.
func (p *passage) end(err error) {
	if p.ended {
		return
	}
	p.ended = true
	p.r.c.counters.passages.Delete(p)
	if err != nil && p.ctx.Err() != nil {
		err = p.ctx.Err()
	}
	p.r.fillEnded(FillEnd{
		Place: p.r.Place(), Digest: p.dgst, Size: p.size, Fetched: p.pos,
		Took: time.Since(p.begun), Err: err, Unstored: p.cause,
	}, p.pos)
}

// stats tells how far it is.
func (p *passage) stats() FillStats {
	s := FillStats{
		Place: p.r.Place(), Digest: p.dgst, Size: p.known.size.Load(), Have: p.known.pos.Load(), Fetched: p.known.pos.Load(),
		Begun: p.begun, Waiting: !p.known.streams.Load(), Clients: 1, Passing: true,
	}
	if last := p.known.last.Load(); last != 0 {
		s.LastByte = time.Unix(0, last)
	}
	return s
}

// idleReader is how long the reader of a passage keeps its connection for blobs
// without reading. Its connection to the remote stays.
const idleReader = 10 * time.Second

// begin asks for the blob.
func (p *passage) begin() (err error) {
	if p.release, err = p.r.remote.streamSlots.Acquire(p.ctx, classOf(p.r.namedSize(p.ctx, p.dgst))); err != nil {
		return err
	}
	p.known.streams.Store(true)
	s, err := p.r.remote.Upstream.Blob(p.ctx, p.r.name, p.dgst, BlobPart{})
	if err != nil {
		p.release()
		return err
	}
	p.body, p.size, p.validator, p.last = s.Body, s.Size, s.Validator, time.Now()
	p.known.size.Store(p.size)
	p.paused = time.AfterFunc(idleReader, p.release)
	return nil
}

// Read implements io.Reader.
func (p *passage) Read(b []byte) (int, error) {
	p.paused.Stop()
	defer p.paused.Reset(idleReader)
	for {
		if p.body == nil {
			if err := p.reopen(); err != nil {
				if err := p.wait(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		n, err := p.body.Read(b)
		if n > 0 {
			p.pos += int64(n)
			p.fresh += int64(n)
			p.last = time.Now()
			p.known.pos.Store(p.pos)
			p.known.last.Store(p.last.UnixNano())
			return n, nil // an error comes again
		}
		if err == nil || err == io.EOF && (p.size < 0 || p.pos >= p.size) {
			return 0, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		_ = p.body.Close() // it is broken
		p.body = nil
		p.retry.progress(p.fresh)
		if err := p.wait(err); err != nil {
			return 0, err
		}
	}
}

// wait waits until it is worth trying again after err.
func (p *passage) wait(err error) error {
	if p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	wait, err := p.retry.again(p.r.bodyError(p.dgst, err), time.Since(p.last), p.r.remote.RetryFor)
	if err != nil {
		return err
	}
	p.r.counters().retried.Add(1)
	return sleep(p.ctx, wait)
}

// reopen asks for the rest of the blob.
func (p *passage) reopen() error {
	s, err := p.r.remote.current().Blob(p.ctx, p.r.name, p.dgst, BlobPart{Offset: p.pos, Validator: p.validator})
	if err != nil {
		return err
	}
	switch {
	case p.size >= 0 && s.Size != p.size && !(s.Size < 0 && s.Part):
		err = otherSize(s.Size, p.size)
	case s.Offset == 0:
		_, err = io.CopyN(io.Discard, s.Body, p.pos) // what was read must not be read again
	case s.Offset != p.pos:
		err = otherOffset(s.Offset, p.pos)
	}
	if err != nil {
		_ = s.Body.Close() // it is of no use
		return err
	}
	p.body, p.fresh = s.Body, 0
	return nil
}

// Close implements io.Closer.
func (p *passage) Close() error {
	p.end(context.Canceled) // unless its end was seen
	p.paused.Stop()
	p.release()
	if p.body == nil {
		return nil
	}
	return p.body.Close()
}

// explained says what errors in the middle of a blob mean, and notes the end.
type explained struct {
	io.Reader
	p     *passage
	given int64
}

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	e.given += int64(n)
	switch {
	case err == io.EOF, err == nil && e.given == e.p.size: // the last byte comes only if all is right
		e.p.end(nil)
	case err != nil:
		err = e.p.r.bodyError(e.p.dgst, err)
		e.p.end(err)
	}
	return n, err
}
