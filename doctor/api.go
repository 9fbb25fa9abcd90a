package doctor

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"strings"

	"registry-module/doctor/report"
	"registry-module/upstream"
)

// api asks the registry whether it is one.
func (e *examination) api(ctx context.Context) report.Finding {
	var err error
	e.challenge, err = e.remote.Challenge(ctx)
	x := e.asked().last
	switch {
	case x.URL != nil && *x.URL != *apiRoot(e.r.URL), isRedirect(x.Status):
		return e.redirected(x)
	case x.Status == 0 || x.Status == http.StatusBadRequest:
		if f, found := e.maybeTLS(ctx); found {
			return f
		}
	}
	if x.Status == 0 {
		return e.unanswered(e.r.URL.Host, err)
	}
	return e.readAPI(ctx, x, err)
}

func (e *examination) readAPI(ctx context.Context, x upstream.Exchange, err error) report.Finding {
	host := e.r.URL.Host
	switch {
	case x.Status == http.StatusOK:
		return e.readRoot(ctx)
	case x.Status == http.StatusUnauthorized && err == nil:
		return report.Passed("GET /v2/ wants a log-in: %s", e.secrets.Clean(e.challenge.Scheme))
	case x.Status == http.StatusUnauthorized && isPage(x):
		return e.portal("what answers for %s is a web page (HTTP status 401), not a registry", host)
	case x.Status == http.StatusUnauthorized:
		return report.Fail("Tell the registry's operator: the header WWW-Authenticate is missing or cannot be read.",
			"%s wants a log-in and does not say which", host)
	case x.Status == http.StatusNetworkAuthenticationRequired: // RFC 6585, section 6
		return e.portal("this network wants a log-in before it lets anything pass (HTTP status 511)")
	case x.Status == http.StatusProxyAuthRequired && e.proxy != nil:
		return e.proxyRefuses(x.Status, leg{url: e.r.URL, proxy: e.proxy}, host)
	case x.Status == http.StatusTooManyRequests:
		return e.rateLimited(x)
	case x.Status == http.StatusNotFound:
		return report.Fail("Check "+e.r.Variable("REMOTEURL")+": it must be the address of the registry itself, not of its web pages.",
			"there is no registry at %s: GET /v2/ is not found (HTTP status 404)", host)
	case x.Status == http.StatusForbidden && isPage(x):
		return e.portal("what answers for %s is a web page that refuses (HTTP status 403)", host)
	case x.Status == http.StatusForbidden:
		return report.Fail("The registry, or a firewall before it, refuses this machine's address: ask its operator.", "%s refuses (HTTP status 403)", host)
	case x.Status >= 500:
		wait := ""
		if x.RetryAfter > 0 {
			wait = " It asks to wait for " + report.Roughly(x.RetryAfter) + "."
		}
		if e.proxy != nil && e.r.URL.Scheme == "http" {
			return report.Fail("Look into the log of the HTTP proxy; it may not reach the registry."+wait, "the HTTP proxy or %s has a failure (%s)", host, statusText(x.Status))
		}
		return report.Fail("Try again later: that is for the registry's operator to mend."+wait, "%s has a failure of its own (%s)", host, statusText(x.Status))
	}
	return report.Fail("Check "+e.r.Variable("REMOTEURL")+", and what is in between.", "GET /v2/ at %s has an answer that no registry gives (%s)", host, statusText(x.Status))
}

// readRoot looks at what the registry, or who stands in for it, has to say to anybody.
// Captive portals are known by what they say and not by its type: registries exist that
// send "true" or "{}" as text/html.
func (e *examination) readRoot(ctx context.Context) report.Finding {
	a, err := e.ask(ctx, e.tlsConfig("", true))
	switch {
	case err != nil:
		return e.unanswered(e.r.URL.Host, err)
	case strings.HasPrefix(a.body, "<"):
		return e.portal("what answers for %s is a web page, not a registry", e.r.URL.Host)
	case !a.isAPI() && !a.isJSON():
		return report.Warn("Check that "+e.r.Variable("REMOTEURL")+" is that of a registry.", "GET /v2/ is answered, but not as a registry does")
	}
	return report.Passed("GET /v2/ is answered: anybody may ask")
}

// maybeTLS finds out whether a registry that was configured without TLS has it.
func (e *examination) maybeTLS(ctx context.Context) (report.Finding, bool) {
	if e.r.URL.Scheme != "http" || e.proxy != nil {
		return report.Finding{}, false
	}
	conn, err := e.dialHost(ctx, "tcp", authority(e.r.URL))
	if err != nil {
		return report.Finding{}, false
	}
	defer func() { _ = conn.Close() }() // nothing was said that could get lost
	config := e.tlsConfig(e.r.URL.Hostname(), false)
	config.InsecureSkipVerify = true // that it speaks TLS is all that is asked
	if tls.Client(conn, config).HandshakeContext(ctx) != nil {
		return report.Finding{}, false
	}
	return report.Fail("Write "+e.r.Variable("REMOTEURL")+"=https://"+e.r.URL.Host+".", "%s speaks TLS (https), and the URL says http", e.r.URL.Host), true
}

// redirected looks at where GET /v2/ has led to: some registries have that answered by
// others, and captive portals begin so. x is the end of the way, or a redirect that
// was not followed.
func (e *examination) redirected(x upstream.Exchange) report.Finding {
	host, next := e.r.URL.Host, x.URL
	if isRedirect(x.Status) {
		var err error
		if next, err = x.URL.Parse(x.Header.Get("Location")); err != nil || next.Hostname() == "" || x.Header.Get("Location") == "" {
			return e.portal("%s redirects to nowhere (%s)", host, statusText(x.Status))
		}
	}
	to := e.secrets.Clean(next.Host)
	registry := x.Status == http.StatusOK || x.Status == http.StatusUnauthorized && x.Header.Get("WWW-Authenticate") != ""
	switch {
	case e.r.URL.Scheme == "http" && next.Scheme == "https" && strings.EqualFold(next.Hostname(), e.r.URL.Hostname()):
		return report.Fail("Write "+e.r.Variable("REMOTEURL")+"=https://"+to+".", "%s wants https: it redirects http to it", host)
	case e.r.URL.Scheme == "https" && next.Scheme == "http":
		return e.portal("%s redirects to %s, without TLS", host, to)
	case x.Status == 0:
		return e.portal("%s redirects to %s, where no registry answers", host, to)
	case !registry || isPage(x):
		return e.portal("%s redirects to %s, and what answers there is not a registry", host, to)
	}
	return report.Passed("GET /v2/ is redirected to %s, where a registry answers", to)
}

// apiRoot is where a registry says that it is one (OCI distribution specification,
// "Determining Support").
func apiRoot(u *url.URL) *url.URL { return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/v2/"} }
