package doctor_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/doctor/report"
	ut "registry-module/upstream/upstreamtest"
)

// The secrets of these tests. They have characters that are written in other ways in
// other places.
const (
	canaryPassword = "pass/word+canary 1"
	canaryProxy    = "proxy:word@canary?2"
	canaryIdentity = "identity-canary-3"
	canaryToken    = "token-canary-4"
)

// forms are all the ways in which a secret can show up.
func forms(user, secret string) []string {
	return []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("x", secret).String(),
		base64.StdEncoding.EncodeToString([]byte(user + ":" + secret)),
		base64.URLEncoding.EncodeToString([]byte(user + ":" + secret)),
		strings.Trim(fmt.Sprintf("%q", secret), `"`),
	}
}

// echo is a registry, and its token service, that repeats in all its answers what it
// has been sent, as some do in their errors.
type echo struct {
	wants    string // the challenge of /v2/
	accepts  bool   // log-ins
	mu       sync.Mutex
	received string
}

// ServeHTTP implements http.Handler.
func (h *echo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var dump bytes.Buffer
	_ = req.Header.Write(&dump) // to memory
	_ = req.ParseForm()
	fmt.Fprint(&dump, req.URL, " ", req.Form)
	if user, password, ok := req.BasicAuth(); ok {
		fmt.Fprint(&dump, " ", user, ":", password)
	}
	h.mu.Lock()
	h.received += dump.String()
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", dump.String())
	message, err := json.Marshal(dump.String())
	if err != nil {
		panic(err) // a string
	}
	loggedIn := req.Header.Get("Authorization") != ""
	switch {
	case req.URL.Path == "/token" && h.accepts:
		fmt.Fprintf(w, `{"token": %q, "expires_in": 60}`, canaryToken)
		return
	case req.URL.Path == "/v2/" && loggedIn && h.accepts:
		fmt.Fprint(w, "{}")
		return
	case req.URL.Path == "/v2/" && !loggedIn, req.URL.Path == "/token":
		w.Header().Set("WWW-Authenticate", h.wants)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		w.Header().Set("Docker-Content-Digest", dump.String())
		w.WriteHeader(http.StatusForbidden)
	}
	fmt.Fprintf(w, `{"errors": [{"code": "DENIED", "message": %s}]}`, message)
}

// No output has a secret, whatever the other side repeats.
func TestSecretsStaySecret(t *testing.T) {
	const basic = `Basic realm="x"`
	const bearer = `Bearer realm="https://registry.test/token",service="x"`
	password := authn.AuthConfig{Username: "me", Password: canaryPassword}
	for _, test := range []struct {
		name   string
		config authn.AuthConfig
		make   func(s *setup, h *echo)
		// received tells that the registry gets the password or token, as it has to.
		received bool
	}{
		{"basic, refused", password, func(_ *setup, h *echo) { h.wants = basic }, true},
		{"basic, manifest denied", password, func(_ *setup, h *echo) { h.wants, h.accepts = basic, true }, true},
		{"basic, encoded", authn.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("me:" + canaryPassword))},
			func(_ *setup, h *echo) { h.wants = basic }, true},
		{"token, refused", password, func(_ *setup, h *echo) { h.wants = bearer }, true},
		{"token, manifest denied", password, func(_ *setup, h *echo) { h.wants, h.accepts = bearer, true }, true},
		{"identity token, refused", authn.AuthConfig{IdentityToken: canaryIdentity}, func(_ *setup, h *echo) { h.wants = bearer }, true},
		{"identity token, manifest denied", authn.AuthConfig{IdentityToken: canaryIdentity}, func(_ *setup, h *echo) { h.wants, h.accepts = bearer, true }, true},
		{"token of the registry", authn.AuthConfig{RegistryToken: canaryToken}, func(_ *setup, h *echo) { h.wants = bearer }, true},
		{"realm of a stranger", password, func(_ *setup, h *echo) { h.wants = `Bearer realm="https://evil.test/token?p=x"` }, false},
		{"realm with credentials", password, func(_ *setup, h *echo) { h.wants = `Bearer realm="https://u:p@registry.test/token"` }, false},
		{"certificate of a stranger", password, func(s *setup, h *echo) {
			h.wants, s.remote.CAFile = basic, ""
		}, false},
		{"proxy that refuses", password, func(s *setup, h *echo) {
			user := url.UserPassword("me", canaryProxy)
			s.remote.Proxy = by("http", newProxy(s.t, "", 407, nil), user)
		}, false},
		{"proxy that is down", password, func(s *setup, h *echo) {
			s.remote.Proxy = by("http", closed(s.t), url.UserPassword("me", canaryProxy))
		}, false},
		{"proxy with an unknown scheme", password, func(s *setup, h *echo) {
			s.remote.Proxy = by("ftp", "proxy.test", url.UserPassword("me", canaryProxy))
		}, false},
		{"proxy that is no URL", password, func(s *setup, h *echo) {
			s.remote.Proxy = func(*http.Request) (*url.URL, error) {
				return url.Parse(fmt.Sprintf("http://me:%s\x7f@proxy.test", canaryProxy))
			}
		}, false},
		{"proxy that works", password, func(s *setup, h *echo) {
			h.wants = basic
			user := url.UserPassword("me", canaryProxy)
			s.remote.Proxy = by("http", newProxy(s.t, s.net.routes["192.0.2.1:443"], 0, nil), user)
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			h := &echo{}
			s.at(serve(t, s.ca.server(leaf{}), h.ServeHTTP))
			s.remote.Credentials = authn.FromConfig(test.config)
			test.make(s, h)
			output := everything(t, s.doctor.Check(t.Context(), s.remote))
			secrets := append(forms("me", canaryPassword), forms("me", canaryProxy)...)
			secrets = append(secrets, forms("", canaryIdentity)...)
			secrets = append(secrets, forms("", canaryToken)...)
			for _, secret := range secrets {
				if strings.Contains(output, secret) {
					t.Errorf("%q is in the output:\n%s", secret, output)
				}
			}
			received := strings.Contains(h.received, canaryPassword) || strings.Contains(h.received, canaryIdentity) ||
				strings.Contains(h.received, canaryToken)
			if received != test.received {
				t.Errorf("the registry has received a secret: %v, want %v", received, test.received)
			}
			if strings.Contains(h.received, canaryProxy) {
				t.Error("the registry has received the proxy's password")
			}
		})
	}
}

