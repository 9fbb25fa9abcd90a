package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"

	"registry-module/internal/reloaded"
	"registry-module/server/accept"
)

// certificateSource returns the certificate that the API port shows.
type certificateSource func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// apiTLS is what makes TLS of the API port, beside the keys of the stock configuration.
// The zero value is what these say.
type apiTLS struct {
	source certificateSource // instead of http.tls.certificate; nil for none
	crls   []string          // files, access.crls
}

// config returns how the API port speaks TLS, with the keys of the stock configuration;
// nil where there is no certificate.
func (a apiTLS) config(cfg configuration.TLS, log logrus.FieldLogger) (*tls.Config, error) {
	if cfg.Certificate == "" && a.source == nil {
		return nil, nil
	}
	opts := accept.TLSOptions{
		GetCertificate: a.source,
		ClientCAs:      cfg.ClientCAs,
		CRLs:           a.crls,
		ClientAuth:     clientAuth(cfg.ClientAuth),
		Log:            log,
	}
	if cfg.MinimumTLS == "tls1.3" {
		opts.MinVersion = tls.VersionTLS13
	}
	var errs []error
	var err error
	if opts.GetCertificate == nil {
		if opts.GetCertificate, err = accept.Certificate(cfg.Certificate, cfg.Key, reloaded.Options{Log: log}); err != nil {
			errs = append(errs, fmt.Errorf("http.tls.certificate and http.tls.key: %w", err))
			opts.GetCertificate = noCertificate // for the mistakes of the rest
		}
	}
	if opts.CipherSuites, err = cipherSuites(cfg.CipherSuites); err != nil {
		errs = append(errs, err)
	}
	conf, err := accept.NewTLSConfig(opts)
	switch {
	case err == nil:
	case errors.Is(err, accept.ErrCRLs):
		errs = append(errs, fmt.Errorf("access.crls: %w", err))
	case errors.Is(err, accept.ErrClientCAs):
		errs = append(errs, fmt.Errorf("http.tls.clientcas: %w", err))
	default:
		errs = append(errs, fmt.Errorf("http.tls.clientcas and access.crls: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return conf, nil
}

// wireTLS returns how the API port speaks TLS with g's configuration. What sessions and
// certificates are known to the one before goes on where its settings are the same.
func (g *generation) wireTLS(p *program, before *generation) (*tls.Config, error) {
	stock := g.cfg.Stock.HTTP.TLS
	conf, err := apiTLS{source: g.runtime.source(), crls: g.cfg.AccessCRLs}.config(stock, p.log)
	if err == nil && before != nil && before.runtime.certificate == g.runtime.certificate &&
		reflect.DeepEqual(before.cfg.Stock.HTTP.TLS, stock) && slices.Equal(before.cfg.AccessCRLs, g.cfg.AccessCRLs) {
		conf = before.tls
	}
	return conf, err
}

// noCertificate stands for one that cannot be read.
func noCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("there is no certificate")
}

// demandsCertificates tells whether a client without a certificate is refused, which
// plain HTTP cannot have.
func demandsCertificates(cfg configuration.TLS) bool {
	mode := clientAuth(cfg.ClientAuth)
	return len(cfg.ClientCAs) > 0 && (mode == tls.RequireAnyClientCert || mode == tls.RequireAndVerifyClientCert)
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
