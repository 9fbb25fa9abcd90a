package doctor_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/doctor/report"
	ut "registry-module/upstream/upstreamtest"
)

// An identity token is used once, whatever comes of it, and not at all where a server
// runs that could lose its own.
func TestIdentityTokens(t *testing.T) {
	const way = start + "tls ok, api ok, clock ok, auth ok, token-resolve ok, token-connect ok, token-tls ok, "
	inUse := func(context.Context) bool { return true }
	for _, test := range []struct {
		name     string
		auth     ut.Auth
		make     func(s *setup)
		want     string
		text     string // of the credentials, or of the manifest where the log-in is for images only
		requests map[ut.Kind]int
	}{
		{"that stays", ut.Auth{Scheme: "Bearer", IdentityToken: "right"}, nil,
			way + "token ok, credentials ok, " + finish, "accepts them",
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestHead: 1}},
		{"that is replaced", ut.Auth{Scheme: "Bearer", IdentityToken: "right", Rotate: true}, nil,
			way + "token ok, credentials warning, " + finish, "has replaced it",
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestHead: 1}},
		{"that is used up", ut.Auth{Scheme: "Bearer", IdentityToken: "other", Rotate: true}, nil,
			way + "token ok, credentials failed, manifest skipped, rate-limit skipped", "used up",
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		{"that is replaced, for images only", ut.Auth{Scheme: "Bearer", IdentityToken: "right", Rotate: true},
			func(s *setup) {
				s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 200, Body: []byte("{}")})
			},
			start + "tls ok, api ok, clock ok, auth ok, credentials ok, manifest warning, rate-limit skipped", "registry wants none",
			map[ut.Kind]int{ut.Ping: 2, ut.Token: 1, ut.ManifestHead: 2}},
		{"of a server that runs", ut.Auth{Scheme: "Bearer", IdentityToken: "right", Rotate: true},
			func(s *setup) { s.remote.InUse = inUse },
			way + "token skipped, credentials skipped, manifest skipped, rate-limit skipped", "left to the server that runs",
			map[ut.Kind]int{ut.Ping: 1}},
		{"of a server that runs, without image", ut.Auth{Scheme: "Bearer", IdentityToken: "right", Rotate: true},
			func(s *setup) { s.remote.InUse, s.remote.Image = inUse, "" },
			way + "token skipped, credentials skipped, manifest skipped, rate-limit skipped", "(REGISTRY_PROXY_IDENTITYTOKEN_2)",
			map[ut.Kind]int{ut.Ping: 1}},
		{"of a server that runs, for images only", ut.Auth{Scheme: "Bearer", IdentityToken: "right", Rotate: true},
			func(s *setup) {
				s.remote.InUse = inUse
				s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 200, Body: []byte("{}")})
			},
			start + "tls ok, api ok, clock ok, auth ok, credentials ok, manifest skipped, rate-limit skipped", "registry wants none",
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.token(test.auth)
			s.remote.Credentials, s.remote.CredentialsSetting = identity("right"), "REGISTRY_PROXY_IDENTITYTOKEN_2"
			if test.make != nil {
				test.make(s)
			}
			findings := s.doctor.Check(t.Context(), s.remote)
			if got := statuses(findings); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			f := find(t, findings, "credentials")
			if !strings.Contains(f.Text, test.text) {
				t.Errorf("%+v", f)
			}
			if f.Status == report.Warning && !strings.Contains(f.Advice, "set REGISTRY_PROXY_IDENTITYTOKEN_2") {
				t.Errorf("advice %s", f.Advice)
			}
			total := 0
			for kind, n := range test.requests {
				total += n
				if got := s.reg.Requests(kind); got != n {
					t.Errorf("%d requests of kind %s, want %d", got, kind, n)
				}
			}
			if got := s.reg.Requests(); got != total {
				t.Errorf("%d requests in all, want %d", got, total)
			}
		})
	}
}

// A server that runs has no bearing on what can be used any number of times.
func TestPasswordsAreSharedWithServers(t *testing.T) {
	s := newSetup(t)
	s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
	s.remote.Credentials = auth.Static("me", "right")
	s.remote.InUse = func(context.Context) bool { return true }
	findings := s.doctor.Check(t.Context(), s.remote)
	if f := find(t, findings, "manifest"); f.Status != report.OK || find(t, findings, "credentials").Status != report.OK {
		t.Errorf("%+v", findings)
	}
}

