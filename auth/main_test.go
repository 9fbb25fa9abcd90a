package auth_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"go.uber.org/goleak"

	"registry-module/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write writes a file, under a name of its own where dir is empty, and returns its
// path.
func write(t *testing.T, path, content string) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "file")
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newChanging returns the credentials that opts describe, which can change.
func newChanging(t *testing.T, opts auth.Options) auth.Renewer {
	t.Helper()
	a, ok := auth.New(opts).(auth.Renewer)
	if !ok {
		t.Fatal("the credentials cannot be renewed")
	}
	return a
}

// wantConfig fails unless a gives want.
func wantConfig(t *testing.T, a authn.Authenticator, want authn.AuthConfig) {
	t.Helper()
	got, err := authn.Authorization(t.Context(), a)
	if err != nil {
		t.Errorf("error %v, want %+v", err, want)
	} else if *got != want {
		t.Errorf("credentials are %+v, want %+v", *got, want)
	}
}

// wantError fails unless a gives an error that says all of says, and no secret.
func wantError(t *testing.T, a authn.Authenticator, says ...string) {
	t.Helper()
	got, err := authn.Authorization(t.Context(), a)
	if err == nil {
		t.Fatalf("credentials are %+v, want an error", *got)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "s3cret") || len(err.Error()) > 500 {
		t.Errorf("error is not fit to be shown: %q", err)
	}
}

func user(name, password string) authn.AuthConfig {
	return authn.AuthConfig{Username: name, Password: password}
}

func TestNewStatic(t *testing.T) {
	if a := auth.New(auth.Options{Host: "registry.example.com"}); a != authn.Anonymous {
		t.Errorf("no credentials are %v, want Anonymous", a)
	}
	for name, tt := range map[string]struct {
		opts auth.Options
		want authn.AuthConfig
	}{
		"password":       {auth.Options{Username: "me", Password: "s3cret"}, user("me", "s3cret")},
		"identity token": {auth.Options{IdentityToken: "s3cret"}, authn.AuthConfig{IdentityToken: "s3cret"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := auth.New(tt.opts)
			wantConfig(t, a, tt.want)
			if _, ok := a.(interface{ Renew(authn.AuthConfig) bool }); ok {
				t.Error("what cannot change can be renewed")
			}
		})
	}
}

func TestNewTouchesNothing(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for name, opts := range map[string]auth.Options{
		"password file":       {Username: "me", PasswordFile: missing},
		"identity token file": {IdentityTokenFile: missing},
		"Docker config":       {DockerConfig: missing},
		"command":             {Command: missing},
	} {
		t.Run(name, func(t *testing.T) {
			a := newChanging(t, opts)
			wantError(t, a, "missing")
			if a.Renew(user("me", "s3cret")) && opts.Command == "" {
				t.Error("a file that is not there has other credentials")
			}
		})
	}
}
