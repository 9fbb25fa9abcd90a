package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"registry-module/cache"
	"registry-module/internal/tracing"
)

// Exchange is a request that was made of a registry, of its token service or of a host
// that they redirect to, and what came of it. See [Options.Observe].
type Exchange struct {
	Method string
	// URL is what was asked, without what may be secret: query and fragment.
	URL *url.URL
	// Token tells that the request was one for a token.
	Token bool
	// Status is the HTTP status of the answer, 0 where there was none, and Header
	// what came with it. It must not be changed, and repeats whatever the other
	// side wants it to.
	Status int
	Header http.Header
	// RetryAfter is how long the other side asks to wait, 0 where it does not, and a
	// day at most.
	RetryAfter time.Duration
	// Err is why there was no answer. It is fit to be shown.
	Err error
	// Sent is when there was a connection for the request, and Came when the header
	// of the answer was there.
	Sent, Came time.Time
}

// Challenge is how a registry wants to be asked.
type Challenge struct {
	// Scheme is that of the authentication, for example "bearer"; empty where
	// anybody may ask. Only "basic" and "bearer" are supported, in any case.
	Scheme string
	// Realm and Service are the registry's words. For "bearer" the realm is the URL of
	// a token service; nobody has looked yet whether it may be asked.
	Realm, Service string
}

// Login is what came of logging in.
type Login struct {
	Challenge
	// Expires is until when the token is used; zero where there is none, or where it
	// was configured and not asked for.
	Expires time.Time
	// Replaced tells that the token service has given a new identity token in place
	// of the one that is configured, which may be used up.
	Replaced bool
}

// Challenge finds out how the registry wants to be asked. It sends a request where
// that is not known yet, and no credentials. Errors are those of [cache.Upstream].
func (r *Remote) Challenge(ctx context.Context) (Challenge, error) {
	c, err := r.auth.learned(ctx, r.loginQuery(""))
	if err != nil {
		return Challenge{}, err
	}
	return Challenge{Scheme: c.Scheme, Realm: c.Parameters["realm"], Service: c.Parameters["service"]}, nil
}

// Login logs in with the credentials, and asks for no content: where tokens are wanted,
// it gets one that allows to pull repo, and that the next questions about repo use;
// with an empty repo it is one that allows nothing. Where a password is wanted, it is
// tried. Errors are those of [cache.Upstream].
func (r *Remote) Login(ctx context.Context, repo string) (Login, error) {
	c, err := r.Challenge(ctx)
	if err != nil {
		return Login{}, err
	}
	if c.Scheme == "" {
		return Login{}, nil
	}
	q := r.loginQuery(repo)
	if !strings.EqualFold(c.Scheme, "basic") {
		if _, err := r.auth.authorization(ctx, q); err != nil {
			return Login{}, err
		}
		return r.auth.login(c, repo), nil
	}
	rep, err := r.ask(ctx, q)
	if err != nil {
		return Login{}, err
	}
	defer rep.drain()
	if rep.StatusCode != http.StatusOK {
		return Login{}, r.refused(q.op, rep)
	}
	return Login{Challenge: c}, nil
}

// loginQuery is what is asked for in order to log in.
func (r *Remote) loginQuery(repo string) *query {
	return r.query("logging in", http.MethodGet, repo, "/")
}

// login says what came of getting a token for repo.
func (a *authorizer) login(c Challenge, repo string) Login {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Login{Challenge: c, Expires: a.tokens[scopeOf(repo)].expires, Replaced: a.identity.successor != ""}
}

// observed is send, of which the observer is told, and which is a span of its own.
func (r *Remote) observed(ctx context.Context, a attempt, trip http.RoundTripper, req *http.Request) (resp *http.Response, err error) {
	ctx, span := r.start(ctx, a, req.Method, req.URL)
	defer func() { answered(span, resp, err) }()
	if a.home {
		tracing.Inject(ctx, req.Header)
	}
	if r.observe == nil {
		return r.send(ctx, a.op, trip, req)
	}
	x := Exchange{
		Method: req.Method, Token: a.token, Sent: time.Now(),
		URL: &url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Path: req.URL.Path, RawPath: req.URL.RawPath},
	}
	resp, err = r.send(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { x.Sent = time.Now() }, // before RoundTrip returns
	}), a.op, trip, req)
	x.Came, x.Err = time.Now(), err
	if err == nil {
		x.Status, x.Header = resp.StatusCode, resp.Header
		x.RetryAfter = retryAfter(resp.Header, x.Came)
	}
	r.observe(x)
	return resp, err
}

// Cause is what an error of a [Remote] says beside what was being done, by whom and
// with which status; empty where that is all.
func Cause(err error) string {
	e, ok := errors.AsType[*cache.UpstreamError](err)
	switch {
	case !ok:
		return err.Error()
	case e.Err == nil:
		return ""
	}
	return e.Err.Error()
}
