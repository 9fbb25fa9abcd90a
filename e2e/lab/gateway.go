package lab

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Middleware changes what an upstream does. See [FlipByte], [Gate], [Hang],
// [Answer], [Each], [Cut], [Reset], [Stall], [Truncate], [IgnoreRange],
// [WrongRange], [Link].
type Middleware func(http.Handler) http.Handler

// Gateway is an HTTP server on loopback that a test can take down, bring up
// again at the same address, and change while it runs.
type Gateway struct {
	// Addr is host:port.
	Addr string

	site    *Site // nil is loopback
	base    http.Handler
	always  []Middleware
	handler atomic.Pointer[http.Handler]

	mu     sync.Mutex
	server *http.Server  // guarded by mu; nil while down
	ended  chan struct{} // guarded by mu; closed when server has
}

// NewGateway serves a handler at a free loopback address, behind middlewares
// that stay whatever Use puts between.
func NewGateway(h http.Handler, always ...Middleware) (*Gateway, error) {
	return newGateway(nil, h, always...)
}

// Site is a place to listen at that is not a free address on loopback.
type Site struct {
	// URL is how others know it, without a path.
	URL string
	// Addr is host:port, by number.
	Addr string
	// Listen is called to listen there, again after Down.
	Listen func() (net.Listener, error)
}

func newGateway(site *Site, h http.Handler, always ...Middleware) (*Gateway, error) {
	g := &Gateway{site: site, base: h, always: always}
	if site != nil {
		g.Addr = site.Addr
	} else {
		addr, err := FreeAddr()
		if err != nil {
			return nil, err
		}
		g.Addr = addr
	}
	g.Use()
	if err := g.Up(); err != nil {
		return nil, err
	}
	return g, nil
}

// URL is the gateway's address as a URL without a path.
func (g *Gateway) URL() string {
	if g.site != nil {
		return g.site.URL
	}
	return "http://" + g.Addr
}

// Use puts middlewares in front of the gateway's handler, the first outermost,
// in place of those of the call before. Requests that are under way keep
// theirs.
func (g *Gateway) Use(middlewares ...Middleware) {
	h := g.base
	for _, m := range slices.Backward(slices.Concat(g.always, middlewares)) {
		h = m(h)
	}
	g.handler.Store(&h)
}

// Up listens. It does nothing where the gateway is up.
func (g *Gateway) Up() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.server != nil {
		return nil
	}
	l, err := g.listen()
	if err != nil {
		return fmt.Errorf("bringing up %s: %w", g.Addr, err)
	}
	server := &http.Server{
		ConnContext: thin,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			(*g.handler.Load()).ServeHTTP(w, r)
		}),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // always ends with ErrServerClosed, by Down
	}()
	g.server, g.ended = server, ended
	return nil
}

func (g *Gateway) listen() (net.Listener, error) {
	if g.site != nil {
		return g.site.Listen()
	}
	return listen(g.Addr)
}

// listen listens at an address that nobody else uses. For a moment it may be taken
// all the same: a process that is being started has our files until it runs its
// program, those that we have closed meanwhile, too.
func listen(addr string) (net.Listener, error) {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

// Down closes the listener and cuts all connections: what asks next is
// refused. It does nothing where the gateway is down.
func (g *Gateway) Down() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.server == nil {
		return nil
	}
	err := g.server.Close()
	<-g.ended
	g.server = nil
	if err != nil {
		return fmt.Errorf("taking down %s: %w", g.Addr, err)
	}
	return nil
}

// Forward returns a handler that sends requests to a server at host:port as they
// came, the Host header too, and streams the answers.
func Forward(addr string) http.Handler {
	target := &url.URL{Scheme: "http", Host: addr}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			// ReverseProxy sends none where the client has sent none.
			r.Out.Header["User-Agent"] = r.In.Header["User-Agent"]
		},
		FlushInterval: -1,
		Transport: &http.Transport{
			DisableCompression:  true,
			MaxIdleConnsPerHost: 64,
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				http.Error(w, "gateway: "+err.Error(), http.StatusBadGateway)
			}
		},
	}
}

// Match selects requests.
type Match func(*http.Request) bool

// ForDigest matches requests for the content of a digest, a blob or a
// manifest, wherever it is served.
func ForDigest(dgst string) Match {
	return func(r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/"+dgst)
	}
}

// Gets narrows a match to GET.
func (m Match) Gets() Match {
	return func(r *http.Request) bool { return r.Method == http.MethodGet && m(r) }
}

// FlipByte changes one byte, at offset counted from 0, of the body of each GET
// that matches.
func FlipByte(match Match, offset int64) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match.Gets()(r) {
				w = &bodyWriter{ResponseWriter: w, edit: func(at int64, p []byte) []byte {
					if i := offset - at; i >= 0 && i < int64(len(p)) {
						p = append([]byte(nil), p...) // Write must not modify its argument
						p[i] ^= 0xff
					}
					return p
				}}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Hang accepts what matches and never answers, until the client goes away.
func Hang(match Match) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !match(r) {
				next.ServeHTTP(w, r)
				return
			}
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // no answer, not even an empty 200
		})
	}
}

// Answer answers what matches with a handler in the registry's place.
func Answer(match Match, with http.HandlerFunc) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match(r) {
				with(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Gate holds the bodies of GETs at a byte until it is opened. Create it with
// [NewGate].
type Gate struct {
	match   Match
	after   int64
	reached chan struct{}
	open    chan struct{}
	once    sync.Once
	opened  sync.Once
}

// NewGate returns a gate that lets the first bytes of a body that matches
// through and holds the rest.
func NewGate(match Match, after int64) *Gate {
	return &Gate{match: match, after: after, reached: make(chan struct{}), open: make(chan struct{})}
}

// Reached is closed when the first body is being held.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Open lets everything through from now on.
func (g *Gate) Open() { g.opened.Do(func() { close(g.open) }) }

// Middleware puts the gate in front of a handler.
func (g *Gate) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.match.Gets()(r) {
			w = &bodyWriter{ResponseWriter: w, holdAt: g.after, hold: func() error {
				g.once.Do(func() { close(g.reached) })
				select {
				case <-g.open:
					return nil
				case <-r.Context().Done():
					return errors.New("gateway: the client has gone while it was held")
				}
			}}
		}
		next.ServeHTTP(w, r)
	})
}

// bodyWriter edits a body, and holds it once.
type bodyWriter struct {
	http.ResponseWriter
	at     int64 // how much has been written
	edit   func(at int64, p []byte) []byte
	holdAt int64
	hold   func() error
}

func (w *bodyWriter) Write(p []byte) (int, error) {
	if w.hold == nil || w.at+int64(len(p)) <= w.holdAt {
		return w.write(p)
	}
	n, err := w.write(p[:w.holdAt-w.at])
	if err != nil {
		return n, err
	}
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	if err := w.hold(); err != nil {
		return n, err
	}
	w.hold = nil
	m, err := w.write(p[n:])
	return n + m, err
}

func (w *bodyWriter) write(p []byte) (int, error) {
	if w.edit != nil {
		p = w.edit(w.at, p)
	}
	n, err := w.ResponseWriter.Write(p)
	w.at += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find Flush and the like.
func (w *bodyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
