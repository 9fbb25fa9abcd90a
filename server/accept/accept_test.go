package accept_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"registry-module/server/accept"
)

// Both kinds of clients are served at the same port, and plain connections are what the
// kernel can send files to.
func TestKindsOfConnections(t *testing.T) {
	secured, client := plainTLS(t)
	for name, tt := range map[string]struct {
		network string
		tls     *tls.Config // of the server
		ask     *tls.Config // of the client
		want    string
	}{
		"plain":                      {network: "tcp", tls: secured, want: "*net.TCPConn"},
		"TLS":                        {network: "tcp", tls: secured, ask: client, want: "*tls.Conn"},
		"plain where TLS is not set": {network: "tcp", want: "*net.TCPConn"},
		"plain by a Unix socket":     {network: "unix", tls: secured, want: "*net.UnixConn"},
		"TLS by a Unix socket":       {network: "unix", tls: secured, ask: client, want: "*tls.Conn"},
		"Unix where TLS is not set":  {network: "unix", want: "*net.UnixConn"},
	} {
		t.Run(name, func(t *testing.T) {
			kinds := make(chan string, 1)
			s := serve(t, tt.network, accept.Options{TLS: tt.tls}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				hijacked, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = hijacked.Close() }()
				kinds <- fmt.Sprintf("%T", hijacked)
				_, _ = io.WriteString(hijacked, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			}))
			s.want(t, tt.ask, "ok")
			if got := <-kinds; got != tt.want {
				t.Errorf("connection is a %s, want %s", got, tt.want)
			}
		})
	}
}

// spy counts what is accepted.
type spy struct {
	net.Listener
	fail func(n int) error // what the n-th Accept returns instead
	n    atomic.Int32
}

func (s *spy) Accept() (net.Conn, error) {
	n := int(s.n.Add(1))
	if s.fail != nil {
		if err := s.fail(n); err != nil {
			return nil, err
		}
	}
	return s.Listener.Accept()
}

// What has been looked at is still there, for however long it is waited for.
func TestSlowFirstBytes(t *testing.T) {
	secured, _ := plainTLS(t)
	s := serve(t, "tcp", accept.Options{TLS: secured}, text("ok"))
	c := s.dial(t)
	for _, part := range []string{"G", "ET / HTTP/1.1\r\nHost:", " x\r\n\r\n"} {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
		s.want(t, nil, "ok") // others come first
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	}
}

// Who says nothing, or stops in a handshake, is closed after a while.
func TestSilence(t *testing.T) {
	secured, client := plainTLS(t)
	s := serve(t, "tcp", accept.Options{TLS: secured, FirstByteTimeout: 200 * time.Millisecond}, text("ok"))
	for name, says := range map[string]string{
		"nothing":             "",
		"part of a record":    "\x16\x03\x01",
		"a record of nothing": "\x16\x03\x01\x00\x00",
		"a wrong record":      "\x16\x16\x16\x16\x16\x16\x16",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t)
			if _, err := io.WriteString(c, says); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c); timedOut(err) {
				t.Errorf("it is still open: %v", err)
			}
		})
	}
	s.want(t, client, "ok")
	s.want(t, nil, "ok")
	// Its time is over with the handshake.
	c := tls.Client(s.dial(t), client)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("after a handshake: %v", err)
	}
}

