package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream"
	"registry-module/upstream/breaker"
	"registry-module/upstream/router"
	"registry-module/upstream/upstreamtest"
)

// lab is a server over a cache, in front of a remote that is reached by TLS over a
// network in memory, in simulated time. All that is in between is real.
type lab struct {
	*testing.T
	*upstreamtest.Registry
	network *pipes
	// ca has signed what the remote shows, which is certificate.
	ca          *upstreamtest.CA
	certificate tls.Certificate
	// dial, if set, is what becomes of connections to the remote. See setDial.
	dial func(ctx context.Context) (net.Conn, error)
	// instead, if set, answers requests that the remote has counted.
	instead http.HandlerFunc
	handler http.Handler
	breaker *breaker.Breaker
	// told is the handler's observer.
	told *told

	mu                     sync.Mutex
	dials, dialing, atOnce int
}

// inLab runs test with a lab.
func inLab(t *testing.T, test func(*lab)) {
	t.Helper()
	// The app leaves goroutines behind that cannot be ended, so that it has to be
	// started from where time is not simulated.
	outside, done := make(chan func()), make(chan struct{})
	go func() {
		for do := range outside {
			do()
			done <- struct{}{}
		}
	}()
	defer close(outside)
	synctest.Test(t, func(t *testing.T) {
		l := &lab{T: t, Registry: upstreamtest.NewHandler(), network: newPipes(), ca: upstreamtest.NewCA(t), told: newTold()}
		l.certificate = l.ca.ServerConfig(nil).Certificates[0]
		registry := &http.Server{Handler: http.HandlerFunc(l.answer), ErrorLog: log.New(io.Discard, "", 0)}
		served := make(chan error)
		go func() {
			served <- registry.Serve(tls.NewListener(l.network, &tls.Config{
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &l.certificate, nil },
			}))
		}()
		remote := l.newRemote()
		l.breaker = breaker.New(remote, breaker.Options{})
		blobs := new(cachetest.Blobs)
		c, err := cache.New(t.Context(), cache.Options{
			Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
			Remotes: []cache.Remote{{Host: remote.Host(), Upstream: l.breaker, TagTTL: tagLifetime, RetryFor: -1}},
		})
		must(t, err)
		routing := routes(t, router.Remote{Host: remote.Host(), Default: true})
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		var h *server.Server
		outside <- func() {
			h, err = server.New(context.Background(), server.Options{Cache: c, Router: routing, Log: quiet, Observer: l.told})
		}
		<-done
		must(t, err)
		l.handler = h
		test(l)
		l.Heal()
		outside <- func() { err = h.Close() }
		<-done
		must(t, err)
		must(t, c.Close())
		must(t, remote.Close())
		l.network.drop()
		must(t, registry.Close())
		<-served
	})
}

// tagLifetime is that of the lab's tags.
const tagLifetime = time.Hour

func (l *lab) newRemote() *upstream.Remote {
	caFile := filepath.Join(l.TempDir(), "ca.pem")
	must(l.T, os.WriteFile(caFile, l.ca.PEM(), 0o600))
	remote, err := upstream.New(upstream.Options{
		URL: "https://localhost", CAFile: caFile,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			l.mu.Lock()
			dial := l.dial
			l.mu.Unlock()
			if dial == nil {
				return l.network.connect()
			}
			l.count(1)
			defer l.count(-1)
			return dial(ctx)
		},
	})
	must(l.T, err)
	return remote
}

func (l *lab) answer(w http.ResponseWriter, r *http.Request) {
	if l.instead == nil {
		l.Registry.ServeHTTP(w, r)
		return
	}
	l.Registry.ServeHTTP(httptest.NewRecorder(), r)
	l.instead(w, r)
}

// setDial sets what becomes of connections from now on; nil is that they are made.
func (l *lab) setDial(dial func(context.Context) (net.Conn, error)) {
	time.Sleep(10 * time.Second) // for attempts that are under way
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dial = dial
}

// count counts attempts to connect, and how many there are at a time.
func (l *lab) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dials += max(n, 0)
	l.dialing += n
	l.atOnce = max(l.atOnce, l.dialing)
}

// attempts is how often the remote was asked, or was to be asked.
func (l *lab) attempts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Requests() + l.dials
}

// get is a GET, with how long it took.
func (l *lab) get(path string) (*httptest.ResponseRecorder, time.Duration) {
	w, start := httptest.NewRecorder(), time.Now()
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		l.handler.ServeHTTP(w, httptest.NewRequestWithContext(l.Context(), http.MethodGet, path, nil))
	}()
	return w, time.Since(start)
}

// pipes is a network in memory, of one address.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	close  func()
	mu     sync.Mutex
	open   []net.Conn
}

func newPipes() *pipes {
	p := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) connect() (net.Conn, error) {
	client, end := net.Pipe()
	server := newBuffered(end)
	p.mu.Lock()
	p.open = append(p.open, client)
	p.mu.Unlock()
	select {
	case p.accept <- server:
		return client, nil
	case <-p.closed:
		return nil, dialError(syscall.ECONNREFUSED)
	}
}

// buffered is the remote's end of a connection, which does not wait until the other side
// reads: both may have something to say at the same time.
type buffered struct {
	net.Conn
	out   chan []byte
	ended chan struct{}
	end   func()
}

func newBuffered(c net.Conn) buffered {
	b := buffered{Conn: c, out: make(chan []byte, 64), ended: make(chan struct{})}
	b.end = sync.OnceFunc(func() { close(b.ended) })
	go b.send()
	return b
}

// send sends what was written, to the end.
func (b buffered) send() {
	defer func() { _ = b.Conn.Close() }() // never fails
	for {
		select {
		case p := <-b.out:
			_, _ = b.Conn.Write(p) // the other side may have left
		case <-b.ended:
			for len(b.out) > 0 {
				_, _ = b.Conn.Write(<-b.out)
			}
			return
		}
	}
}

func (b buffered) Write(p []byte) (int, error) {
	select {
	case b.out <- bytes.Clone(p):
		return len(p), nil
	case <-b.ended:
		return 0, net.ErrClosed
	}
}

func (b buffered) Close() error { b.end(); return nil }

// SetDeadline is for reading: writing does not wait, and TLS forbids it as soon as it has
// said goodbye.
func (b buffered) SetDeadline(t time.Time) error { return b.SetReadDeadline(t) }

func (b buffered) SetWriteDeadline(time.Time) error { return nil }

// drop ends all connections.
func (p *pipes) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close() // never fails
	}
	p.open = nil
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error { p.close(); return nil }

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func dialError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

// fails is what becomes of connections where err is known at once.
func fails(err error) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) { return nil, dialError(err) }
}

// hangs is what becomes of connections where nothing comes back, within the limit of
// the dialer.
func hangs(err error) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(5 * time.Second):
			return nil, dialError(err)
		case <-ctx.Done():
			return nil, dialError(ctx.Err())
		}
	}
}

// silent connects to who says nothing.
func silent(context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, server) }() // until the client leaves
	return client, nil
}

// hangUp connects to who hangs up.
func hangUp(context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	return client, server.Close()
}
