package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	for pattern, want := range map[string]string{
		"**":                      "",
		"*":                       "",
		"library/*":               "",
		"team/**":                 "",
		"**/internal":             "",
		"team/**/x":               "",
		"nginx":                   "",
		"a.b":                     "", // one component is no host
		"b-c__d/e.f":              "",
		"{a,b}/c":                 "",
		"{team/**,x}":             "",
		"team[0-9]/[!x]?":         "",
		"team[0-9]/[^x]?":         "",
		"my[.]group/**":           "",
		"*.example.com/**":        "",
		"quay.io/team/*":          "", // a namespace
		"":                        "is empty",
		"{a":                      "is not a pattern",
		"[a":                      "is not a pattern",
		`a\`:                      "is not a pattern",
		"/library/*":              "has a slash at its beginning",
		"team/":                   "has a slash at its beginning or end",
		"/":                       "has a slash",
		"a//b":                    "two in a row",
		"docker.io/library/*":     "begins with what looks like a host: write names as the remote knows them, for example library/*;",
		"r.example.com:5000/x":    "begins with what looks like a host",
		"r.example.com/**":        "begins with what looks like a host",
		"localhost/x":             "begins with what looks like a host",
		"ghcr.io/x":               "begins with what looks like a host",
		"library/nginx:1.2":       "has characters that are in no name",
		"nginx@sha256":            "has characters that are in no name",
		"Library/*":               "has characters that are in no name",
		"!team/**":                "has characters that are in no name",
		"a b":                     "has characters that are in no name",
		"team**":                  "has ** as a part of a component",
		"team/a**":                "has ** as a part of a component",
		"***":                     "has ** as a part of a component",
		"https://quay.io/x":       "two in a row",
		strings.Repeat("a/", 999): "has a slash",
	} {
		got := badPattern(pattern, []string{"quay.io"})
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("badPattern(%.40q) = %q, want %q", pattern, got, want)
		}
	}
}

// TestPatternsInVariables shows that what YAML would read otherwise is plain text
// there.
func TestPatternsInVariables(t *testing.T) {
	for value, want := range map[string]string{
		"*":                   "[*]",
		"**":                  "[**]",
		"**/x, *":             "[**/x *]",
		"[a-z]*/x":            "[[a-z]*/x]",
		"'team/**'":           "[team/**]",
		`"team/**, x"`:        "[team/** x]",
		"[team/**, library]":  "[team/** library]",
		"['**', x]":           "[** x]",
		" a\tb ,, c\r\n":      "[a b c]",
		"null":                "[null]",
		"1.0":                 "[1.0]",
		"team/*#x":            "",
		"x #y":                "",
		"[a-z]/x[0-9]":        "[[a-z]/x[0-9]]",
		"[a-z], [0-9]":        "[[a-z] [0-9]]",
		"!team/**":            "",
		"'team/**', 'x'":      "",
		"{a,b}/c":             "[{a,b}/c]",
		"{a,b}/{c,{d,e}},x":   "[{a,b}/{c,{d,e}} x]",
		"a{b,c, x":            "",
		"a},b":                "",
		"['a', {b: c}]":       "",
		"[unclosed, team/**":  "",
		"https://quay.io/t/*": "",
	} {
		c, err := loadWith(t, "", "REGISTRY_PROXY_REMOTEURL_2=r", "REGISTRY_PROXY_DENY_2="+value)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is accepted: %q", value, c.Remotes[0].Deny)
		case want != "" && (err != nil || fmt.Sprint(c.Remotes[0].Deny) != want):
			t.Errorf("%q: got %v, %v, want %s", value, c, err, want)
		}
	}
}
