package accept_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"registry-module/server/accept"
)

// What clients can speak changes while the listener is open. Connections that are open end
// with their next request where they could not be made any more.
func TestSpeak(t *testing.T) {
	root := newRoot(t, "root")
	own := root.clientCert(t, "own")
	cas := file(t, filepath.Join(t.TempDir(), "ca.pem"), pemOf("CERTIFICATE", root.cert.Raw))
	conf := func(opts accept.TLSOptions) *tls.Config {
		t.Helper()
		opts.GetCertificate = root.server(t)
		c, err := accept.NewTLSConfig(opts)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	open, demanding := conf(accept.TLSOptions{}), conf(accept.TLSOptions{ClientCAs: []string{cas}})
	nobody := &tls.Config{RootCAs: root.pool(), ServerName: serverName}
	somebody := nobody.Clone()
	somebody.Certificates = []tls.Certificate{own}

	s := serve(t, "tcp", accept.Options{}, text("here"))
	again := func(c net.Conn) error {
		if _, err := io.WriteString(c, request); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return err
	}
	for _, step := range []struct {
		name                    string
		conf                    *tls.Config
		require                 bool
		plain, nobody, somebody bool // whether it is served
	}{
		{"plain", nil, false, true, false, false},
		{"TLS, too", open, false, true, true, true},
		{"with certificates", demanding, true, false, false, true},
		{"TLS again", open, false, true, true, true},
		{"plain again", nil, true, true, false, false},
	} {
		s.listener.Speak(step.conf, step.require)
		for _, tt := range []struct {
			who  string
			conf *tls.Config
			want bool
		}{{"plain", nil, step.plain}, {"nobody", nobody, step.nobody}, {"somebody", somebody, step.somebody}} {
			status, _, err := s.get(t, tt.conf)
			if got := err == nil && status == 200; got != tt.want {
				t.Errorf("%s: %s is served: %v, status %d, %v", step.name, tt.who, got, status, err)
			}
		}
	}

	s.listener.Speak(open, false)
	plain, secured := s.dial(t), tls.Client(s.dial(t), nobody)
	withCertificate := tls.Client(s.dial(t), somebody)
	for _, c := range []net.Conn{plain, secured, withCertificate} {
		if err := again(c); err != nil {
			t.Fatal(err)
		}
	}
	s.listener.Speak(demanding, true)
	for name, c := range map[string]net.Conn{"plain": plain, "without a certificate": secured, "with one that was not asked for": withCertificate} {
		if again(c) == nil {
			t.Errorf("a connection goes on: %s", name)
		}
	}
	withCertificate = tls.Client(s.dial(t), somebody)
	for range 2 {
		if err := again(withCertificate); err != nil {
			t.Error(err)
		}
	}
	s.listener.Speak(nil, false)
	if err := again(withCertificate); err != nil {
		t.Errorf("without TLS for new ones: %v", err)
	}
}
