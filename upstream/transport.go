package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// newTransports makes the transports for the registry with its token service,
// and for the hosts that they redirect to. What a certificate of the former says
// does not matter where opts.Insecure is set; that holds for an HTTP proxy in between
// that is spoken to over TLS, too. Passwords of HTTP proxies are added to secrets. All
// connections are made by way of contact.
//
// They speak HTTP/1.1 only. Large blobs then have a connection each, with its
// own window: one whose reader is slow, or one lost packet, does not hold up
// the others, as it does where HTTP/2 puts all on one connection. On a long
// thin link that matters more than the handshakes that HTTP/2 saves.
func newTransports(opts Options, secrets *Secrets, contact *Switch) (own, foreign guarded, err error) {
	config, err := newTLSConfig(opts)
	if err != nil {
		return guarded{}, guarded{}, err
	}
	connectTimeout, tlsTimeout := orDefault(opts.ConnectTimeout, 5*time.Second), orDefault(opts.TLSTimeout, 5*time.Second)
	dial := contact.dialer(net.Dialer{Timeout: connectTimeout})
	if opts.DialContext != nil {
		dial = contact.guard(opts.DialContext)
	}
	proxy := opts.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	foreign = guarded{by: contact, patience: connectTimeout + tlsTimeout, Transport: &http.Transport{
		Proxy:                  discreet(proxy, secrets),
		OnProxyConnectResponse: connected,
		DialContext:            dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  orDefault(opts.HeaderTimeout, 15*time.Second),
		Protocols:              protocols,
		// A layer that is compressed on the way would have other bytes than its
		// digest says.
		DisableCompression:     true,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		// One system call for 16 times as many bytes as by default.
		ReadBufferSize: 64 << 10,
	}}
	own = foreign
	own.Transport = foreign.Clone()
	own.TLSClientConfig.InsecureSkipVerify = opts.Insecure
	if opts.CertFile != "" {
		own.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return loadClientCert(opts)
		}
	}
	return own, foreign, nil
}

func newTLSConfig(opts Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if opts.CAFile != "" {
		pem, err := os.ReadFile(opts.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA file: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool() // a system without roots: these are all
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file %s holds no certificate in PEM form", opts.CAFile)
		}
		config.RootCAs = roots
	}
	if (opts.CertFile == "") != (opts.KeyFile == "") {
		return nil, errors.New("a client certificate needs both a certificate file and a key file")
	}
	if opts.CertFile != "" {
		if _, err := loadClientCert(opts); err != nil {
			return nil, err
		}
	}
	return config, nil
}

func loadClientCert(opts Options) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(opts.CertFile, opts.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate %s with the key %s: %w", opts.CertFile, opts.KeyFile, err)
	}
	return &cert, nil
}
