package lab_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// newNetns makes a namespace for a test.
func newNetns(t *testing.T, nameserver string) *lab.Netns {
	t.Helper()
	ns, err := lab.NewNetns(t.Context(), nameserver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
		for _, path := range []string{"/run/netns/", "/etc/netns/"} {
			if _, err := os.Stat(path + ns.Name); err == nil {
				t.Errorf("%s%s is left", path, ns.Name)
			}
		}
	})
	return ns
}

// TestNetns joins two namespaces, counts what leaves one of them, and loses it.
func TestNetns(t *testing.T) {
	a, b := newNetns(t, "10.213.8.2"), newNetns(t, "10.213.8.1")
	if err := lab.Join(t.Context(), a, b, "10.213.8.1", "10.213.8.2"); err != nil {
		t.Fatal(err)
	}
	sent := func() int {
		n, err := b.Sent()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := sent(); n != 0 {
		t.Errorf("%d packets before the first program", n)
	}
	l, err := a.Listen("tcp4", "10.213.8.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := b.DialContext(t.Context(), "tcp4", "10.213.8.1:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	// SYN, ACK, FIN.
	if n := sent(); n < 2 || n > 4 {
		t.Errorf("%d packets for a connection, want 3 or so", n)
	}
	if out, err := b.Run(t.Context(), t.TempDir(), nil, "cat", "/etc/resolv.conf"); err != nil || out != "nameserver 10.213.8.1\n" {
		t.Errorf("resolv.conf: %q, %v", out, err)
	}

	if err := a.Drop(t.Context(), 80, true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c, err := b.DialContext(ctx, "tcp4", "10.213.8.1:80"); err == nil {
			c.Close()
			t.Error("a connect succeeds, and all packets are lost")
		}
	}()
	for end := time.Now().Add(5 * time.Second); ; {
		connecting, err1 := b.Connecting(80)
		dropped, err2 := a.Dropped(t.Context())
		if connecting == 1 && dropped > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("connecting %d, %v; dropped %d, %v", connecting, err1, dropped, err2)
		}
	}
	cancel()
	<-ended
	if n, err := b.Connecting(80); n != 0 || err != nil {
		t.Errorf("connecting: %d, %v, want none", n, err)
	}
	if err := a.Drop(t.Context(), 80, false); err != nil {
		t.Fatal(err)
	}
	if c, err := b.DialContext(t.Context(), "tcp4", "10.213.8.1:80"); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// TestNameserver asks it in each of its ways.
func TestNameserver(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := lab.NewNameserver(conn, "example.test", [4]byte{192, 0, 2, 7})
	defer s.Close()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
	for name, tt := range map[string]struct {
		names lab.Names
		host  string
		want  string // in the address or the error
	}{
		"known":           {lab.Known, "registry.example.test.", "192.0.2.7"},
		"of another":      {lab.Known, "registry.example.com.", "no such host"},
		"no such name":    {lab.NXDomain, "registry.example.test.", "no such host"},
		"nothing is said": {lab.Unheard, "registry.example.test.", "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			s.Use(tt.names)
			before := s.Asked()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			got, err := resolver.LookupHost(ctx, tt.host)
			text := strings.Join(got, " ")
			if err != nil {
				text = err.Error()
			}
			if !strings.Contains(text, tt.want) {
				t.Errorf("%s, want %s", text, tt.want)
			}
			if s.Asked() == before {
				t.Error("no question is counted")
			}
		})
	}
}

// TestFront has a host serve, say nothing, and be down, at one address.
func TestFront(t *testing.T) {
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := lab.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := authority.Write(ca); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	client := &http.Client{
		Timeout:   300 * time.Millisecond,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "a.example.test"}},
	}
	f := lab.NewFront(func() (net.Listener, error) { return net.Listen("tcp4", addr) })
	defer f.Down()
	serve := func(host string, from time.Duration) func() error {
		return func() error {
			cert, err := authority.Certificate(host, time.Now().Add(from))
			if err != nil {
				return err
			}
			return f.Serve(cert, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
		want string // in the error; empty for an answer
	}{
		{"serves", serve("a.example.test", -time.Hour), ""},
		{"is down", f.Down, "refused"},
		{"is down twice", f.Down, "refused"},
		{"is silent", f.Silence, "Timeout"},
		{"is of another", serve("b.example.test", -time.Hour), "is valid for b.example.test"},
		{"is expired", serve("a.example.test", -25*time.Hour), "expired or is not yet valid"},
		{"is of the future", serve("a.example.test", time.Hour), "expired or is not yet valid"},
		{"serves again", serve("a.example.test", -time.Hour), ""},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		resp, err := client.Get("https://" + addr)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v, want %q", step.what, err, step.want)
		}
	}
	if n := f.Connections(); n != 6 {
		t.Errorf("%d connections, want 6", n)
	}
}
