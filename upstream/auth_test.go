package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// sample puts one small image into a new registry, as a/b:v1.
func sample(t *testing.T) (*ut.Registry, ut.Image) {
	t.Helper()
	reg := ut.New(t)
	return reg, reg.AddRandomImage("a/b", "v1", 1, 1000)
}

func TestLazyContact(t *testing.T) {
	reg, _ := sample(t)
	reg.Offline()
	var dials atomic.Int32
	dial := dialNames(nil, &dials)
	r := newRemote(t, upstream.Options{URL: reg.URL(), DialContext: dial})
	hub := newRemote(t, upstream.Options{URL: "docker.io", DialContext: dial})
	if r.Host() != reg.Host() || hub.Host() != "registry-1.docker.io" {
		t.Errorf("hosts are %s and %s", r.Host(), hub.Host())
	}
	if n := dials.Load(); n != 0 {
		t.Errorf("%d connections before the first question", n)
	}
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	reg.Online()
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1})
}

func TestAnonymous(t *testing.T) {
	reg, img := sample(t)
	var dials atomic.Int32
	r := newRemote(t, upstream.Options{URL: reg.URL(), DialContext: dialNames(nil, &dials)})
	for range 3 {
		get(t, r, "a/b", "v1")
		if _, err := r.StatBlob(t.Context(), "a/b", img.Config); err != nil {
			t.Fatal(err)
		}
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 3, ut.BlobHead: 3})
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1: they are to be used again, and https is not to be tried", n)
	}
}

func TestCredentialsAreNotSentUnasked(t *testing.T) {
	reg, _ := sample(t)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", "secret")})
	get(t, r, "a/b", "v1")
	if seen := reg.Authorizations(); len(seen) != 0 {
		t.Errorf("an open registry has seen %q", seen)
	}
}

func TestBasic(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"})

	for name, creds := range map[string]authn.Authenticator{
		"user and password": auth.Static("me", "secret"),
		"docker config":     authn.FromConfig(authn.AuthConfig{Auth: "bWU6c2VjcmV0"}),
	} {
		reg.ResetCounts()
		r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: creds})
		get(t, r, "a/b", "v1")
		get(t, r, "a/b", "v1")
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2})
		if n := len(reg.Authorizations(ut.ManifestGet)); n != 2 {
			t.Errorf("%s: %d manifests with Authorization, want 2", name, n)
		}
	}

	for name, test := range map[string]struct {
		creds    authn.Authenticator
		requests map[ut.Kind]int
		says     string
	}{
		"none":           {nil, map[ut.Kind]int{ut.Ping: 1}, "no credentials are configured"},
		"wrong":          {auth.Static("me", "secret, but wrong"), map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}, "the configured credentials do not give access"},
		"identity token": {authn.FromConfig(authn.AuthConfig{IdentityToken: "secret"}), map[ut.Kind]int{ut.Ping: 1}, "credentials are a token"},
		"broken":         {brokenCredentials{}, map[ut.Kind]int{ut.Ping: 1}, "getting credentials"},
	} {
		reg.ResetCounts()
		r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: test.creds})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		kind := cache.ErrDenied
		if name == "broken" {
			kind = cache.ErrUnavailable
		}
		wantKind(t, err, kind)
		if !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %q does not say %q", name, err, test.says)
		}
		wantRequests(t, reg, test.requests)
	}
}

// brokenCredentials are a credential helper that fails.
type brokenCredentials struct{}

func (brokenCredentials) Authorization() (*authn.AuthConfig, error) {
	return nil, errors.New("no helper at https://me:secret@helper/?secret")
}

