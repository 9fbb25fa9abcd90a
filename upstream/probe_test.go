package upstream_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	"registry-module/upstream/upstreamtest"
)

// What a log-in finds out, and what it costs: nothing is asked for twice, and no
// content.
func TestLogin(t *testing.T) {
	password := auth.Static("me", "secret")
	for _, test := range []struct {
		name     string
		auth     upstreamtest.Auth
		creds    authn.Authenticator
		repo     string
		scheme   string
		expires  bool
		replaced bool
		kind     error // nil: it works
		status   int
		requests map[upstreamtest.Kind]int
	}{
		{"by anybody", upstreamtest.Auth{}, password, "a/b", "", false, false, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1}},
		{"basic", upstreamtest.Auth{Scheme: "Basic", Username: "me", Password: "secret"}, password, "a/b", "basic", false, false, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 2}},
		{"basic, wrong", upstreamtest.Auth{Scheme: "Basic", Username: "me", Password: "other"}, password, "a/b", "", false, false, cache.ErrDenied, 401,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 2}},
		{"basic, none", upstreamtest.Auth{Scheme: "Basic", Username: "me", Password: "secret"}, nil, "a/b", "", false, false, cache.ErrDenied, 401,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1}},
		{"token", upstreamtest.Auth{Scheme: "Bearer", Username: "me", Password: "secret", ExpiresIn: 300}, password, "a/b", "bearer", true, false, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1, upstreamtest.Token: 1}},
		{"token for nothing", upstreamtest.Auth{Scheme: "Bearer", Username: "me", Password: "secret"}, password, "", "bearer", true, false, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1, upstreamtest.Token: 1}},
		{"token, wrong", upstreamtest.Auth{Scheme: "Bearer", Username: "me", Password: "other"}, password, "a/b", "", false, false, cache.ErrDenied, 401,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1, upstreamtest.Token: 1}},
		{"token that is configured", upstreamtest.Auth{Scheme: "Bearer"}, authn.FromConfig(authn.AuthConfig{RegistryToken: "secret"}), "a/b", "bearer", false, false, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1}},
		{"identity token", upstreamtest.Auth{Scheme: "Bearer", IdentityToken: "secret"}, identity("secret"), "a/b", "bearer", true, false, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1, upstreamtest.Token: 1}},
		{"identity token that is replaced", upstreamtest.Auth{Scheme: "Bearer", IdentityToken: "secret", Rotate: true}, identity("secret"), "a/b", "bearer", true, true, nil, 0,
			map[upstreamtest.Kind]int{upstreamtest.Ping: 1, upstreamtest.Token: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			reg := upstreamtest.New(t)
			if test.auth.Scheme == "Bearer" {
				test.auth.Realm = reg.URL() + "/token"
			}
			reg.SetAuth(test.auth)
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: test.creds})
			got, err := r.Login(t.Context(), test.repo)
			if test.kind != nil {
				if e := wantKind(t, err, test.kind); e.Status != test.status {
					t.Errorf("status %d, want %d", e.Status, test.status)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if got.Scheme != test.scheme || got.Replaced != test.replaced || got.Expires.IsZero() == test.expires {
				t.Errorf("%+v", got)
			}
			if test.expires && got.Expires.Before(time.Now()) {
				t.Errorf("the token has run out: %v", got.Expires)
			}
			if c, err := r.Challenge(t.Context()); test.kind == nil && (err != nil || c != got.Challenge || test.auth.Realm != "" && c.Realm != test.auth.Realm) {
				t.Errorf("%+v, %v", c, err)
			}
			wantRequests(t, reg, test.requests)
		})
	}
}

func identity(token string) authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{IdentityToken: token})
}

// A token that a log-in got is the one that the next questions use, so that an identity
// token that is good once is used once.
func TestLoginIsUsed(t *testing.T) {
	reg := upstreamtest.New(t)
	reg.AddRandomImage("a/b", "v1", 1, 10)
	reg.SetAuth(upstreamtest.Auth{Scheme: "Bearer", Realm: reg.URL() + "/token", IdentityToken: "secret-1", Rotate: true})
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: identity("secret-1")})
	if _, err := r.Login(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), "a/b", "v1", ""); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, reg, map[upstreamtest.Kind]int{upstreamtest.Ping: 1, upstreamtest.Token: 1, upstreamtest.ManifestHead: 1})
}

// watcher takes down what a remote tells of its requests.
type watcher struct {
	mu   sync.Mutex
	seen []upstream.Exchange
}

func (w *watcher) observe(x upstream.Exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, x)
}

// Who observes hears of all requests, and nothing of what was sent.
func TestObserve(t *testing.T) {
	reg := upstreamtest.New(t)
	reg.AddRandomImage("a/b", "v1", 1, 10)
	reg.SetAuth(upstreamtest.Auth{Scheme: "Bearer", Realm: reg.URL() + "/token?account=secret", Username: "me", Password: "secret"})
	reg.Script(upstreamtest.Fault{Kinds: []upstreamtest.Kind{upstreamtest.ManifestHead}, Times: 1, Status: 307,
		Header: http.Header{"Retry-After": {"7"}, "Location": {reg.URL() + "/v2/a/b/manifests/v1?signature=secret"}}})
	var w watcher
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", "secret"), Observe: w.observe})
	before := time.Now()
	if _, err := r.Resolve(t.Context(), "a/b", "v1", ""); err != nil {
		t.Fatal(err)
	}
	manifest := reg.URL() + "/v2/a/b/manifests/v1"
	for i, want := range []upstream.Exchange{
		{Method: "GET", Status: 401}, {Method: "GET", Status: 200, Token: true},
		{Method: "HEAD", Status: 307, RetryAfter: 7 * time.Second}, {Method: "HEAD", Status: 200},
	} {
		x := w.seen[i]
		if u := x.URL.String(); u != []string{reg.URL() + "/v2/", reg.URL() + "/token", manifest, manifest}[i] {
			t.Errorf("%d: %s", i, u)
		}
		if x.Method != want.Method || x.Status != want.Status || x.Token != want.Token || x.RetryAfter != want.RetryAfter || x.Header.Get("Date") == "" || x.Err != nil {
			t.Errorf("%d: %+v", i, x)
		}
		if x.Sent.Before(before) || x.Came.Before(x.Sent) {
			t.Errorf("%d: sent %v, came %v", i, x.Sent, x.Came)
		}
	}
	if len(w.seen) != 4 || reg.Requests() != 4 {
		t.Errorf("%d of %d requests were seen", len(w.seen), reg.Requests())
	}
	reg.Offline()
	_, err := r.Resolve(t.Context(), "a/b", "v1", "")
	last := w.seen[len(w.seen)-1]
	if err == nil || last.Status != 0 || last.Header != nil || last.Err == nil || !errors.Is(err, last.Err) {
		t.Errorf("%+v: %v", last, err)
	}
	wantClean(t, last.Err)
}

// What an error says beside what was being done is to be had by itself.
func TestCause(t *testing.T) {
	for want, err := range map[string]error{
		"no good":       errors.New("no good"),
		"":              &cache.UpstreamError{Kind: cache.ErrDenied, Op: "asking", Status: 401},
		"no such thing": fmt.Errorf("asking: %w", &cache.UpstreamError{Kind: cache.ErrNotFound, Op: "asking", Err: errors.New("no such thing")}),
	} {
		if got := upstream.Cause(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
