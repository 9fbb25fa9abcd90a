package upstream_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// changing are credentials that go on to the next when they are rejected.
type changing struct {
	mu       sync.Mutex
	configs  []authn.AuthConfig // what is left, the current one first
	rejected int                // calls of Renew
	renewed  int                // those that have brought others
}

func (c *changing) Authorization() (*authn.AuthConfig, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	config := c.configs[0]
	return &config, nil
}

func (c *changing) Renew(rejected authn.AuthConfig) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rejected++
	if c.configs[0] == rejected && len(c.configs) > 1 {
		c.configs = c.configs[1:]
		c.renewed++
	}
	return true // even where they are the same: "may be had"
}

func password(p string) authn.AuthConfig { return authn.AuthConfig{Username: "me", Password: p} }

func TestCredentialsAreRenewed(t *testing.T) {
	const good, bad, worse = "secret-good", "secret-bad", "secret-worse"
	token := func(t string) authn.AuthConfig { return authn.AuthConfig{IdentityToken: t} }
	basic := ut.Auth{Scheme: "Basic", Username: "me", Password: good}
	bearer := ut.Auth{Scheme: "Bearer", Username: "me", Password: good}
	identity := ut.Auth{Scheme: "Bearer", IdentityToken: good}
	for name, tt := range map[string]struct {
		auth     ut.Auth
		configs  []authn.AuthConfig
		denied   bool
		rejected int
		requests map[ut.Kind]int
	}{
		"Basic, good":                  {basic, []authn.AuthConfig{password(good)}, false, 0, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
		"Basic, others are good":       {basic, []authn.AuthConfig{password(bad), password(good)}, false, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2}},
		"Basic, others are bad":        {basic, []authn.AuthConfig{password(bad), password(worse), password(good)}, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2}},
		"Basic, no others":             {basic, []authn.AuthConfig{password(bad)}, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
		"Bearer, good":                 {bearer, []authn.AuthConfig{password(good)}, false, 0, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1}},
		"Bearer, others are good":      {bearer, []authn.AuthConfig{password(bad), password(good)}, false, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 1}},
		"Bearer, others are bad":       {bearer, []authn.AuthConfig{password(bad), password(worse), password(good)}, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2}},
		"Bearer, no others":            {bearer, []authn.AuthConfig{password(bad)}, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		"identity, good":               {identity, []authn.AuthConfig{token(good)}, false, 0, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1}},
		"identity, others are good":    {identity, []authn.AuthConfig{token(bad), token(good)}, false, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 1}},
		"identity, others are bad":     {identity, []authn.AuthConfig{token(bad), token(worse)}, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2}},
		"registry token after a while": {bearer, []authn.AuthConfig{{RegistryToken: bad}, password(good)}, false, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 2}},
		"registry token, no others":    {bearer, []authn.AuthConfig{{RegistryToken: bad}}, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(tt.auth)
			creds := &changing{configs: tt.configs}
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: creds})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			if tt.denied {
				wantKind(t, err, cache.ErrDenied)
				if !strings.Contains(err.Error(), "the configured credentials do not give access") {
					t.Errorf("error %q does not say why", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			wantRequests(t, reg, tt.requests)
			if creds.rejected != tt.rejected {
				t.Errorf("the credentials were told %d times that they were rejected, want %d", creds.rejected, tt.rejected)
			}
		})
	}
}

func TestStaticCredentialsAreTriedOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		auth     ut.Auth
		config   authn.AuthConfig
		requests map[ut.Kind]int
	}{
		"Basic":          {ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"}, password("secret, but wrong"), map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
		"Bearer":         {ut.Auth{Scheme: "Bearer", Username: "me", Password: "secret"}, password("secret, but wrong"), map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		"identity token": {ut.Auth{Scheme: "Bearer", IdentityToken: "secret"}, authn.AuthConfig{IdentityToken: "secret-wrong"}, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		"registry token": {ut.Auth{Scheme: "Bearer"}, authn.AuthConfig{RegistryToken: "secret-wrong"}, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(tt.auth)
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: authn.FromConfig(tt.config)})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, cache.ErrDenied)
			wantRequests(t, reg, tt.requests)
		})
	}
}

// TestManyAreRejectedAtOnce has as many requests rejected as there are callers, and
// the credentials renewed once.
func TestManyAreRejectedAtOnce(t *testing.T) {
	const callers = 20
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret-one"})
	creds := &changing{configs: []authn.AuthConfig{password("secret-one"), password("secret-two"), password("secret-three")}}
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: creds})
	get(t, r, "a/b", "v1")
	reg.ResetCounts()
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret-two"})
	// None is answered before all have come.
	gate, come, left := ut.NewGate(), make(chan struct{}), callers
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Times: callers, Gate: gate, Match: func(ut.Request) bool {
		if left--; left == 0 {
			close(come)
		}
		return true
	}})
	var all sync.WaitGroup
	for range callers {
		all.Go(func() { get(t, r, "a/b", "v1") })
	}
	<-come
	gate.Open()
	all.Wait()
	wantRequests(t, reg, map[ut.Kind]int{ut.ManifestGet: 2 * callers})
	if creds.renewed != 1 || creds.rejected != callers {
		t.Errorf("the credentials were renewed %d times, and rejected %d times, want 1 and %d", creds.renewed, creds.rejected, callers)
	}
}

func TestPasswordFileIsReplaced(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			reg, _ := sample(t)
			path := write(t, "password", []byte("secret-one\n"))
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{Username: "me", PasswordFile: path})})
			for _, p := range []string{"secret-one", "secret-two"} {
				reg.SetAuth(ut.Auth{Scheme: scheme, Username: "me", Password: p})
				reg.RevokeTokens()
				if err := os.WriteFile(path, []byte(p+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				get(t, r, "a/b", "v1")
			}
			for _, req := range reg.Log() {
				if user, p, ok := basicAuth(req); ok && (user != "me" || strings.Contains(p, "\n")) {
					t.Errorf("%s with %q", req.Kind, p)
				}
			}
		})
	}
}

func basicAuth(req ut.Request) (user, password string, ok bool) {
	return (&http.Request{Header: req.Header}).BasicAuth()
}

// TestCommandIsRunAgain goes the whole way from a program to the remote.
func TestCommandIsRunAgain(t *testing.T) {
	dir := t.TempDir()
	answer, log := filepath.Join(dir, "answer"), filepath.Join(dir, "log")
	script := "#!/bin/sh\ncat >>'" + log + "'; echo >>'" + log + "'; cat '" + answer + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "creds"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	reg, _ := sample(t)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{Host: reg.Host(), Command: filepath.Join(dir, "creds")})})
	for _, p := range []string{"secret-one", "secret-two"} {
		reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: p})
		if err := os.WriteFile(answer, fmt.Appendf(nil, `{"Username":"me","Secret":%q}`, p), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			get(t, r, "a/b", "v1")
		}
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 7})
	asked, err := os.ReadFile(log)
	if want := strings.Repeat(reg.Host()+"\n", 2); err != nil || string(asked) != want {
		t.Errorf("the command was asked %q, %v, want %q", asked, err, want)
	}
}

// TestHelperHasNoCredentials treats a remote that the configuration has nothing for
// as one without credentials.
func TestHelperHasNoCredentials(t *testing.T) {
	for scheme, requests := range map[string]map[ut.Kind]int{"Basic": {ut.Ping: 1}, "Bearer": {ut.Ping: 1, ut.Token: 1}} {
		reg, _ := sample(t)
		reg.SetAuth(ut.Auth{Scheme: scheme, Username: "me", Password: "secret"})
		path := write(t, "config.json", []byte(`{"auths":{"other.example.com":{"username":"me","password":"secret"}}}`))
		r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{Host: reg.Host(), DockerConfig: path})})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		wantKind(t, err, cache.ErrDenied)
		if !strings.Contains(err.Error(), "the Docker configuration, helper or command that is configured for this remote has no credentials for it") {
			t.Errorf("%s: error %q does not say why", scheme, err)
		}
		wantRequests(t, reg, requests)
		if seen := reg.Authorizations(); len(seen) != 0 {
			t.Errorf("%s: the registry has seen %q", scheme, seen)
		}
	}
}

