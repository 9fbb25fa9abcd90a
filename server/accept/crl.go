package accept

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// revocations are the certificates that one list revokes.
type revocations struct {
	path   string
	issuer *x509.Certificate
	next   time.Time            // when there should be a newer list; zero for never
	at     map[string]time.Time // by serial number
	warned atomic.Bool          // that it is out of date
}

// has tells whether the list revokes c, and since when.
func (r *revocations) has(c *x509.Certificate) (time.Time, bool) {
	at, ok := r.at[serial(c)]
	if !ok || !bytes.Equal(c.RawIssuer, r.issuer.RawSubject) {
		return time.Time{}, false
	}
	// Another authority can have the same name.
	return at, r.issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// serial is the number of c as a key.
func serial(c *x509.Certificate) string { return c.SerialNumber.String() }

// certificates returns those in a text in PEM form. As with x509.CertPool, what cannot be
// read is left out.
func certificates(text []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, c)
		}
	}
	return certs
}

// beginCRL begins a list in PEM form (RFC 7468, section 6).
const beginCRL = "-----BEGIN X509 CRL-----"

// readCRLs reads a file with lists: one in DER form, or any number in PEM form. Each has
// to be signed by one of signers.
func readCRLs(content []byte, signers []*x509.Certificate) ([]*revocations, error) {
	var lists []*revocations
	add := func(der []byte) error {
		l, err := newRevocations(der, signers)
		if err == nil {
			lists = append(lists, l)
		}
		return err
	}
	block, rest := pem.Decode(content)
	if block == nil {
		return lists, add(content)
	}
	// One that is cut off, by a copy that is under way or by a full disk, would otherwise be
	// skipped, and those whom it revokes would be let in.
	begun := bytes.Count(content, []byte(beginCRL))
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		if err := add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if len(lists) < begun {
		return nil, fmt.Errorf("has only %d of %d lists that can be read: the others are cut off or damaged", len(lists), begun)
	}
	if len(lists) == 0 {
		return nil, errors.New("contains no list: it has to begin with " + beginCRL + ", or to be in DER form")
	}
	return lists, nil
}

func newRevocations(der []byte, signers []*x509.Certificate) (*revocations, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("is no list of revoked certificates: %w", err)
	}
	issuer, err := signerOf(list, signers)
	if err != nil {
		return nil, err
	}
	if err := supported(list); err != nil {
		return nil, err
	}
	r := &revocations{issuer: issuer, next: list.NextUpdate, at: make(map[string]time.Time, len(list.RevokedCertificateEntries))}
	for _, e := range list.RevokedCertificateEntries {
		r.at[e.SerialNumber.String()] = e.RevocationTime
	}
	return r, nil
}

// signerOf returns which of signers has signed a list.
func signerOf(list *x509.RevocationList, signers []*x509.Certificate) (*x509.Certificate, error) {
	err := errors.New("its certificate is not among those of the client authorities")
	for _, c := range signers {
		if !bytes.Equal(c.RawSubject, list.RawIssuer) {
			continue
		}
		if err = list.CheckSignatureFrom(c); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("is not signed by a client authority: it names %s as its issuer: %w", name(list.Issuer), err)
}

// Extensions of lists and of their entries (RFC 5280, sections 5.2.4, 5.2.5 and 5.3.3).
var (
	oidDeltaCRLIndicator        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer        = asn1.ObjectIdentifier{2, 5, 29, 29}
)

// supported returns why a list cannot be used. What is critical and not understood must
// not be ignored (RFC 5280, section 5.2).
func supported(list *x509.RevocationList) error {
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidDeltaCRLIndicator):
			return errors.New("is a delta list, which says only what is new: use the complete list")
		case e.Critical && !e.Id.Equal(oidIssuingDistributionPoint):
			return fmt.Errorf("has the critical extension %v, which is not supported", e.Id)
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			switch {
			case e.Id.Equal(oidCertificateIssuer):
				return errors.New("is an indirect list, which is about certificates of other authorities: use their own lists")
			case e.Critical:
				return fmt.Errorf("has an entry with the critical extension %v, which is not supported", e.Id)
			}
		}
	}
	return nil
}

// name is a name of a certificate as it can be in a log: anybody can have written it.
func name(n pkix.Name) string { return clean(n.String(), maxName) }
