package doctor

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"registry-module/auth"
	"registry-module/doctor/report"
	"registry-module/upstream"
)

// authentication looks at which log-in the registry wants, and where.
func (e *examination) authentication(context.Context) report.Finding {
	switch strings.ToLower(e.challenge.Scheme) {
	case "":
		return report.Passed("the registry wants no log-in")
	case "basic":
		if e.r.URL.Scheme == "http" && !e.r.anonymous() {
			return report.Warn("Use https, if the registry has it ("+e.r.Variable("REMOTEURL")+").", "user name and password, which are sent in clear text: the URL says http")
		}
		return report.Passed("user name and password (Basic)")
	case "bearer":
		return e.acceptRealm(e.challenge.Realm)
	default:
		return report.Fail("Ask the registry's operator for a log-in by tokens (Bearer) or passwords (Basic).",
			"the registry wants a log-in by %q, which is not supported", e.secrets.Clean(e.challenge.Scheme))
	}
}

// acceptRealm decides whether the registry's token service may be asked.
func (e *examination) acceptRealm(realm string) report.Finding {
	policy, err := auth.NewRealmPolicy(e.r.AllowedRealms...)
	if err == nil {
		e.realm, err = policy.Check(e.r.URL, realm)
	}
	if err == nil {
		text := "a token of " + e.realm.Scheme + "://" + e.realm.Host
		if e.challenge.Service != "" {
			text += " (service " + e.secrets.Clean(e.challenge.Service) + ")"
		}
		return report.Passed("%s", text)
	}
	if parsed, parseErr := url.Parse(realm); parseErr == nil {
		host := hostOf(parsed)
		allowed := append(slices.Clone(e.r.AllowedRealms), host)
		// Would the setting help? Then the host is one that can be shown.
		if more, policyErr := auth.NewRealmPolicy(allowed...); policyErr == nil {
			if _, err := more.Check(e.r.URL, realm); err == nil {
				return report.Fail("If "+host+" is the registry's token service, set "+e.r.Variable("ALLOWEDREALMS")+"="+
					strings.Join(allowed, ",")+". If you do not know it, do not: credentials are sent there.",
					"the registry sends us for a token to another domain, %s, which is not allowed", host)
			}
		}
	}
	return report.Fail("No setting allows that: tell the registry's operator.", "the registry's token service cannot be used: %s", e.secrets.Clean(err.Error()))
}

// hostOf is the host of a realm as a setting has it.
func hostOf(u *url.URL) string {
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		return "[" + host + "]"
	}
	return host
}

// token asks the token service for a token. What it says of the credentials is a
// finding of its own.
func (e *examination) token(ctx context.Context) report.Finding {
	config, why := e.look(ctx)
	switch {
	case why != nil:
		e.login = why
		if why.Status == report.Skipped {
			return report.Skip("not asked: it would be with the identity token")
		}
		return report.Skip("not asked: there are no credentials that can be read")
	case config.RegistryToken != "":
		f := report.Passed("a token is configured, which is used as it is")
		e.login = &f
		return report.Skip("not asked: a token is configured")
	case e.repo == "" && e.anonymous():
		f := report.Skip("%s", e.noneText())
		e.login = &f
		return report.Skip("not asked: say for which image (--image NAME:TAG)")
	}
	got, err := e.remote.Login(ctx, e.repo)
	host := e.realm.Host
	if err != nil {
		f, ofCredentials := e.noToken(err)
		if ofCredentials {
			e.login = &f
			return report.Passed("%s answers", host)
		}
		return f
	}
	f := report.Passed("%s accepts them", host)
	switch {
	case got.Replaced:
		f = e.replaced()
	case e.anonymous():
		f = report.Passed("%s, and %s gives tokens to anybody", e.noneText(), host)
	}
	e.login = &f
	return report.Passed("%s gives one, which is used for %s", host, report.Roughly(time.Until(got.Expires)))
}

// replaced is about an identity token that was accepted, and maybe for the last time.
func (e *examination) replaced() report.Finding {
	return report.Warn("The one that is configured may be used up by now: get a new one, and set "+e.credentialsSettings()+
		" to it before the server is started anew. A server that runs keeps the one that it was given last.",
		"%s accepts the identity token, and has replaced it by another one", e.realm.Host)
}

// noToken says why there is no token, and whether that is for the credentials.
func (e *examination) noToken(err error) (f report.Finding, ofCredentials bool) {
	host := e.realm.Host
	x := e.asked().token
	const operator = "Tell the registry's operator."
	_, noCredentials := errors.AsType[notGiven](err)
	switch {
	case noCredentials, errors.Is(err, errSpared):
		return e.notGiven(err), true
	case isTimeout(err), x.Err != nil:
		return e.unanswered(host, err), false
	case x.Status == 0, isRedirect(x.Status):
		return report.Fail(operator, "the token service %s cannot be used: %s", host, e.secrets.Clean(upstream.Cause(err))), false
	case isPage(x):
		return e.portal("what answers for the token service %s is a web page (%s)", host, statusText(x.Status)), false
	case x.Status == http.StatusUnauthorized, x.Status == http.StatusForbidden,
		x.Status == http.StatusBadRequest && x.Method == http.MethodPost: // invalid_grant, RFC 6749, section 5.2
		return e.refused("the token service " + host), true
	case x.Status == http.StatusTooManyRequests:
		return e.rateLimited(x), false
	case x.Status == http.StatusOK:
		return report.Fail(operator, "the answer of the token service %s holds no token", host), false
	case x.Status >= 500:
		return report.Fail("Try again later: that is for the registry's operator to mend.", "the token service %s has a failure of its own (%s)", host, statusText(x.Status)), false
	}
	return report.Fail(operator, "the token service %s does not give one (%s)", host, statusText(x.Status)), false
}

// credentials finds out whether they are accepted.
func (e *examination) credentials(ctx context.Context) report.Finding {
	switch {
	case e.login != nil:
		return *e.login
	case strings.EqualFold(e.challenge.Scheme, "basic"):
		return e.basic(ctx)
	case e.r.anonymous():
		return report.Skip("%s, and none are wanted", e.noneText())
	default:
		return report.Passed("configured, but the registry wants none")
	}
}

// basic logs in by HTTP basic authentication (RFC 7617).
func (e *examination) basic(ctx context.Context) report.Finding {
	if _, why := e.look(ctx); why != nil {
		return *why
	}
	_, err := e.remote.Login(ctx, e.repo)
	x := e.asked().last
	switch {
	case err == nil:
		return report.Passed("the registry accepts them")
	case isTimeout(err), x.Err != nil:
		return e.unanswered(e.r.URL.Host, err)
	case x.Status == http.StatusTooManyRequests:
		return e.rateLimited(x)
	case x.Status == 0, x.Status == http.StatusUnauthorized, x.Status == http.StatusForbidden:
		return e.refusedBasic(x.Status != 0)
	}
	return report.Fail("Try again later, and look into the registry's log.", "the registry answers the log-in with %s", statusText(x.Status))
}

// refusedBasic is about a registry that wants a password, where one was sent or there
// was none to send.
func (e *examination) refusedBasic(sent bool) report.Finding {
	if sent || e.anonymous() {
		return e.refused("the registry")
	}
	return report.Fail("Set "+e.passwordSettings()+" in place of "+e.credentialsSettings()+".",
		"the registry wants a user name and a password, and a token is configured")
}
