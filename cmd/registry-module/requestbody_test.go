package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// pipeListener gives out the other ends of pipes, on which time can be simulated.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// A client that does not send the body that it has announced is answered, and gone, in
// bounded time; one that sends it is not disturbed.
func TestRequestBodies(t *testing.T) {
	const head = "PUT / HTTP/1.1\r\nHost: x\r\n"
	ignore := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) }
	readAll := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
	// The end of its context would be that of a client who has left.
	long := func(w http.ResponseWriter, r *http.Request) {
		readAll(w, r)
		select {
		case <-r.Context().Done():
			http.Error(w, "the client has left", http.StatusInternalServerError)
		case <-time.After(time.Hour):
		}
	}
	nothing := func(io.Writer) {}
	drip := func(n int, each string) func(io.Writer) {
		return func(w io.Writer) {
			for range n {
				time.Sleep(time.Second)
				if _, err := io.WriteString(w, each); err != nil {
					return
				}
			}
		}
	}
	for name, tt := range map[string]struct {
		limit  time.Duration
		head   string
		body   func(io.Writer)
		h      http.HandlerFunc
		status int
		answer time.Duration // latest
		end    time.Duration // of the connection, after the answer; 0 for that it stays
	}{
		"none":                              {bodyTimeout, head + "Content-Length: 1000\r\n\r\n", nothing, ignore, 405, unreadTimeout, time.Second},
		"none, without limit":               {0, head + "Content-Length: 1000\r\n\r\n", nothing, ignore, 405, unreadTimeout, time.Second},
		"none of many bytes":                {bodyTimeout, head + "Content-Length: 1000000\r\n\r\n", nothing, ignore, 405, 0, unreadTimeout + time.Second},
		"no chunk":                          {bodyTimeout, head + "Transfer-Encoding: chunked\r\n\r\n", nothing, ignore, 405, unreadTimeout, time.Second},
		"no chunk, and no other request":    {bodyTimeout, head + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", nothing, ignore, 405, unreadTimeout, unreadTimeout + time.Second},
		"none, is asked for it":             {bodyTimeout, head + "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n", nothing, ignore, 405, 0, unreadTimeout + time.Second},
		"slow, and ignored":                 {bodyTimeout, head + "Content-Length: 10000\r\n\r\n", drip(10_000, "x"), ignore, 405, unreadTimeout, time.Second},
		"none, and waited for":              {bodyTimeout, head + "Content-Length: 1000\r\n\r\n", nothing, readAll, 400, bodyTimeout, unreadTimeout + time.Second},
		"too slow":                          {bodyTimeout, head + "Content-Length: 1000\r\n\r\n", drip(1000, "x"), readAll, 400, bodyTimeout, unreadTimeout + time.Second},
		"slow":                              {bodyTimeout, head + "Content-Length: 30\r\n\r\n", drip(30, "x"), readAll, 200, 31 * time.Second, 0},
		"slow, without limit":               {0, head + "Content-Length: 1000\r\n\r\n", drip(1000, "x"), readAll, 200, 1001 * time.Second, 0},
		"a long answer":                     {bodyTimeout, head + "Content-Length: 30\r\n\r\n", drip(30, "x"), long, 200, 2 * time.Hour, 0},
		"a long answer to chunks":           {bodyTimeout, head + "Transfer-Encoding: chunked\r\n\r\n", func(w io.Writer) { _, _ = io.WriteString(w, "1\r\nx\r\n0\r\n\r\n") }, long, 200, 2 * time.Hour, 0},
		"a long answer to nothing":          {bodyTimeout, head + "Content-Length: 0\r\n\r\n", nothing, long, 200, 2 * time.Hour, 0},
		"a long answer, after half of that": {bodyTimeout, head + "Content-Length: 30\r\n\r\n", drip(29, "x"), long, 400, bodyTimeout, unreadTimeout + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logrus.New()
				log.SetOutput(io.Discard)
				srv := newHTTPServer(nil, log)
				srv.Handler = boundBodies(tt.h, tt.limit)
				ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
				served := make(chan error, 1)
				go func() { served <- srv.Serve(ln) }()
				near, far := net.Pipe()
				ln.conns <- far
				_ = near.SetDeadline(time.Now().Add(3 * time.Hour))
				start := time.Now()
				var sending sync.WaitGroup
				sending.Go(func() {
					if _, err := io.WriteString(near, tt.head); err != nil {
						t.Error(err)
					}
					tt.body(near)
				})
				from := bufio.NewReader(near)
				resp, err := http.ReadResponse(from, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if took := time.Since(start); err != nil || resp.StatusCode != tt.status || took > tt.answer {
					t.Errorf("after %v: %d %s, %v", took, resp.StatusCode, body, err)
				}
				if tt.end == 0 {
					sending.Wait()
					if _, err := fmt.Fprint(near, "GET / HTTP/1.0\r\nHost: x\r\n\r\n"); err != nil {
						t.Error(err)
					}
					if resp, err := http.ReadResponse(from, nil); err != nil || resp.StatusCode != 200 {
						t.Errorf("another request: %v, %v", resp, err)
					}
				}
				start = time.Now()
				if _, err := io.Copy(io.Discard, from); err != nil && !errors.Is(err, io.ErrClosedPipe) {
					t.Error(err)
				}
				if took := time.Since(start); took > max(tt.end, time.Second) {
					t.Errorf("the connection ends after %v", took)
				}
				_ = near.Close()
				sending.Wait()
				if err := srv.Close(); err != nil {
					t.Error(err)
				}
				if err := <-served; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// Half a header, and then nothing, ends too.
func TestHalfAHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		srv := newHTTPServer(http.NotFoundHandler(), log)
		ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		near, far := net.Pipe()
		ln.conns <- far
		start := time.Now()
		var sending sync.WaitGroup
		sending.Go(func() {
			_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nX: ")
			for { // as slowly as it can
				time.Sleep(10 * time.Second)
				if _, err := io.WriteString(near, strings.Repeat("x", 10)); err != nil {
					return
				}
			}
		})
		_ = near.SetReadDeadline(start.Add(time.Hour))
		_, err := io.Copy(io.Discard, near)
		if took := time.Since(start); err != nil || took > 61*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		_ = near.Close()
		sending.Wait()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
}
