package pattern_test

import (
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"

	"registry-module/internal/pattern"
)

func TestCompile(t *testing.T) {
	for text, want := range map[string]string{
		"**":                 "",
		"*":                  "",
		"library/*":          "",
		"docker.io/team/**":  "",
		"**/internal":        "",
		"{team/**,x}":        "",
		"team[0-9]/[!x]?":    "",
		"":                   "is empty",
		"{a":                 "is not a pattern",
		`a\`:                 "is not a pattern",
		"/library/*":         "has a slash at its beginning",
		"team/":              "has a slash at its beginning or end",
		"a//b":               "two in a row",
		"library/nginx:1.2":  "has characters that are in no name",
		"Library/*":          "has characters that are in no name",
		"a b":                "has characters that are in no name",
		"team/a**":           "has ** as a part of a component",
		"a,b":                "has a comma outside of braces",
		"{a,b},c":            "has a comma outside of braces",
		"{a,b}/{c,{d,e}}":    "",
		longPattern(2 << 10): "",
		longPattern(3 << 10): "is too long",
	} {
		_, err := pattern.Compile(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Compile(%.40q) = %v, want %q", text, err, want)
		}
	}
}

func TestCompileWithPort(t *testing.T) {
	for text, want := range map[string]string{
		"team/**":            "",
		"r.example:5000/x/*": "",
		"[::1]:5000/x":       "characters that are in no name",
		"r.example:5000":     "characters that are in no name",
		"r.example:/x":       "has the port",
		"r.example:70000/x":  "has the port",
		"r.example:05000/x":  "has the port",
		"r.example:0/x":      "has the port",
		"r.example:443/x":    "leave it out",
		"r.example:5000/x:1": "characters that are in no name",
		"R.example:5000/x":   "characters that are in no name",
		":5000/x":            "a slash at its beginning",
		"r*:5000/x":          "characters that are in no name",
	} {
		p, err := pattern.CompileWithPort(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("CompileWithPort(%q) = %v, want %q", text, err, want)
		}
		if err == nil && p.Match("r.example/x/y") {
			t.Errorf("%s matches another port", text)
		}
	}
	p, _ := pattern.CompileWithPort("r.example:5000/x/*")
	if !p.Match("r.example:5000/x/y") || p.Match("r.example:5000/y") {
		t.Error("a host with its port is not matched")
	}
}

func longPattern(n int) string { return strings.Repeat("a", n) }

func TestMatch(t *testing.T) {
	for text, names := range map[string]map[string]bool{
		"team/app":   {"team/app": true, "team/app/x": false, "team": false, "team/ap": false},
		"team/**":    {"team": true, "team/app": true, "team/a/b": true, "teams/a": false, "x/team/a": false},
		"team/*":     {"team": false, "team/app": true, "team/a/b": false},
		"**":         {"a": true, "a/b/c": true},
		"*":          {"a": true, "a/b": false},
		"**/app":     {"app": true, "a/b/app": true, "a/apps": false},
		"a/{**,b}":   {"a/b": true, "a/c/d": true, "ab": false},
		"a/**/b":     {"a/b": true, "a/x/y/b": true, "a": false},
		"line[0-9]":  {"line1": true, "linex": false},
		"quay.io/*":  {"quay.io/a": true, "quayxio/a": false},
		"quay[.]io":  {"quay.io": true},
		"te?m/**":    {"team/x": true, "tem/x": false, "team": true},
		"{a,b}/c/**": {"a/c": true, "b/c/d": true, "c/c": false},
	} {
		p, err := pattern.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range names {
			if got := p.Match(name); got != want {
				t.Errorf("%s matches %s: %v, want %v", text, name, got, want)
			}
		}
		if p.String() != text {
			t.Errorf("%s is shown as %s", text, p)
		}
	}
}

func TestFirst(t *testing.T) {
	for text, want := range map[string]string{
		"a": "a", "a/b": "a", "a/**": "a", "a/*": "a", "a/b*": "a", "r.example:5000/x": "r.example:5000",
		"**": "", "a*": "", "a{b,c}/d": "", "**/a": "", "[a]/b": "", `\a/b`: "",
	} {
		p, err := pattern.CompileWithPort(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := p.First(); got != want || ok != (want != "") {
			t.Errorf("%s begins with %q, %v, want %q", text, got, ok, want)
		}
	}
}

func TestAny(t *testing.T) {
	a, _ := pattern.Compile("a/*")
	b, _ := pattern.Compile("b")
	for name, tt := range map[string]struct {
		names []string
		want  bool
	}{
		"none":   {nil, false},
		"other":  {[]string{"c", "a"}, false},
		"second": {[]string{"c", "b"}, true},
		"first":  {[]string{"a/x"}, true},
	} {
		if got := pattern.Any([]pattern.Pattern{a, b}, tt.names); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// FuzzMatch compares with the package that says what patterns mean.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{{"team/**", "team"}, {"team/*", "team/a"}, {"a/{**,b}", "a"}, {"**/x", "x"}, {"a/[b]*", "a/bc"}, {`a\*`, "a*"}, {"a/**/**", "a"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		if len(text) > 100 || len(name) > 100 || name == "" || strings.HasSuffix(name, "/") || strings.Contains(name, "//") {
			return
		}
		p, err := pattern.Compile(text)
		if err != nil {
			return
		}
		if got, want := p.Match(name), doublestar.MatchUnvalidated(text, name); got != want {
			t.Errorf("%q matches %q: %v, want %v", text, name, got, want)
		}
		if first, ok := p.First(); ok && p.Match(name) && name != first && !strings.HasPrefix(name, first+"/") {
			t.Errorf("%q matches %q, which does not begin with %q", text, name, first)
		}
	})
}
