package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"registry-module/cache"
)

// Each kind of failure has its hint, as an error and where only its text is left.
func TestHints(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}, Err: err}
	}
	up := func(kind error, status int, cause error) error { return upstreamError(kind, status, cause) }
	tests := []struct {
		name string
		err  error
		hint string // in it
		// asText tells that the text alone is enough.
		asText bool
	}{
		{"no DNS", up(cache.ErrUnavailable, 0, dial(&net.DNSError{Err: "no such host", Name: "a.example.com", IsNotFound: true})), "name server", true},
		{"DNS does not answer", up(cache.ErrUnavailable, 0, dial(&net.DNSError{Err: "i/o timeout", Name: "a.example.com", IsTimeout: true})), "name server", false},
		{"refused", up(cache.ErrUnavailable, 0, dial(os.NewSyscallError("connect", syscall.ECONNREFUSED))), "nothing listens", true},
		{"no route", up(cache.ErrUnavailable, 0, dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH))), "default route", true},
		{"network is away", up(cache.ErrUnavailable, 0, dial(os.NewSyscallError("connect", syscall.ENETUNREACH))), "default route", true},
		{"timeout", up(cache.ErrUnavailable, 0, dial(os.ErrDeadlineExceeded)), "in time", true},
		{"deadline", up(cache.ErrUnavailable, 0, fmt.Errorf("not done in time: %w", context.DeadlineExceeded)), "in time", true},
		{"reset", up(cache.ErrUnavailable, 0, os.NewSyscallError("read", syscall.ECONNRESET)), "broken the connection", true},
		{"cut", up(cache.ErrUnavailable, 0, io.ErrUnexpectedEOF), "broken the connection", true},
		{"unknown authority", up(cache.ErrUnavailable, 0, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), "REGISTRY_PROXY_CA", true},
		{"expired", up(cache.ErrUnavailable, 0, &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired, Cert: new(x509.Certificate)}}), "clock", true},
		{"other name", up(cache.ErrUnavailable, 0, x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"b"}}, Host: "a"}), "for another name", false},
		{"no TLS", up(cache.ErrUnavailable, 0, tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}), "http://", true},
		{"401", up(cache.ErrDenied, 401, nil), "REGISTRY_PROXY_USERNAME", true},
		{"403", up(cache.ErrDenied, 403, nil), "REGISTRY_PROXY_USERNAME", true},
		{"407", up(cache.ErrUnavailable, 407, nil), "REGISTRY_PROXY_HTTPPROXY", false},
		{"429", up(cache.ErrRateLimited, 429, nil), "allows for no more", true},
		{"404", up(cache.ErrNotFound, 404, nil), "no such image", true},
		{"500", up(cache.ErrUnavailable, 500, nil), "problem of its own", false},
		{"503", up(cache.ErrUnavailable, 503, nil), "problem of its own", false},
		{"loop", up(cache.ErrLoop, 508, nil), "fetch from each other", true},
		{"login page", up(cache.ErrInvalid, 200, cache.ErrIntercepted), "log in to the network", true},
		{"invalid", up(cache.ErrInvalid, 200, nil), "proxy in between changes", true},
		{"offline", up(cache.ErrUnavailable, 0, cache.ErrOffline), "registry-module offline auto", true},
		{"no room", fmt.Errorf("x: %w", cache.ErrNoSpace), "REGISTRY_CACHE_MAXSIZE", true},
		{"disk is full", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, "REGISTRY_CACHE_MAXSIZE", true},
		{"read-only", &os.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, "read-only", true},
		{"bad medium", &os.PathError{Op: "read", Path: "x", Err: syscall.EIO}, "medium", true},
		{"no right", &os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, "65532", true},
		{"open files", &os.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}, "ulimit", true},
		{"something else", errors.New("the moon is in the way"), "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if hint := hintOf(tt.err); !strings.Contains(hint, tt.hint) || (hint == "") != (tt.hint == "") {
				t.Errorf("%v: %q", tt.err, hint)
			}
			if !tt.asText {
				return
			}
			if hint := hintOfText(tt.err.Error()); !strings.Contains(hint, tt.hint) || (hint == "") != (tt.hint == "") {
				t.Errorf("text of %v: %q", tt.err, hint)
			}
		})
	}
	for _, c := range causes {
		if c.hint != cleanText(c.hint) {
			t.Errorf("%q is not shown as it is", c.hint)
		}
		for _, text := range c.text {
			if text != strings.ToLower(text) {
				t.Errorf("%q is never found", text)
			}
		}
	}
}

// Texts are shown without what may be a secret, and without what could be taken for more.
func TestCleanText(t *testing.T) {
	tests := []struct{ text, want string }{
		{"as it is: 100 % <b>", "as it is: 100 % <b>"},
		{"two\nlines\r\n\tand\x00more\x1b[31m", "two lines and more [31m"},
		{"\u202eturned\u2066", "turned"},
		{"Get \"https://me:secret@a.example.com/v2/x?sig=secret#secret\": EOF", `Get "https://a.example.com/v2/x": EOF`},
		{"https://me:sec/ret@a.example.com/x", "https://a.example.com/x"},
		{"https://me@a.example.com", "https://a.example.com"},
		{"https://a.example.com/v2/x@sha256:abc", "https://a.example.com/v2/x@sha256:abc"},
		{"GET /v2/x?token=secret failed", "GET /v2/x failed"},
		{"is it? a=b", "is it? a=b"},
		{"sent Authorization: Bearer c2VjcmV0c2VjcmV0", "sent Authorization: Bearer REDACTED"},
		{"basic c2VjcmV0Og==, and more", "basic REDACTED, and more"},
		{"a bearer of news", "a bearer of news"},
		{"\xff\xfe", ""},
	}
	for _, tt := range tests {
		if got := cleanText(tt.text); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
	long := cleanText(strings.Repeat("é", 10_000))
	if len(long) > maxText+3 || !strings.HasSuffix(long, "é...") {
		t.Errorf("%d bytes", len(long))
	}
}
