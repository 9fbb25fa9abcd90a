package upstreamtest

import (
	"net/http"
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
	pos   int64 // bytes of the body so far
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (s *sender) WriteHeader(status int) {
	s.wrote = true
	h := s.Header()
	if s.fault.Chunked {
		h.Del("Content-Length")
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
	if !s.wrote {
		s.WriteHeader(http.StatusOK)
	}
	written := 0
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
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
		n, err := s.ResponseWriter.Write(out)
		s.reg.counts.sent(s.req.Kind, s.req.Ref, n)
		s.pos += int64(n)
		written += n
		if err != nil {
			return written, err
		}
		p = p[len(part):]
	}
	if s.fault.Cut && s.pos == s.fault.CutAt {
		s.cut()
	}
	return written, nil
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
	if !s.wrote {
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
