package doctor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"registry-module/doctor"
	"registry-module/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// internet is the names and addresses that a test knows. Nothing else can be looked
// up or connected to.
type internet struct {
	mu    sync.Mutex
	names map[string][]netip.Addr
	// fails has what becomes of looking up a name, or of connecting to an address.
	fails map[string]error
	// routes lead from addresses with ports to others, which are on loopback.
	routes map[string]string
	dials  int
}

func newInternet() *internet {
	return &internet{names: map[string][]netip.Addr{}, fails: map[string]error{}, routes: map[string]string{}}
}

// host puts a host at an address of the documentation (RFC 5737), and leads the port
// to where it is served.
func (n *internet) host(name, addr, port, to string) {
	n.names[name] = append(n.names[name], netip.MustParseAddr(addr))
	n.routes[net.JoinHostPort(addr, port)] = to
}

// LookupNetIP implements [doctor.Resolver].
func (n *internet) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if err := n.fails[host]; err != nil {
		return nil, err
	}
	if addrs, ok := n.names[host]; ok {
		return append([]netip.Addr(nil), addrs...), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, Server: "192.0.2.53:53", IsNotFound: true}
}

func (n *internet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	n.mu.Unlock()
	if err := n.fails[addr]; err != nil {
		return nil, err
	}
	if to, ok := n.routes[addr]; ok {
		addr = to
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("a test leaves loopback: %s", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

func (n *internet) doctor() doctor.Doctor {
	return doctor.Doctor{Resolver: n, DialContext: n.dial, Timeout: 10 * time.Second}
}

// authority is a CA.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// above are the certificates from its own one to the root, without that.
	above [][]byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := authorityTemplate(name)
	return &authority{t: t, cert: sign(t, template, template, key, key), key: key}
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
}

func (a *authority) intermediate(name string) *authority {
	key := newKey(a.t)
	cert := sign(a.t, authorityTemplate(name), a.cert, key, a.key)
	return &authority{t: a.t, cert: cert, key: key, above: append([][]byte{cert.Raw}, a.above...)}
}

// file is a file with its certificate.
func (a *authority) file() string {
	return write(a.t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// leaf is what a server's certificate is like. The zero value is for registry.test
// and loopback, and valid for a year.
type leaf struct {
	names         []string
	before, after time.Time
	aia           []string
	short         bool // without the intermediate certificates
}

func (a *authority) server(l leaf) *tls.Config {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 1), DNSNames: l.names,
		IssuingCertificateURL: l.aia,
		KeyUsage:              x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if l.names == nil {
		template.DNSNames = []string{"registry.test"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	if !l.before.IsZero() {
		template.NotBefore = l.before
	}
	if !l.after.IsZero() {
		template.NotAfter = l.after
	}
	chain := [][]byte{sign(a.t, template, a.cert, key, a.key).Raw}
	if !l.short {
		chain = append(chain, a.above...)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

func sign(t *testing.T, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve answers by h until the test ends, over TLS with a configuration, and returns
// its address.
func serve(t *testing.T, config *tls.Config, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = discard
	if config != nil {
		s.TLS = config
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw hands each connection to h until the test ends, and returns the address.
func raw(t *testing.T, h func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				h(conn)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := upstream.ParseURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// noProxy is for remotes without proxy.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }
