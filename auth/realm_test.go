package auth_test

import (
	"net/url"
	"strings"
	"testing"

	"registry-module/auth"
)

func TestRealmPolicy(t *testing.T) {
	for _, test := range []struct {
		name     string
		registry string
		realm    string
		allowed  []string
		refused  string // part of the error; empty: accepted
	}{
		{"same host", "https://ghcr.io", "https://ghcr.io/token", nil, ""},
		{"same host, other case", "https://ghcr.io", "https://GHCR.io./token", nil, ""},
		{"same host, other port", "https://registry.example.com", "https://registry.example.com:5001/auth", nil, ""},
		{"Docker Hub", "https://registry-1.docker.io", "https://auth.docker.io/token", nil, ""},
		{"parent domain", "https://registry.gitlab.com", "https://gitlab.com/jwt/auth", nil, ""},
		{"other domain", "https://registry.example.com", "https://evil.example.net/token", nil, "add evil.example.net to the realms"},
		{"suffix without dot", "https://docker.io", "https://evildocker.io/token", nil, "another domain"},
		{"public suffix of two labels", "https://a.co.uk", "https://b.co.uk/token", nil, "another domain"},
		{"private public suffix", "https://a.github.io", "https://b.github.io/token", nil, "another domain"},
		{"single label", "https://registry", "https://auth/token", nil, "another domain"},
		{"single label, same", "https://registry:5000", "https://registry/token", nil, ""},
		{"unlisted suffix", "https://registry.plant.corp", "https://auth.plant.corp/token", nil, ""},
		{"registry is a public suffix", "https://co.uk", "https://b.co.uk/token", nil, "another domain"},

		{"IP, same", "http://127.0.0.1:5000", "http://127.0.0.1:5001/token", nil, ""},
		{"IP, other", "http://127.0.0.1:5000", "http://127.0.0.2:5000/token", nil, "another domain"},
		{"IPs look like names of one domain", "https://10.0.0.1", "https://20.0.0.1/token", nil, "another domain"},
		{"IPv6, same", "https://[::1]:5000", "https://[0:0::1]/token", nil, ""},
		{"IPv4 in IPv6", "https://10.0.0.1", "https://[::ffff:10.0.0.1]/token", nil, ""},
		{"metadata service", "https://registry.example.com", "http://169.254.169.254/latest", nil, "over http, but"},
		{"metadata service over https", "https://registry.example.com", "https://169.254.169.254/latest", nil, "another domain"},
		{"localhost, same", "http://localhost:5000", "http://localhost:5001/token", nil, ""},
		{"localhost from outside", "https://registry.example.com", "https://localhost/token", nil, "another domain"},

		{"allowed", "https://lscr.io", "https://ghcr.io/token", []string{"ghcr.io"}, ""},
		{"allowed, any port", "https://lscr.io", "https://ghcr.io:8443/token", []string{"x.io", "GHCR.io"}, ""},
		{"allowed port", "https://lscr.io", "https://ghcr.io/token", []string{"ghcr.io:443"}, ""},
		{"port not allowed", "https://lscr.io", "https://ghcr.io:444/token", []string{"ghcr.io:443"}, "another domain"},
		{"allowed IP", "https://registry.example.com", "https://10.0.0.9/token", []string{"10.0.0.9"}, ""},
		{"allowed IPv6", "https://registry.example.com", "https://[fd00::9]:8443/token", []string{"[fd00:0::9]:8443"}, ""},
		{"allowed covers no subdomains", "https://lscr.io", "https://a.ghcr.io/token", []string{"ghcr.io"}, "another domain"},

		{"downgrade", "https://registry.example.com", "http://registry.example.com/token", nil, "over http, but"},
		{"downgrade of an allowed host", "https://lscr.io", "http://ghcr.io/token", []string{"ghcr.io"}, "over http, but"},
		{"upgrade", "http://registry.example.com", "https://auth.example.com/token", nil, ""},
		{"other scheme", "http://registry.example.com", "ftp://registry.example.com/token", nil, `"ftp"`},
		{"no scheme", "https://ghcr.io", "//ghcr.io/token", nil, `""`},
		{"relative", "https://ghcr.io", "/token", nil, "names no token service"},
		{"empty", "https://ghcr.io", "", nil, "names no token service"},
		{"no URL", "https://ghcr.io", "https://gh cr.io/\x00secret", nil, "not a URL"},
		{"long host", "https://ghcr.io", "https://" + strings.Repeat("a", 100_000) + ".io/token", nil, "or too many"},
		{"host as long as can be", "https://ghcr.io", "https://" + strings.Repeat("a.", 125) + "aa.io:65535/token", nil, "another domain"},
		{"long port", "https://ghcr.io", "https://ghcr.io:" + strings.Repeat("4", 300) + "/token", nil, "or too many"},
		{"long scheme", "https://ghcr.io", strings.Repeat("a", 100_000) + "://ghcr.io/token", nil, "not https"},
		{"control characters", "https://ghcr.io", "https://a\u009b2J.io/token", nil, "not allowed"},
		{"writing from right to left", "https://ghcr.io", "https://a\u202egro.io/token", nil, "not allowed"},
		{"escaped", "https://ghcr.io", "https://a%c2%9b2J.io/token", nil, "not allowed"},
		{"zone", "https://ghcr.io", "https://[fe80::1%25a%c2%9bb]/token", nil, "not a URL"},
		{"userinfo", "https://ghcr.io", "https://me:secret@ghcr.io/token", nil, "credentials in the URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry, err := url.Parse(test.registry)
			if err != nil {
				t.Fatal(err)
			}
			policy, err := auth.NewRealmPolicy(test.allowed...)
			if err != nil {
				t.Fatal(err)
			}
			u, err := policy.Check(registry, test.realm)
			switch {
			case test.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.refused == "" && u.String() != test.realm && !strings.EqualFold(u.String(), test.realm):
				t.Errorf("URL is %s", u)
			case test.refused != "" && err == nil:
				t.Error("accepted")
			case test.refused != "" && !strings.Contains(err.Error(), test.refused):
				t.Errorf("error %q does not say %q", err, test.refused)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("error %q shows a secret", err)
			case err != nil && (len(err.Error()) > 1000 || strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' || c >= 0x7f })):
				t.Errorf("error %q is not fit to be shown", err)
			}
		})
	}
}

func TestRealmPolicyRefusesEntries(t *testing.T) {
	for _, entry := range []string{"", "https://auth.example.com", "auth.example.com/token", "a b", "u@auth.example.com", ":443", "auth.example.com:x"} {
		if _, err := auth.NewRealmPolicy("ok.example.com", entry); err == nil {
			t.Errorf("entry %q accepted", entry)
		}
	}
}
