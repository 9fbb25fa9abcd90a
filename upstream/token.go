package upstream

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
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
	return shared(ctx, a, q, "token for "+scope, func(ctx context.Context) (authorization, error) {
		// Another flight may have ended between our look and this one's start.
		if value, ok := a.kept(scope); ok {
			return authorization{header: token{value: value}.header(), fresh: true}, nil
		}
		return a.obtain(ctx, scope, challenge)
	})
}

// obtain gets a token for scope with the credentials as they are now, and once more
// with others if they are rejected and there are any.
func (a *authorizer) obtain(ctx context.Context, scope string, challenge *transport.Challenge) (authorization, error) {
	const op = "getting a token"
	config, err := a.credentials(ctx, op)
	if err != nil {
		return authorization{}, err
	}
	got, outdated, err := a.exchange(ctx, scope, challenge, config)
	if !outdated && !(rejects(err) && a.renew(config)) && !(forbids(err) && a.doubt(config)) {
		return got, err
	}
	again, againErr := a.credentials(ctx, op)
	if againErr != nil {
		return authorization{}, againErr
	}
	if *again == *config && !outdated {
		return got, err
	}
	got, _, err = a.exchange(ctx, scope, challenge, again)
	return got, err
}

// rejects reports whether an error of exchange is the token service's word on the
// credentials.
func rejects(err error) bool {
	e, ok := errors.AsType[*cache.UpstreamError](err)
	return ok && e.Kind == cache.ErrDenied && (e.Status == http.StatusUnauthorized || e.Status == http.StatusBadRequest)
}

// forbids is rejects for the answer that says so where a log-in has run out, or that all
// is well and the repository is not for us.
func forbids(err error) bool {
	e, ok := errors.AsType[*cache.UpstreamError](err)
	return ok && e.Kind == cache.ErrDenied && e.Status == http.StatusForbidden
}

// exchange gets a token for scope from the token service. What was rejected was
// outdated where it was not config itself, but what the service had given us in place
// of it.
func (a *authorizer) exchange(ctx context.Context, scope string, challenge *transport.Challenge, config *authn.AuthConfig) (_ authorization, outdated bool, _ error) {
	if config.RegistryToken != "" {
		// Credentials that are the token themselves: nothing to exchange.
		return authorization{header: token{value: config.RegistryToken}.header(), from: config}, false, nil
	}
	realm, err := a.realms.Check(a.remote.base, challenge.Parameters["realm"])
	if err != nil {
		return authorization{}, false, a.remote.failure(cache.ErrDenied, "getting a token", 0, a.remote.refusedRealm(err))
	}
	trip := &tokenTrip{a: a, op: "getting a token from " + a.remote.clean(realm.Host), realm: realm}
	if config.IdentityToken == "" {
		got, _, err := a.exchangeBy(ctx, trip, scope, challenge, *config)
		return got, false, err
	}
	done, err := a.beginRefresh(ctx, trip.op, config.IdentityToken)
	if err != nil {
		return authorization{}, false, err
	}
	defer done()
	used := *config
	used.IdentityToken = a.latest(config.IdentityToken)
	got, next, err := a.exchangeBy(ctx, trip, scope, challenge, used)
	outdated = rejects(err) && used.IdentityToken != config.IdentityToken
	switch {
	case outdated:
		a.giveUp(used.IdentityToken)
	case err == nil:
		a.replace(config.IdentityToken, used.IdentityToken, next)
	}
	return got, outdated, err
}

// exchangeBy gets a token for scope by trip, and keeps it. It also returns the identity
// token that the service wants to see the next time, empty where it does not say.
func (a *authorizer) exchangeBy(ctx context.Context, trip *tokenTrip, scope string, challenge *transport.Challenge, config authn.AuthConfig) (_ authorization, next string, _ error) {
	r := a.remote
	// Exchange wants realms on private addresses to be of the registry itself.
	// Which ones are to be trusted has been decided before; so the realm is presented
	// as its own registry. What it redirects to is decided in tokenTrip.
	registry, err := name.NewRegistry(trip.realm.Host)
	if err != nil {
		return authorization{}, "", r.failure(cache.ErrInvalid, trip.op, 0, errors.New("the registry's challenge names a token service that is not a host"))
	}
	ctx, cancel := context.WithTimeout(ctx, flightTimeout)
	defer cancel()
	start := a.now()
	var scopes []string
	if scope != "" {
		scopes = []string{scope}
	}
	answer, err := transport.Exchange(ctx, registry, authn.FromConfig(config), trip, scopes, &transport.Challenge{
		Scheme:     challenge.Scheme,
		Parameters: challenge.Parameters,
		Insecure:   r.base.Scheme == "http",
	})
	if err != nil {
		return authorization{}, "", trip.failure(ctx, err)
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if !validToken(value) {
		return authorization{}, "", r.failure(cache.ErrUnavailable, trip.op, trip.status, errors.New("its answer holds no usable token"))
	}
	r.secrets.AddToken(value)
	life := tokenLife(answer.ExpiresIn)
	r.log.WithFields(logrus.Fields{"scope": scope, "realm": r.clean(trip.realm.Host), "seconds": int64(life / time.Second)}).Debug("got a token")
	t := token{value: value, expires: start.Add(life)}
	a.keep(scope, t)
	return authorization{header: t.header(), fresh: true}, answer.RefreshToken, nil
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
