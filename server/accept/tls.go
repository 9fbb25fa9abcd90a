package accept

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/internal/reloaded"
)

// What [NewTLSConfig] can find wrong in files, for who knows which setting names them.
var (
	ErrClientCAs = errors.New("certificates of client authorities")
	ErrCRLs      = errors.New("certificate revocation lists")
)

// TLSOptions are how to speak TLS.
type TLSOptions struct {
	// GetCertificate returns the certificate that is shown, see [Certificate]. It must be
	// there.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// ClientCAs are files with the certificates, in PEM form, of the authorities whose
	// client certificates count. None is for no client certificates.
	ClientCAs []string

	// CRLs are files with lists of the certificates that do not count any more, in PEM or
	// DER form, each signed by one of ClientCAs (RFC 5280, section 5). What is in any list
	// of an authority is revoked. Delta and indirect lists are not supported.
	CRLs []string

	// ClientAuth is what is expected of clients, where there are ClientCAs. Default:
	// tls.RequireAndVerifyClientCert.
	ClientAuth tls.ClientAuthType

	// MinVersion is the oldest version that is spoken. Default: tls.VersionTLS12.
	MinVersion uint16

	// CipherSuites are those of TLS 1.2. Default: those of crypto/tls.
	CipherSuites []uint16

	// Log is told of new versions of files, and of lists that are out of date. Nil is for
	// nobody.
	Log logrus.FieldLogger

	// Every is how long a look at the files holds. Default: reloaded.DefaultEvery.
	Every time.Duration

	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Certificate returns the server certificate that is in two files in PEM form, with what
// has signed it, and reads it again when they change. Connections keep the one that they
// have begun with. It is for [TLSOptions].
func Certificate(certificate, key string, opts reloaded.Options) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	v, err := reloaded.New([]string{certificate, key}, func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s with %s: %w", certificate, key, err)
		}
		return &pair, nil
	}, opts)
	if err != nil {
		return nil, err
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return v.Get(), nil }, nil
}

// NewTLSConfig returns how to speak TLS, for [Options]. The files are read now, which can
// fail with ErrClientCAs or ErrCRLs, and again when they change: what holds is looked up
// for each handshake, also of sessions that go on, and for each request where
// [Listener.Recheck] is in use.
func NewTLSConfig(opts TLSOptions) (*tls.Config, error) {
	if opts.GetCertificate == nil {
		return nil, errors.New("speaking TLS: there is no certificate")
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = silence()
	}
	// HTTP/1.1 only: blobs are most of the work, and HTTP/2 would put a second flow control
	// between their file and the socket.
	conf := &tls.Config{
		GetCertificate: opts.GetCertificate,
		MinVersion:     cmp.Or(opts.MinVersion, tls.VersionTLS12),
		CipherSuites:   opts.CipherSuites,
		NextProtos:     []string{"http/1.1"},
		Time:           opts.Now,
	}
	if len(opts.ClientCAs) == 0 {
		if len(opts.CRLs) > 0 {
			return nil, fmt.Errorf("%w: there are no client authorities that could have signed them", ErrCRLs)
		}
		return conf, nil
	}
	conf.ClientAuth = cmp.Or(opts.ClientAuth, tls.RequireAndVerifyClientCert)
	if len(opts.CRLs) > 0 && !verifies(conf.ClientAuth) {
		return nil, fmt.Errorf("%w: client certificates are not verified, so that they cannot have an effect", ErrCRLs)
	}
	base := conf.Clone()
	current, err := reloaded.New(slices.Concat(opts.ClientCAs, opts.CRLs), func(contents [][]byte) (*authorities, error) {
		return newAuthorities(opts, base, contents)
	}, reloaded.Options{Log: opts.Log, Every: opts.Every, Now: opts.Now})
	if err != nil {
		if !errors.Is(err, ErrCRLs) && !errors.Is(err, ErrClientCAs) && len(opts.CRLs) == 0 {
			err = fmt.Errorf("%w: %w", ErrClientCAs, err)
		}
		return nil, err
	}
	conf.ClientCAs = current.Get().conf.ClientCAs // for who looks; what counts is below
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		a := current.Get()
		a.warnOfAge()
		return a.conf, nil
	}
	return conf, nil
}

// verifies tells whether a mode looks at who has signed a certificate.
func verifies(mode tls.ClientAuthType) bool {
	return mode == tls.VerifyClientCertIfGiven || mode == tls.RequireAndVerifyClientCert
}

// authorities are who says which client certificates count.
type authorities struct {
	conf  *tls.Config
	lists []*revocations
	now   func() time.Time
	log   logrus.FieldLogger
}

// newAuthorities reads the files of ClientCAs, and then of CRLs.
func newAuthorities(opts TLSOptions, base *tls.Config, contents [][]byte) (*authorities, error) {
	a := &authorities{conf: base.Clone(), now: opts.Now, log: opts.Log}
	a.conf.ClientCAs = x509.NewCertPool()
	var signers []*x509.Certificate
	for i, path := range opts.ClientCAs {
		certs := certificates(contents[i])
		if len(certs) == 0 {
			return nil, fmt.Errorf("%w: %s contains no certificate in PEM form", ErrClientCAs, path)
		}
		for _, c := range certs {
			a.conf.ClientCAs.AddCert(c)
		}
		signers = append(signers, certs...)
	}
	for i, path := range opts.CRLs {
		lists, err := readCRLs(contents[len(opts.ClientCAs)+i], signers)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrCRLs, path, err)
		}
		for _, l := range lists {
			l.path = path
		}
		a.lists = append(a.lists, lists...)
	}
	a.conf.VerifyConnection = a.verify
	a.warnOfAge()
	return a, nil
}

// verify looks at what crypto/tls does not: revocation, and, of a session that goes on,
// whether its certificate still counts.
func (a *authorities) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || !verifies(a.conf.ClientAuth) {
		return nil
	}
	chains := state.VerifiedChains
	if state.DidResume {
		var err error
		if chains, err = a.chains(state.PeerCertificates); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
	}
	revoked := errors.New("it has no chain to an authority")
	for _, chain := range chains {
		if revoked = a.revoked(chain); revoked == nil {
			return nil
		}
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: revoked}
}

// chains verifies a certificate as crypto/tls does in a handshake.
func (a *authorities) chains(shown []*x509.Certificate) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	return shown[0].Verify(x509.VerifyOptions{
		Roots:         a.conf.ClientCAs,
		Intermediates: between,
		CurrentTime:   a.now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// revoked returns why a chain does not count any more.
func (a *authorities) revoked(chain []*x509.Certificate) error {
	for _, c := range chain {
		for _, l := range a.lists {
			if at, ok := l.has(c); ok {
				return fmt.Errorf("the certificate of %s with the serial number %x was revoked on %s by %s",
					name(c.Subject), c.SerialNumber, at.UTC().Format(time.DateOnly), name(l.issuer.Subject))
			}
		}
	}
	return nil
}

// warnOfAge warns, once for each list, that there ought to be a newer one. An old list is
// better than none, and to have no newer one is usual where there is no network.
func (a *authorities) warnOfAge() {
	now := a.now()
	for _, l := range a.lists {
		if !l.next.IsZero() && now.After(l.next) && l.warned.CompareAndSwap(false, true) {
			a.log.Warnf("%s: the list of revoked certificates of %s was to be replaced by a newer one until %s; it stays in use, but what was revoked since is not known",
				l.path, name(l.issuer.Subject), l.next.UTC().Format(time.RFC3339))
		}
	}
}
