package doctor_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sys/unix"

	"registry-module/doctor"
	ut "registry-module/upstream/upstreamtest"
)

// setup is a registry, the way to it, and its configuration.
type setup struct {
	t      *testing.T
	net    *internet
	reg    *ut.Registry
	ca     *authority
	doctor doctor.Doctor
	remote doctor.Remote
}

func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{t: t, net: newInternet(), ca: newAuthority(t, "Test Root")}
	s.doctor = s.net.doctor()
	s.remote = doctor.Remote{
		Number: 2, URL: parse(t, "https://registry.test"), CAFile: s.ca.file(), Proxy: noProxy, Image: "a/b:v1",
	}
	s.serve(leaf{})
	return s
}

// serve serves the registry by https with such a certificate.
func (s *setup) serve(l leaf) { s.serveWith(s.ca.server(l)) }

func (s *setup) serveWith(config *tls.Config) {
	s.reg = ut.NewWith(s.t, ut.Options{TLS: config})
	s.reg.AddRandomImage("a/b", "v1", 1, 10)
	s.at(s.reg.Host())
}

// plain serves it by http.
func (s *setup) plain() {
	s.reg = ut.New(s.t)
	s.reg.AddRandomImage("a/b", "v1", 1, 10)
	s.at(s.reg.Host())
	s.net.routes["192.0.2.1:80"] = s.reg.Host()
	s.remote.URL = parse(s.t, "http://registry.test")
}

// at puts what is served at addr in the registry's place.
func (s *setup) at(addr string) {
	s.net.names["registry.test"] = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	s.net.routes["192.0.2.1:443"] = addr
}

// page answers with a web page.
func page(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<!DOCTYPE html><title>Guest network</title>")
	}
}

func redirectTo(target string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, target, http.StatusFound) }
}

// closed is an address at which nobody listens: a socket has it that does not, so that
// nobody else gets it while the test runs.
func closed(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // nothing was sent
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

func hold(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

func opError(err syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
}

// token has tokens given at auth.registry.test, which was allowed.
func (s *setup) token(a ut.Auth) {
	a.Realm = "https://auth.registry.test/token"
	s.serve(leaf{names: []string{"registry.test", "auth.registry.test"}})
	s.reg.SetAuth(a)
	s.net.host("auth.registry.test", "192.0.2.3", "443", s.reg.TokenHost())
	s.remote.AllowedRealms = []string{"auth.registry.test"}
}

// unreadable are credentials that cannot be had.
type unreadable struct{}

// Authorization implements [authn.Authenticator].
func (unreadable) Authorization() (*authn.AuthConfig, error) {
	return nil, errors.New("helper is missing")
}

func identity(token string) authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{IdentityToken: token})
}
