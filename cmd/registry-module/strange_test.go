package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/upstream/upstreamtest"
)

// What is not HTTP/1, or too much of it, is answered, and the connection closed.
func TestStrangeRequests(t *testing.T) {
	quiet(t)
	cfg := testConfig(t, t.TempDir(), "")
	cert, key := testCertificate(t)
	cfg.Stock.HTTP.TLS = configuration.TLS{Certificate: cert, Key: key}
	defer serving(t, cfg)()
	// lines are many short ones, of so many bytes.
	lines := func(size int) string { return strings.Repeat("a:b\r\n", size/5) }
	const get = "GET /v2/ HTTP/1.1\r\nHost: x\r\n"
	for name, tt := range map[string]struct {
		sent   string
		status int // 0 for no answer
		closed bool
	}{
		"HTTP/1.1":                      {get + "\r\n", 200, false},
		"HTTP/1.0":                      {"GET /v2/ HTTP/1.0\r\n\r\n", 200, true},
		"HTTP/1.0, keep-alive":          {"GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, false},
		"HTTP/0.9":                      {"GET /v2/\r\n\r\n", 400, true},
		"HTTP/2":                        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, true},
		"HTTP/2 by upgrade":             {get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 200, false},
		"the PROXY protocol":            {"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get + "\r\n", 400, true},
		"the PROXY protocol, version 2": {"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + strings.Repeat("\x01", 12) + get + "\r\n", 400, true},
		"half of a TLS handshake":       {"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", 0, true},
		"no host":                       {"GET /v2/ HTTP/1.1\r\n\r\n", 400, true},
		"two lengths":                   {get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, true},
		"as many lines as can be":       {get + lines(maxHeader-1<<10) + "\r\n", 200, false},
		"more lines than can be":        {get + lines(maxHeader+8<<10) + "\r\n", 431, true},
		"lines without end":             {get + lines(maxHeader+8<<10), 431, true},
		"a token":                       {get + "Authorization: Bearer " + strings.Repeat("x", 8000) + "\r\n\r\n", 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", cfg.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }() // it is not needed any more
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			go func() { _, _ = io.WriteString(conn, tt.sent) }() // it may not be taken completely
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if tt.status == 0 {
				if err == nil {
					t.Errorf("status %d", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body) // to where it ends
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
			if closed := resp.Close || resp.ProtoMinor == 0 && !strings.EqualFold(resp.Header.Get("Connection"), "keep-alive"); closed != tt.closed {
				t.Errorf("closed is %v, want %v", closed, tt.closed)
			}
			if tt.closed {
				if _, err := io.Copy(io.Discard, r); err != nil && !strings.Contains(err.Error(), "reset") {
					t.Errorf("it is not closed: %v", err)
				}
			}
		})
	}
}

// A client whose authority is not one any more cannot go on over the connection that it has.
func TestRevokedConnection(t *testing.T) {
	quiet(t)
	ca := upstreamtest.NewCA(t)
	cas := filepath.Join(t.TempDir(), "ca.pem")
	write := func(content []byte) {
		if err := errors.Join(os.WriteFile(cas+".new", content, 0o600), os.Rename(cas+".new", cas)); err != nil {
			t.Fatal(err)
		}
	}
	write(ca.PEM())
	own, err := tls.X509KeyPair(ca.Issue())
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, t.TempDir(), "")
	cert, key := testCertificate(t)
	cfg.Stock.HTTP.TLS = configuration.TLS{Certificate: cert, Key: key, ClientCAs: []string{cas}}
	defer serving(t, cfg)()
	conn, err := tls.Dial("tcp", cfg.Addr, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // the server closes it
	r := bufio.NewReader(conn)
	ask := func() error {
		if _, err := io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	write(upstreamtest.NewCA(t).PEM())
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(30 * time.Second); ask() == nil; {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the connection stays")
		}
	}
}
