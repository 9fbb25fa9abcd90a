package lab_test

import (
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// TestCanary writes a secret in each way that it can be sent in, to a server that
// it is meant for and to one that it is not.
func TestCanary(t *testing.T) {
	const user = "user-1"
	secret := lab.NewSecret()
	for name, write := range map[string]func(*http.Request){
		"Basic":            func(r *http.Request) { r.SetBasicAuth(user, secret) },
		"Basic, other":     func(r *http.Request) { r.SetBasicAuth("u", secret) },
		"Basic, no user":   func(r *http.Request) { r.SetBasicAuth("", secret) },
		"Bearer":           func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) },
		"base64 in URL":    func(r *http.Request) { r.URL.Path = "/" + base64.URLEncoding.EncodeToString([]byte("ab"+secret+"c")) },
		"query":            func(r *http.Request) { r.URL.RawQuery = url.Values{"password": {secret}}.Encode() },
		"path":             func(r *http.Request) { r.URL.Path = "/" + secret },
		"hexadecimal":      func(r *http.Request) { r.Header.Set("X-Debug", hex.EncodeToString([]byte(secret))) },
		"cookie":           func(r *http.Request) { r.Header.Set("Cookie", "a=b; c="+secret) },
		"form":             func(r *http.Request) { form(r, url.Values{"refresh_token": {secret}}.Encode()) },
		"body of any kind": func(r *http.Request) { form(r, strings.Repeat("x", 60<<10)+secret) },
		"host":             func(r *http.Request) { r.Host = hex.EncodeToString([]byte(secret)) },
	} {
		t.Run(name, func(t *testing.T) {
			canary := new(lab.Canary)
			canary.Secret("the password", secret, "friend")
			for _, server := range []string{"friend", "stranger"} {
				up, err := lab.StartOrigin(lab.OriginOptions{Canary: canary, Name: server})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := up.Down(); err != nil {
						t.Error(err)
					}
				}()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, up.URL(), nil)
				if err != nil {
					t.Fatal(err)
				}
				write(req)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if n := canary.Requests(server); n != 1 {
					t.Errorf("%s has seen %d requests, want 1", server, n)
				}
			}
			leaks := canary.Leaks()
			if len(leaks) != 1 || !strings.HasPrefix(leaks[0], "stranger has seen the password: ") {
				t.Errorf("leaks: %q, want one, at the stranger", leaks)
			}
		})
	}
}

func form(r *http.Request, text string) {
	r.Body = io.NopCloser(strings.NewReader(text))
	r.ContentLength = int64(len(text))
}

func TestCanaryFinds(t *testing.T) {
	canary := new(lab.Canary)
	secret, other, name := lab.NewSecret(), lab.NewSecret(), lab.NewUser()
	canary.Secret("one", secret)
	canary.Secret("two", other)
	canary.Name("user", name)
	for text, want := range map[string][]string{
		"nothing":                     nil,
		name:                          nil, // is no secret at the machine itself
		"x" + secret + "y":            {"one"},
		other + secret:                {"one", "two"},
		secret[:len(secret)-1]:        nil,
		url.QueryEscape(other) + "&x": {"two"},
	} {
		if got := canary.Find(text); !slices.Equal(got, want) {
			t.Errorf("%q: found %q, want %q", text, got, want)
		}
	}
}

// TestCanaryKnowsUpstreams shows that an upstream tells of its own secrets: each of
// its servers may see some of them.
func TestCanaryKnowsUpstreams(t *testing.T) {
	registry, err := lab.StockRegistry().Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for auth, allowed := range map[lab.Auth]string{lab.Basic: "up", lab.Bearer: "up/token", lab.Identity: "up/token"} {
		t.Run(string(auth), func(t *testing.T) {
			canary := new(lab.Canary)
			up, err := lab.StartUpstream(t.Context(), lab.UpstreamOptions{
				Dir: t.TempDir(), Registry: registry, Auth: auth, Canary: canary, Name: "up",
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := up.Stop(); err != nil {
					t.Error(err)
				}
			}()
			for _, server := range []string{"up", "up/token", "up/signed", "other"} {
				leaks := len(canary.Leaks())
				canary.Saw(server, lab.Request{Body: up.Password + up.IdentityToken})
				if got := len(canary.Leaks()) > leaks; got != (server != allowed) {
					t.Errorf("%s sees the password: a leak is %v, want %v", server, got, !got)
				}
			}
			// What was pushed and the canary do not know each other's ways.
			if n := canary.Requests("up"); n != 1 {
				t.Errorf("%d requests, want only that of this test", n)
			}
		})
	}
}
