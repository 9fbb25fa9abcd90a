package lab

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
)

// sendBuffer is how many bytes a connection of a [Gateway] takes ahead of what
// has left (the kernel doubles it). It is small, so that what a [Ledger] counts as
// sent is what the client has, or is about to have, also when the connection is
// cut.
const sendBuffer = 64 << 10

// conn is what a handler can know of the connection that a request came by.
type conn struct {
	net.Conn
	used atomic.Bool // by a request before
}

type connKey struct{}

// ConnContext is for [http.Server.ConnContext]. Without it, [Link.Connect] has no
// effect, and [Reset] is as [Cut].
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &conn{Conn: c})
}

// thin makes the send buffer of a connection small.
func thin(ctx context.Context, c net.Conn) context.Context {
	if tcp, ok := transport(c).(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // a connection that is gone has none
	}
	return ConnContext(ctx, c)
}

// transport is what TLS runs on, or the connection itself.
func transport(c net.Conn) net.Conn {
	if over, ok := c.(*tls.Conn); ok {
		return over.NetConn()
	}
	return c
}

// fresh tells, once for each connection, that it is the first request on it.
func fresh(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	return ok && !c.used.Swap(true)
}

// abort ends a request's connection with a reset, as a router that has forgotten
// it does: what was not yet sent is lost.
func abort(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		if tcp, ok := transport(c.Conn).(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it is gone already
		}
	}
	panic(http.ErrAbortHandler)
}
