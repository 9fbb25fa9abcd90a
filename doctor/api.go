package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// api asks the registry whether it is one.
func (e *examination) api(ctx context.Context) Finding {
	a, err := e.ask(ctx, verified, http.MethodGet, apiRoot(e.r.URL), nil)
	if err != nil {
		if f, found := e.maybeTLS(ctx); found {
			return f
		}
		return e.unanswered(e.r.URL.Host, err)
	}
	return timed(e.readAPI(ctx, a), a.took)
}

func (e *examination) readAPI(ctx context.Context, a *answer) Finding {
	host := e.r.URL.Host
	switch {
	case a.isRedirect():
		return e.redirected(ctx, a)
	case a.status == http.StatusOK && a.isPage():
		return e.portal("what answers for %s is a web page, not a registry", host)
	case a.status == http.StatusOK:
		e.challenge = &transport.Challenge{}
		if !a.isAPI() && len(a.body) > 0 && !json.Valid(a.body) {
			return warning("Check that "+e.r.Variable("REMOTEURL")+" is that of a registry.", "GET /v2/ is answered, but not as a registry does")
		}
		return ok("GET /v2/ is answered: anybody may ask")
	case a.status == http.StatusUnauthorized:
		if e.challenge = readChallenge(a.header); e.challenge != nil {
			return ok("GET /v2/ wants a log-in: %s", e.secrets.clean(e.challenge.Scheme))
		}
		if a.isPage() {
			return e.portal("what answers for %s is a web page (HTTP status 401), not a registry", host)
		}
		return failed("Tell the registry's operator: the header WWW-Authenticate is missing or cannot be read.",
			"%s wants a log-in and does not say which", host)
	case a.status == http.StatusNetworkAuthenticationRequired: // RFC 6585, section 6
		return e.portal("this network wants a log-in before it lets anything pass (HTTP status 511)")
	case a.status == http.StatusProxyAuthRequired && e.proxy != nil:
		return e.proxyRefuses(a.status, e.proxy, host)
	case a.status == http.StatusTooManyRequests:
		return e.rateLimited(a)
	case a.status == http.StatusBadRequest:
		if f, found := e.maybeTLS(ctx); found {
			return f
		}
	case a.status == http.StatusNotFound:
		return failed("Check "+e.r.Variable("REMOTEURL")+": it must be the address of the registry itself, not of its web pages.",
			"there is no registry at %s: GET /v2/ is not found (HTTP status 404)", host)
	case a.status == http.StatusForbidden && a.isPage():
		return e.portal("what answers for %s is a web page that refuses (HTTP status 403)", host)
	case a.status == http.StatusForbidden:
		return failed("The registry, or a firewall before it, refuses this machine's address: ask its operator.", "%s refuses (HTTP status 403)", host)
	case a.status >= 500:
		wait := a.retryAfter(e.now())
		if wait != "" {
			wait = " It asks to wait for " + wait + "."
		}
		if e.proxy != nil && e.r.URL.Scheme == "http" {
			return failed("Look into the log of the HTTP proxy; it may not reach the registry."+wait, "the HTTP proxy or %s has a failure (%s)", host, statusText(a.status))
		}
		return failed("Try again later: that is for the registry's operator to mend."+wait, "%s has a failure of its own (%s)", host, statusText(a.status))
	}
	return failed("Check "+e.r.Variable("REMOTEURL")+", and what is in between.", "GET /v2/ at %s has an answer that no registry gives (%s)", host, statusText(a.status))
}

// maybeTLS finds out whether a registry that was configured without TLS has it.
func (e *examination) maybeTLS(ctx context.Context) (Finding, bool) {
	if e.r.URL.Scheme != "http" || e.proxy != nil {
		return Finding{}, false
	}
	conn, err := e.dialHost(ctx, "tcp", authority(e.r.URL))
	if err != nil {
		return Finding{}, false
	}
	defer func() { _ = conn.Close() }()
	config := e.tlsConfig(e.r.URL.Hostname(), false)
	config.InsecureSkipVerify = true // that it speaks TLS is all that is asked
	if tls.Client(conn, config).HandshakeContext(ctx) != nil {
		return Finding{}, false
	}
	return failed("Write "+e.r.Variable("REMOTEURL")+"=https://"+e.r.URL.Host+".", "%s speaks TLS (https), and the URL says http", e.r.URL.Host), true
}

// redirected looks at where GET /v2/ leads to: some registries have that answered by
// others, and captive portals begin so.
func (e *examination) redirected(ctx context.Context, a *answer) Finding {
	host := e.r.URL.Host
	next := a.target()
	if next == nil {
		return e.portal("%s redirects to nowhere (%s)", host, statusText(a.status))
	}
	if e.r.URL.Scheme == "http" && next.Scheme == "https" && strings.EqualFold(next.Hostname(), e.r.URL.Hostname()) {
		return failed("Write "+e.r.Variable("REMOTEURL")+"=https://"+e.secrets.clean(next.Host)+".", "%s wants https: it redirects http to it", host)
	}
	if e.r.URL.Scheme == "https" && next.Scheme == "http" {
		return e.portal("%s redirects to %s, without TLS", host, e.secrets.clean(next.Host))
	}
	last, err := e.follow(ctx, http.MethodGet, a, nil)
	if err != nil {
		return e.portal("%s redirects to %s, where no registry answers", host, e.secrets.clean(next.Host))
	}
	registry := !last.isPage() && (last.status == http.StatusOK || last.status == http.StatusUnauthorized && readChallenge(last.header) != nil)
	if !registry {
		return e.portal("%s redirects to %s, and what answers there is not a registry", host, e.secrets.clean(last.url.Host))
	}
	e.challenge = &transport.Challenge{}
	if sameOrigin(last.url, e.r.URL) && last.status == http.StatusUnauthorized {
		e.challenge = readChallenge(last.header)
	}
	return ok("GET /v2/ is redirected to %s, where a registry answers", e.secrets.clean(last.url.Host))
}

// follow follows redirects. The header goes to the registry only, and no more once
// the way has led elsewhere.
func (e *examination) follow(ctx context.Context, method string, a *answer, header http.Header) (*answer, error) {
	home := true
	for range maxRedirects {
		next := a.target()
		if next == nil || a.url.Scheme == "https" && next.Scheme == "http" {
			return a, nil
		}
		home = home && sameOrigin(next, e.r.URL)
		sent, who := header.Clone(), verified
		if !home {
			sent.Del("Authorization")
			who = foreign
		}
		var err error
		if a, err = e.ask(ctx, who, method, next, sent); err != nil || !a.isRedirect() {
			return a, err
		}
	}
	return a, nil
}

// readChallenge reads what a 401 answer wants, nil where that cannot be read.
func readChallenge(header http.Header) *transport.Challenge {
	// The parser is to be had only by a ping, so it pings what has come already.
	registry, err := name.NewRegistry("registry.invalid")
	if err != nil {
		return nil
	}
	c, err := transport.Ping(context.Background(), registry, replay(header.Values("WWW-Authenticate")))
	if err != nil || c.Scheme == "" || strings.ContainsFunc(c.Scheme, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return nil
	}
	return c
}

// replay answers each request with a challenge.
type replay []string

// RoundTrip implements [http.RoundTripper].
func (r replay) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": r}, Body: http.NoBody, Request: req}, nil
}

// hostOf is the host of a realm as a setting has it.
func hostOf(u *url.URL) string {
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		return "[" + host + "]"
	}
	return host
}
