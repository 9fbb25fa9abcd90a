package doctor

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"registry-module/auth"
)

// authentication looks at which log-in the registry wants, and where.
func (e *examination) authentication(context.Context) Finding {
	switch strings.ToLower(e.challenge.Scheme) {
	case "":
		return ok("the registry wants no log-in")
	case "basic":
		if e.r.URL.Scheme == "http" && !e.r.anonymous() {
			return warning("Use https, if the registry has it ("+e.r.Variable("REMOTEURL")+").", "user name and password, which are sent in clear text: the URL says http")
		}
		return ok("user name and password (Basic)")
	case "bearer":
		return e.acceptRealm(e.challenge.Parameters["realm"])
	default:
		return failed("Ask the registry's operator for a log-in by tokens (Bearer) or passwords (Basic).",
			"the registry wants a log-in by %q, which is not supported", e.secrets.clean(e.challenge.Scheme))
	}
}

// acceptRealm decides whether the registry's token service may be asked.
func (e *examination) acceptRealm(realm string) Finding {
	u, err := e.realms.Check(e.r.URL, realm)
	if err == nil {
		e.realm = u
		text := "a token of " + u.Scheme + "://" + u.Host
		if service := e.challenge.Parameters["service"]; service != "" {
			text += " (service " + e.secrets.clean(service) + ")"
		}
		return ok("%s", text)
	}
	setting := e.r.Variable("ALLOWEDREALMS")
	if parsed, parseErr := url.Parse(realm); parseErr == nil && parsed.Hostname() != "" {
		host := hostOf(parsed)
		// Would the setting help?
		more, policyErr := auth.NewRealmPolicy(append(slices.Clone(e.r.AllowedRealms), host)...)
		if policyErr == nil {
			if _, err := more.Check(e.r.URL, realm); err == nil {
				return failed("If "+host+" is the registry's token service, set "+setting+"="+
					strings.Join(append(slices.Clone(e.r.AllowedRealms), host), ",")+". If you do not know it, do not: credentials are sent there.",
					"the registry sends us for a token to another domain, %s, which is not allowed", e.secrets.clean(host))
			}
		}
	}
	return failed("No setting allows that: tell the registry's operator.", "the registry's token service cannot be used: %s", e.secrets.clean(err.Error()))
}

// read gets the credentials, and takes down what must not be repeated of them.
func (e *examination) read(ctx context.Context) (*authn.AuthConfig, error) {
	if e.r.anonymous() {
		return &authn.AuthConfig{}, nil
	}
	config, err := authn.Authorization(ctx, e.r.Credentials)
	if err != nil {
		return nil, err
	}
	if config == nil || *config == (authn.AuthConfig{}) {
		e.r.Credentials = nil // a file or a command that knows nothing of this registry
		e.nothing = true
		return &authn.AuthConfig{}, nil
	}
	e.secrets.add(config.IdentityToken, config.RegistryToken, config.Auth)
	e.secrets.addLogin(config.Username, config.Password)
	return config, nil
}

func (e *examination) unreadable(err error) Finding {
	return failed("Check the settings of the credentials ("+e.passwordSettings()+", or the file or command that gives them).",
		"the credentials cannot be read: %s", e.secrets.clean(err.Error()))
}

func (e *examination) passwordSettings() string {
	return e.r.Variable("USERNAME") + " and " + e.r.Variable("PASSWORD")
}

// token asks the token service for a token. What it says of the credentials is a
// finding of its own.
func (e *examination) token(ctx context.Context) Finding {
	config, err := e.read(ctx)
	if err != nil {
		f := e.unreadable(err)
		e.login = &f
		return skipped("not asked: there are no credentials that can be read")
	}
	if config.RegistryToken != "" {
		e.header = "Bearer " + config.RegistryToken
		f := ok("a token is configured, which is used as it is")
		e.login = &f
		return skipped("not asked: a token is configured")
	}
	if e.repo == "" && e.r.anonymous() {
		f := skipped("%s", e.noneText())
		e.login = &f
		return skipped("not asked: say for which image (--image NAME:TAG)")
	}
	trip := &tokenTrip{e: e}
	answer, err := e.exchange(ctx, config, trip)
	if a := trip.last; a != nil {
		return timed(e.readToken(answer, err, trip), a.took)
	}
	if trip.refusal != nil {
		return failed("No setting allows that: tell the registry's operator.", "%s", e.secrets.clean(trip.refusal.Error()))
	}
	return e.unanswered(e.realm.Host, err)
}

// exchange does what package upstream does to get a token.
func (e *examination) exchange(ctx context.Context, config *authn.AuthConfig, trip *tokenTrip) (*transport.Token, error) {
	// The realm has been accepted; presented as a registry's own, it may be at any
	// address.
	registry, err := name.NewRegistry(e.realm.Host)
	if err != nil {
		return nil, errors.New("its host cannot be used")
	}
	var scopes []string
	if e.repo != "" {
		scopes = []string{"repository:" + e.repo + ":" + transport.PullScope}
	}
	creds := authn.Anonymous
	if *config != (authn.AuthConfig{}) {
		creds = authn.FromConfig(*config)
	}
	return transport.Exchange(ctx, registry, creds, trip, scopes, &transport.Challenge{
		Scheme: e.challenge.Scheme, Parameters: e.challenge.Parameters, Insecure: e.r.URL.Scheme == "http",
	})
}

// readToken says what the answer of the token service means.
func (e *examination) readToken(t *transport.Token, err error, trip *tokenTrip) Finding {
	a, host := trip.last, e.realm.Host
	identity := trip.posted && a.status == http.StatusBadRequest // invalid_grant, RFC 6749, section 5.2
	switch {
	case trip.refusal != nil:
		return failed("No setting allows that: tell the registry's operator.", "%s", e.secrets.clean(trip.refusal.Error()))
	case a.status == http.StatusOK && err == nil:
		value := t.Token
		if value == "" {
			value = t.AccessToken
		}
		e.secrets.add(value, t.RefreshToken)
		e.header = "Bearer " + value
		f := ok("%s accepts them", host)
		if e.r.anonymous() {
			f = ok("%s, and %s gives tokens to anybody", e.noneText(), host)
		}
		e.login = &f
		if t.ExpiresIn > 0 {
			return ok("%s gives one for %s", host, plural(t.ExpiresIn, "second", "seconds"))
		}
		return ok("%s gives one", host)
	case a.isPage():
		return e.portal("what answers for the token service %s is a web page (%s)", host, statusText(a.status))
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden, identity:
		f := e.refused("the token service " + host)
		e.login = &f
		return ok("%s answers", host)
	case a.status == http.StatusTooManyRequests:
		return e.rateLimited(a)
	case a.status == http.StatusOK:
		return failed("Tell the registry's operator.", "the answer of the token service %s holds no token", host)
	case a.isRedirect():
		return failed("Tell the registry's operator.", "the token service %s redirects us to where no token is to be asked for", host)
	case a.status >= 500:
		return failed("Try again later: that is for the registry's operator to mend.", "the token service %s has a failure of its own (%s)", host, statusText(a.status))
	default:
		return failed("Tell the registry's operator.", "the token service %s does not give one (%s)", host, statusText(a.status))
	}
}

// noneText says why there are no credentials.
func (e *examination) noneText() string {
	if e.nothing {
		return "the file or command that is configured has none for " + e.r.URL.Host
	}
	return "none are configured"
}

// refused is about credentials that were not accepted by who.
func (e *examination) refused(who string) Finding {
	if e.r.anonymous() {
		return failed("Set "+e.passwordSettings()+" (or "+e.r.Variable("PASSWORD_FILE")+").",
			"%s wants credentials, and %s", who, e.noneText())
	}
	advice := "Check " + e.passwordSettings() + "; many registries want an access token in place of the password."
	return failed(advice, "%s does not accept the credentials: user name or password is wrong, or they have expired", who)
}

// credentials finds out whether they are accepted.
func (e *examination) credentials(ctx context.Context) Finding {
	switch {
	case e.login != nil:
		return *e.login
	case strings.EqualFold(e.challenge.Scheme, "basic"):
		return e.basic(ctx)
	case e.r.anonymous():
		return skipped("%s, and none are wanted", e.noneText())
	default:
		return ok("configured, but the registry wants none")
	}
}

// basic logs in by HTTP basic authentication (RFC 7617).
func (e *examination) basic(ctx context.Context) Finding {
	if e.r.anonymous() {
		return e.refused("the registry")
	}
	config, err := e.read(ctx)
	switch {
	case err != nil:
		return e.unreadable(err)
	case config.Username != "":
		e.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(config.Username+":"+config.Password))
	case config.Auth != "":
		e.header = "Basic " + config.Auth
	case e.r.anonymous():
		return e.refused("the registry")
	default:
		return failed("Set "+e.passwordSettings()+".", "the registry wants a user name and a password, and a token is configured")
	}
	a, err := e.ask(ctx, verified, http.MethodGet, apiRoot(e.r.URL), http.Header{"Authorization": {e.header}})
	if err != nil {
		return e.unanswered(e.r.URL.Host, err)
	}
	switch {
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return timed(e.refused("the registry"), a.took)
	case a.status == http.StatusTooManyRequests:
		return e.rateLimited(a)
	case a.status != http.StatusOK || a.isPage():
		return timed(failed("Try again later, and look into the registry's log.", "the registry answers the log-in with %s", statusText(a.status)), a.took)
	}
	return timed(ok("the registry accepts them"), a.took)
}

// tokenTrip carries the requests of one exchange, within the realm policy.
type tokenTrip struct {
	e       *examination
	last    *answer
	posted  bool // the last one was in the way of OAuth 2.0, with an identity token
	refusal error
}

// RoundTrip implements [http.RoundTripper].
func (t *tokenTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	t.last, t.posted = nil, req.Method == http.MethodPost
	if _, err := t.e.realms.Check(t.e.r.URL, req.URL.String()); err != nil {
		t.refusal = err
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", t.e.agent())
	if !sameOrigin(req.URL, t.e.realm) {
		req.Header.Del("Authorization")
	}
	a, err := t.e.send(verified, req)
	if err != nil {
		return nil, err
	}
	t.last = a
	return &http.Response{
		Status: fmt.Sprint(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: a.reader(), ContentLength: int64(len(a.body)), Request: req,
	}, nil
}
