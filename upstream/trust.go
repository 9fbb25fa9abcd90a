package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/internal/reloaded"
)

// Authorities are certificate authorities that are trusted beside those of the system,
// and that can change at any time.
type Authorities interface {
	// Authorities returns their certificates (PEM). It is called before each request
	// over TLS, so that it has to be quick where nothing has to be found out. An error
	// says why there are none, or why they may be old; what is returned beside it is
	// trusted all the same.
	Authorities(ctx context.Context) ([]byte, error)

	// Doubt is called when somebody has shown a certificate of an authority that is not
	// known. Authorities is called again when it returns.
	Doubt(ctx context.Context)
}

// trust says who is trusted beside the system's authorities.
type trust struct {
	file *reloaded.Value[[]byte] // nil: none
	more Authorities             // nil: none
}

func newTrust(opts Options, log logrus.FieldLogger) (*trust, error) {
	t := &trust{more: opts.Authorities}
	if opts.CAFile == "" {
		return t, nil
	}
	var err error
	t.file, err = reloaded.New([]string{opts.CAFile}, func(contents [][]byte) ([]byte, error) {
		if !x509.NewCertPool().AppendCertsFromPEM(contents[0]) {
			return nil, fmt.Errorf("the CA file %s holds no certificate in PEM form", opts.CAFile)
		}
		return contents[0], nil
	}, reloaded.Options{Log: log, Every: time.Nanosecond}) // each time: it is what somebody waits for who has just mended it
	if err != nil {
		return nil, fmt.Errorf("the CA file: %w", err)
	}
	return t, nil
}

// now returns the certificates of those who are trusted (PEM), none where there are only
// those of the system. The error is that of [Authorities].
func (t *trust) now(ctx context.Context) (pem []byte, err error) {
	if t.more != nil {
		pem, err = t.more.Authorities(ctx)
	}
	if t.file != nil {
		pem = slices.Concat(t.file.Get(), []byte("\n"), pem)
	}
	return pem, err
}

// poolOf returns those of the system with those of pem, and nil for those of the system
// alone, which package x509 knows best.
func poolOf(pem []byte) *x509.CertPool {
	if len(pem) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without roots: these are all
	}
	pool.AppendCertsFromPEM(pem)
	return pool
}

// transports makes requests with those authorities that are trusted at the time. There
// is a new transport when they have changed, so that no connection outlives that for
// longer than the requests that are under way. It is safe for use by several goroutines.
type transports struct {
	trust *trust
	// like is what all are like, but for the authorities.
	like *http.Transport

	mu      sync.Mutex // guards following
	pem     []byte     // whom current trusts
	current *pair
}

// pair is two transports with the same authorities.
type pair struct {
	direct *http.Transport
	// overTLS is for HTTP proxies that are spoken to over TLS: they are shown no client
	// certificate, which is for who is behind them. The transport is direct where there
	// is none.
	overTLS *http.Transport
}

func newTransportsLike(like *http.Transport, trust *trust) *transports {
	return &transports{trust: trust, like: like}
}

// now returns the transports for who is trusted now. The error says why not all may be
// known that are to be.
func (t *transports) now(ctx context.Context) (*pair, error) {
	pem, err := t.trust.now(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == nil || !bytes.Equal(pem, t.pem) {
		if t.current != nil {
			t.current.closeIdle()
		}
		t.pem, t.current = pem, t.make(pem)
	}
	return t.current, err
}

// last returns the transports that were used last.
func (t *transports) last() *pair {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == nil {
		t.current = t.make(nil)
	}
	return t.current
}

func (t *transports) make(pem []byte) *pair {
	direct := t.like.Clone()
	direct.TLSClientConfig.RootCAs = poolOf(pem)
	p := &pair{direct, direct}
	if direct.TLSClientConfig.GetClientCertificate != nil {
		config := direct.TLSClientConfig.Clone()
		config.GetClientCertificate = nil
		p.overTLS = direct.Clone()
		// What is connected to over TLS other than by CONNECT is the proxy.
		p.overTLS.DialTLSContext = dialTLS(direct.DialContext, config, direct.TLSHandshakeTimeout)
	}
	return p
}

// dialTLS makes connections over TLS, as http.Transport does.
func dialTLS(dial dialFunc, config *tls.Config, patience time.Duration) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		config := config.Clone()
		config.ServerName = host
		secure := tls.Client(conn, config)
		errLate := errors.New("TLS handshake timeout")
		ctx, cancel := context.WithTimeoutCause(ctx, patience, errLate)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			if context.Cause(ctx) == errLate {
				err = errLate
			}
			_ = conn.Close() // nobody uses it
			return nil, err
		}
		return secure, nil
	}
}

func (p *pair) closeIdle() {
	p.direct.CloseIdleConnections()
	p.overTLS.CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper. A certificate of an unknown authority has it
// looked who is trusted now, once.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := t.like.Proxy(req)
	if err != nil {
		proxy = nil // the transport says so, too
	}
	overTLS := proxy != nil && proxy.Scheme == "https"
	if req.URL.Scheme != "https" && !overTLS {
		return t.last().direct.RoundTrip(req)
	}
	p, _ := t.now(req.Context()) // why not all are known matters only to who needs them
	resp, err := p.of(overTLS).RoundTrip(req)
	if !isUnknownAuthority(err) || t.trust.more == nil {
		return resp, err
	}
	t.trust.more.Doubt(req.Context())
	again, why := t.now(req.Context())
	if next := rewound(req); again != p && next != nil {
		resp, err = again.of(overTLS).RoundTrip(next)
	}
	if isUnknownAuthority(err) && why != nil {
		err = fmt.Errorf("%w; %w", err, why)
	}
	return resp, err
}

func (p *pair) of(overTLS bool) *http.Transport {
	if overTLS {
		return p.overTLS
	}
	return p.direct
}

// rewound returns req to be sent again, or nil where its body is not to be had again.
func rewound(req *http.Request) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	if req.GetBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	again := *req
	again.Body = body
	return &again
}

func isUnknownAuthority(err error) bool {
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

// Proxy says which HTTP proxy a request goes by, if any.
func (t *transports) Proxy(req *http.Request) (*url.URL, error) { return t.like.Proxy(req) }

// CloseIdleConnections is that of http.Transport.
func (t *transports) CloseIdleConnections() { t.last().closeIdle() }