func TestBearer(t *testing.T) {
	for name, test := range map[string]struct {
		auth  ut.Auth
		creds authn.Authenticator
	}{
		"anonymous":    {ut.Auth{Scheme: "Bearer"}, nil},
		"credentials":  {ut.Auth{Scheme: "Bearer", Username: "me", Password: "secret"}, auth.Static("me", "secret")},
		"access_token": {ut.Auth{Scheme: "Bearer", AccessToken: true, ExpiresIn: 300}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			reg, img := sample(t)
			reg.AddRandomImage("c", "v1", 1, 10)
			reg.SetAuth(test.auth)
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: test.creds})
			get(t, r, "a/b", "v1")
			get(t, r, "a/b", img.Digest.String())
			if _, err := r.StatBlob(t.Context(), "a/b", img.Config); err != nil {
				t.Error(err)
			}
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 2, ut.BlobHead: 1})
			// Another repository is another scope.
			get(t, r, "c", "v1")
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 3, ut.BlobHead: 1})
			for _, req := range reg.Log() {
				a := req.Header.Get("Authorization")
				switch req.Kind {
				case ut.Ping:
					if a != "" {
						t.Errorf("ping with %q", a)
					}
				case ut.Token:
					if req.Host != reg.TokenHost() || (test.creds == nil) != (a == "") {
						t.Errorf("token request to %s with %q", req.Host, a)
					}
					if !strings.Contains(req.Query, "scope=repository%3A") || !strings.Contains(req.Query, "service=upstreamtest") {
						t.Errorf("token request with %q", req.Query)
					}
				default:
					if !strings.HasPrefix(a, "Bearer ") {
						t.Errorf("%s with %q", req.Kind, a)
					}
				}
			}
		})
	}
}

func TestRegistryTokenIsUsedAsItIs(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: authn.FromConfig(authn.AuthConfig{RegistryToken: "secret"})})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrDenied)
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1})
	if seen := reg.Authorizations(); len(seen) != 1 || seen[0] != "Bearer secret" {
		t.Errorf("the registry has seen %q", seen)
	}
}

func TestTokenExpires(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", ExpiresIn: 300})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	var c clock
	r.SetNow(c.now)
	get(t, r, "a/b", "v1")
	c.advance(285 * time.Second)
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 2})
	c.advance(6 * time.Second) // it is good for 9 s more: too short
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 3})
}

func TestTokenIsRevoked(t *testing.T) {
	reg, img := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", ExpiresIn: 3600})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	get(t, r, "a/b", "v1")
	reg.RevokeTokens()
	stream, err := r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(t, stream); err != nil {
		t.Error(err)
	}
	// Rejected, renewed, taken; the challenge was in the rejection.
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 1, ut.BlobGet: 2})
}

func TestRejectedWithFreshToken(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Status: 401, Header: http.Header{"Www-Authenticate": {
		fmt.Sprintf(`Bearer realm="http://%s/token",service="upstreamtest",error="insufficient_scope"`, reg.TokenHost()),
	}}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	e := wantKind(t, err, cache.ErrDenied)
	if e.Status != 401 || !strings.Contains(err.Error(), "FAULT: scripted fault") || !strings.Contains(err.Error(), "no credentials are configured") {
		t.Errorf("error %q does not say what the registry said", err)
	}
	// A token that was got for the request itself is not renewed.
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1})
}

func TestChallengeChanges(t *testing.T) {
	for name, test := range map[string]struct {
		before, after ut.Auth
		requests      map[ut.Kind]int
	}{
		"service":         {ut.Auth{Scheme: "Bearer"}, ut.Auth{Scheme: "Bearer", Service: "other"}, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 3}},
		"open to bearer":  {ut.Auth{}, ut.Auth{Scheme: "Bearer"}, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 3}},
		"bearer to basic": {ut.Auth{Scheme: "Bearer"}, ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"}, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 3}},
		"basic to bearer": {ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"}, ut.Auth{Scheme: "Bearer"}, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 3}},
		"bearer to open":  {ut.Auth{Scheme: "Bearer"}, ut.Auth{}, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(test.before)
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", "secret")})
			get(t, r, "a/b", "v1")
			reg.SetAuth(test.after)
			get(t, r, "a/b", "v1")
			wantRequests(t, reg, test.requests)
		})
	}
}

func TestRejectedWithoutChallenge(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	get(t, r, "a/b", "v1")
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Status: 401, Times: 1})
	get(t, r, "a/b", "v1")
	// The remote is asked anew how it wants to be asked.
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 2, ut.Token: 2, ut.ManifestGet: 3})
}

func TestManyCallersAskOnce(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	const callers = 20
	all := func() {
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if _, err := r.Manifest(t.Context(), "a/b", "v1"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	all()
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: callers})

	reg.ResetCounts()
	reg.RevokeTokens()
	all()
	if n := reg.Requests(ut.Ping); n != 0 {
		t.Errorf("%d pings after the first", n)
	}
	// Whoever is late finds the new token.
	if n := reg.Requests(ut.Token); n != 1 {
		t.Errorf("%d tokens to replace one, want 1", n)
	}
}

