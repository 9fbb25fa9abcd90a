package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestChanged has the keys of what is written otherwise, and no values.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := filepath.Join(dir, "config.yml")
	secret := write("secret", "first")
	load := func(text string) *Config {
		t.Helper()
		write("config.yml", "version: 0.1\n"+text)
		c, err := source{environ: []string{"REGISTRY_PROXY_HTTPPROXY_FILE=" + write("proxy", "http://proxy.test"), "REGISTRY_HTTP_SECRET_FILE=" + secret}, again: true}.load(path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const base = "proxy: {remoteurl: https://a.test, remotes: [{remoteurl: https://b.test}]}\n"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing":   {base, nil},
		"a comment": {base + "# so\n", nil},
		"scalars":   {base + "log: {level: debug}\ncache: {maxsize: 1GiB, pins: [a/b]}\n", []string{"cache.maxsize", "cache.pins", "log.level"}},
		"maps":      {base + "http: {headers: {X-A: [b]}}\n", []string{"http.headers.X-A"}},
		"remotes": {"proxy: {remoteurl: https://a.test, password: hidden, username: u, remotes: [{remoteurl: https://c.test}, {remoteurl: https://d.test}]}\n",
			[]string{"proxy.password", "proxy.remotes.0.remoteurl", "proxy.remotes.1.remoteurl", "proxy.username"}},
		"lists": {base + "notifications: {endpoints: [{name: a, url: http://a.test}]}\n", []string{"notifications.endpoints"}},
		"auth":  {base + "auth: {token: {realm: a, service: b, issuer: c, jwks: " + write("jwks", "{}") + "}}\n", []string{"auth.token"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := load(base)
			after := load(tt.text)
			if got := after.Changed(before); !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if got := before.Changed(after); len(got) != len(tt.want) {
				t.Errorf("back it is %q", got)
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		before := load(base)
		write("secret", "second")
		after := load(base)
		got := after.Changed(before)
		if !slices.Equal(got, []string{secret, "http.secret"}) {
			t.Errorf("%q", got)
		}
		if len(after.Files) != 3 || after.Files[path] == "" {
			t.Errorf("files %v", after.Files)
		}
	})
	if got := new(Config).Changed(load(base)); len(got) != 0 {
		t.Errorf("%q for what was not read", got)
	}
}

// TestReloadReadsNoPipe must not wait for somebody who writes, and names all files by which
// what is wrong could be mended.
func TestReloadReadsNoPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	missing := filepath.Join(t.TempDir(), "missing")
	if err := os.WriteFile(path, []byte("version: 0.1\nproxy: {remoteurl: https://a.test, ca: "+missing+"}\nlog: {level: loud}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := source{again: true}.load(path)
	errs, ok := err.(*Errors)
	if !ok || len(errs.Problems) != 2 {
		t.Fatalf("%v", err)
	}
	if !slices.Contains(errs.Files, path) || !slices.Contains(errs.Files, missing) {
		t.Errorf("files %q", errs.Files)
	}
	_, err = source{again: true}.load(os.DevNull)
	if err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}