// An identity token goes to the token service, and is not taken along to where that
// redirects, be it of the same domain.
func TestIdentityTokenIsNotTakenAlong(t *testing.T) {
	for _, status := range []int{http.StatusMovedPermanently, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		s := newSetup(t)
		s.token(ut.Auth{Scheme: "Bearer", IdentityToken: canaryIdentity})
		s.remote.AllowedRealms = append(s.remote.AllowedRealms, "elsewhere.registry.test")
		s.remote.Credentials = identity(canaryIdentity)
		elsewhere := &echo{}
		s.net.host("elsewhere.registry.test", "192.0.2.7", "443",
			serve(t, s.ca.server(leaf{names: []string{"elsewhere.registry.test"}}), elsewhere.ServeHTTP))
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: status, Header: http.Header{"Location": {"https://elsewhere.registry.test/token"}}})
		findings := s.doctor.Check(t.Context(), s.remote)
		if report.Worst(findings) != report.Failed || s.reg.Requests(ut.Token) != 1 {
			t.Errorf("%d: %+v", status, findings)
		}
		if strings.Contains(elsewhere.received, canaryIdentity) || strings.Contains(everything(t, findings), canaryIdentity) {
			t.Errorf("%d: the identity token was taken along: %s", status, elsewhere.received)
		}
	}
}

// What is to be corrected is what is configured.
func TestAdviceNamesTheSetting(t *testing.T) {
	const setting = "REGISTRY_PROXY_SOMETHING_2"
	basic := ut.Auth{Scheme: "Basic", Username: "me", Password: "right"}
	bearer := ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"}
	for _, test := range []struct {
		name   string
		auth   ut.Auth
		config authn.AuthConfig
		text   string
	}{
		{"password, basic", basic, authn.AuthConfig{Username: "me", Password: "wrong"}, "user name or password is wrong"},
		{"password, token service", bearer, authn.AuthConfig{Username: "me", Password: "wrong"}, "user name or password is wrong"},
		{"nothing, basic", basic, authn.AuthConfig{}, "has none for registry.test"},
		{"nothing, token service", bearer, authn.AuthConfig{}, "has none for registry.test"},
		{"identity token", bearer, authn.AuthConfig{IdentityToken: "wrong"}, "does not accept the identity token"},
		{"identity token where a password is wanted", basic, authn.AuthConfig{IdentityToken: "abc"}, "a token is configured"},
		{"user name and identity token where a password is wanted", basic, authn.AuthConfig{Username: "00000000-0000-0000-0000-000000000000", IdentityToken: "abc"},
			"the registry wants a user name and a password, and a token is configured"},
		{"token", bearer, authn.AuthConfig{RegistryToken: "wrong"}, "does not give us a/b:v1 (HTTP status 401"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			s.token(test.auth)
			s.remote.Credentials, s.remote.CredentialsSetting = authn.FromConfig(test.config), setting
			for _, f := range s.doctor.Check(t.Context(), s.remote) {
				if f.Status != report.Failed {
					continue
				}
				if !strings.Contains(f.Text, test.text) || !strings.Contains(f.Advice, setting) {
					t.Errorf("%s: %s → %s", f.Step, f.Text, f.Advice)
				}
				return
			}
			t.Error("nothing has failed")
		})
	}
}

// slow are credentials that take longer than a step.
type slow struct{ asked atomic.Int32 }

// Authorization implements [authn.Authenticator].
func (s *slow) Authorization() (*authn.AuthConfig, error) { panic("without context") }

// AuthorizationContext implements [authn.ContextAuthenticator].
func (s *slow) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	s.asked.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A helper that is slow is not said to be wrong: the program waits for longer.
func TestSlowCredentials(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		s := newSetup(t)
		s.token(ut.Auth{Scheme: scheme, Username: "me", Password: "right"})
		creds := &slow{}
		s.remote.Credentials = creds
		s.doctor.Timeout = time.Second
		f := find(t, s.doctor.Check(t.Context(), s.remote), "credentials")
		if f.Status != report.Failed || !strings.Contains(f.Text, "not given within 1s") || !strings.Contains(f.Advice, "--timeout 40s") {
			t.Errorf("%s: %+v", scheme, f)
		}
		if n := creds.asked.Load(); n != 1 {
			t.Errorf("%s: asked %d times", scheme, n)
		}
	}
}

// changing are credentials of which the first ones were replaced.
type changing struct {
	asked   atomic.Int32
	renewed atomic.Bool
}

// Authorization implements [authn.Authenticator].
func (c *changing) Authorization() (*authn.AuthConfig, error) {
	c.asked.Add(1)
	if c.renewed.Load() {
		return &authn.AuthConfig{Username: "me", Password: "right"}, nil
	}
	return &authn.AuthConfig{Username: "me", Password: "old"}, nil
}

// Renew tells that others are to be had.
func (c *changing) Renew(rejected authn.AuthConfig) bool {
	return rejected.Password == "old" && !c.renewed.Swap(true)
}

// Who gives credentials is asked once, and again only as the program does it: where
// they were rejected and others may be had.
func TestCredentialsAreReadOnce(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		for password, want := range map[string]int32{"old": 1, "right": 2} {
			s := newSetup(t)
			s.token(ut.Auth{Scheme: scheme, Username: "me", Password: password})
			creds := &changing{}
			s.remote.Credentials = creds
			findings := s.doctor.Check(t.Context(), s.remote)
			if f := find(t, findings, "manifest"); f.Status != report.OK || creds.asked.Load() != want {
				t.Errorf("%s, %s: asked %d times, %+v", scheme, password, creds.asked.Load(), findings)
			}
		}
	}
}
