package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"registry-module/doctor/chain"
	"registry-module/doctor/report"
)

// soon is how long before its end a certificate is worth a warning, or a quarter of
// its life where that is less: some are made for six days.
const soon = 14 * 24 * time.Hour

// explain says what the verdict means. With mayAsk, it asks the server for its
// clock before it calls a certificate expired.
func (e *examination) explain(ctx context.Context, v chain.Verdict, l leg, mayAsk bool) report.Finding {
	wrong := e.certificateWrong(v, l)
	if wrong == nil && v.Outside != nil {
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
	left := v.Until.Sub(e.now())
	signed := "self-signed, and trusted"
	if len(v.Signed) > 0 {
		signed = "signed by " + strings.Join(e.signedBy(v), " ← ")
	}
	text := fmt.Sprintf("%s, valid until %s (%s)", signed, day(v.Until), report.Plural(int(left/(24*time.Hour)), "day", "days"))
	if left < min(soon, v.Life/4) {
		return report.Warn("Have its operator renew the certificate.", "%s", text)
	}
	return report.Passed("%s", text)
}

func (e *examination) signedBy(v chain.Verdict) []string {
	var names []string
	for _, n := range v.Signed {
		names = append(names, e.secrets.Clean(n))
	}
	return slices.Compact(names)
}

// certificateWrong says what is wrong apart from the time, nil where nothing is.
func (e *examination) certificateWrong(v chain.Verdict, l leg) *report.Finding {
	host := l.url.Hostname()
	issuer := e.secrets.Clean(chain.IssuerOf(v.Top))
	ca := e.r.Variable("CA")
	var f report.Finding
	switch {
	case v.Wrong && v.Unknown:
		f = report.Fail("Most likely something in between answers: a captive portal (log in with a browser), or a proxy that inspects TLS "+
			"(set "+ca+" to the file of its CA). If it is the registry, it needs a certificate for "+host+".",
			"the certificate is for %s, not for %s, and signed by %s, which this machine does not trust", e.namesOf(v.Leaf), host, issuer)
	case v.Wrong:
		f = report.Fail("Write one of these names in "+e.nameSetting(l)+", or have the registry's operator get a certificate for "+host+".",
			"the certificate is for %s, not for %s", e.namesOf(v.Leaf), host)
	case v.Unknown && v.SelfSigned():
		f = report.Fail("If you know that it is the right one, write it into a file (PEM) and set "+ca+" to its path.",
			"the certificate is self-signed (%s), so nobody vouches for it", e.secrets.Clean(chain.NameOf(v.Leaf)))
	case v.Unknown && v.Top == v.Leaf && len(v.Leaf.IssuingCertificateURL) > 0:
		f = report.Fail("Have the registry's operator send the whole chain, or put the certificate of "+issuer+" into the file of "+ca+".",
			"the chain is not whole: an intermediate certificate is missing, that of %s", issuer)
	case v.Unknown:
		f = report.Fail("If the registry has a certificate of your own CA, or a proxy inspects TLS, set "+ca+" to a file with the certificate of that CA (PEM).",
			"signed by %s, which this machine does not trust", issuer)
	case v.Other != nil:
		f = report.Fail("Have the registry's operator replace the certificate.", "the certificate cannot be used: %s", e.secrets.Clean(v.Other.Error()))
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
func (e *examination) blameClock(ctx context.Context, v chain.Verdict, l leg) (report.Finding, bool) {
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
	if there.Before(v.Outside.NotBefore) || there.After(v.Outside.NotAfter) {
		return report.Finding{}, false
	}
	e.clockWrong = true
	return report.Skip("not judged: the certificate is valid from %s to %s, and this machine believes that it is %s",
		day(v.Outside.NotBefore), day(v.Outside.NotAfter), report.Minute(e.now())), true
}

func (e *examination) notValid(v chain.Verdict, l leg) report.Finding {
	now := e.now()
	what := "the certificate"
	if v.Outside != v.Leaf {
		what = "the certificate of " + e.secrets.Clean(chain.NameOf(v.Outside))
	}
	clock := "this machine believes that it is " + report.Minute(now)
	if date := e.clocks(); date != nil && date.wrong() {
		clock += ", and the server that it is " + report.Minute(date.there)
	} else if date != nil {
		clock += ", and so does the server"
	}
	advice := "Have the operator of " + l.url.Hostname() + " renew it. If that is not the time now, set the clock of this machine (timedatectl, NTP)."
	if now.Before(v.Outside.NotBefore) {
		return report.Fail(advice, "%s is not valid before %s: %s", what, report.Minute(v.Outside.NotBefore), clock)
	}
	return report.Fail(advice, "%s has expired on %s, %s ago: %s", what, report.Minute(v.Outside.NotAfter), report.Roughly(now.Sub(v.Outside.NotAfter)), clock)
}

// namesOf lists the names that a certificate is for.
func (e *examination) namesOf(c *x509.Certificate) string {
	const most = 4
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all (" + e.secrets.Clean(chain.NameOf(c)) + ")"
	}
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return e.secrets.Clean(text)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }
