package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"registry-module/cache"
)

// What names mean to who explains, by the remotes of threeRemotes.
func TestExplained(t *testing.T) {
	n := named(t, &fakeStore{}, fakeBindings{})
	for image, want := range map[string]string{
		"team/app":                   "team/app latest fetched mcr.test/team/app registry-1.docker.io/team/app",
		"team/app:1":                 "team/app 1 fetched mcr.test/team/app registry-1.docker.io/team/app",
		"alpine":                     "alpine latest fetched registry-1.docker.io/library/alpine",
		"docker.io/nginx:1":          "docker.io/nginx 1 fetched registry-1.docker.io/library/nginx",
		"localhost:8000/docker.io/a": "docker.io/a latest fetched registry-1.docker.io/library/a",
		"gateway:8000/team/app":      "team/app latest fetched mcr.test/team/app registry-1.docker.io/team/app",
		"mcr.test/denied:1":          "mcr.test/denied 1 not found",
	} {
		e, err := n.Explain(t.Context(), image)
		if err != nil {
			t.Errorf("%s: %v", image, err)
			continue
		}
		got := e.Name + " " + e.Reference + " " + string(e.Verdict)
		if e.Place.Host != "" {
			e.Among = []cache.Place{e.Place}
		}
		for _, p := range e.Among {
			got += " " + p.Host + "/" + p.Repo
		}
		if got != want || (e.Refused != "") != strings.Contains(image, "denied") {
			t.Errorf("%s: %s %q, want %s", image, got, e.Refused, want)
		}
	}
	for _, image := range []string{"", "UPPER/case", "a b", "a//b", "<b>", "gateway:8000/"} {
		if _, err := n.Explain(t.Context(), image); !errors.Is(err, errBadPattern) {
			t.Errorf("%q: %v", image, err)
		}
	}
}

func TestExplanationText(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		e    cache.Explanation
		want string
	}{
		"from the store": {cache.Explanation{
			Place: cache.Place{Host: "quay.io", Repo: "team/app"}, Verdict: cache.FromStoreAlone,
			Tag:    &cache.TagExplanation{Digest: "sha256:abc", Confirmed: now.Add(-time.Minute), TTL: 5 * time.Minute, Fresh: now.Add(4 * time.Minute), Rule: "*=5m"},
			Stored: cache.Count{Times: 5, Bytes: 34 << 20}, Missing: cache.Count{Times: 1, Bytes: 3 << 20}, Kept: 1 << 20, Absent: []string{"linux/arm64"},
		}, `
Image:       app:1
Means:       team/app of quay.io
A pull now:  is answered from the store; quay.io is not asked
Tag:         sha256:abc, confirmed 1 minute ago
             not asked about until 2026-11-28T12:04:00Z (4 minutes from now), by the rule *=5m
Blobs:       5 are stored (34 MiB), 1 is fetched when it is asked for (3.0 MiB), of which 1.0 MiB are there from a download that broke off
Not stored:  the platforms linux/arm64
`},
		"not known which": {cache.Explanation{
			Among: []cache.Place{{Host: "a.test", Repo: "app"}, {Host: "b.test", Repo: "library/app"}}, Verdict: cache.Fetched, Why: "which remote is meant has to be found out first",
		}, `
Image:       app:1
Means:       the first that has it of app of a.test, library/app of b.test
A pull now:  is fetched from the remote
Because:     which remote is meant has to be found out first
`},
		"hostile": {cache.Explanation{
			Place: cache.Place{Host: "a.test", Repo: "app"}, Verdict: cache.NotToBeHad, Why: "\x1b[31mred", Away: "\x1b[31mred",
		}, `
Image:       app:1
Means:       app of a.test
A pull now:  fails with 503: it is not stored, or too old, and a.test cannot be asked
Because:     "\x1b[31mred"
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := printExplanation(&out, explanation{Name: "app", Reference: "1", Explanation: tt.e}, now); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != strings.TrimPrefix(tt.want, "\n") {
				t.Errorf("got\n%swant%s", got, tt.want)
			}
		})
	}
}
