package accept_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"unicode"

	"registry-module/server/accept"
)

// A file is a list that its authority has signed, or an error.
func FuzzReadCRLs(f *testing.F) {
	root, other := newRoot(f, "root"), newRoot(f, "other")
	c := root.clientCert(f, "c")
	list := root.crl(f, nil, c)
	f.Add(list)
	f.Add(list[:len(list)/2])
	f.Add(pemOf("X509 CRL", list, root.crl(f, nil)))
	f.Add(pemOf("CERTIFICATE", root.cert.Raw))
	f.Add(other.crl(f, nil, c))
	f.Add([]byte{})
	signers := []*x509.Certificate{root.cert}
	f.Fuzz(func(t *testing.T, content []byte) {
		lists, err := accept.ReadCRLs(content, signers)
		if err == nil && len(lists) == 0 {
			t.Error("neither a list nor an error")
		}
		for _, c := range accept.Certificates(content) {
			if c == nil {
				t.Error("no certificate")
			}
		}
	})
}

// Whatever a certificate says, it is one line of bounded length in the log.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "CN=a", "a\nb", "\x00\xff", strings.Repeat("ü", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := accept.Clean(s, 50)
		if len(got) > 4*50+len(`"..."`)*2 || got == "" || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}
