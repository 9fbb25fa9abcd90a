package doctor

import (
	"strings"
	"testing"
	"time"

	"registry-module/upstream"
)

func TestParseImage(t *testing.T) {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, test := range []struct{ host, image, repo, ref string }{
		{"quay.io", "a/b:v1", "a/b", "v1"},
		{"quay.io", "a/b", "a/b", "latest"},
		{"quay.io", "quay.io/a/b:v1", "a/b", "v1"},
		{"quay.io", "b", "b", "latest"},
		{"quay.io", "a/b@" + sum, "a/b", sum},
		{"quay.io", "a/b:v1@" + sum, "a/b", sum},
		{"localhost:5000", "localhost:5000/a", "a", "latest"},
		{dockerHub, "alpine", "library/alpine", "latest"},
		{dockerHub, "docker.io/alpine:3", "library/alpine", "3"},
		{dockerHub, "grafana/grafana:1", "grafana/grafana", "1"},
	} {
		repo, ref, err := ParseImage(test.host, test.image)
		if err != nil || repo != test.repo || ref != test.ref {
			t.Errorf("%s at %s: %s, %s, %v", test.image, test.host, repo, ref, err)
		}
	}
	for _, image := range []string{"", "A/b", "a b", "a/b:", "a/b:v 1", "a/b@", "a/b@sha256:1", "../a", "a//b", "https://quay.io/a/b"} {
		if repo, ref, err := ParseImage("quay.io", image); err == nil {
			t.Errorf("%q was accepted as %s, %s", image, repo, ref)
		}
	}
}

func TestDefaultImages(t *testing.T) {
	for _, host := range []string{"docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"} {
		u, err := upstream.ParseURL(host)
		if err != nil {
			t.Fatal(err)
		}
		if repo, ref, err := ParseImage(u.Host, DefaultImage(u.Host)); err != nil || repo+":"+ref != DefaultImage(u.Host) {
			t.Errorf("%s: %s, %s, %v", host, repo, ref, err)
		}
	}
	if image := DefaultImage("registry.example.com"); image != "" {
		t.Errorf("an image for a registry that nobody knows: %s", image)
	}
}

func FuzzParseImage(f *testing.F) {
	f.Add("a/b:v1")
	f.Add("a@sha256:@:")
	f.Fuzz(func(t *testing.T, image string) {
		repo, ref, err := ParseImage(dockerHub, image)
		if err == nil && (repo == "" || ref == "" || strings.ContainsAny(repo+ref, " ?#%\n")) {
			t.Errorf("%q is %q, %q", image, repo, ref)
		}
	})
}

func TestReadQuota(t *testing.T) {
	for _, test := range []struct {
		text   string
		n      int64
		window time.Duration
		ok     bool
	}{
		{"100;w=21600", 100, 6 * time.Hour, true},
		{"100", 100, 0, true},
		{" 7 ; w=60", 7, time.Minute, true},
		{"7;w=-1", 7, 0, true},
		{"7;w=99999999999999999999", 7, 0, true},
		{"", 0, 0, false},
		{"-1;w=60", 0, 0, false},
		{"99999999999999999999", 0, 0, false},
	} {
		n, window, ok := readQuota(test.text)
		if n != test.n || window != test.window || ok != test.ok {
			t.Errorf("%q: %d, %v, %v", test.text, n, window, ok)
		}
	}
}
