package lab

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"time"
)

// Pool has the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Sub makes an authority that this one has signed, as the Edge CA of a device is.
func (a *Authority) Sub(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	return &Authority{cert: cert, key: key, above: append([]*x509.Certificate{cert}, a.above...)}, nil
}

// Leaf says what a certificate is for.
type Leaf struct {
	CommonName string
	// Names are the DNS names of a server.
	Names []string
	// Client is for who logs in with it.
	Client bool
	// From is the start of its life; the zero value is an hour ago. Until is the end; the
	// zero value is 90 days later, which is what modules of IoT Edge ask for.
	From, Until time.Time
	// Key is reused; nil makes an RSA key of 2048 bits.
	Key crypto.Signer
}

// Issued is a certificate with its key.
type Issued struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	// chain is the certificate and those above it, without the root.
	chain []*x509.Certificate
}

// Issue signs a certificate.
func (a *Authority) Issue(l Leaf) (*Issued, error) {
	key := l.Key
	if key == nil {
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, fmt.Errorf("making a certificate for %s: %w", l.CommonName, err)
		}
	}
	from := l.From
	if from.IsZero() {
		from = time.Now().Add(-time.Hour)
	}
	until := l.Until
	if until.IsZero() {
		until = from.Add(90 * 24 * time.Hour)
	}
	use := x509.ExtKeyUsageServerAuth
	if l.Client {
		use = x509.ExtKeyUsageClientAuth
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: l.CommonName}, DNSNames: l.Names,
		NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", l.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", l.CommonName, err)
	}
	return &Issued{cert, key, append([]*x509.Certificate{cert}, a.above...)}, nil
}

func newSerial() *big.Int { return new(big.Int).SetBytes([]byte(rand.Text()[:12])) }

// Write writes the certificate with those above it, and the key, as servers read them.
// Each file is replaced in one step.
func (i *Issued) Write(certPath, keyPath string) error {
	chain, key, err := i.pem()
	if err != nil {
		return fmt.Errorf("writing %s: %w", certPath, err)
	}
	if err := replaceFile(certPath, chain); err != nil {
		return err
	}
	return replaceFile(keyPath, key)
}

func (i *Issued) pem() (chain, key []byte, err error) {
	var certs bytes.Buffer
	for _, c := range i.chain {
		if err := pem.Encode(&certs, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return nil, nil, err
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(i.Key)
	return certs.Bytes(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// TLS is the certificate for package tls.
func (i *Issued) TLS() tls.Certificate {
	c := tls.Certificate{PrivateKey: i.Key}
	for _, cert := range i.chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// Revoke writes a list of what this authority has taken back, over the one before.
func (a *Authority) Revoke(path string, revoked ...*Issued) error {
	list := &x509.RevocationList{
		Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(24 * time.Hour),
	}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.Cert.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		return fmt.Errorf("making a revocation list: %w", err)
	}
	return replaceFile(path, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func replaceFile(path string, content []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
