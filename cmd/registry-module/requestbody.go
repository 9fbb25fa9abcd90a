package main

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// bodyTimeout is how long a client of the API may take for the body of a request.
	// Nobody has a reason to send a long one: nothing can be pushed, and the proxies in
	// front let no more than 1 MiB through.
	bodyTimeout = time.Minute

	// unreadTimeout is how long a client may go on sending a body that nobody is going to
	// read. net/http waits for up to 256 KiB of it before it sends the answer, so that a
	// client which sends all before it reads gets it.
	unreadTimeout = 5 * time.Second
)

// boundBodies bounds how long a client may take for the body of a request: limit while h
// runs, 0 for no bound, and unreadTimeout for what h has not read when it returns. Without
// that, a client that announces a body and sends none would hold its connection for ever,
// also when it was answered long ago. Requests without a body reach h as they are.
func boundBodies(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			h.ServeHTTP(w, r)
			return
		}
		b := &boundBody{ReadCloser: r.Body, conn: http.NewResponseController(w)}
		if limit > 0 {
			b.until = time.Now().Add(limit)
			b.deadline(b.until)
		}
		defer b.leave() // also of a handler that panics
		// A copy: net/http treats its own kinds of bodies in ways of their own.
		r = r.WithContext(r.Context())
		r.Body = b
		h.ServeHTTP(w, r)
	})
}

// boundBody is the body of a request that has a deadline.
type boundBody struct {
	io.ReadCloser
	conn  *http.ResponseController
	until time.Time   // zero for no bound
	read  atomic.Bool // to its end
}

// Read implements io.Reader. After the end of the body there is nothing to be bounded: from
// then on, reading is how net/http notices that a client has left.
func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.read.Store(true)
		b.deadline(time.Time{})
	}
	return n, err
}

// leave bounds what is left of the body.
func (b *boundBody) leave() {
	at := time.Now().Add(unreadTimeout)
	if !b.read.Load() && (b.until.IsZero() || at.Before(b.until)) {
		b.deadline(at)
	}
}

// deadline sets when reading ends. The next request of the connection gets a new one.
func (b *boundBody) deadline(at time.Time) {
	_ = b.conn.SetReadDeadline(at) // of connections that have deadlines
}
