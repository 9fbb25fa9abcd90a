package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"registry-module/cache"
)

// tokenTrip carries the requests of one exchange of credentials for a token,
// within the realm policy. It follows redirects itself, because go-containerregistry
// has a policy of its own for them, and would send an identity token on. It is used
// by one goroutine.
type tokenTrip struct {
	a     *authorizer
	op    string
	realm *url.URL

	// What came of the last request; the errors of Exchange tell too little,
	// or too much.
	refusal    error
	refreshing bool // by an identity token, in the body
	status     int
	retryAfter time.Duration
}

// RoundTrip implements http.RoundTripper. Credentials go to the realm's own origin
// only, and not even there once the way has led elsewhere.
func (t *tokenTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	r := t.a.remote
	t.refusal, t.refreshing = nil, req.Method == http.MethodPost
	u, method, home := req.URL, req.Method, true
	for hop := range maxRedirects + 1 {
		t.status, t.retryAfter = 0, 0
		if _, err := t.a.realms.Check(r.base, u.String()); err != nil {
			return nil, t.refuse(err)
		}
		if home = home && sameOrigin(u, t.realm); !home && method != http.MethodGet {
			return nil, t.refuse(fmt.Errorf("the token service redirects us to %s, and would have us take the identity token along", u.Host))
		}
		next, err := t.request(req, u, method, home)
		if err != nil {
			return nil, err
		}
		resp, err := r.observed(req.Context(), attempt{op: t.op, what: "token", token: true, resent: hop}, r.own, next)
		if err != nil {
			return nil, err
		}
		t.status = resp.StatusCode
		t.retryAfter = retryAfter(resp.Header, t.a.now())
		if !isRedirect(t.status) {
			return resp, nil
		}
		(&reply{Response: resp}).drain()
		if u, err = r.redirect(u, resp.Header.Get("Location")); err != nil {
			return nil, err
		}
		if t.status != http.StatusTemporaryRedirect && t.status != http.StatusPermanentRedirect {
			method = http.MethodGet // RFC 9110 section 15.4
		}
	}
	return nil, fmt.Errorf("more than %d redirects", maxRedirects)
}

func (t *tokenTrip) refuse(err error) error {
	t.refusal = err
	return err
}

// request makes what is sent to u of the request that Exchange has made. home says
// that it may have the credentials.
func (t *tokenTrip) request(req *http.Request, u *url.URL, method string, home bool) (*http.Request, error) {
	out := req.Clone(req.Context())
	out.URL, out.Host, out.Method = u, u.Host, method
	out.Header.Set("User-Agent", t.a.remote.agent)
	if !home {
		out.Header.Del("Authorization")
	}
	out.Body = nil
	if method == http.MethodGet {
		out.Header.Del("Content-Type")
		out.ContentLength, out.GetBody = 0, nil
		return out, nil
	}
	var err error
	out.Body, err = req.GetBody()
	return out, err
}

// failure says what was wrong with an exchange that ended with err.
func (t *tokenTrip) failure(ctx context.Context, err error) error {
	r := t.a.remote
	if t.refusal != nil {
		return r.failure(cache.ErrDenied, t.op, 0, r.refusedRealm(t.refusal))
	}
	if terr, ok := errors.AsType[*transport.Error](err); ok {
		e := r.failure(cache.ErrUnavailable, t.op, t.status, nil)
		e.RetryAfter = t.retryAfter
		text := r.diagnostics(terr)
		switch t.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			e.Kind = cache.ErrDenied
			text = join(text, t.a.hint())
		case http.StatusBadRequest:
			// What OAuth services say to a refresh token that is no good (RFC 6749
			// section 5.2).
			if t.refreshing {
				e.Kind = cache.ErrDenied
				text = join(text, t.a.hint())
			}
		case http.StatusProxyAuthRequired:
			text = join(text, r.refusedByProxy(t.realm, t.status).Error())
		case http.StatusTooManyRequests:
			e.Kind = cache.ErrRateLimited
		}
		if text != "" {
			e.Err = errors.New(text)
		}
		return e
	}
	if known, ok := errors.AsType[*cache.UpstreamError](err); ok {
		return known
	}
	if t.status == 0 {
		return r.broken(ctx, t.op, 0, err)
	}
	// Neither the body nor the target of a redirect may be repeated.
	if isRedirect(t.status) {
		return r.failure(cache.ErrUnavailable, t.op, t.status, errors.New("it redirects us to where no token is to be asked for"))
	}
	return r.failure(cache.ErrUnavailable, t.op, t.status, errors.New("its answer holds no usable token"))
}
