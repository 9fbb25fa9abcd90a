package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// above are the certificates between this one and the root, which is not in it.
	// The first one is its own.
	above []*x509.Certificate
}

// NewAuthority makes a certificate authority that nobody trusts yet.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"},
		NotBefore: time.Now().Add(-10 * 365 * 24 * time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert: cert, key: key}, err
}

// Write writes the authority's own certificate, as those read it that trust it.
func (a *Authority) Write(path string) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o644)
}

// Certificate signs one for a host that is valid for a day from a time on.
func (a *Authority) Certificate(host string, from time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", host, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: from, NotAfter: from.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Front is a host with HTTPS that can be away in ways that begin below HTTP.
type Front struct {
	listen func() (net.Listener, error)

	connections atomic.Int64

	mu      sync.Mutex
	server  *http.Server  // guarded by mu; nil while down or silent
	silence net.Listener  // guarded by mu; nil while not silent
	ended   chan struct{} // guarded by mu; closed when what listens has ended
}

// NewFront returns a host that is down. It listens as it is told.
func NewFront(listen func() (net.Listener, error)) *Front { return &Front{listen: listen} }

// Connections returns how many were accepted.
func (f *Front) Connections() int { return int(f.connections.Load()) }

// Serve cuts all connections, and from then on serves h with the certificate.
func (f *Front) Serve(cert *tls.Certificate, h http.Handler) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.renew()
	if err != nil {
		return err
	}
	server := &http.Server{
		ConnContext: thin, Handler: h,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}},
		ErrorLog:  log.New(io.Discard, "", 0), // clients are to refuse some certificates
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ServeTLS(l, "", "") // always ends with ErrServerClosed, by Down
	}()
	f.server, f.ended = server, ended
	return nil
}

// Silence cuts all connections, and from then on accepts them and says nothing.
func (f *Front) Silence() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.renew()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		hold(l)
	}()
	f.silence, f.ended = l, ended
	return nil
}

// Down cuts all connections, and closes the port.
func (f *Front) Down() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down()
}

func (f *Front) renew() (net.Listener, error) {
	if err := f.down(); err != nil {
		return nil, err
	}
	// The address may be taken for a moment, see listen.
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := f.listen()
		if err == nil {
			return &counted{l, &f.connections}, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return nil, fmt.Errorf("listening as a front: %w", err)
		}
	}
}

func (f *Front) down() (err error) {
	switch {
	case f.server != nil:
		err = f.server.Close()
	case f.silence != nil:
		err = f.silence.Close()
	default:
		return nil
	}
	<-f.ended
	f.server, f.silence = nil, nil
	return err
}

type counted struct {
	net.Listener
	n *atomic.Int64
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// hold accepts connections and leaves them alone, until the listener is closed.
func hold(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
	}
}
