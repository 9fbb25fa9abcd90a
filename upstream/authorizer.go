package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/internal/tracing"
	"registry-module/internal/via"
)

// authorizer finds out how a remote wants to be asked, and keeps what is needed
// for it: the challenge for as long as the remote sticks to it, and tokens until
// they run out. What many callers need at once is asked for once.
//
// Failures are not kept: the next caller asks again.
type authorizer struct {
	life   context.Context // ends with the remote
	remote *Remote
	creds  authn.Authenticator
	realms auth.RealmPolicy
	now    func() time.Time

	// flights are requests that are made for all who wait for their outcome, so
	// that none of them can end one by leaving: its key says what for, and is empty
	// for the challenge.
	flights singleflight.Group
	// exchanging is held, by who has put something into it, while an identity token
	// is used that its service may replace.
	exchanging chan struct{}

	mu sync.Mutex
	// challenge is what the remote wants; nil is unknown, and one with an empty
	// scheme nothing.
	challenge *transport.Challenge
	tokens    map[string]token // by scope
	// none says that the credentials were none when they were last looked at.
	none bool
	// stale says that they were read at an earlier time, which is in the log.
	stale bool
	// doubted are credentials that were answered 403, at that time, and that count until
	// others were had.
	doubted   *authn.AuthConfig
	doubtedAt time.Time
	// retried is when others than the doubted ones were last asked for.
	retried  time.Time
	identity identity // the last one that was used
}

// authorization is the value of an Authorization header, empty for none.
type authorization struct {
	header string
	// fresh says that the token in it was asked for just now.
	fresh bool
	// from are the credentials that are in it as they are; nil where it is a token
	// that they were exchanged for.
	from *authn.AuthConfig
}

func newAuthorizer(life context.Context, r *Remote, creds authn.Authenticator, realms auth.RealmPolicy) *authorizer {
	if creds == nil {
		creds = authn.Anonymous
	}
	return &authorizer{
		life: life, remote: r, creds: creds, realms: realms, now: time.Now,
		tokens:     make(map[string]token),
		exchanging: make(chan struct{}, 1),
	}
}

// authorization returns what the remote wants to see with q. It is what all questions
// begin with, and so where they end while nobody may be contacted.
func (a *authorizer) authorization(ctx context.Context, q *query) (authorization, error) {
	if err := a.remote.mayAsk(q.op); err != nil {
		return authorization{}, err
	}
	challenge, err := a.learned(ctx, q)
	if err != nil {
		return authorization{}, err
	}
	switch strings.ToLower(challenge.Scheme) {
	case "":
		return authorization{}, nil
	case "basic":
		return a.basic(ctx, q)
	case "bearer":
		return a.bearer(ctx, q, challenge)
	default:
		return authorization{}, a.remote.failure(cache.ErrDenied, q.op, 0,
			local{fmt.Errorf("the registry wants authentication by %q, which is not supported", a.remote.clean(challenge.Scheme))})
	}
}

// learned returns the remote's challenge, and asks for it if need be.
func (a *authorizer) learned(ctx context.Context, q *query) (*transport.Challenge, error) {
	if err := a.remote.mayAsk(q.op); err != nil {
		return nil, err
	}
	if c := a.known(); c != nil {
		return c, nil
	}
	return shared(ctx, a, q, "", func(ctx context.Context) (*transport.Challenge, error) {
		// Another flight may have ended between our look and this one's start.
		if c := a.known(); c != nil {
			return c, nil
		}
		ctx, cancel := context.WithTimeout(ctx, flightTimeout)
		defer cancel()
		c, err := a.ping(ctx)
		if err == nil {
			a.learn(c)
		}
		return c, err
	})
}

func (a *authorizer) known() *transport.Challenge {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.challenge
}

// learn sets the challenge and reports whether it is another one than before.
// Tokens that were got by another one are forgotten.
func (a *authorizer) learn(c *transport.Challenge) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = a.challenge == nil || !sameChallenge(a.challenge, c)
	if changed {
		clear(a.tokens)
	}
	a.challenge = c
	return changed
}

func sameChallenge(a, b *transport.Challenge) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) &&
		a.Parameters["realm"] == b.Parameters["realm"] && a.Parameters["service"] == b.Parameters["service"]
}

// ping asks the remote how it wants to be asked.
func (a *authorizer) ping(ctx context.Context) (*transport.Challenge, error) {
	r := a.remote
	q := r.query("asking for the registry's API", http.MethodGet, "", "/")
	rep, err := r.follow(ctx, q, "")
	if err != nil {
		return nil, err
	}
	defer rep.drain()
	switch {
	case rep.StatusCode == http.StatusOK, rep.StatusCode == http.StatusUnauthorized && rep.foreign:
		// What another host wants is not what the remote wants.
		return &transport.Challenge{}, nil
	case rep.StatusCode == http.StatusUnauthorized:
		c, ok := readChallenge(rep.Response)
		if !ok {
			return nil, r.failure(cache.ErrDenied, q.op, rep.StatusCode,
				errors.New("the registry wants authentication, but its answer does not say which (WWW-Authenticate)"))
		}
		return c, nil
	case rep.StatusCode == http.StatusNotFound:
		return nil, r.invalid(q.op, rep.StatusCode, "there is no registry under this URL")
	}
	return nil, r.refused(q.op, rep)
}

