package accept_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"registry-module/server/accept"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a log that a test reads.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// logger returns a log, and what is in it from level warn on.
func logger() (logrus.FieldLogger, *lines) {
	out := new(lines)
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(logrus.WarnLevel)
	return log, out
}

// site is a server behind a listener.
type site struct {
	network, addr string
	listener      *accept.Listener
	log           *lines
	idled         atomic.Int32 // how often a connection has become idle after a request
}

// serve starts a server at network "tcp" or "unix" that ends with the test.
func serve(t *testing.T, network string, opts accept.Options, h http.Handler) *site {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "socket")
	}
	inner, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveAt(t, inner, opts, h)
}

func serveAt(t *testing.T, inner net.Listener, opts accept.Options, h http.Handler) *site {
	t.Helper()
	s := new(site)
	opts.Log, s.log = logger()
	s.listener = accept.New(inner, opts)
	s.network, s.addr = s.listener.Addr().Network(), s.listener.Addr().String()
	srv := &http.Server{Handler: s.listener.Recheck(h), MaxHeaderBytes: 16 << 10, ReadHeaderTimeout: time.Minute}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		s.listener.ConnState(c, state)
		if state == http.StateIdle {
			s.idled.Add(1)
		}
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.listener) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("serving has ended with %v", err)
		}
	})
	return s
}

func (s *site) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(s.network, s.addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // mostly it is closed
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// client asks as conf says, by plain HTTP if that is nil, over a new connection each time.
func (s *site) client(t *testing.T, conf *tls.Config) *http.Client {
	tr := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   conf,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, s.network, s.addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// get returns status and body.
func (s *site) get(t *testing.T, conf *tls.Config) (int, string, error) {
	t.Helper()
	scheme := "http"
	if conf != nil {
		scheme = "https"
	}
	resp, err := s.client(t, conf).Get(scheme + "://registry.test/")
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// want fails unless a request is answered with 200 and the body.
func (s *site) want(t *testing.T, conf *tls.Config, want string) {
	t.Helper()
	if status, body, err := s.get(t, conf); err != nil || status != 200 || body != want {
		t.Errorf("got %d, %q, %v, want %q", status, body, err, want)
	}
}

// text answers with a text.
func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) })
}

// plainTLS is for a server whose clients need no certificates, and its clients.
func plainTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	root := newRoot(t, "server root")
	conf, err := accept.NewTLSConfig(accept.TLSOptions{GetCertificate: root.server(t)})
	if err != nil {
		t.Fatal(err)
	}
	return conf, &tls.Config{RootCAs: root.pool(), ServerName: serverName}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waiting for: %s", what)
		}
	}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// lineWith returns the only line with a text.
func (l *lines) lineWith(t *testing.T, text string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		t.Errorf("%d lines with %q in %s", len(found), text, l)
		return ""
	}
	return found[0]
}
