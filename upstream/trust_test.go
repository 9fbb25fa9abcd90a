package upstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// authorities are what a test says they are, and count.
type authorities struct {
	mu    sync.Mutex
	pem   []byte
	err   error
	found []byte // by the next Doubt

	asked, doubts int
}

func (a *authorities) Authorities(context.Context) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.pem, a.err
}

func (a *authorities) Doubt(context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubts++
	if a.found != nil {
		a.pem, a.err = a.found, nil
	}
}

// wantAsked fails unless a was asked and doubted so often.
func (a *authorities) wantAsked(t *testing.T, asked, doubts int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asked != asked || a.doubts != doubts {
		t.Errorf("authorities were asked for %d times and doubted %d times, want %d and %d", a.asked, a.doubts, asked, doubts)
	}
}

// shows is a TLS configuration whose certificates a test chooses, by the address that a
// client has come to, "" for all others.
func shows(t *testing.T, of map[string]*ut.CA) *tls.Config {
	t.Helper()
	certs := map[string]*tls.Certificate{}
	for addr, ca := range of {
		certs[addr] = &ca.ServerConfig(nil).Certificates[0]
	}
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if cert, ok := certs[hello.Conn.LocalAddr().String()]; ok {
			return cert, nil
		}
		return certs[""], nil
	}}
}

func TestCAFileIsReplaced(t *testing.T) {
	before, after := ut.NewCA(t), ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: after.ServerConfig(nil)})
	reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
	file := write(t, "ca.pem", before.PEM())
	logger, hook := test.NewNullLogger()
	var dials atomic.Int32
	r := newRemote(t, upstream.Options{URL: reg.URL(), CAFile: file, Log: logger, DialContext: dialNames(nil, &dials)})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)

	replace := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace(after.PEM())
	get(t, r, "a/b", "v1")
	get(t, r, "a/b", "v1")
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections, want one that has failed and one for all requests", n)
	}
	// A version that is no good.
	for _, content := range []string{"nothing", ""} {
		replace([]byte(content))
		get(t, r, "a/b", "v1")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	get(t, r, "a/b", "v1")
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections: what cannot be used has cost some", n)
	}
	warnings := 0
	for _, e := range hook.AllEntries() {
		if e.Level == logrus.WarnLevel && strings.Contains(e.Message, file) {
			warnings++
		}
	}
	if warnings != 3 {
		t.Errorf("%d warnings name the file, want 3", warnings)
	}
	// Who is not trusted any more is not, not even by a connection that was made before.
	replace(before.PEM())
	_, err = r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("error is %v", err)
	}
}

func TestAuthorities(t *testing.T) {
	ca, other := ut.NewCA(t), ut.NewCA(t)
	why := errors.New("the source is away")
	for name, tt := range map[string]struct {
		from          *authorities
		file          *ut.CA
		ok            bool
		says          string
		asked, doubts int // for two requests: what is asked first, and for the manifest
	}{
		"known":              {&authorities{pem: ca.PEM()}, nil, true, "", 2, 0},
		"known, with a file": {&authorities{pem: ca.PEM()}, other, true, "", 2, 0},
		"by the file":        {&authorities{err: why}, ca, true, "", 2, 0},
		"old, but good":      {&authorities{pem: ca.PEM(), err: why}, nil, true, "", 2, 0},
		"found":              {&authorities{found: ca.PEM()}, nil, true, "", 3, 1},
		"another is found":   {&authorities{found: other.PEM()}, nil, false, "configure the CA's file", 2, 1},
		"unknown":            {&authorities{pem: other.PEM()}, nil, false, "configure the CA's file", 2, 1},
		"away":               {&authorities{err: why}, nil, false, "; the source is away", 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
			reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
			from := tt.from
			opts := upstream.Options{URL: reg.URL(), Authorities: from}
			if tt.file != nil {
				opts.CAFile = write(t, "ca.pem", tt.file.PEM())
			}
			r := newRemote(t, opts)
			from.wantAsked(t, 0, 0) // nothing before the first request
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			if (err == nil) != tt.ok {
				t.Fatalf("error is %v", err)
			}
			if err != nil {
				e := wantKind(t, err, cache.ErrUnavailable)
				if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok || !e.NoConnection || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v does not say %q, or of another kind", err, tt.says)
				}
			}
			from.wantAsked(t, tt.asked, tt.doubts)
		})
	}
}

// closing is a connection that says when it is closed.
type closing struct {
	net.Conn
	closed chan<- struct{}
}

// Close implements net.Conn.
func (c closing) Close() error {
	select {
	case c.closed <- struct{}{}:
	default:
	}
	return c.Conn.Close()
}

// Connections stay while nothing changes, and those of before are closed when something
// does, the next time that they are idle.
func TestAuthoritiesChange(t *testing.T) {
	ca, other := ut.NewCA(t), ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
	img := reg.AddRandomImage("a/b", "v1", 1, 1<<20)
	from := &authorities{pem: ca.PEM()}
	var dials atomic.Int32
	closed := make(chan struct{}, 10)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Authorities: from, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialNames(nil, &dials)(ctx, network, addr)
		return closing{conn, closed}, err
	}})
	for range 3 {
		get(t, r, "a/b", "v1")
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for all requests, want 1", n)
	}
	stream, err := r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	from.mu.Lock()
	from.pem = append(other.PEM(), ca.PEM()...)
	from.mu.Unlock()
	get(t, r, "a/b", "v1")
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections, want a new one for the new authorities", n)
	}
	if got, err := readBlob(t, stream); err != nil || len(got) < 1<<20 {
		t.Errorf("what was under way has ended with %d bytes, %v", len(got), err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection of before is kept")
	}
	from.mu.Lock()
	from.pem = other.PEM()
	from.mu.Unlock()
	_, err = r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
}

