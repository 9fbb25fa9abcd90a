package accept_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"registry-module/internal/reloaded"
	"registry-module/server/accept"
)

// A connection that stays open ends with the certificate that it was opened with, and a
// response that is under way does not.
func TestOpenConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   tls.ClientAuthType // 0 for the default
		change func(t *testing.T, m *mutual, c tls.Certificate)
		log    string // empty where it stays
	}{
		"nothing": {0, func(*testing.T, *mutual, tls.Certificate) {}, ""},
		"another one is revoked": {0, func(t *testing.T, m *mutual, _ tls.Certificate) {
			file(t, m.crl, m.root.crl(t, nil, m.root.clientCert(t, "other")))
		}, ""},
		"it is revoked": {0, func(t *testing.T, m *mutual, c tls.Certificate) {
			file(t, m.crl, m.root.crl(t, nil, c))
		}, "was revoked on"},
		"it is revoked, and was not needed": {tls.VerifyClientCertIfGiven, func(t *testing.T, m *mutual, c tls.Certificate) {
			file(t, m.crl, m.root.crl(t, nil, c))
		}, "was revoked on"},
		"it expires": {0, func(_ *testing.T, m *mutual, _ tls.Certificate) { m.clock.advance(90 * time.Minute) }, "has expired"},
		"its authority is replaced": {0, func(t *testing.T, m *mutual, _ tls.Certificate) {
			other := newRoot(t, "other")
			file(t, m.crl, other.crl(t, nil))
			file(t, m.cas, pemOf("CERTIFICATE", other.cert.Raw))
		}, "unknown authority"},
		"its authority is replaced, and nobody asks": {tls.RequireAnyClientCert, func(t *testing.T, m *mutual, _ tls.Certificate) {
			file(t, m.cas, pemOf("CERTIFICATE", newRoot(t, "other").cert.Raw))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMutual(t, tt.mode)
			c := m.root.clientCert(t, "c")
			conf := m.tls(&c)
			conf.Time = time.Now
			conn := tls.Client(m.dial(t), conf)
			if err := ask(conn, "/"); err != nil {
				t.Fatal(err)
			}
			tt.change(t, m, c)
			m.clock.advance(reloaded.DefaultEvery)
			_, err := io.WriteString(conn, request)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil {
				_ = resp.Body.Close() // the status is what matters
			}
			if (err == nil) != (tt.log == "") {
				t.Errorf("response %v, error %v", resp, err)
			}
			if tt.log != "" && !strings.Contains(m.log.lineWith(t, "the client certificate of CN=c was refused"), tt.log) {
				t.Errorf("log: %s", m.log)
			}
		})
	}
}

// A client whose new certificate is good does not notice that its connection was closed.
func TestRenewedClient(t *testing.T) {
	m := newMutual(t, 0)
	old, renewed := m.root.clientCert(t, "old"), m.root.clientCert(t, "renewed")
	shown := old
	conf := m.tls(&shown)
	client := m.client(t, conf)
	client.Transport.(*http.Transport).DisableKeepAlives = false
	for _, step := range []struct {
		want   string
		change func()
	}{
		{"old, again false", func() {}},
		{"old, again false", func() {}}, // over the same connection
		{"renewed, again false", func() {
			shown = renewed
			file(t, m.crl, m.root.crl(t, nil, old))
			m.clock.advance(reloaded.DefaultEvery)
		}},
	} {
		step.change()
		resp, err := client.Get("https://registry.test/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if _ = resp.Body.Close(); err != nil || string(body) != step.want {
			t.Errorf("%q, %v, want %q", body, err, step.want)
		}
	}
}

// What is under way when its certificate is revoked goes on.
func TestRevokedUnderWay(t *testing.T) {
	root := newRoot(t, "root")
	c := root.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "c"}})
	dir := t.TempDir()
	var at clock
	crl := file(t, dir+"/crl", root.crl(t, nil))
	conf, err := accept.NewTLSConfig(accept.TLSOptions{GetCertificate: root.server(t), Now: at.now, CRLs: []string{crl},
		ClientCAs: []string{file(t, dir+"/ca", pemOf("CERTIFICATE", root.cert.Raw))}})
	if err != nil {
		t.Fatal(err)
	}
	const part = 1 << 20
	proceed := make(chan struct{})
	s := serve(t, "tcp", accept.Options{TLS: conf}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(2*part))
		_, _ = w.Write(make([]byte, part))
		_ = http.NewResponseController(w).Flush()
		<-proceed
		_, _ = w.Write(make([]byte, part))
	}))
	resp, err := s.client(t, &tls.Config{RootCAs: root.pool(), ServerName: serverName, Certificates: []tls.Certificate{c}}).Get("https://registry.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	file(t, crl, root.crl(t, nil, c))
	at.advance(reloaded.DefaultEvery)
	close(proceed)
	if n, err := io.Copy(io.Discard, resp.Body); n != 2*part || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
