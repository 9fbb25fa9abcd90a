package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"registry-module/cache"
)

// Switch says whether remote registries may be contacted, see [Options.Switch]. One
// may be that of many remotes. In the zero value contact is allowed. It is safe for
// use by several goroutines.
type Switch struct {
	mu  sync.Mutex // guards following
	why error      // nil: contact is allowed
	// efforts are what may lead to a connection, and conns those that are open.
	efforts map[*effort]struct{}
	conns   map[*conn]struct{}
}

// offline is the error of [Switch.Offline].
type offline struct{ why error }

func (e *offline) Error() string   { return "offline mode is on: " + e.why.Error() }
func (e *offline) Unwrap() []error { return []error{cache.ErrOffline, cache.ErrNotAsked} }

// Offline returns why no remote may be contacted, nil where they may be. The error
// wraps [cache.ErrOffline] and [cache.ErrNotAsked], and has the text of what Set was
// given.
func (s *Switch) Offline() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offline()
}

// offline is Offline for who holds s.mu.
func (s *Switch) offline() error {
	if s.why == nil {
		return nil
	}
	return &offline{s.why}
}

// Set rules out contact for the reason why, whose text says what the operator can do
// about it; nil allows contact again.
//
// When Set returns after that, no new connection is made, no name is looked up, and
// those connections that were open have been closed: each with one packet, a reset,
// which is not repeated. So were those that had ended before. To what the other side
// has sent before that has reached it, the kernel goes on to answer with resets. Programs that are being run to get
// credentials are killed.
func (s *Switch) Set(why error) {
	s.mu.Lock()
	s.why = why
	err := s.offline()
	if err == nil {
		s.mu.Unlock()
		return
	}
	var dials []*effort
	for e := range s.efforts {
		e.cancel(err)
		if e.dialed != nil {
			dials = append(dials, e)
		}
	}
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	// From here on nothing is added that was not refused.
	for c := range conns {
		_ = c.end() // what is wrong with it does not matter any more
	}
	for _, e := range dials {
		<-e.dialed
	}
}

// effort is something under way that may lead to a connection.
type effort struct {
	cancel context.CancelCauseFunc
	// dialed is closed when it has ended; nil where Set does not wait for it.
	dialed chan struct{}
}

// begin takes note of an effort, which is given up when the context ends that is
// returned: with ctx, or when contact is ruled out. Then its cause is the error of
// Offline. The caller must call end. Where contact is ruled out there is only an error.
func (s *Switch) begin(ctx context.Context, e *effort) (_ context.Context, end func(), _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.offline(); err != nil {
		return nil, nil, err
	}
	ctx, e.cancel = context.WithCancelCause(ctx)
	if s.efforts == nil {
		s.efforts = make(map[*effort]struct{})
	}
	s.efforts[e] = struct{}{}
	return ctx, func() {
		s.mu.Lock()
		delete(s.efforts, e)
		s.mu.Unlock()
		e.cancel(nil)
		if e.dialed != nil {
			close(e.dialed)
		}
	}, nil
}

// or returns the error of Offline where contact is ruled out, otherwise err.
func (s *Switch) or(err error) error {
	if why := s.Offline(); why != nil {
		return why
	}
	return err
}

// dialFunc is what opens connections.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// guard makes dial open connections only while contact is allowed, and has them closed
// when it is ruled out. dial has to return soon when its context has ended.
func (s *Switch) guard(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, end, err := s.begin(ctx, &effort{dialed: make(chan struct{})})
		if err != nil {
			return nil, err
		}
		defer end()
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, s.or(err)
		}
		return s.adopt(c)
	}
}

// dialer returns what opens connections by default, within d's timeout. The queries for
// names are guarded, too: package net lets one that several wait for go on when all of
// them have left.
func (s *Switch) dialer(d net.Dialer) dialFunc {
	ask := net.DefaultResolver.Dial
	if ask == nil {
		ask = new(net.Dialer).DialContext
	}
	// The resolver in Go, which a static binary has anyway, is the one that can be
	// guarded.
	d.Resolver = &net.Resolver{PreferGo: true, StrictErrors: net.DefaultResolver.StrictErrors, Dial: s.guard(ask)}
	return s.guard(d.DialContext)
}