// Nobody is asked whom to trust where that does not matter.
func TestAuthoritiesAreNotNeeded(t *testing.T) {
	reg, _ := sample(t)
	from := &authorities{}
	get(t, newRemote(t, upstream.Options{URL: reg.URL(), Authorities: from}), "a/b", "v1")
	contact := new(upstream.Switch)
	contact.Set(errors.New("the link is dear"))
	r := newRemote(t, upstream.Options{URL: "https://registry.example.com", Authorities: from, Switch: contact})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	from.wantAsked(t, 0, 0)
}

// What is sent to a token service that is not trusted at first is sent again as a whole.
func TestAuthorityOfTheTokenServiceIsFound(t *testing.T) {
	ca, tokens := ut.NewCA(t), ut.NewCA(t)
	config := &tls.Config{}
	reg := ut.NewWith(t, ut.Options{TLS: config})
	config.GetCertificate = shows(t, map[string]*ut.CA{"": ca, reg.TokenHost(): tokens}).GetCertificate
	reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
	reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret identity"})
	from := &authorities{pem: ca.PEM(), found: append(ca.PEM(), tokens.PEM()...)}
	r := newRemote(t, upstream.Options{
		URL: reg.URL(), Authorities: from, AllowedRealms: []string{reg.TokenHost()},
		Credentials: authn.FromConfig(authn.AuthConfig{IdentityToken: "secret identity"}),
	})
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1})
	from.wantAsked(t, 4, 1)
}

// tlsProxy is an HTTP proxy that is spoken to over TLS, and asks for client certificates.
type tlsProxy struct {
	*httptest.Server
	asked, shown atomic.Int32
	names        sync.Map // that clients have asked for
}

func newTLSProxy(t *testing.T, ca *ut.CA, to string) *tlsProxy {
	t.Helper()
	p := new(tlsProxy)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.asked.Add(1)
		if len(req.TLS.PeerCertificates) > 0 {
			p.shown.Add(1)
		}
		p.names.Store(req.TLS.ServerName, true)
		if req.Method != http.MethodConnect {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		tunnel(w, to)
	}))
	p.TLS = ca.ServerConfig(nil)
	p.TLS.ClientAuth = tls.RequestClientCert
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

// The client certificate is for the registry, and not for the proxy in front of it.
func TestClientCertificateIsNotForProxies(t *testing.T) {
	ca, clients := ut.NewCA(t), ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(clients)}) // takes nobody without
	reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
	p := newTLSProxy(t, ca, reg.Host())
	cert, key := clients.Issue()
	opts := upstream.Options{
		URL:    "https://localhost:5000",
		CAFile: write(t, "ca.pem", ca.PEM()), CertFile: write(t, "cert.pem", cert), KeyFile: write(t, "key.pem", key),
		DialContext: dialNames(map[string]string{"localhost:3128": p.Listener.Addr().String(), "other.test:3128": p.Listener.Addr().String()}, nil),
		Proxy:       http.ProxyURL(&url.URL{Scheme: "https", Host: "localhost:3128"}),
	}
	r := newRemote(t, opts)
	get(t, r, "a/b", "v1")
	get(t, r, "a/b", "v1")
	if asked, shown := p.asked.Load(), p.shown.Load(); asked != 1 || shown != 0 {
		t.Errorf("the proxy was asked %d times, %d with a client certificate: want once, without", asked, shown)
	}
	if _, ok := p.names.Load("localhost"); !ok {
		t.Error("the proxy was not asked by its name")
	}

	// It is verified as it was, and so by its name.
	opts.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: "other.test:3128"})
	_, err := newRemote(t, opts).Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	if _, ok := errors.AsType[x509.HostnameError](err); !ok || !strings.Contains(err.Error(), "the HTTP proxy other.test:3128 cannot be reached") {
		t.Errorf("error is %v", err)
	}
	opts.Insecure = true // which holds for it, too
	get(t, newRemote(t, opts), "a/b", "v1")
}

// A proxy that does not answer in its handshake is given up as any.
func TestTLSProxyHangs(t *testing.T) {
	ca := ut.NewCA(t)
	cert, key := ca.Issue()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, conn) // until the client leaves
		_ = conn.Close()
	}()
	r := newRemote(t, upstream.Options{
		URL: "https://localhost:5000", TLSTimeout: 50e6,
		CertFile: write(t, "cert.pem", cert), KeyFile: write(t, "key.pem", key),
		Proxy: http.ProxyURL(&url.URL{Scheme: "https", Host: ln.Addr().String()}),
	})
	_, err = r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	if !strings.Contains(err.Error(), "cannot be reached: TLS handshake timeout") {
		t.Errorf("error is %v", err)
	}
	<-ended
	_ = ln.Close()
}