// Plain HTTP is answered, not just closed, where client certificates are demanded.
func TestRequireTLS(t *testing.T) {
	root := newRoot(t, "root")
	dir := t.TempDir()
	conf, err := accept.NewTLSConfig(accept.TLSOptions{
		GetCertificate: root.server(t),
		ClientCAs:      []string{file(t, dir+"/ca.pem", pemOf("CERTIFICATE", root.cert.Raw))},
	})
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int32
	s := serve(t, "tcp", accept.Options{TLS: conf, RequireTLS: true}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		served.Add(1)
	}))
	for name, tt := range map[string]struct {
		method string
		body   io.Reader
	}{
		"GET":            {"GET", nil},
		"HEAD":           {"HEAD", nil},
		"PUT":            {"PUT", strings.NewReader("{}")},
		"a body of 1 MB": {"PATCH", bytes.NewReader(make([]byte, 1<<20))},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, "http://registry.test/v2/", tt.body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := s.client(t, nil).Do(req)
			if tt.method == "PATCH" && err != nil {
				return // it may see that it can send no more before it looks for an answer
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != 400 || !resp.Close || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%+v", resp)
			}
			if tt.method == "HEAD" {
				return
			}
			var body struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || len(body.Errors) != 1 ||
				body.Errors[0].Code != "DENIED" || !strings.Contains(body.Errors[0].Message, "https and with a client certificate") {
				t.Errorf("%+v, %v", body, err)
			}
		})
	}
	t.Run("a body without end", func(t *testing.T) {
		c := s.dial(t)
		for n := 0; ; n += 64 << 10 {
			if _, err := c.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
				break
			}
			if n > 64<<20 {
				t.Fatal("all of it is read")
			}
		}
	})
	t.Run("says no more", func(t *testing.T) {
		c := s.dial(t)
		if _, err := io.WriteString(c, "G"); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("%q, %v", answer, err)
		}
	})
	if served.Load() != 0 {
		t.Errorf("%d requests were served", served.Load())
	}
	if !strings.Contains(s.log.String(), "plain HTTP was refused") {
		t.Errorf("log: %s", s.log)
	}
	client := &tls.Config{RootCAs: root.pool(), ServerName: serverName, Certificates: []tls.Certificate{root.clientCert(t, "c")}}
	if status, _, err := s.get(t, client); err != nil || status != 200 || served.Load() != 1 {
		t.Errorf("with a certificate: %d, %v", status, err)
	}
}

// What can pass, such as a lack of files, does not end the server, and what cannot does.
func TestAcceptErrors(t *testing.T) {
	failure := func(errno error) error { return &net.OpError{Op: "accept", Net: "tcp", Err: errno} }
	for name, errno := range map[string]error{
		"files":   syscall.EMFILE,
		"system":  syscall.ENFILE,
		"memory":  syscall.ENOMEM,
		"buffers": syscall.ENOBUFS,
		"aborted": syscall.ECONNABORTED,
		"of one":  syscall.EPROTO,
		"refused": syscall.EPERM,
	} {
		t.Run(name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := serveAt(t, &spy{Listener: inner, fail: func(n int) error {
				if n%2 == 1 {
					return failure(errno)
				}
				return nil
			}}, accept.Options{}, text("ok"))
			for range 3 {
				s.want(t, nil, "ok")
			}
			if !strings.Contains(s.log.String(), errno.Error()) {
				t.Errorf("log: %s", s.log)
			}
		})
	}
	t.Run("until an idle connection is closed", func(t *testing.T) {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var lack atomic.Bool
		s := serveAt(t, &spy{Listener: inner, fail: func(int) error {
			if lack.Load() {
				return failure(syscall.EMFILE)
			}
			return nil
		}}, accept.Options{}, text("ok"))
		c := s.dial(t)
		if err := ask(c, "/"); err != nil {
			t.Fatal(err)
		}
		lack.Store(true)
		s.want(t, nil, "ok") // has the listener try again
		if !closed(c, 30*time.Second) {
			t.Error("it is still open")
		}
		lack.Store(false)
		s.want(t, nil, "ok")
	})
	t.Run("for good", func(t *testing.T) {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := accept.New(&spy{Listener: inner, fail: func(int) error { return failure(syscall.EBADF) }}, accept.Options{})
		for range 2 {
			if _, err := l.Accept(); !errors.Is(err, syscall.EBADF) {
				t.Errorf("error %v", err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A listener that is closed leaves nothing behind, whatever clients are about to do.
func TestClose(t *testing.T) {
	secured, _ := plainTLS(t)
	for name, says := range map[string]string{"silent": "", "in a handshake": "\x16\x03\x01", "ready": "GET"} {
		t.Run(name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := accept.New(inner, accept.Options{TLS: secured})
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if _, err := io.WriteString(c, says); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.Copy(io.Discard, c); timedOut(err) {
				t.Errorf("the client is still connected: %v", err)
			}
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accepting: %v", err)
			}
		})
	}
}

// timedOut tells whether err is for nothing having happened.
func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
