package upstream_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
)

// memory is a network on which nothing takes any time.
type memory struct {
	dials atomic.Int32

	mu        sync.Mutex
	listeners map[netip.AddrPort]*memoryListener
}

// inMemory runs test in simulated time, which goes on when everybody waits: that a
// machine is slow does not count. Who is to be part of it has to be on n.
func inMemory(t *testing.T, test func(t *testing.T, n *memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, &memory{listeners: make(map[netip.AddrPort]*memoryListener)})
	})
}

// Listen is [net.Listen]. Port 0 is one that nobody has had.
func (n *memory) Listen(_, addr string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), uint16(len(n.listeners)+1))
	}
	l := &memoryListener{addr: at, accept: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	n.listeners[at] = l
	return l, nil
}

// DialContext connects to who listens, and counts.
func (n *memory) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	n.dials.Add(1)
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.listeners[at]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("nobody has listened at %s", addr)
	}
	client, server := net.Pipe()
	select {
	case l.accept <- server:
		return client, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	addr   netip.AddrPort
	accept chan net.Conn
	closed chan struct{}
	close  func()
}

// Accept implements net.Listener.
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memoryListener) Close() error { l.close(); return nil }

// Addr implements net.Listener.
func (l *memoryListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
