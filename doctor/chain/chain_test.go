package chain_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"registry-module/doctor/chain"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// signer is a certificate with its key.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate for name that is valid for so many days from so many days
// on; by nil it is signed by itself.
func sign(t *testing.T, by *signer, name string, from, days int, ca bool) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now.AddDate(0, 0, from), NotAfter: now.AddDate(0, 0, from+days),
		BasicConstraintsValid: true, IsCA: ca,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.DNSNames = []string{name}
	}
	parent := by
	if parent == nil {
		parent = &signer{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{cert, key}
}

// All that is wrong with a chain is found, and what is called good is what the library
// accepts.
func TestJudge(t *testing.T) {
	root := sign(t, nil, "Root", -1000, 4000, true)
	inter := sign(t, root, "Intermediate", -100, 400, true)
	oldInter := sign(t, root, "Old", -100, 90, true)
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	const host = "registry.test"
	good := sign(t, inter, host, -10, 90, false)
	for _, test := range []struct {
		name    string
		sent    []*signer
		host    string
		wrong   bool
		unknown bool
		outside string // the name of the certificate
		until   int    // in days
		life    int
		signed  string
		self    bool
	}{
		{"good", []*signer{good, inter}, host, false, false, "", 80, 90, "Intermediate, Root", false},
		{"with the root", []*signer{good, inter, root}, host, false, false, "", 80, 90, "Intermediate, Root", false},
		{"with one too many", []*signer{good, sign(t, nil, "x", -20, 10, true), inter}, host, false, false, "", 80, 90, "Intermediate, Root", false},
		{"short", []*signer{good}, host, false, true, "", 80, 90, "", false},
		{"another name", []*signer{good, inter}, "other.test", true, false, "", 80, 90, "Intermediate, Root", false},
		{"of six days", []*signer{sign(t, inter, host, -1, 6, false), inter}, host, false, false, "", 5, 6, "Intermediate, Root", false},
		{"expired", []*signer{sign(t, inter, host, -20, 10, false), inter}, host, false, false, host, -10, 10, "Intermediate, Root", false},
		{"of the future", []*signer{sign(t, inter, host, 5, 10, false), inter}, host, false, false, host, 15, 10, "Intermediate, Root", false},
		{"intermediate expired", []*signer{sign(t, oldInter, host, -90, 365, false), oldInter}, host, false, false, "Old", -10, 90, "Old, Root", false},
		{"all wrong", []*signer{sign(t, nil, "x", -20, 10, false)}, host, true, true, "x", -10, 10, "", true},
		{"self-signed", []*signer{sign(t, nil, host, -20, 100, false)}, host, false, true, "", 80, 100, "", true},
	} {
		var sent []*x509.Certificate
		for _, s := range test.sent {
			sent = append(sent, s.cert)
		}
		v := chain.Judge(sent, test.host, roots, now)
		outside := ""
		if v.Outside != nil {
			outside = chain.NameOf(v.Outside)
		}
		if v.Leaf != sent[0] || v.Wrong != test.wrong || v.Unknown != test.unknown || v.Other != nil || outside != test.outside || v.SelfSigned() != test.self {
			t.Errorf("%s: %+v", test.name, v)
		}
		if !v.Until.Equal(now.AddDate(0, 0, test.until)) || v.Life != time.Duration(test.life)*24*time.Hour {
			t.Errorf("%s: until %v, made for %v", test.name, v.Until, v.Life)
		}
		if signed := strings.Join(v.Signed, ", "); !v.Unknown && signed != test.signed {
			t.Errorf("%s: signed by %s", test.name, signed)
		}
		opts := x509.VerifyOptions{DNSName: test.host, Roots: roots, CurrentTime: now, Intermediates: x509.NewCertPool()}
		for _, c := range sent[1:] {
			opts.Intermediates.AddCert(c)
		}
		if _, err := sent[0].Verify(opts); (err == nil) != v.Good() {
			t.Errorf("%s: good is %v, and the library says %v", test.name, v.Good(), err)
		}
	}
	if got := chain.IssuerOf(good.cert); got != "Intermediate" {
		t.Errorf("issued by %s", got)
	}
	noName := &x509.Certificate{Subject: pkix.Name{Organization: []string{"Org"}}, Issuer: pkix.Name{Organization: []string{"Other"}}}
	if chain.NameOf(noName) != "O=Org" || chain.IssuerOf(noName) != "O=Other" {
		t.Errorf("%s, %s", chain.NameOf(noName), chain.IssuerOf(noName))
	}
}

// What cannot be used for a server is none of what time and trust are about.
func TestJudgeOtherFaults(t *testing.T) {
	root := sign(t, nil, "Root", -10, 100, false) // that may sign nothing
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	leaf := sign(t, root, "registry.test", -10, 100, false)
	if v := chain.Judge([]*x509.Certificate{leaf.cert}, "registry.test", roots, now); v.Good() {
		t.Errorf("%+v", v)
	}
}