func TestCallerLeaves(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	gate := ut.NewGate()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Gate: gate})
	r := newRemote(t, upstream.Options{URL: reg.URL()})

	ctx, leave := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := r.Manifest(ctx, "a/b", "v1")
		first <- err
	}()
	<-gate.Reached()
	go func() {
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		second <- err
	}()
	leave()
	err := <-first
	if !errors.Is(err, context.Canceled) || errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("who has left got %v", err)
	}
	wantClean(t, err)
	gate.Open()
	if err := <-second; err != nil {
		t.Error(err)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1})
}

func TestFailedPingIsNotRemembered(t *testing.T) {
	for _, test := range []struct {
		fault ut.Fault
		kind  error
	}{
		{ut.Fault{Status: 503}, cache.ErrUnavailable},
		{ut.Fault{Status: 500, Body: []byte("<html>\x1b[31m secret")}, cache.ErrUnavailable},
		{ut.Fault{Status: 429, Header: http.Header{"Retry-After": {"3"}}}, cache.ErrRateLimited},
		{ut.Fault{Status: 403}, cache.ErrDenied},
		{ut.Fault{Status: 404}, cache.ErrInvalid}, // says nothing about the manifest
		{ut.Fault{Status: 302}, cache.ErrInvalid},
		{ut.Fault{Status: 401}, cache.ErrDenied},
		{ut.Fault{Status: 401, Header: http.Header{"Www-Authenticate": {`Negotiate`}}}, cache.ErrDenied},
		{ut.Fault{Drop: true}, cache.ErrUnavailable},
	} {
		t.Run(fmt.Sprint(test.fault.Status), func(t *testing.T) {
			reg, _ := sample(t)
			// A request that gets no answer over a connection that was in use is
			// sent again by net/http; this one is the first.
			test.fault.Kinds, test.fault.Times = []ut.Kind{ut.Ping}, 1
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			e := wantKind(t, err, test.kind)
			if test.fault.Status == 429 && e.RetryAfter != 3*time.Second {
				t.Errorf("RetryAfter is %v", e.RetryAfter)
			}
			if e.Op != "fetching manifest a/b:v1" {
				t.Errorf("Op is %q", e.Op)
			}
			if test.fault.Header.Get("Www-Authenticate") != "" {
				return // it was an answer, and is believed until there is another
			}
			get(t, r, "a/b", "v1")
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 2, ut.ManifestGet: 1})
		})
	}
}

func TestTokenService(t *testing.T) {
	for name, test := range map[string]struct {
		fault  ut.Fault
		kind   error
		status int
		says   string
	}{
		"down":          {ut.Fault{Status: 503}, cache.ErrUnavailable, 503, "FAULT"},
		"dropped":       {ut.Fault{Drop: true}, cache.ErrUnavailable, 0, "getting a token from"},
		"rate limit":    {ut.Fault{Status: 429, Header: http.Header{"Retry-After": {"9"}}}, cache.ErrRateLimited, 429, ""},
		"denied":        {ut.Fault{Status: 401}, cache.ErrDenied, 401, "the configured credentials do not give access"},
		"forbidden":     {ut.Fault{Status: 403}, cache.ErrDenied, 403, "the configured credentials do not give access"},
		"not there":     {ut.Fault{Status: 404}, cache.ErrUnavailable, 404, "getting a token from"},
		"bad request":   {ut.Fault{Status: 400, Body: []byte("secret")}, cache.ErrUnavailable, 400, "getting a token from"},
		"page":          {ut.HTMLPage(), cache.ErrUnavailable, 200, "no usable token"},
		"empty":         {ut.Fault{Body: []byte{}}, cache.ErrUnavailable, 200, "no usable token"},
		"no token":      {ut.Fault{Body: []byte(`{"refresh_token":"secret"}`)}, cache.ErrUnavailable, 200, "no usable token"},
		"bad token":     {ut.Fault{Body: []byte(`{"token":"secret\r\nX: y"}`)}, cache.ErrUnavailable, 200, "no usable token"},
		"huge":          {ut.Fault{Body: make([]byte, 1<<20)}, cache.ErrUnavailable, 200, "no usable token"},
		"truncated":     {ut.Fault{Cut: true, CutAt: 5}, cache.ErrUnavailable, 200, "unexpected EOF"},
		"leads astray":  {ut.Fault{Status: 302, Header: http.Header{"Location": {"http://evil.example.net/?secret"}}}, cache.ErrDenied, 0, "another domain"},
		"leads to ftp":  {ut.Fault{Status: 302, Header: http.Header{"Location": {"ftp://127.0.0.1/?secret"}}}, cache.ErrUnavailable, 302, "redirects us"},
		"leads nowhere": {ut.Fault{Status: 302}, cache.ErrUnavailable, 302, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(ut.Auth{Scheme: "Bearer", Username: "me", Password: "secret"})
			test.fault.Kinds = []ut.Kind{ut.Token}
			end := reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", "secret")})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			e := wantKind(t, err, test.kind)
			if e.Status != test.status || !strings.Contains(err.Error(), test.says) {
				t.Errorf("status %d, error %q, want %d and %q", e.Status, err, test.status, test.says)
			}
			if name == "rate limit" && e.RetryAfter != 9*time.Second {
				t.Errorf("RetryAfter is %v", e.RetryAfter)
			}
			if n := reg.Requests(ut.ManifestGet); n != 0 {
				t.Errorf("%d requests without a token", n)
			}
			end()
			get(t, r, "a/b", "v1")
			if n := reg.Requests(ut.Ping); n != 1 {
				t.Errorf("%d pings, want 1", n)
			}
		})
	}
}

