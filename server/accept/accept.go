// Package accept listens for clients that speak plain HTTP or TLS at the same port, and
// bounds what those can hold who only listen, too.
//
// It promises that nobody who is silent, slow or hostile keeps others from being
// accepted, unless as many responses are under way as there may be connections; that a
// connection with a response under way is never closed to make room; and that plain
// connections come out as they came in, so that files can still be sent with sendfile. It
// trusts that the HTTP server tells it what becomes of connections, see
// [Listener.ConnState]. It imports nothing of this module but internal packages.
package accept

import (
	"cmp"
	"container/list"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// DefaultFirstByteTimeout is as long as the header of a request may take by the defaults
// of the proxies that stand in front.
const DefaultFirstByteTimeout = time.Minute

// Options of a [Listener]. The zero value works, for plain HTTP.
type Options struct {
	// TLS is how to speak TLS, usually of [NewTLSConfig]. Nil is for not at all; then
	// nothing is read ahead either.
	TLS *tls.Config

	// RequireTLS has plain HTTP answered with status 400 and the reason. It has no effect
	// without TLS.
	RequireTLS bool

	// FirstByteTimeout is how long a client may be silent at first, and then how long the
	// TLS handshake may take. It applies where TLS is set. Default:
	// DefaultFirstByteTimeout.
	FirstByteTimeout time.Duration

	// MaxConns is how many connections there may be. Default: as many as the limit of open
	// files allows with what else is open (RLIMIT_NOFILE), and half of the memory of the
	// machine or the control group with what the most hostile of clients can take, at most
	// 4096.
	MaxConns int

	// Log is told who was refused, or closed to make room, now and then. Nil is for nobody.
	Log logrus.FieldLogger
}

// Listener is a [net.Listener] for one HTTP server. It accepts on its own, until it is
// closed.
type Listener struct {
	inner    net.Listener
	opts     Options
	spoken   atomic.Pointer[spoken]
	accepted chan net.Conn
	done     chan struct{} // closed when there are no more connections

	// Lines about clients that speak plain HTTP and must not, about certificates that were
	// refused, and about a lack of room.
	plain, certificates, crowded sparse

	mu    sync.Mutex
	err   error // why done is closed
	conns map[net.Conn]*conn
	// idle has those of conns that can be closed to make room, the longest idle first.
	idle list.List
	// room has an element when there may be room for one who waits for it.
	room chan struct{}
}

// conn is a connection that counts.
type conn struct {
	raw    net.Conn      // to close it at once, without a farewell
	given  net.Conn      // its key in Listener.conns, which can be one of TLS
	idle   *list.Element // nil from a complete header to the end of the response
	since  time.Time     // it is idle
	server bool          // the HTTP server has it
}

// New returns a listener that takes connections from inner, which has to be one for TCP or
// Unix sockets. It has to be closed, which closes inner.
func New(inner net.Listener, opts Options) *Listener {
	opts.FirstByteTimeout = cmp.Or(opts.FirstByteTimeout, DefaultFirstByteTimeout)
	if opts.MaxConns <= 0 {
		opts.MaxConns = maxConns(openFiles(), usableMemory(memoryLimits[:]...))
	}
	if opts.Log == nil {
		opts.Log = silence()
	}
	l := &Listener{
		inner:    inner,
		opts:     opts,
		accepted: make(chan net.Conn),
		done:     make(chan struct{}),
		conns:    make(map[net.Conn]*conn),
		room:     make(chan struct{}, 1),
	}
	l.Speak(opts.TLS, opts.RequireTLS)
	go l.run()
	return l
}

// spoken is what clients can speak.
type spoken struct {
	tls     *tls.Config // nil: plain HTTP
	require bool        // TLS
}

// Speak has new connections speak as Options.TLS and Options.RequireTLS say with these
// values. Those that are open go on, as far as [Listener.Recheck] lets them.
func (l *Listener) Speak(conf *tls.Config, requireTLS bool) {
	l.spoken.Store(&spoken{conf, requireTLS && conf != nil})
}

// Accept returns the next client that has something to say, as *net.TCPConn,
// *net.UnixConn, or *tls.Conn after its handshake. Where TLS is not configured it does not
// wait for what a client has to say.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, l.err
	}
}

// Addr returns where it listens.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close ends accepting, and closes the connections that Accept has not returned.
func (l *Listener) Close() error {
	err := l.inner.Close()
	l.end(&net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed})
	return err
}

// end has Accept return err from now on.
func (l *Listener) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.done)
	for _, c := range l.conns {
		if !c.server {
			_ = c.raw.Close() // nobody has sent anything on it
		}
	}
}

// run accepts until the listener is closed.
func (l *Listener) run() {
	delay := time.Duration(0)
	for {
		raw, err := l.inner.Accept()
		if err != nil {
			if !temporary(err) {
				l.end(err)
				return
			}
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			l.recover(err, delay)
			continue
		}
		delay = 0
		c := l.admit(raw)
		switch {
		case c == nil: // closed
			_ = raw.Close() // nobody has sent anything on it
			return
		case l.spoken.Load().tls == nil:
			l.give(c, raw)
		default:
			go l.welcome(c)
		}
	}
}

