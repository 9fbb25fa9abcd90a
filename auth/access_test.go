package auth_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
)

func TestStatic(t *testing.T) {
	if a := auth.Static("", ""); a != authn.Anonymous {
		t.Errorf("no credentials are %v, want Anonymous", a)
	}
	cfg, err := authn.Authorization(t.Context(), auth.Static("me", "secret"))
	if err != nil || *cfg != (authn.AuthConfig{Username: "me", Password: "secret"}) {
		t.Errorf("credentials are %+v, %v", cfg, err)
	}
}

func TestNewAccessController(t *testing.T) {
	dir := t.TempDir()
	passwords := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(passwords, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing", "htpasswd")
	for _, test := range []struct {
		name       string
		controller string
		params     map[string]any
		refused    []string // parts of the error; empty: accepted
	}{
		{"htpasswd", "htpasswd", map[string]any{"realm": "r", "path": passwords}, nil},
		{"htpasswd without realm", "htpasswd", map[string]any{"path": passwords}, []string{`"htpasswd"`, `"realm"`}},
		{"htpasswd without path", "htpasswd", map[string]any{"realm": "r"}, []string{`"htpasswd"`, `"path"`}},
		{"htpasswd without file", "htpasswd", map[string]any{"realm": "r", "path": missing}, []string{`"htpasswd"`, missing, "htpasswd -Bc"}},
		{"panic", "htpasswd", map[string]any{"realm": "r", "path": passwords, "overrideDummyHash": 1}, []string{`"htpasswd"`}},
		{"token without anything", "token", nil, []string{`"token"`, `"realm"`}},
		{"token without keys", "token", map[string]any{"realm": "https://r/", "issuer": "i", "service": "s"}, []string{`"token"`}},
		{"silly", "silly", map[string]any{"realm": "r", "service": "s"}, []string{`"silly"`}},
		{"none", "", nil, []string{`""`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ac, err := auth.NewAccessController(test.controller, test.params)
			if len(test.refused) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := ac.Authorized(httptest.NewRequest("GET", "/v2/", nil)); err == nil {
					t.Error("a request without credentials is authorized")
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range test.refused {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
	if _, err := os.Stat(filepath.Dir(missing)); err == nil {
		t.Error("a directory for the missing file was made")
	}
}
