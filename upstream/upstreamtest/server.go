package upstreamtest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
)

// TB is what is needed of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Options say how a registry is served. The zero value is: over plain http.
type Options struct {
	// TLS makes registry, token service and blob host speak https.
	TLS *tls.Config
	// Listen takes the place of [net.Listen], such as for a network in memory.
	Listen func(network, addr string) (net.Listener, error)
}

// New serves an empty registry on loopback until the test ends.
func New(tb TB) *Registry {
	tb.Helper()
	return NewWith(tb, Options{})
}

// NewWith is [New] with options.
func NewWith(tb TB, opts Options) *Registry {
	tb.Helper()
	r := NewHandler()
	r.tb = tb
	r.net.tls = opts.TLS
	listen := net.Listen
	if opts.Listen != nil {
		listen = opts.Listen
	}
	for _, ep := range []struct {
		to    **endpoint
		serve http.HandlerFunc
	}{
		{&r.net.registry, r.ServeHTTP},
		{&r.net.token, r.serveToken},
		{&r.net.cdn, r.serveCDN},
	} {
		*ep.to = &endpoint{handler: ep.serve, tls: opts.TLS, listen: listen, addr: "127.0.0.1:0"}
	}
	tb.Cleanup(r.Close)
	r.Online()
	return r
}

// network is where a registry is served. The zero value is: elsewhere, as a
// handler.
type network struct {
	tls                  *tls.Config
	registry, token, cdn *endpoint
}

func (n *network) scheme() string {
	if n.tls != nil {
		return "https"
	}
	return "http"
}

func (n *network) endpoints() []*endpoint {
	if n.registry == nil {
		return nil
	}
	return []*endpoint{n.registry, n.token, n.cdn}
}

// Host is the registry's host and port.
func (r *Registry) Host() string { return r.net.registry.address() }

// URL is the registry's URL, without a path.
func (r *Registry) URL() string { return r.net.scheme() + "://" + r.Host() }

// TokenHost is the host and port of the token service.
func (r *Registry) TokenHost() string { return r.net.token.address() }

// CDNHost is the host and port of the blob host.
func (r *Registry) CDNHost() string { return r.net.cdn.address() }

// Offline closes all connections, and makes all hosts refuse new ones.
func (r *Registry) Offline() {
	for _, ep := range r.net.endpoints() {
		ep.stop()
	}
}

// Online serves again, on the same addresses.
func (r *Registry) Online() {
	for _, ep := range r.net.endpoints() {
		if err := ep.start(); err != nil {
			r.fail("serving the test registry: %v", err)
		}
	}
}

// Close lets go of everything that is held and ends serving; when it returns,
// no request to the registry's own addresses is being answered any more. It may
// be called more than once.
func (r *Registry) Close() {
	r.closing.Do(func() { close(r.done) })
	r.Offline()
}

// fail ends the test, or panics where there is none: what went wrong is a
// mistake of the program.
func (r *Registry) fail(format string, args ...any) {
	if r.tb == nil {
		log.Panicf("upstreamtest: "+format, args...)
	}
	r.tb.Helper()
	r.tb.Fatalf(format, args...)
}

// cdnURL is the URL of the blob host, as the client of req sees it.
func (r *Registry) cdnURL(req *http.Request) string {
	return r.netURL(r.net.cdn, req)
}

// tokenURL is the URL of the token service, as the client of req sees it.
func (r *Registry) tokenURL(req *http.Request) string {
	return r.netURL(r.net.token, req) + tokenPath
}

func (r *Registry) netURL(ep *endpoint, req *http.Request) string {
	if ep != nil {
		return r.net.scheme() + "://" + ep.address()
	}
	if req.TLS != nil {
		return "https://" + req.Host
	}
	return "http://" + req.Host
}

// endpoint is one address that can be switched off and on.
type endpoint struct {
	handler http.Handler
	tls     *tls.Config
	listen  func(network, addr string) (net.Listener, error)

	mu     sync.Mutex
	addr   string
	server *http.Server // nil: off
	// serving counts the goroutine that accepts and the connections.
	serving *sync.WaitGroup
}

func (ep *endpoint) address() string {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return ep.addr
}

func (ep *endpoint) start() error {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.server != nil {
		return nil
	}
	ln, err := ep.listen("tcp", ep.addr)
	if err != nil {
		return err
	}
	ep.addr = ln.Addr().String()
	if ep.tls != nil {
		ln = tls.NewListener(ln, ep.tls)
	}
	serving := new(sync.WaitGroup)
	server := &http.Server{
		Handler: ep.handler,
		// Handshakes that fail on purpose are no news.
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context { return newLink(ctx) },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // called by the goroutine that accepts
				serving.Add(1)
			case http.StateClosed, http.StateHijacked:
				serving.Done()
			}
		},
	}
	ep.server, ep.serving = server, serving
	serving.Go(func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // nothing else ends Serve on such a listener
		}
	})
	return nil
}

// stop closes the listener and all connections, and waits for their handlers.
func (ep *endpoint) stop() {
	ep.mu.Lock()
	server, serving := ep.server, ep.serving
	ep.server = nil
	ep.mu.Unlock()
	if server == nil {
		return
	}
	// Its only error is that of closing the listener, which is gone either way.
	_ = server.Close()
	serving.Wait()
}
