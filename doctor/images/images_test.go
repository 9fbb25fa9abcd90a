package images

import (
	"strings"
	"testing"

	"registry-module/upstream"
)

func TestParse(t *testing.T) {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, test := range []struct{ host, image, repo, ref string }{
		{"quay.io", "a/b:v1", "a/b", "v1"},
		{"quay.io", "a/b", "a/b", "latest"},
		{"quay.io", "quay.io/a/b:v1", "a/b", "v1"},
		{"quay.io", "b", "b", "latest"},
		{"quay.io", "a/b@" + sum, "a/b", sum},
		{"quay.io", "a/b:v1@" + sum, "a/b", sum},
		{"localhost:5000", "localhost:5000/a", "a", "latest"},
		{upstream.DockerHub, "alpine", "library/alpine", "latest"},
		{upstream.DockerHub, "docker.io/alpine:3", "library/alpine", "3"},
		{upstream.DockerHub, "grafana/grafana:1", "grafana/grafana", "1"},
	} {
		repo, ref, err := Parse(test.host, test.image)
		if err != nil || repo != test.repo || ref != test.ref {
			t.Errorf("%s at %s: %s, %s, %v", test.image, test.host, repo, ref, err)
		}
	}
	for _, image := range []string{"", "A/b", "a b", "a/b:", "a/b:v 1", "a/b@", "a/b@sha256:1", "../a", "a//b", "https://quay.io/a/b"} {
		if repo, ref, err := Parse("quay.io", image); err == nil {
			t.Errorf("%q was accepted as %s, %s", image, repo, ref)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, host := range []string{"docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"} {
		u, err := upstream.ParseURL(host)
		if err != nil {
			t.Fatal(err)
		}
		if repo, ref, err := Parse(u.Host, Default(u.Host)); err != nil || repo+":"+ref != Default(u.Host) {
			t.Errorf("%s: %s, %s, %v", host, repo, ref, err)
		}
	}
	if image := Default("registry.example.com"); image != "" {
		t.Errorf("an image for a registry that nobody knows: %s", image)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a/b:v1")
	f.Add("a@sha256:@:")
	f.Fuzz(func(t *testing.T, image string) {
		repo, ref, err := Parse(upstream.DockerHub, image)
		if err == nil && (repo == "" || ref == "" || strings.ContainsAny(repo+ref, " ?#%\n")) {
			t.Errorf("%q is %q, %q", image, repo, ref)
		}
	})
}
