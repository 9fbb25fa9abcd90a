// Package chain judges the certificates that a server has shown by all of their
// properties, where the library stops at the first that is wrong.
//
// It promises that what it calls good is what the library accepts. It trusts nothing in
// certificates: what their names are is for the caller to clean before it is shown. Of
// this module it imports nothing.
package chain

import (
	"crypto/x509"
	"errors"
	"time"
)

// Verdict is what is to be said of a chain of certificates.
type Verdict struct {
	// Leaf is the server's own certificate.
	Leaf *x509.Certificate
	// Wrong tells that the name is another one, and Unknown that it is signed by
	// nobody who is trusted. Other is what else keeps it from being used.
	Wrong, Unknown bool
	Other          error
	// Outside is the first certificate that is not valid at this time, nil where
	// all are.
	Outside *x509.Certificate
	// Top is the last certificate that the server has sent of the chain.
	Top *x509.Certificate
	// Until is the first end of the chain, and Life how long that certificate was
	// made for.
	Until time.Time
	Life  time.Duration
	// Signed is by whom it is signed, up to the root.
	Signed []string
}

// Judge looks at what a server has shown, by all of its properties: the first thing
// that is wrong hides the others where the library verifies.
func Judge(sent []*x509.Certificate, host string, roots *x509.CertPool, now time.Time) Verdict {
	v := Verdict{Leaf: sent[0]}
	v.Wrong = v.Leaf.VerifyHostname(host) != nil
	v.Top = v.Leaf
	for _, c := range sent[1:] {
		if v.Top.CheckSignatureFrom(c) == nil {
			v.Top = c
		}
	}
	opts := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range sent[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := v.Leaf.Verify(opts)
	if err != nil {
		// Who has signed does not depend on what time it is, so it is asked for one at
		// which all was valid.
		opts.CurrentTime = whenValid(sent, now)
		chains, err = v.Leaf.Verify(opts)
	}
	used := sent
	if err == nil {
		used = chains[0]
	} else if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		v.Unknown = true
	} else {
		v.Other = err
	}
	for i, c := range used {
		if i == 0 || c.NotAfter.Before(v.Until) {
			v.Until, v.Life = c.NotAfter, c.NotAfter.Sub(c.NotBefore)
		}
		if v.Outside == nil && (now.Before(c.NotBefore) || now.After(c.NotAfter)) {
			v.Outside = c
		}
		if i > 0 {
			v.Signed = append(v.Signed, NameOf(c))
		}
	}
	return v
}

// whenValid is the time next to now at which all of chain is valid, if there is one.
func whenValid(chain []*x509.Certificate, now time.Time) time.Time {
	for _, c := range chain {
		if now.Before(c.NotBefore) {
			now = c.NotBefore
		}
	}
	for _, c := range chain {
		if now.After(c.NotAfter) {
			now = c.NotAfter
		}
	}
	return now
}

// Good tells whether package upstream would accept it.
func (v Verdict) Good() bool {
	return !v.Wrong && !v.Unknown && v.Other == nil && v.Outside == nil
}

// SelfSigned tells whether nobody else has signed it.
func (v Verdict) SelfSigned() bool {
	return v.Leaf.Issuer.String() == v.Leaf.Subject.String() && v.Leaf.CheckSignature(v.Leaf.SignatureAlgorithm, v.Leaf.RawTBSCertificate, v.Leaf.Signature) == nil
}

// NameOf is what a certificate is called.
func NameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return c.Subject.String()
}

// IssuerOf is what the one is called that has signed it.
func IssuerOf(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return c.Issuer.String()
}
