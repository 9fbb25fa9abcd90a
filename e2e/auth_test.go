package e2e

import (
	"net/http"
	"path/filepath"
	"testing"

	"registry-module/e2e/lab"
)

// TestInboundBasicAuth puts a password in front of the module, by the stock
// registry's settings.
func TestInboundBasicAuth(t *testing.T) {
	t.Parallel()
	const user, password = "site", "hunter2"
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	file := filepath.Join(tempDir(t), "htpasswd")
	if err := lab.WriteHtpasswd(file, user, password); err != nil {
		t.Fatal(err)
	}
	auth := lab.Env{
		"REGISTRY_AUTH":                "htpasswd",
		"REGISTRY_AUTH_HTPASSWD_REALM": "site registry",
		"REGISTRY_AUTH_HTPASSWD_PATH":  file,
	}
	m, stock := module(t, up.Env(), auth), stock(t, up.Env(), auth)

	refused := func(what string) {
		t.Helper()
		up.Reset()
		for _, path := range []string{
			"/v2/",
			"/v2/_catalog",
			"/v2/" + img.Repo + "/tags/list",
			"/v2/" + img.Repo + "/manifests/" + img.Tag,
			"/v2/" + img.Repo + "/manifests/" + img.Root().Digest.String(),
			"/v2/" + img.Repo + "/blobs/" + img.Blobs[0].Digest.String(),
		} {
			for _, header := range [][]string{nil, {"Authorization", "Basic d3Jvbmc6d3Jvbmc="}, {"Authorization", "Bearer x"}, {"Authorization", "nonsense"}} {
				got, want := get(t, m.URL()+path, header...), get(t, stock.URL()+path, header...)
				if got.Status != http.StatusUnauthorized || got.code(t) != "UNAUTHORIZED" {
					t.Errorf("%s, %s %v: status %d, want 401\n%s", what, path, header, got.Status, got.Body)
				}
				if g, w := got.Header.Get("WWW-Authenticate"), want.Header.Get("WWW-Authenticate"); g != w || g != `Basic realm="site registry"` {
					t.Errorf("%s, %s: challenge %q, the stock registry's %q", what, path, g, w)
				}
			}
		}
		requests(t, up, what, 0)
	}
	refused("cold")

	crane := lab.NewClient(tempDir(t), bin.crane)
	if out, err := crane.CLI(t.Context(), "validate", "--remote", img.ByTag(m.Addr)); err == nil {
		t.Errorf("crane pulls without credentials:\n%s", out)
	}
	if out, err := crane.CLI(t.Context(), "auth", "login", m.Addr, "--username", user, "--password", password); err != nil {
		t.Fatalf("auth login: %v\n%s", err, out)
	}
	for _, what := range []string{"cold", "warm"} {
		up.Reset()
		if out, err := crane.CLI(t.Context(), "validate", "--remote", img.ByTag(m.Addr)); err != nil {
			t.Fatalf("%s pull with credentials: %v\n%s", what, err, out)
		}
		for _, r := range up.Requests() {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("the client's credentials were passed on: %v", r)
			}
		}
	}
	requests(t, up, "warm pull with credentials", 0)

	// What is cached is no more public than before.
	refused("warm")
}