// rejected takes note that the remote has answered 401 to what was sent, and
// reports whether it may answer otherwise if asked again.
func (a *authorizer) rejected(resp *http.Response, q *query, sent authorization) bool {
	c, ok := readChallenge(resp)
	switch {
	case !ok:
		// It has changed its mind and does not say to what.
		renewed := a.renew(sent.from)
		return a.forget(sent) || renewed
	case a.learn(c):
		a.remote.log.WithField("scheme", a.remote.clean(c.Scheme)).Debug("the remote wants another authentication than before")
		return true
	case sent.from != nil:
		return a.renew(sent.from)
	}
	a.drop(scopeOf(q.repo), sent)
	return !sent.fresh
}

// forget drops the challenge if it had any effect, so that the remote is asked
// for it again.
func (a *authorizer) forget(sent authorization) bool {
	if sent.header == "" || sent.fresh {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.challenge = nil
	clear(a.tokens)
	return true
}

// readChallenge reads the challenge of a 401 answer.
func readChallenge(resp *http.Response) (*transport.Challenge, bool) {
	// The parser of go-containerregistry can be had through Ping only: so it is
	// made to ping this answer.
	canned := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusUnauthorized,
			Header:     http.Header{"Www-Authenticate": resp.Header.Values("WWW-Authenticate")},
			Body:       http.NoBody,
			Request:    req,
		}, nil
	})
	registry, err := name.NewRegistry("registry.invalid")
	if err != nil {
		return nil, false
	}
	c, err := transport.Ping(context.Background(), registry, canned)
	if err != nil || c.Scheme == "" || strings.ContainsFunc(c.Scheme, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return nil, false
	}
	return c, true
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// basic returns the header for HTTP basic authentication (RFC 7617).
func (a *authorizer) basic(ctx context.Context, q *query) (authorization, error) {
	config, err := a.credentials(ctx, q.op)
	if err != nil {
		return authorization{}, err
	}
	denied := func(text string) (authorization, error) {
		return authorization{}, a.remote.failure(cache.ErrDenied, q.op, http.StatusUnauthorized, local{errors.New(text)})
	}
	switch {
	case *config == authn.AuthConfig{}:
		return denied("the registry wants a user name and a password, and " + a.noCredentials())
	case config.Username != "" && (config.Password != "" || config.IdentityToken == "" && config.RegistryToken == ""):
		return authorization{
			header: "Basic " + base64.StdEncoding.EncodeToString([]byte(config.Username+":"+config.Password)), from: config,
		}, nil
	case config.Auth != "":
		return authorization{header: "Basic " + config.Auth, from: config}, nil
	}
	return denied("the registry wants a user name and a password, and the configured credentials are a token")
}

// shared runs fn once for all callers that come with the same key while it
// runs, and returns its outcome, or the caller's own end. It is on behalf of the
// first of them.
func shared[T any](ctx context.Context, a *authorizer, q *query, key string, fn func(context.Context) (T, error)) (T, error) {
	flight := a.flights.DoChan(key, func() (any, error) {
		return fn(tracing.Carry(via.Carry(a.life, ctx), ctx))
	})
	var none T
	select {
	case <-ctx.Done():
		return none, a.remote.broken(ctx, q.op, 0, ctx.Err())
	case result := <-flight:
		if result.Err != nil {
			return none, a.remote.during(q.op, result.Err)
		}
		return result.Val.(T), nil
	}
}

// flightTimeout bounds a request for a challenge or a token: a few kilobytes,
// by way of one redirect or two. Getting credentials has a bound of its own.
const flightTimeout = 30 * time.Second

// during gives an error of a shared request to one of its callers, who has to
// hear about what it was doing itself.
func (r *Remote) during(op string, err error) error {
	known, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok {
		// The remote was closed under it.
		return r.failure(cache.ErrUnavailable, op, 0, errors.New("the remote was closed"))
	}
	e := *known
	e.Op = op
	if known.Err == nil {
		e.Err = fmt.Errorf("%s failed", known.Op)
	} else {
		e.Err = fmt.Errorf("%s: %w", known.Op, known.Err)
	}
	return &e
}

// token is a bearer token.
type token struct {
	value   string
	expires time.Time
}

// minTokens is how many tokens are kept before those are looked for that have
// run out, and maxTokens how many are kept at all. A token can have some
// kilobytes.
const (
	minTokens = 32
	maxTokens = 256
)

// keep keeps a token for scope.
func (a *authorizer) keep(scope string, t token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tokens) >= minTokens {
		now := a.now()
		maps.DeleteFunc(a.tokens, func(_ string, t token) bool { return !now.Before(t.expires) })
	}
	for other := range a.tokens {
		if len(a.tokens) < maxTokens {
			break
		}
		delete(a.tokens, other) // any: it can be had again
	}
	a.tokens[scope] = t
}

// kept returns the token for scope if there is one that is still good.
func (a *authorizer) kept(scope string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.tokens[scope]
	return t.value, ok && a.now().Before(t.expires)
}

// drop forgets the token for scope if it is the one that was sent: of many
// requests that find their token rejected, only the first has it renewed.
func (a *authorizer) drop(scope string, sent authorization) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tokens[scope].header() == sent.header {
		delete(a.tokens, scope)
	}
}

func (t token) header() string { return "Bearer " + t.value }

// scopeOf is what a token must allow for repo to be pulled from, and empty, which is
// nothing, for none.
func scopeOf(repo string) string {
	if repo == "" {
		return ""
	}
	return "repository:" + repo + ":" + transport.PullScope
}
