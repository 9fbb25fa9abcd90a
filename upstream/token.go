package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

const (
	// defaultTokenLife is how long a token is good for whose service does not
	// say, by Docker's token authentication specification.
	defaultTokenLife = 60 * time.Second
	// maxTokenLife bounds what a service can make us believe.
	maxTokenLife = 24 * time.Hour
	// tokenLeeway is how long before its end a token is no longer used: a
	// request takes its time to arrive, and clocks differ in their pace.
	tokenLeeway = 10 * time.Second
)

// bearer returns the header with a token for the repository of q.
func (a *authorizer) bearer(ctx context.Context, q *query, challenge *transport.Challenge) (authorization, error) {
	scope := scopeOf(q.repo)
	if value, ok := a.kept(scope); ok {
		return authorization{header: token{value: value}.header()}, nil
	}
	config, err := a.credentials(ctx, q)
	if err != nil {
		return authorization{}, err
	}
	if config.RegistryToken != "" {
		// Credentials that are the token themselves: nothing to exchange.
		return authorization{header: token{value: config.RegistryToken}.header()}, nil
	}
	t, err := shared(ctx, a, q, scope, func(ctx context.Context) (token, error) {
		// Another flight may have ended between our look and this one's start.
		if value, ok := a.kept(scope); ok {
			return token{value: value}, nil
		}
		t, err := a.exchange(ctx, scope, challenge)
		if err == nil {
			a.keep(scope, t)
		}
		return t, err
	})
	return authorization{header: t.header(), fresh: true}, err
}

// exchange gets a token for scope from the token service.
func (a *authorizer) exchange(ctx context.Context, scope string, challenge *transport.Challenge) (token, error) {
	r := a.remote
	realm, err := a.realms.Check(r.base, challenge.Parameters["realm"])
	if err != nil {
		return token{}, r.failure(cache.ErrDenied, "getting a token", 0, err)
	}
	op := "getting a token from " + clean(realm.Host)
	// Exchange wants realms on private addresses to be of the registry itself.
	// Which ones are to be trusted has been decided above, and is for each
	// redirect in tokenTrip; so the realm is presented as its own registry.
	registry, err := name.NewRegistry(realm.Host)
	if err != nil {
		return token{}, r.failure(cache.ErrInvalid, op, 0, errors.New("the registry's challenge names a token service that is not a host"))
	}
	trip := &tokenTrip{a: a, op: op, realm: realm}
	start := a.now()
	answer, err := transport.Exchange(ctx, registry, a.creds, trip, []string{scope}, &transport.Challenge{
		Scheme:     challenge.Scheme,
		Parameters: challenge.Parameters,
		Insecure:   r.base.Scheme == "http",
	})
	if err != nil {
		return token{}, trip.failure(ctx, err)
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if !validToken(value) {
		return token{}, r.failure(cache.ErrUnavailable, op, trip.status, errors.New("its answer holds no usable token"))
	}
	life := tokenLife(answer.ExpiresIn)
	r.log.WithFields(logrus.Fields{"scope": scope, "realm": realm.Host, "seconds": int64(life / time.Second)}).Debug("got a token")
	return token{value: value, expires: start.Add(life)}, nil
}

// tokenLife is for how long a token is used of which its service says that it
// expires in so many seconds.
func tokenLife(seconds int) time.Duration {
	life := defaultTokenLife
	if seconds > 0 {
		life = maxTokenLife
		if seconds < int(maxTokenLife/time.Second) {
			life = time.Duration(seconds) * time.Second
		}
	}
	return life - min(tokenLeeway, life/4)
}

// validToken reports whether value can be sent in a header (RFC 6750 section
// 2.1, and somewhat more, as services do not all keep to it).
func validToken(value string) bool {
	for _, c := range []byte(value) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return value != ""
}

// tokenTrip carries the requests of one exchange of credentials for a token,
// within the realm policy. It is used by one goroutine.
type tokenTrip struct {
	a     *authorizer
	op    string
	realm *url.URL

	// What came of the last request; the errors of Exchange tell too little,
	// or too much.
	refusal    error
	status     int
	retryAfter time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t *tokenTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	r := t.a.remote
	t.status, t.retryAfter = 0, 0
	if _, err := t.a.realms.Check(r.base, req.URL.String()); err != nil {
		t.refusal = err
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", r.agent)
	if !sameOrigin(req.URL, t.realm) {
		req.Header.Del("Authorization")
	}
	resp, err := r.send(req.Context(), t.op, r.own, req)
	if err != nil {
		return nil, err
	}
	t.status = resp.StatusCode
	t.retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), t.a.now())
	return resp, nil
}

// failure says what was wrong with an exchange that ended with err.
func (t *tokenTrip) failure(ctx context.Context, err error) error {
	r := t.a.remote
	if t.refusal != nil {
		return r.failure(cache.ErrDenied, t.op, 0, t.refusal)
	}
	if terr, ok := errors.AsType[*transport.Error](err); ok {
		e := r.failure(cache.ErrUnavailable, t.op, t.status, nil)
		e.RetryAfter = t.retryAfter
		text := diagnostics(terr)
		switch t.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			e.Kind = cache.ErrDenied
			text = join(text, t.a.hint())
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