// recover does what can be done about an error of Accept that may pass, which is mostly
// that there are too many open files.
func (l *Listener) recover(err error, delay time.Duration) {
	if dropped, ok := l.crowded.next(); ok {
		l.opts.Log.WithError(err).WithField("before", dropped).
			Warn("a connection cannot be accepted yet; if it is for lack of something, idle ones are closed. If it goes on, raise the limit of open files (ulimit -n)")
	}
	if crowded(err) {
		l.mu.Lock()
		l.evict()
		l.mu.Unlock()
	}
	wait := time.NewTimer(delay)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-l.done:
	}
}

// admit counts a new connection, when there is room. It returns nil if the listener is
// closed before.
func (l *Listener) admit(raw net.Conn) *conn {
	for {
		l.mu.Lock()
		if l.err != nil {
			l.mu.Unlock()
			return nil
		}
		wait, evicted := time.Duration(0), false
		if len(l.conns) >= l.opts.MaxConns {
			wait, evicted = l.evict()
		}
		if len(l.conns) < l.opts.MaxConns {
			c := &conn{raw: raw, given: raw}
			l.rest(c)
			l.conns[raw] = c
			l.mu.Unlock()
			l.logCrowd(evicted)
			return c
		}
		l.mu.Unlock()
		if wait == 0 {
			l.logBusy()
		}
		l.await(wait)
	}
}

// await waits until there may be room, or for so long if that is not 0.
func (l *Listener) await(most time.Duration) {
	var end <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		end = timer.C
	}
	select {
	case <-l.room:
	case <-end:
	case <-l.done:
	}
}

// rest notes that nothing is under way on c from now on. Mu is held.
func (l *Listener) rest(c *conn) {
	c.idle, c.since = l.idle.PushBack(c), time.Now()
}

// evict closes the connection that has been idle for longest, if there is one. It spares
// who has not had the time to ask for something: then it returns how long they still have.
// Neither does it close one on which a request has just come in, which its client would
// have to take for lost. Mu is held.
func (l *Listener) evict() (wait time.Duration, evicted bool) {
	oldest := l.idle.Front()
	for e, looked := oldest, 0; e != nil && looked < mostLooked; e, looked = e.Next(), looked+1 {
		c := e.Value.(*conn)
		if wait = grace - time.Since(c.since); wait > 0 {
			break // of all that follow as well
		}
		if !hasInput(c.raw) {
			l.discard(c)
			return 0, true
		}
	}
	if oldest == nil || wait > 0 {
		return wait, false
	}
	l.discard(oldest.Value.(*conn)) // the server does not get round to any of them
	return 0, true
}

// discard closes a connection on which nothing is under way. Mu is held.
func (l *Listener) discard(c *conn) {
	l.remove(c)
	_ = c.raw.Close() // there is nobody to tell
}

// remove makes room for another one. Mu is held.
func (l *Listener) remove(c *conn) {
	if c.idle != nil {
		l.idle.Remove(c.idle)
		c.idle = nil
	}
	delete(l.conns, c.given)
	l.makeRoom()
}

// makeRoom wakes who waits for room.
func (l *Listener) makeRoom() {
	select {
	case l.room <- struct{}{}:
	default:
	}
}

// give has Accept return given, which is c itself or speaks TLS over it.
func (l *Listener) give(c *conn, given net.Conn) {
	l.mu.Lock()
	if l.conns[c.given] != c { // it was closed to make room
		l.mu.Unlock()
		return
	}
	delete(l.conns, c.given)
	c.given = given
	l.conns[given] = c
	l.mu.Unlock()
	select {
	case l.accepted <- given:
	case <-l.done:
		l.drop(c)
	}
}

// drop closes a connection that Accept has not returned.
func (l *Listener) drop(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[c.given] == c {
		l.remove(c)
	}
	_ = c.raw.Close() // it is not needed any more
}

// ConnState has to be called by the HTTP server for each change of state of what Accept
// returned ([http.Server.ConnState]): by that it is known which connections are idle, and
// when they end.
func (l *Listener) ConnState(given net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conns[given]
	if c == nil {
		return // closed to make room, or none of ours
	}
	switch state {
	case http.StateNew:
		c.server = true
	case http.StateActive: // the header is complete
		if c.idle != nil {
			l.idle.Remove(c.idle)
			c.idle = nil
		}
	case http.StateIdle:
		if c.idle == nil {
			l.rest(c)
			l.makeRoom()
		}
	case http.StateHijacked, http.StateClosed:
		l.remove(c)
	}
}

// temporary tells whether accepting may work again after err.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return crowded(err) || passing(err) || ok && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

// address is who is at the other end, for the log. That of a Unix socket has no name.
func address(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}
