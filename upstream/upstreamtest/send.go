package upstreamtest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// onceClose closes a channel once.
type onceClose struct{ once sync.Once }

func (o *onceClose) close(ch chan struct{}) { o.once.Do(func() { close(ch) }) }

// pacer spaces out what is written so that a rate is held. The zero value holds
// none.
type pacer struct {
	mu   sync.Mutex
	rate int64 // bytes per second
	next time.Time
}

// pacerCredit is how far a pacer may run behind and catch up again: timers
// always fire a little late, and without it the rate would never be reached.
const pacerCredit = 10 * time.Millisecond

func (p *pacer) set(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.next = rate, time.Time{}
}

// reserve books n bytes and returns how long to wait before sending them.
func (p *pacer) reserve(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return 0
	}
	now := time.Now()
	if earliest := now.Add(-pacerCredit); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return p.next.Sub(now)
}

// grain is how much is to be written at a time: at low rates little, so that it
// comes evenly and not in gulps.
func (p *pacer) grain() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return chunk
	}
	return int(min(max(p.rate/pacerSteps, 1), chunk))
}

// pacerSteps is into how many pieces a second is divided at least.
const pacerSteps = 20

// link is a connection that may break. Only one answer at a time uses it.
type link struct {
	breaks bool
	left   int64 // bytes until then
}

type linkKey struct{}

// newLink remembers in a context of a connection what is left of it.
func newLink(ctx context.Context) context.Context {
	return context.WithValue(ctx, linkKey{}, new(link))
}

// linkOf returns the connection of req; a new one where it is not known.
func linkOf(req *http.Request) *link {
	if l, ok := req.Context().Value(linkKey{}).(*link); ok {
		return l
	}
	return new(link)
}

// breakAfter makes l break after n bytes if it does not break already.
func (l *link) breakAfter(n int64) {
	if !l.breaks {
		l.breaks, l.left = true, n
	}
}

// chunk is how much is written at a time where bytes are counted or spaced out.
const chunk = 32 << 10

// sender is the http.ResponseWriter of one answer: it counts the body and does
// the fault's part on it. Its own headers are set before the first byte.
type sender struct {
	http.ResponseWriter
	reg   *Registry
	req   Request
	fault Fault
	stop  <-chan struct{} // the client has gone
	own   pacer
	link  *link // nil: it does not break
	pos   int64 // bytes of the body so far
	// status is 0 before the headers were written.
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *sender) WriteHeader(status int) {
	s.status = status
	h := s.Header()
	if s.fault.Chunked {
		h.Del("Content-Length")
	}
	if cr, _, ok := strings.Cut(h.Get("Content-Range"), "/"); ok && s.fault.RangeSize != 0 {
		h.Set("Content-Range", fmt.Sprintf("%s/%d", cr, s.fault.RangeSize))
	}
	for name, values := range s.fault.Header {
		h.Del(name)
		for _, v := range values {
			h.Add(name, v)
		}
	}
	s.ResponseWriter.WriteHeader(status)
	if s.fault.Chunked {
		// Otherwise net/http adds the length of an answer that is short.
		s.flush()
	}
}

// Write implements io.Writer.
func (s *sender) Write(p []byte) (int, error) {
	if s.status == 0 {
		s.WriteHeader(http.StatusOK)
	}
	written := 0
	for len(p) > 0 {
		grain := min(s.reg.pace.grain(), s.own.grain())
		part := p[:min(len(p), grain)]
		part = part[:s.untilEvent(len(part))]
		for _, wait := range []time.Duration{s.reg.pace.reserve(len(part)), s.own.reserve(len(part))} {
			if !s.sleep(wait) {
				return written, s.gone()
			}
		}
		out := part
		if i := s.fault.CorruptAt - s.pos; s.fault.Corrupt && i >= 0 && i < int64(len(part)) {
			out = append([]byte(nil), part...)
			out[i] ^= 0xff
		}
		// Before it is written: who has got it finds it counted.
		s.count(len(out))
		n, err := s.ResponseWriter.Write(out)
		s.count(n - len(out))
		s.pos += int64(n)
		if s.link != nil {
			s.link.left -= int64(n)
		}
		written += n
		if err != nil {
			return written, err
		}
		if grain < chunk {
			s.flush()
		}
		p = p[len(part):]
	}
	if s.fault.Cut && s.pos == s.fault.CutAt || s.link != nil && s.link.left == 0 {
		s.cut()
	}
	return written, nil
}

// count adds n to what was sent, unless it is what is said instead of content.
func (s *sender) count(n int) {
	if s.status < 300 {
		s.reg.counts.sent(s.req.Kind, s.req.Ref, n)
	}
}

// untilEvent does what is due at the current byte and returns how many of the
// next n bytes come before something else is.
func (s *sender) untilEvent(n int) int {
	if s.fault.Cut {
		if s.pos >= s.fault.CutAt {
			s.cut()
		}
		n = int(min(int64(n), s.fault.CutAt-s.pos))
	}
	if s.link != nil {
		if s.link.left == 0 {
			s.cut()
		}
		n = int(min(int64(n), s.link.left))
	}
	if g := s.fault.Gate; g != nil {
		switch {
		case s.pos < s.fault.GateAt:
			n = int(min(int64(n), s.fault.GateAt-s.pos))
		case s.pos == s.fault.GateAt && s.fault.GateAt > 0:
			s.flush()
			g.wait(s.stop, s.reg.done)
		}
	}
	return n
}

// cut ends the answer and its connection in the middle.
func (s *sender) cut() {
	if s.status == 0 {
		s.WriteHeader(http.StatusOK)
	}
	s.flush()
	panic(http.ErrAbortHandler)
}

// gone says that nobody waits for the answer any more.
func (s *sender) gone() error { return http.ErrAbortHandler }

func (s *sender) flush() {
	// A client that has gone is noticed by the next Write.
	_ = http.NewResponseController(s.ResponseWriter).Flush()
}

// sleep waits and reports whether somebody still waits for the answer.
func (s *sender) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.stop:
		return false
	case <-s.reg.done:
		return false
	}
}
