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

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second: "1 second", -90 * time.Second: "90 seconds", 3 * time.Minute: "3 minutes", 30 * time.Hour: "30 hours", 72 * time.Hour: "3 days",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for listen, want := range map[string]string{
		":8000": "127.0.0.1:8000", "0.0.0.0:8000": "127.0.0.1:8000", "[::]:8000": "[::1]:8000", "192.0.2.1:80": "192.0.2.1:80", "localhost:80": "localhost:80",
	} {
		if got := reachable("tcp", listen); got != want {
			t.Errorf("%s is reached at %s, want %s", listen, got, want)
		}
	}
	if got := reachable("unix", "/run/x"); got != "/run/x" {
		t.Errorf("a socket is reached at %s", got)
	}
}

func TestSpace(t *testing.T) {
	const gib = 1 << 30
	tenth := func(whole int64) int64 { return whole / 10 }
	for _, test := range []struct {
		name        string
		local       Local
		free, whole int64
		want        Status
		text        string
	}{
		{"enough", Local{MinFree: tenth}, 50 * gib, 100 * gib, OK, "50 GiB of 100 GiB are free, of which 10 GiB stay free"},
		{"no limits", Local{}, 50 * gib, 100 * gib, OK, "50 GiB of 100 GiB are free"},
		{"with a limit", Local{MaxSize: 20 * gib}, 50 * gib, 100 * gib, OK, "at most 20 GiB are kept"},
		{"reserve reached", Local{MinFree: tenth}, 9 * gib, 100 * gib, Failed, "9.0 GiB"},
		{"full", Local{}, 0, 100 * gib, Failed, "0 B"},
		{"limit that cannot be reached", Local{MinFree: tenth, MaxSize: 95 * gib}, 50 * gib, 100 * gib, Warning, "more than there can be"},
		{"little", Local{MinFree: tenth}, 10*gib + gib/2, 100 * gib, Warning, "10 GiB"},
	} {
		f := judgeSpace(test.local, test.free, test.whole)
		if f.Status != test.want || !strings.Contains(f.Text, test.text) || (f.Status == OK) != (f.Advice == "") {
			t.Errorf("%s: %+v", test.name, f)
		}
	}
}
