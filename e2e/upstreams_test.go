package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// TestUpstreamKinds pulls through the module from each kind of upstream. The
// clients are anonymous: the module has the credentials.
func TestUpstreamKinds(t *testing.T) {
	for name, o := range map[string]lab.UpstreamOptions{
		"anonymous":            {},
		"basic":                {Auth: lab.Basic},
		"bearer":               {Auth: lab.Bearer},
		"redirects 307":        {Redirect: http.StatusTemporaryRedirect},
		"redirects 302":        {Redirect: http.StatusFound},
		"basic and redirects":  {Auth: lab.Basic, Redirect: http.StatusTemporaryRedirect},
		"bearer and redirects": {Auth: lab.Bearer, Redirect: http.StatusTemporaryRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := sample(t, lab.OCIIndex)
			up := upstream(t, o, img)
			m := module(t, up.Env())
			crane := lab.NewClient(tempDir(t), bin.crane)

			if out, err := crane.CLI(t.Context(), "validate", "--remote", img.ByTag(m.Addr)); err != nil {
				t.Fatalf("cold: %v\n%s", err, out)
			}
			cold := up.Counts()
			t.Logf("cold: %v", cold)
			if cold.BlobBytes != img.Size() {
				t.Errorf("cold: %d blob bytes from upstream, want %d\n%v", cold.BlobBytes, img.Size(), up)
			}
			checkCredentials(t, up, o)

			up.Reset()
			if out, err := crane.CLI(t.Context(), "validate", "--remote", img.ByTag(m.Addr)); err != nil {
				t.Fatalf("warm: %v\n%s", err, out)
			}
			requests(t, up, "warm", 0)
			checkSecrets(t, m, up)
		})
	}
}

// checkCredentials looks at which credentials went where.
func checkCredentials(t *testing.T, up *lab.Upstream, o lab.UpstreamOptions) {
	t.Helper()
	signed := 0
	for _, r := range up.Requests() {
		scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		switch r.Kind {
		case lab.Signed:
			signed++
			if scheme != "" {
				t.Errorf("the blob host was sent credentials: %v", r)
			}
		case lab.Token:
			if scheme != "Basic" {
				t.Errorf("the token server was sent %q, want Basic: %v", scheme, r)
			}
		default:
			switch o.Auth {
			case lab.Anonymous:
				if scheme != "" {
					t.Errorf("an anonymous upstream was sent credentials: %v", r)
				}
			case lab.Bearer:
				if scheme == "Basic" {
					t.Errorf("the password was sent to a registry that asks for tokens: %v", r)
				}
			}
		}
	}
	if (signed > 0) != (o.Redirect != 0) {
		t.Errorf("%d requests to the blob host, with redirects %d", signed, o.Redirect)
	}
}

// checkSecrets looks for secrets in what the module has logged.
func checkSecrets(t *testing.T, m *lab.Server, up *lab.Upstream) {
	t.Helper()
	log := string(must(os.ReadFile(m.Log()))(t))
	for _, secret := range []string{up.Password, "eyJ" /* of a JWT */, "lab-signed"} {
		if secret != "" && strings.Contains(log, secret) {
			t.Errorf("the log holds a secret (%.3s...)", secret)
		}
	}
}

// TestClientCredentials shows that what a client sends is not passed on.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	for _, url := range []string{manifestURL(m, img.Repo, img.Tag), blobURL(m, img.Repo, img.Blobs[0].Digest)} {
		if a := get(t, url, "Authorization", "Basic Y2xpZW50OnNlY3JldA==", "Cookie", "a=b"); a.Status != http.StatusOK {
			t.Errorf("%s: status %d, want 200\n%s", url, a.Status, a.Body)
		}
	}
	for _, r := range up.Requests() {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("the client's credentials were passed on: %v", r)
		}
	}
}

// TestWrongPassword shows what a client gets when the module's credentials are
// refused: not a challenge, for the client's are not those.
func TestWrongPassword(t *testing.T) {
	for name, auth := range map[string]lab.Auth{"basic": lab.Basic, "bearer": lab.Bearer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := sample(t, lab.OCIIndex)
			up := upstream(t, lab.UpstreamOptions{Auth: auth}, img)
			m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_PASSWORD": "wrong"})
			a := get(t, manifestURL(m, img.Repo, img.Tag))
			if a.Status != http.StatusForbidden || a.code(t) != "DENIED" || a.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("status %d, WWW-Authenticate %q, want 403 without\n%s", a.Status, a.Header.Get("WWW-Authenticate"), a.Body)
			}
		})
	}
}

// TestForeignRealm shows that a registry cannot have the password sent to just
// any host, unless that host was allowed.
func TestForeignRealm(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{Auth: lab.Bearer}, img)
	// The realm is on localhost; the registry is now on 127.0.0.1.
	foreign := lab.Env{"REGISTRY_PROXY_REMOTEURL": up.URL()}

	m := module(t, up.Env(), foreign)
	a := get(t, manifestURL(m, img.Repo, img.Tag))
	if a.Status < 400 || a.Status == http.StatusNotFound {
		t.Errorf("status %d, want an error that is no 404\n%s", a.Status, a.Body)
	}
	a.code(t)
	if n := up.Counts().Tokens; n != 0 {
		t.Errorf("a strange token server was asked %d times\n%v", n, up)
	}

	allowed := module(t, up.Env(), foreign, lab.Env{"REGISTRY_PROXY_ALLOWEDREALMS": "[localhost]"})
	if a := get(t, manifestURL(allowed, img.Repo, img.Tag)); a.Status != http.StatusOK {
		t.Errorf("with the realm allowed: status %d, want 200\n%s", a.Status, a.Body)
	}
}
