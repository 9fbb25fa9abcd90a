package upstream_test

import (
	"strings"
	"testing"

	"registry-module/upstream"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"registry.example.com":                "https://registry.example.com",
		"https://registry.example.com":        "https://registry.example.com",
		"https://registry.example.com/":       "https://registry.example.com",
		"https://registry.example.com/v2":     "https://registry.example.com",
		"https://registry.example.com/v2/":    "https://registry.example.com",
		" https://registry.example.com//\n":   "https://registry.example.com",
		"HTTPS://Registry.Example.COM":        "https://registry.example.com",
		"registry.example.com:5000":           "https://registry.example.com:5000",
		"localhost:5000":                      "https://localhost:5000",
		"http://localhost:5000":               "http://localhost:5000",
		"https://registry.example.com:443":    "https://registry.example.com",
		"http://registry.example.com:80":      "http://registry.example.com",
		"http://registry.example.com:443":     "http://registry.example.com:443",
		"http://10.0.0.1:5000":                "http://10.0.0.1:5000",
		"http://[::1]:5000":                   "http://[::1]:5000",
		"http://[0:0::1]":                     "http://[::1]",
		"http://registry_1:5000":              "http://registry_1:5000",
		"docker.io":                           "https://registry-1.docker.io",
		"https://index.docker.io/v2/":         "https://registry-1.docker.io",
		"https://docker.io:443":               "https://registry-1.docker.io",
		"https://registry-1.docker.io":        "https://registry-1.docker.io",
		"https://mydocker.io":                 "https://mydocker.io",
		"https://registry.example.com:65535/": "https://registry.example.com:65535",
	} {
		u, err := upstream.ParseURL(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if u.String() != want {
			t.Errorf("%q is %s, want %s", in, u, want)
		}
	}
	for in, part := range map[string]string{
		"":                              "empty",
		"  ":                            "empty",
		"https://":                      "no host",
		"https://:5000":                 "no host",
		"https:///v2":                   "no host",
		"ftp://registry.example.com":    `"ftp"`,
		"https://me:secret@ghcr.io":     "user name and password of the remote",
		"me:secret@ghcr.io":             "user name and password of the remote",
		"https://ghcr.io?secret":        "query",
		"https://ghcr.io/?":             "query",
		"https://ghcr.io/#secret":       "fragment",
		"https://ghcr.io/library":       `"/library"`,
		"https://ghcr.io/library/v2":    `"/library"`,
		"https://ghcr.io/v1":            `"/v1"`,
		"https://ghcr.io:0":             "port",
		"https://ghcr.io:65536":         "port",
		"https://ghcr.io:x":             "cannot be read",
		"https://gh cr.io":              "cannot be read",
		"https://me:secret@gh cr.io":    "cannot be read",
		"https://ghcr.io\x00":           "cannot be read",
		"https://ghcr\u00e9.io":         "not allowed",
		"https://[fe80::1%25eth0]:5000": "zone",
	} {
		u, err := upstream.ParseURL(in)
		if err == nil {
			t.Errorf("%q accepted as %s", in, u)
			continue
		}
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q: error %q does not say %q", in, err, part)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %q shows a secret", in, err)
		}
	}
}

func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{
		"docker.io":                 upstream.DockerHub,
		"DOCKER.io":                 upstream.DockerHub,
		"index.docker.io":           upstream.DockerHub,
		"registry-1.docker.io":      upstream.DockerHub,
		"docker.io:443":             upstream.DockerHub,
		"hub.docker.io":             "hub.docker.io",
		"MCR.Microsoft.com":         "mcr.microsoft.com",
		"registry.example.com:443":  "registry.example.com",
		"registry.example.com:80":   "registry.example.com:80",
		"registry.example.com:5000": "registry.example.com:5000",
		"localhost:5000":            "localhost:5000",
		"10.0.0.1:5000":             "10.0.0.1:5000",
		"[0:0::1]:5000":             "[::1]:5000",
		// These are the name of nothing, and equal to that of nothing.
		"":                         "",
		"https://docker.io":        "https://docker.io",
		"docker.io/":               "docker.io/",
		"Docker.io/library":        "docker.io/library",
		"me:secret@docker.io":      "me:secret@docker.io",
		"docker.io?x":              "docker.io?x",
		"docker.io:0":              "docker.io:0",
		"docker\u00e9.io":          "docker\u00e9.io",
		"registry.example.com\x00": "registry.example.com\x00",
	} {
		if got := upstream.HostOf(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
		// What has a URL has its host.
		if u, err := upstream.ParseURL(want); err == nil && !strings.ContainsAny(want, "/?@") && u.Host != want {
			t.Errorf("%q is %q, and that has the host %q", in, want, u.Host)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"docker.io", "http://[::1]:5000/v2/", "https://u:p@h:1/?q#f", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := upstream.ParseURL(s)
		if err != nil {
			return
		}
		again, err := upstream.ParseURL(u.String())
		if err != nil || *again != *u {
			t.Errorf("%q is %s, and that is %v, %v", s, u, again, err)
		}
		if got := upstream.HostOf(u.Host); u.Scheme == "https" && got != u.Host {
			t.Errorf("%q has the host %q, and that is %q", s, u.Host, got)
		}
		if u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q is %#v", s, u)
		}
	})
}