// adopt takes charge of a connection.
func (s *Switch) adopt(open net.Conn) (net.Conn, error) {
	c := &conn{Conn: open, by: s, end: sync.OnceValue(func() error { return reset(open) })}
	s.mu.Lock()
	err := s.offline()
	if err == nil {
		if s.conns == nil {
			s.conns = make(map[*conn]struct{})
		}
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if err != nil {
		_ = c.end() // nobody has used it
		return nil, err
	}
	if p, ok := open.(net.PacketConn); ok {
		return &packetConn{c, p}, nil // the resolver asks which kind it is
	}
	return c, nil
}

// conn is a connection that a Switch closes.
type conn struct {
	net.Conn
	by  *Switch
	end func() error // once for all, who all wait for it
}

// Close implements net.Conn. It closes the connection as Set does: what is left to the
// kernel now would still be on its way when contact is ruled out later. Who has an
// answer has nothing under way that is of use to anybody.
func (c *conn) Close() error {
	err := c.end()
	c.by.mu.Lock()
	delete(c.by.conns, c) // not before: Set does not return before it is closed
	c.by.mu.Unlock()
	return err
}

// reset closes a connection without saying goodbye: otherwise the kernel repeats that
// and what was not acknowledged for minutes where nobody answers.
func reset(c net.Conn) error {
	if tcp, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0) // the other side may have reset it
	}
	return c.Close()
}

// packetConn is a conn of datagrams.
type packetConn struct {
	*conn
	packets net.PacketConn
}

var _ net.PacketConn = (*packetConn)(nil)

// ReadFrom implements net.PacketConn.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) { return c.packets.ReadFrom(p) }

// WriteTo implements net.PacketConn.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (int, error) { return c.packets.WriteTo(p, addr) }

// guarded are transports whose connections are guarded. What is cut off fails with the
// error of Offline.
type guarded struct {
	*transports
	by *Switch
	// patience bounds the wait for a connection by way of an HTTP proxy.
	patience time.Duration
}

// RoundTrip implements http.RoundTripper.
func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.by.Offline(); err != nil { // nobody need know whom to trust
		if req.Body != nil {
			_ = req.Body.Close() // as http.RoundTripper has it
		}
		return nil, err
	}
	ctx, end := g.connecting(req)
	resp, err := g.transports.RoundTrip(req.WithContext(ctx))
	if err != nil {
		end()
		return nil, g.by.or(err)
	}
	resp.Body = guardedBody{resp.Body, g.by, end}
	return resp, nil
}

type guardedBody struct {
	io.ReadCloser
	by  *Switch
	end func()
}

// Close implements io.Closer.
func (b guardedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// Read implements io.Reader.
func (b guardedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.by.or(err)
	}
	return n, err
}

// whileOnline runs fn, which is to return soon when its context has ended, unless
// contact is ruled out. The error tells of that only, also where fn was given up
// because of it: op says what fn was for.
func (r *Remote) whileOnline(ctx context.Context, op string, fn func(context.Context)) error {
	held, end, err := r.contact.begin(ctx, new(effort))
	if err != nil {
		return r.failure(cache.ErrUnavailable, op, 0, err)
	}
	defer end()
	fn(held)
	if held.Err() != nil && ctx.Err() == nil {
		return r.failure(cache.ErrUnavailable, op, 0, fmt.Errorf("given up: %w", context.Cause(held)))
	}
	return nil
}

// mayAsk returns an error where contact is ruled out: op says what for.
func (r *Remote) mayAsk(op string) error {
	if err := r.contact.Offline(); err != nil {
		return r.failure(cache.ErrUnavailable, op, 0, err)
	}
	return nil
}
