package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/distribution/distribution/v3/configuration"
)

// withTLS makes ln speak TLS where a certificate is configured, with the keys of
// the stock configuration.
func withTLS(ln net.Listener, cfg configuration.TLS) (net.Listener, error) {
	if cfg.Certificate == "" {
		return ln, nil
	}
	conf, err := tlsConfig(cfg)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return tls.NewListener(ln, conf), nil
}

func tlsConfig(cfg configuration.TLS) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(cfg.Certificate, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("http.tls.certificate and http.tls.key: %w", err)
	}
	// HTTP/1.1 only: blobs are most of the work, and HTTP/2 would put a second
	// flow control between their file and the socket.
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if cfg.MinimumTLS == "tls1.3" {
		conf.MinVersion = tls.VersionTLS13
	}
	if conf.CipherSuites, err = cipherSuites(cfg.CipherSuites); err != nil {
		return nil, err
	}
	if len(cfg.ClientCAs) == 0 {
		return conf, nil
	}
	conf.ClientCAs = x509.NewCertPool()
	for _, name := range cfg.ClientCAs {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("http.tls.clientcas: %w", err)
		}
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("http.tls.clientcas: %s contains no certificate in PEM form", name)
		}
	}
	conf.ClientAuth = clientAuth(cfg.ClientAuth)
	return conf, nil
}

// cipherSuites are the suites with those names, for TLS 1.2; those of TLS 1.3
// cannot be chosen. No names stand for Go's own choice.
func cipherSuites(names []string) ([]uint16, error) {
	var ids []uint16
	for _, name := range names {
		known := slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites())
		i := slices.IndexFunc(known, func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("http.tls.ciphersuites: %q is not known", name)
		}
		ids = append(ids, known[i].ID)
	}
	return ids, nil
}

// clientAuth maps the stock names; client authorities alone demand a
// certificate, as in the stock registry.
func clientAuth(mode configuration.ClientAuth) tls.ClientAuthType {
	switch mode {
	case configuration.ClientAuthRequestClientCert:
		return tls.RequestClientCert
	case configuration.ClientAuthRequireAnyClientCert:
		return tls.RequireAnyClientCert
	case configuration.ClientAuthVerifyClientCertIfGiven:
		return tls.VerifyClientCertIfGiven
	default:
		return tls.RequireAndVerifyClientCert
	}
}
