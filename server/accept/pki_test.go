package accept_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const serverName = "registry.test"

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64 // serial number
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRoot(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t), next: 2}
	template := authorityTemplate(name)
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-100 * time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: []byte(name),
	}
}

// issue signs a certificate and what comes after it in its chain.
func (a *authority) issue(t testing.TB, template *x509.Certificate, after ...*x509.Certificate) tls.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(a.next)
	a.next++
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if pair.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	for _, c := range after {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// between returns an authority under another one.
func (a *authority) between(t testing.TB, name string) *authority {
	t.Helper()
	pair := a.issue(t, authorityTemplate(name))
	return &authority{cert: pair.Leaf, key: pair.PrivateKey.(*ecdsa.PrivateKey), next: 2}
}

// clientCert returns the certificate of a client.
func (a *authority) clientCert(t testing.TB, name string) tls.Certificate {
	t.Helper()
	return a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// serverCert returns a certificate of the server with a name to know it by.
func (a *authority) serverCert(t testing.TB, name string) tls.Certificate {
	t.Helper()
	return a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{serverName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

// server returns a certificate that is always the same.
func (a *authority) server(t testing.TB) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair := a.serverCert(t, "server")
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
}

// crl returns a list in DER form, signed by a. The template may be nil.
func (a *authority) crl(t testing.TB, template *x509.RevocationList, revoked ...tls.Certificate) []byte {
	t.Helper()
	if template == nil {
		template = new(x509.RevocationList)
	}
	template.Number = big.NewInt(time.Now().UnixNano())
	if template.NextUpdate.IsZero() {
		template.ThisUpdate, template.NextUpdate = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemOf(kind string, ders ...[]byte) []byte {
	var text []byte
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return text
}

// file writes a file, or replaces one as programs do that renew files.
func file(t testing.TB, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// files writes a certificate with its key.
func files(t testing.TB, dir string, pair tls.Certificate) (certificate, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, filepath.Join(dir, "cert.pem"), pemOf("CERTIFICATE", pair.Certificate...)),
		file(t, filepath.Join(dir, "key.pem"), pemOf("PRIVATE KEY", der))
}