// everything is all that is ever shown of findings.
func everything(t *testing.T, findings []report.Finding) string {
	t.Helper()
	report := report.NewReport(nil, []report.RemoteReport{{Number: 2, Host: "registry.test", Checks: findings}})
	var out bytes.Buffer
	if err := report.WriteText(&out, false); err != nil {
		t.Fatal(err)
	}
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(report); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%+v", findings)
	return out.String()
}

// What a redirect leads to gets no credentials.
func TestRedirectsGetNoCredentials(t *testing.T) {
	s := newSetup(t)
	s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: canaryPassword})
	s.remote.Credentials = authn.FromConfig(authn.AuthConfig{Username: "me", Password: canaryPassword})
	elsewhere := &echo{wants: `Basic realm="x"`}
	s.net.host("cdn.test", "192.0.2.5", "443", serve(t, s.ca.server(leaf{names: []string{"cdn.test"}}), elsewhere.ServeHTTP))
	s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead, ut.ManifestGet}, Status: 307, Header: http.Header{"Location": {"https://cdn.test/x"}}})
	f := find(t, s.doctor.Check(t.Context(), s.remote), "manifest")
	if f.Status != report.Failed {
		t.Errorf("%+v", f)
	}
	if elsewhere.received == "" || strings.Contains(elsewhere.received, "Authorization") {
		t.Errorf("received elsewhere: %q", elsewhere.received)
	}
}

// Whatever names a registry makes up, findings stay short and can be printed.
func TestNamesOfStrangers(t *testing.T) {
	long := strings.Repeat("a", 100<<10)
	challenges := []string{`Basic realm="x"`}
	for _, host := range []string{long + ".test", "\u202egpj.test", "a\u009b31m.test", "bücher.test", "a b.test", "%00.test", "[fe80::1%25\u202e]"} {
		challenges = append(challenges, `Bearer realm="https://`+host+`/token",service="x"`,
			`Bearer realm="https://u:`+canaryToken+`@`+host+`/token"`, `Bearer realm="http://`+host+`/token"`)
	}
	challenges = append(challenges, `Bearer realm="https://registry.test/token",service="`+long+"\u202e\u009b"+`"`, long+` realm="x"`)
	for i, challenge := range challenges {
		for _, location := range []string{"", "https://" + long + ".test/", "https://a\u202e\u009b.test/v2/", "http://" + long + ".test/"} {
			s := newSetup(t)
			s.doctor.Timeout = time.Minute
			s.at(serve(t, s.ca.server(leaf{}), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", challenge)
				if location != "" {
					w.Header().Set("Location", location)
					w.WriteHeader(http.StatusTemporaryRedirect)
					return
				}
				w.WriteHeader(http.StatusUnauthorized)
			}))
			s.remote.Credentials = authn.FromConfig(authn.AuthConfig{Username: "me", Password: canaryPassword})
			findings := s.doctor.Check(t.Context(), s.remote)
			if report.Worst(findings) != report.Failed {
				t.Errorf("%d, %.50q: nothing has failed", i, location)
			}
			for _, f := range findings {
				if text := f.Text + f.Advice; len(text) > 2000 || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
					t.Errorf("%d, %.50q: %d bytes, %.300q", i, location, len(text), text)
				}
			}
			if i > 0 && location != "" {
				break // redirects have nothing to do with challenges
			}
		}
	}
}
