package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/internal/reloaded"
)

// newTransports makes the transports for the registry with its token service,
// and for the hosts that they redirect to. What a certificate of the former says
// does not matter where opts.Insecure is set; that holds for an HTTP proxy in between
// that is spoken to over TLS, too. Passwords of HTTP proxies are added to secrets. All
// connections are made by way of contact. Log is told of files that have changed.
//
// They speak HTTP/1.1 only. Large blobs then have a connection each, with its
// own window: one whose reader is slow, or one lost packet, does not hold up
// the others, as it does where HTTP/2 puts all on one connection. On a long
// thin link that matters more than the handshakes that HTTP/2 saves.
func newTransports(opts Options, secrets *Secrets, contact *Switch, log logrus.FieldLogger) (own, foreign guarded, err error) {
	clientCert, err := newClientCert(opts, log)
	if err != nil {
		return guarded{}, guarded{}, err
	}
	trust, err := newTrust(opts, log)
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
	toForeign := &http.Transport{
		Proxy:                  discreet(proxy, secrets),
		OnProxyConnectResponse: connected,
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
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
	}
	toOwn := toForeign.Clone()
	toOwn.TLSClientConfig.InsecureSkipVerify = opts.Insecure
	if clientCert != nil {
		toOwn.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return clientCert.Get(), nil
		}
	}
	guard := func(t *http.Transport) guarded {
		return guarded{by: contact, patience: connectTimeout + tlsTimeout, transports: newTransportsLike(t, trust)}
	}
	return guard(toOwn), guard(toForeign), nil
}

// newClientCert returns what client certificate there is at the time; nil where there is
// none. Its files are looked at for each connection, as the CA file is, and what they held
// before stays in use where they do not go together: one of them is always the first that
// is replaced.
func newClientCert(opts Options, log logrus.FieldLogger) (*reloaded.Value[*tls.Certificate], error) {
	if (opts.CertFile == "") != (opts.KeyFile == "") {
		return nil, errors.New("a client certificate needs both a certificate file and a key file")
	}
	if opts.CertFile == "" {
		return nil, nil
	}
	pair, err := reloaded.New([]string{opts.CertFile, opts.KeyFile}, func(contents [][]byte) (*tls.Certificate, error) {
		cert, err := tls.X509KeyPair(contents[0], contents[1])
		return &cert, err
	}, reloaded.Options{Log: log, Every: time.Nanosecond})
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate %s with the key %s: %w", opts.CertFile, opts.KeyFile, err)
	}
	return pair, nil
}