func TestIdentityToken(t *testing.T) {
	for name, rotate := range map[string]bool{"lasting": false, "good once": true} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret-first", Rotate: rotate, ExpiresIn: 300})
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{IdentityToken: "secret-first"})})
			var c clock
			r.SetNow(c.now)
			const repos = 10
			for i := range repos {
				reg.AddRandomImage(fmt.Sprintf("r%d", i), "v1", 1, 10)
			}
			var all sync.WaitGroup
			for i := range repos {
				all.Go(func() { get(t, r, fmt.Sprintf("r%d", i), "v1") })
			}
			all.Wait()
			c.advance(time.Hour)
			get(t, r, "a/b", "v1")
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: repos + 1, ut.ManifestGet: repos + 1})

			seen := make(map[string]bool)
			for _, req := range reg.Log() {
				form, err := url.ParseQuery(req.Body)
				if err != nil {
					t.Error(err)
				}
				if token := form.Get("refresh_token"); token != "" {
					seen[token] = true
				}
				if a := req.Header.Get("Authorization"); req.Kind == ut.Token && (req.Method != http.MethodPost || a != "" || req.Query != "") {
					t.Errorf("token by %s with %q and %q", req.Method, req.Query, a)
				}
			}
			if want := map[bool]int{false: 1, true: repos + 1}[rotate]; len(seen) != want {
				t.Errorf("the service has seen %d identity tokens, want %d", len(seen), want)
			}
		})
	}
}

func TestIdentityTokenIsReplaced(t *testing.T) {
	reg, _ := sample(t)
	path := write(t, "token", []byte("secret-first"))
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{IdentityTokenFile: path})})
	var c clock
	r.SetNow(c.now)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret-first", Rotate: true})
	get(t, r, "a/b", "v1")
	c.advance(time.Hour)
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 2})

	// Somebody logs in again, and what we were given is good no more.
	reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret-second", Rotate: true})
	if err := os.WriteFile(path, []byte("secret-second"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 3, ut.ManifestGet: 3})

	// The service takes the configured one again, and no other.
	reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret-second"})
	c.advance(time.Hour)
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 5, ut.ManifestGet: 4})

	// Nothing of that is written anywhere.
	if content, err := os.ReadFile(path); err != nil || string(content) != "secret-second" {
		t.Errorf("the file holds %q, %v", content, err)
	}
}

// TestIdentityTokenWhereNoneAreTaken falls back to what all token services know.
func TestIdentityTokenWhereNoneAreTaken(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{IdentityToken: "secret"})})
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 1})

	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"})
	_, err := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: authn.FromConfig(authn.AuthConfig{Username: "me", IdentityToken: "secret"})}).
		Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrDenied)
	if !strings.Contains(err.Error(), "credentials are a token") {
		t.Errorf("error %q does not say why", err)
	}
}

// TestCallersLeaveTheQueueOfIdentityTokens ends a wait for another's exchange.
func TestCallersLeaveTheQueueOfIdentityTokens(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret"})
	gate := ut.NewGate()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Gate: gate})
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{IdentityToken: "secret"})})
	ctx, leave := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	ask := func(repo string, done chan<- error) {
		_, err := r.Manifest(ctx, repo, "v1")
		done <- err
	}
	go ask("a/b", first)
	<-gate.Reached()
	go ask("c", second)
	leave()
	for _, done := range []chan error{first, second} {
		if err := <-done; err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Errorf("who has left gets %v", err)
		}
	}
	if n := reg.Requests(ut.Token); n != 1 {
		t.Errorf("%d tokens were asked for at the same time", n)
	}
	gate.Open()
}