func TestRealmOfAnotherDomain(t *testing.T) {
	reg, _ := sample(t)
	other := ut.New(t)
	dial := dialNames(map[string]string{
		"registry.example.com:80": reg.Host(),
		"auth.example.net:80":     other.TokenHost(),
		"auth.example.com:80":     reg.TokenHost(),
	}, nil)
	for realm, test := range map[string]struct {
		allowed []string
		refused bool
	}{
		"http://auth.example.net/token?secret": {nil, true},
		"http://127.0.0.1/token":               {nil, true},
		"":                                     {nil, true},
		"http://auth.example.com/token":        {nil, false},
	} {
		reg.ResetCounts()
		reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: realm, Username: "me", Password: "secret"})
		if realm == "" {
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 401, Times: 1, Header: http.Header{"Www-Authenticate": {`Bearer service="x"`}}})
		}
		r := newRemote(t, upstream.Options{
			URL: "http://registry.example.com", DialContext: dial,
			AllowedRealms: test.allowed, Credentials: auth.Static("me", "secret"),
		})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		if !test.refused {
			if err != nil {
				t.Errorf("%s: %v", realm, err)
			}
			continue
		}
		wantKind(t, err, cache.ErrDenied)
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1})
		wantRequests(t, other, nil)
	}

	// The same as the first, allowed: the token is of another service, and no
	// good, but the service was asked.
	reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "http://auth.example.net/token"})
	r := newRemote(t, upstream.Options{
		URL: "http://registry.example.com", DialContext: dial,
		AllowedRealms: []string{"auth.example.net"}, Credentials: auth.Static("me", "secret"),
	})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrDenied)
	wantRequests(t, other, map[ut.Kind]int{ut.Token: 1})
	if seen := other.Authorizations(); len(seen) != 1 || !strings.HasPrefix(seen[0], "Basic ") {
		t.Errorf("the allowed token service has seen %q", seen)
	}
}

func TestTokenServiceRedirects(t *testing.T) {
	// Within the policy, but to another host: the request is followed, the
	// password is not taken along.
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "http://registry.example.com/token"})
	reg.Script(ut.Fault{
		Kinds: []ut.Kind{ut.Token}, Match: func(req ut.Request) bool { return req.Host == "registry.example.com" },
		Status: 307, Header: http.Header{"Location": {"http://auth.example.com/token?service=upstreamtest&scope=repository:a/b:pull"}},
	})
	r := newRemote(t, upstream.Options{
		URL: "http://registry.example.com", Credentials: auth.Static("me", "secret"),
		DialContext: dialNames(map[string]string{
			"registry.example.com:80": reg.Host(),
			"auth.example.com:80":     reg.TokenHost(),
		}, nil),
	})
	get(t, r, "a/b", "v1")
	for _, req := range reg.Log() {
		if a := req.Header.Get("Authorization"); req.Kind == ut.Token && (req.Host == "registry.example.com") != (a != "") {
			t.Errorf("token request to %s with %q", req.Host, a)
		}
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 1})
}

func TestClosedRemote(t *testing.T) {
	reg, _ := sample(t)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Hang: true})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	done := make(chan error, 1)
	go func() {
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		done <- err
	}()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	err := <-done
	wantKind(t, err, cache.ErrUnavailable)
	if errors.Is(err, context.Canceled) {
		t.Errorf("%v: the caller has not canceled", err)
	}
}
