package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"registry-module/doctor/report"
)

// soon is how long before its end a certificate is worth a warning, or a quarter of
// its life where that is less: some are made for six days.
const soon = 14 * 24 * time.Hour

// verdict is what is to be said of a chain of certificates.
type verdict struct {
	leaf    *x509.Certificate
	wrong   bool // the name is another one
	unknown bool // signed by nobody who is trusted
	other   error
	// outside is the first certificate that is not valid at this time, nil where
	// all are.
	outside *x509.Certificate
	// top is the last certificate that the server has sent of the chain.
	top    *x509.Certificate
	until  time.Time     // the first end of the chain
	life   time.Duration // of the certificate that ends first
	signed []string      // by whom, up to the root
}

// judge looks at what a server has shown, by all of its properties: the first thing
// that is wrong hides the others where the library verifies.
func judge(chain []*x509.Certificate, host string, roots *x509.CertPool, now time.Time) verdict {
	v := verdict{leaf: chain[0]}
	v.wrong = v.leaf.VerifyHostname(host) != nil
	v.top = v.leaf
	for _, c := range chain[1:] {
		if v.top.CheckSignatureFrom(c) == nil {
			v.top = c
		}
	}
	opts := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := v.leaf.Verify(opts)
	if err != nil {
		// Who has signed does not depend on what time it is, so it is asked for one at
		// which all was valid.
		opts.CurrentTime = whenValid(chain, now)
		chains, err = v.leaf.Verify(opts)
	}
	used := chain
	if err == nil {
		used = chains[0]
	} else if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		v.unknown = true
	} else {
		v.other = err
	}
	for i, c := range used {
		if i == 0 || c.NotAfter.Before(v.until) {
			v.until, v.life = c.NotAfter, c.NotAfter.Sub(c.NotBefore)
		}
		if v.outside == nil && (now.Before(c.NotBefore) || now.After(c.NotAfter)) {
			v.outside = c
		}
		if i > 0 {
			v.signed = append(v.signed, nameOf(c))
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

// good tells whether package upstream would accept it.
func (v verdict) good() bool {
	return !v.wrong && !v.unknown && v.other == nil && v.outside == nil
}

func (v verdict) selfSigned() bool {
	return v.leaf.Issuer.String() == v.leaf.Subject.String() && v.leaf.CheckSignature(v.leaf.SignatureAlgorithm, v.leaf.RawTBSCertificate, v.leaf.Signature) == nil
}

// explain says what the verdict means. With mayAsk, it asks the server for its
// clock before it calls a certificate expired.
func (e *examination) explain(ctx context.Context, v verdict, l leg, mayAsk bool) report.Finding {
	wrong := e.certificateWrong(v, l)
	if wrong == nil && v.outside != nil {
		if mayAsk && !e.r.Insecure {
			if f, isClock := e.blameClock(ctx, v, l); isClock {
				return f
			}
		}
		f := e.notValid(v, l)
		wrong = &f
	}
	switch {
	case wrong != nil && e.r.Insecure:
		return report.Warn("Mend that and unset "+e.r.Variable("INSECURE")+": anybody on the way can read the password and replace images.",
			"not verified (%s), and it would not pass: %s", e.r.Variable("INSECURE"), wrong.Text)
	case wrong != nil:
		return *wrong
	case e.r.Insecure:
		return report.Warn("Unset "+e.r.Variable("INSECURE")+": the certificate is good.", "not verified (%s)", e.r.Variable("INSECURE"))
	}
	left := v.until.Sub(e.now())
	signed := "self-signed, and trusted"
	if len(v.signed) > 0 {
		signed = "signed by " + strings.Join(v.signedBy(e), " ← ")
	}
	text := fmt.Sprintf("%s, valid until %s (%s)", signed, day(v.until), report.Plural(int(left/(24*time.Hour)), "day", "days"))
	if left < min(soon, v.life/4) {
		return report.Warn("Have its operator renew the certificate.", "%s", text)
	}
	return report.Passed("%s", text)
}

func (v verdict) signedBy(e *examination) []string {
	var names []string
	for _, n := range v.signed {
		names = append(names, e.secrets.Clean(n))
	}
	return slices.Compact(names)
}

// certificateWrong says what is wrong apart from the time, nil where nothing is.
func (e *examination) certificateWrong(v verdict, l leg) *report.Finding {
	host := l.url.Hostname()
	issuer := e.secrets.Clean(issuerOf(v.top))
	ca := e.r.Variable("CA")
	var f report.Finding
	switch {
	case v.wrong && v.unknown:
		f = report.Fail("Most likely something in between answers: a captive portal (log in with a browser), or a proxy that inspects TLS "+
			"(set "+ca+" to the file of its CA). If it is the registry, it needs a certificate for "+host+".",
			"the certificate is for %s, not for %s, and signed by %s, which this machine does not trust", e.namesOf(v.leaf), host, issuer)
	case v.wrong:
		f = report.Fail("Write one of these names in "+e.nameSetting(l)+", or have the registry's operator get a certificate for "+host+".",
			"the certificate is for %s, not for %s", e.namesOf(v.leaf), host)
	case v.unknown && v.selfSigned():
		f = report.Fail("If you know that it is the right one, write it into a file (PEM) and set "+ca+" to its path.",
			"the certificate is self-signed (%s), so nobody vouches for it", e.secrets.Clean(nameOf(v.leaf)))
	case v.unknown && v.top == v.leaf && len(v.leaf.IssuingCertificateURL) > 0:
		f = report.Fail("Have the registry's operator send the whole chain, or put the certificate of "+issuer+" into the file of "+ca+".",
			"the chain is not whole: an intermediate certificate is missing, that of %s", issuer)
	case v.unknown:
		f = report.Fail("If the registry has a certificate of your own CA, or a proxy inspects TLS, set "+ca+" to a file with the certificate of that CA (PEM).",
			"signed by %s, which this machine does not trust", issuer)
	case v.other != nil:
		f = report.Fail("Have the registry's operator replace the certificate.", "the certificate cannot be used: %s", e.secrets.Clean(v.other.Error()))
	default:
		return nil
	}
	return &f
}

func (e *examination) nameSetting(l leg) string {
	if l.who.setting != "" {
		return l.who.setting
	}
	return "the configuration of the registry's token service"
}

// blameClock asks the server what time it is, where a certificate is not valid by
// our clock: if it is by the server's, ours is wrong.
func (e *examination) blameClock(ctx context.Context, v verdict, l leg) (report.Finding, bool) {
	// Who is asked has no certificate that is accepted; nothing secret is sent. Without
	// an answer nothing is known, and nothing is said.
	config := e.tlsConfig("", false)
	config.InsecureSkipVerify = true
	_, _ = e.ask(ctx, config)
	date := e.clocks()
	if date == nil || !date.wrong() {
		return report.Finding{}, false
	}
	there := date.there
	if there.Before(v.outside.NotBefore) || there.After(v.outside.NotAfter) {
		return report.Finding{}, false
	}
	e.clockWrong = true
	return report.Skip("not judged: the certificate is valid from %s to %s, and this machine believes that it is %s",
		day(v.outside.NotBefore), day(v.outside.NotAfter), report.Minute(e.now())), true
}

func (e *examination) notValid(v verdict, l leg) report.Finding {
	now := e.now()
	what := "the certificate"
	if v.outside != v.leaf {
		what = "the certificate of " + e.secrets.Clean(nameOf(v.outside))
	}
	clock := "this machine believes that it is " + report.Minute(now)
	if date := e.clocks(); date != nil && date.wrong() {
		clock += ", and the server that it is " + report.Minute(date.there)
	} else if date != nil {
		clock += ", and so does the server"
	}
	advice := "Have the operator of " + l.url.Hostname() + " renew it. If that is not the time now, set the clock of this machine (timedatectl, NTP)."
	if now.Before(v.outside.NotBefore) {
		return report.Fail(advice, "%s is not valid before %s: %s", what, report.Minute(v.outside.NotBefore), clock)
	}
	return report.Fail(advice, "%s has expired on %s, %s ago: %s", what, report.Minute(v.outside.NotAfter), report.Roughly(now.Sub(v.outside.NotAfter)), clock)
}

// namesOf lists the names that a certificate is for.
func (e *examination) namesOf(c *x509.Certificate) string {
	const most = 4
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all (" + e.secrets.Clean(nameOf(c)) + ")"
	}
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return e.secrets.Clean(text)
}

func nameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return c.Subject.String()
}

func issuerOf(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return c.Issuer.String()
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }
