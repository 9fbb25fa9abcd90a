package config

import (
	"strings"
	"testing"
)

func TestCheckPin(t *testing.T) {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for name, tt := range map[string]struct{ pattern, wrong string }{
		"repository":             {"team/app", ""},
		"tag":                    {"team/app:v1.2_3-RC", ""},
		"digest":                 {"team/app@" + sum, ""},
		"tag and digest":         {"team/app:v1@" + sum, ""},
		"all":                    {"**", ""},
		"all below":              {"team/**:v[!a-z]*", ""},
		"alternatives":           {"team/{a,b}:{x,y?}", ""},
		"host":                   {"quay.io/team/app:1", ""},
		"host with port":         {"registry.example.com:5000/team/app:1", ""},
		"address of the server":  {"$upstream:8000/team/app:1", ""},
		"address and class":      {"localhost:8000/team/[a-c]*", ""},
		"as it is stored":        {"@quay.io/quay.io/a:1", ""},
		"empty":                  {"", "names no repository"},
		"tag alone":              {":1", "names no repository"},
		"address alone":          {"localhost:8000/", "names no repository"},
		"no tag":                 {"a:", "ends where a tag"},
		"no digest":              {"a@", "ends where a tag"},
		"short digest":           {"a@sha256:e3b0", "not the digest"},
		"digest with a pattern":  {"a@sha256:*", "not the digest"},
		"brace without end":      {"a/{b", "is not a pattern"},
		"tag without end":        {"a:[1", "tag that is not a pattern"},
		"upper case":             {"A/b", "no name of a repository"},
		"space":                  {"a b", "no name of a repository"},
		"control character":      {"a\x1b[31m", "not a pattern"},
		"space in a tag":         {"a:b c", "in no tag"},
		"two tags":               {"a:b:c", "no name of a repository"},
		"slash in front":         {"/a", "a slash at its beginning"},
		"two slashes":            {"a//b", "two in a row"},
		"stars in a component":   {"a**/b", "as a part of a component"},
		"parent":                 {"a/../b:1", ""}, // which no repository is called
		"address with a pattern": {"*:8000/a", "no name of a repository"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckPin(tt.pattern)
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%q: %v, want %q", tt.pattern, err, tt.wrong)
			}
		})
	}
}

func TestCutReference(t *testing.T) {
	for image, want := range map[string][3]string{
		"":                     {},
		"a":                    {"a", "", ""},
		"a:1":                  {"a", "1", ""},
		"a/b:1@sha256:2":       {"a/b", "1", "sha256:2"},
		"a@sha256:2":           {"a", "", "sha256:2"},
		"h:5/a":                {"h:5/a", "", ""},
		"h:5/a:1":              {"h:5/a", "1", ""},
		"@h/a/b":               {"@h/a/b", "", ""},
		"@h:1/a/b:1@sha256:12": {"@h:1/a/b", "1", "sha256:12"},
		"a:b:c":                {"a:b", "c", ""},
	} {
		repository, tag, dgst := CutReference(image)
		if got := [3]string{repository, tag, dgst}; got != want {
			t.Errorf("%q is %q, want %q", image, got, want)
		}
	}
}

func FuzzCheckPin(f *testing.F) {
	f.Add("team/app:1")
	f.Add("{a,[b")
	f.Fuzz(func(t *testing.T, pattern string) {
		if CheckPin(pattern) == nil && strings.ContainsAny(pattern, " \t\n\x1b\"'<") {
			// Only the address of a server can have such, which is cut off.
			if first, _, ok := strings.Cut(pattern, "/"); !ok || !strings.Contains(first, ":") {
				t.Errorf("%q was accepted", pattern)
			}
		}
	})
}
