package server

import (
	"context"
	"io"
	"net/http"
)

// exchange is one request on its way through the server: the connection's own
// ResponseWriter, what was sent, and what the app cannot express.
type exchange struct {
	http.ResponseWriter
	method string
	status int // 0 until something is sent
	bytes  int64

	failed *answer // replaces the status that the app chooses for an error
	err    error   // what it is about
}

type exchangeKey struct{}

// exchangeFrom returns the exchange that ctx belongs to, nil outside of one.
func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// override makes the response to err the one that a says.
func (x *exchange) override(a answer, err error) {
	x.failed, x.err = &a, err
	a.header(x.Header())
}

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if x.failed != nil && status >= 400 {
		status = x.failed.status
	}
	if x.status == 0 && status >= 200 {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(p []byte) (int, error) {
	x.begin()
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, which net/http's own writer does by
// sendfile where it can.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	x.begin()
	n, err := io.Copy(x.ResponseWriter, src)
	x.bytes += n
	return n, err
}

// begin notes the status that a body implies.
func (x *exchange) begin() {
	if x.status == 0 {
		x.status = http.StatusOK
	}
}

// Flush implements http.Flusher.
func (x *exchange) Flush() {
	if f, ok := x.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap lets http.ResponseController find the connection's writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }
