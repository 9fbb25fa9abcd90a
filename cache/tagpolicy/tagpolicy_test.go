package tagpolicy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"registry-module/cache/tagpolicy"
)

// rulesOf reads rules that are separated by spaces.
func rulesOf(t testing.TB, text string) tagpolicy.Rules {
	t.Helper()
	var rules tagpolicy.Rules
	for s := range strings.FieldsSeq(text) {
		r, err := tagpolicy.Parse(s)
		if err != nil {
			t.Fatalf("%q %v", s, err)
		}
		rules = append(rules, r)
	}
	return rules
}

func TestFind(t *testing.T) {
	const many = "semver=immutable library/**:latest=always team/app:{stable,prod-*}=1h *=10m"
	tests := map[string]struct {
		rules     string
		repo, tag string
		want      string // the policy, nothing where no rule matches
	}{
		"no rules":                       {"", "library/nginx", "latest", ""},
		"none matches":                   {"stable=1h", "library/nginx", "latest", ""},
		"version":                        {many, "library/nginx", "1.27.3", "immutable"},
		"pattern of repositories":        {many, "library/nginx", "latest", "always"},
		"pattern of other repositories":  {many, "team/app", "latest", "10m"},
		"first in braces":                {many, "team/app", "stable", "1h"},
		"second in braces":               {many, "team/app", "prod-7", "1h"},
		"first rule wins":                {"v*=1h v1=2h", "a", "v1", "1h"},
		"later rule":                     {"v1=1h v*=2h", "a", "v2", "2h"},
		"whole tag":                      {"latest=1h", "a", "latest-arm64", ""},
		"end of the tag":                 {"latest=1h", "a", "xlatest", ""},
		"upper case":                     {"latest=1h", "a", "Latest", ""},
		"upper case in the rule":         {"RC*=1h", "a", "RC1", "1h"},
		"question mark":                  {"v?=1h", "a", "v10", ""},
		"class":                          {"v[0-9]=1h", "a", "v5", "1h"},
		"class that is negated":          {"[!v]*=1h", "a", "v5", ""},
		"class that is negated by caret": {"[^v]*=1h", "a", "x5", "1h"},
		"class with a comma":             {"{v[a,b]c,d}=1h", "a", "vbc", "1h"},
		"class with a brace":             {"{v[}]c,d}=1h", "a", "d", "1h"},
		"braces in braces":               {"{a,{b,c}d}e=1h", "a", "cde", "1h"},
		"braces twice":                   {"{a,b}-{c,d}=1h", "a", "b-c", "1h"},
		"nothing in braces":              {"v1{,.0}=1h", "a", "v1", "1h"},
		"asterisk of any length":         {"*-rc*=1h", "a", "v1.0.0-rc", "1h"},
		"two asterisks":                  {"**=1h", "a", "v1.0.0-rc", "1h"},
		"one component":                  {"library/*:*=1h", "library/a/b", "x", ""},
		"any components":                 {"team/**:*=1h", "team/a/b", "x", "1h"},
		"no component":                   {"team/**:*=1h", "team", "x", "1h"},
		"end of a name":                  {"**/app:*=1h", "a/b/app", "x", "1h"},
		"braces of repositories":         {"{team/**,x}:*=1h", "team/b/c", "x", "1h"},
		"all repositories":               {"**:x=1h", "team/b/c", "x", "1h"},
		"name of a repository":           {"semver:x=1h", "1.2.3", "x", ""},
		"version in braces":              {"{semver,stable}=immutable", "a", "v1.2.3", "immutable"},
		"beside a version in braces":     {"{semver,stable}=immutable", "a", "stable", "immutable"},
		"version and more":               {"semver-x=1h", "a", "1.2.3-x", ""},
		"tag called semver":              {"semver=1h", "a", "semver", ""},
		"tag called semver, by a class":  {"[s]emver=1h", "a", "semver", "1h"},
		"escaped":                        {`\v1=1h`, "a", "v1", "1h"},
		"empty tag":                      {"v*=1h", "a", "", ""},
		"0 is always":                    {"v*=0", "a", "v1", "always"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if p, ok := rulesOf(t, tt.rules).Find(tt.repo, tt.tag); ok {
				got = p.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	versions := rulesOf(t, "semver=immutable")
	for tag, want := range map[string]bool{
		"1.2.3":                             true,
		"v1.2.3":                            true,
		"0.0.0":                             true,
		"10.20.30":                          true,
		"1.2.3-rc.1":                        true,
		"1.2.3-0":                           true,
		"1.2.3-0a":                          true,
		"1.2.3--":                           true,
		"1.2.3-alpine3.20":                  true,
		"1.2.3-a-b.c":                       true,
		"1.2.3_build.7":                     true,
		"1.2.3+build.7":                     true,
		"1.2.3-rc.1_007":                    true,
		"1.2.3_a-b":                         true,
		"99999999999999999999.0.1":          true,
		"1.2.3_" + strings.Repeat("a", 120): true,
		"":                                  false,
		"v":                                 false,
		"1":                                 false,
		"1.2":                               false,
		"1.2.":                              false,
		"1..3":                              false,
		"1.2.3.4":                           false,
		"1.2.3-":                            false,
		"1.2.3_":                            false,
		"1.2.3-a..b":                        false,
		"1.2.3-a.":                          false,
		"1.2.3-01":                          false,
		"01.2.3":                            false,
		"1.2.03":                            false,
		"2024.01.15":                        false,
		"V1.2.3":                            false,
		"vv1.2.3":                           false,
		"v1.2.3_a_b":                        false,
		"1.2.3_a+b":                         false,
		"-1.2.3":                            false,
		"1.2.3 ":                            false,
		"1.2.x":                             false,
		"1.2.3-ä":                           false,
		"latest":                            false,
		"1.2.3\x00":                         false,
		"1.2.3-\xff":                        false,
		"release-1.2":                       false,
		"1.2-3.4":                           false,
	} {
		if _, got := versions.Find("a", tag); got != want {
			t.Errorf("%q is a version: %v, want %v", tag, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"semver=immutable":                       "semver=immutable",
		"library/**:latest=always":               "library/**:latest=always",
		"team/app:{stable,prod-*}=1h":            "team/app:{stable,prod-*}=1h",
		"*=10m":                                  "*=10m",
		"**:*=90m":                               "**:*=1h30m",
		"a=0":                                    "a=always",
		"a=0s":                                   "a=always",
		"a=24h":                                  "a=24h",
		"a=3600s":                                "a=1h",
		"a=90s":                                  "a=1m30s",
		"a=10h0m10s":                             "a=10h0m10s",
		"a=1.5s":                                 "a=1.5s",
		"a=20m":                                  "a=20m",
		"a=+5m":                                  "a=5m",
		"v1{,.0}=1ns":                            "v1{,.0}=1ns",
		strings.Repeat("a", 1020) + "=1h":        strings.Repeat("a", 1020) + "=1h",
		"{" + strings.Repeat("a,", 63) + "a}=1h": "{" + strings.Repeat("a,", 63) + "a}=1h",
	} {
		r, err := tagpolicy.Parse(text)
		if err != nil || r.String() != want {
			t.Errorf("%.40q: got %v, %v, want %s", text, r, err, want)
			continue
		}
		if again, err := tagpolicy.Parse(r.String()); err != nil || again.Policy != r.Policy || again.String() != want {
			t.Errorf("%.40q reads back as %v, %v", r, again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "is not a rule: write [REPOSITORIES:]TAGS=POLICY, for example semver=immutable",
		"latest":                                 "is not a rule",
		"latest:1h":                              "is not a rule",
		"=1h":                                    "has no pattern for tags before the equals sign",
		"team/**:=1h":                            "has no pattern for tags before the equals sign",
		":latest=1h":                             "has nothing before the colon",
		"r.test:5000/team/app:x=1h":              "has a second colon: write names of repositories as the remote knows them",
		"app@sha256:00=1h":                       "",
		"x:app@sha256=1h":                        "has characters that are in no tag",
		"team/app=1h":                            "has a pattern for tags with a slash: write tags behind the repositories, for example team/app:*=10m",
		"app:team/app=1h":                        "has a pattern for tags with a slash",
		"{a=1h":                                  "has no pattern for tags: write for example v1.*, and end what begins with { or [",
		"[a=1h":                                  "has no pattern for tags",
		"a}=1h":                                  "has no pattern for tags",
		`a\=1h`:                                  "has no pattern for tags",
		"[]=1h":                                  "has no pattern for tags",
		"{a:x=1h":                                "has no pattern before the colon",
		"!latest=1h":                             "has characters that are in no tag",
		"a b=1h":                                 "has characters that are in no tag",
		"ä=1h":                                   "has characters that are in no tag",
		"1.2.3+build=1h":                         "has characters that are in no tag",
		"-rc*=1h":                                `has a pattern for tags that none matches, "-rc*"`,
		"{a,.b}=1h":                              `that none matches, ".b"`,
		"{a,}=1h":                                `that none matches, ""`,
		"a=":                                     `has the policy "": write immutable, always, or a duration such as 30s, 10m or 168h`,
		"a=never":                                `has the policy "never": write immutable, always, or`,
		"a=Immutable":                            `has the policy "Immutable"`,
		"a=7d":                                   `has the policy "7d": write`,
		"a=300":                                  `has the policy "300", which has no unit: write for example 300s or 300m`,
		"a=-5m":                                  `has the policy "-5m", which is negative: write for example 10m, or always`,
		"a=1h ":                                  `has the policy "1h "`,
		"a=1h=2h":                                `has the policy "1h=2h"`,
		"a=" + strings.Repeat("x", 99):           `has the policy "` + strings.Repeat("x", 40) + `":`,
		strings.Repeat("a", 1025):                "is longer than 1024 bytes: write several rules",
		"{" + strings.Repeat("a,", 64) + "a}=1h": "has braces that stand for more than 64 patterns: write several rules",
		strings.Repeat("{a,a}", 40) + "=1h":      "has braces that stand for more than 64 patterns",
		strings.Repeat("{a,b}", 40) + ":x=1h":    "has braces that stand for more than 64 patterns",
		strings.Repeat("{", 400) + strings.Repeat("}", 400) + "=1h": "that none matches",
	} {
		r, err := tagpolicy.Parse(text)
		if want == "" { // a name that cannot be is for others to refuse
			if err != nil {
				t.Errorf("%.40q %v", text, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) && !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: got %v, %v, want %s", text, r, err, want)
		}
		if p, ok := (tagpolicy.Rules{r}).Find("a", "a"); ok {
			t.Errorf("%.40q is an error and gives %v", text, p)
		}
	}
}

func TestHidden(t *testing.T) {
	for rules, want := range map[string]string{
		"":                                    "",
		"a=1h b=1h":                           "",
		"a=1h *=1h":                           "",
		"a=1h a=2h":                           "a=2h by a=1h",
		"*=1h a=2h b=3h":                      "a=2h by *=1h, b=3h by *=1h",
		"**=1h semver=2h":                     "semver=2h by **=1h",
		"**=1h a=2h":                          "a=2h by **=1h",
		"**:*=1h x:a=2h":                      "x:a=2h by **:*=1h",
		"x:a=1h a=2h":                         "",
		"a=1h x:a=2h":                         "x:a=2h by a=1h",
		"x:a=1h y:a=2h":                       "",
		"x/*:a=1h x/*:a=2h":                   "x/*:a=2h by x/*:a=1h",
		"x/**:a=1h x/y:a=2h":                  "x/y:a=2h by x/**:a=1h",
		"x/*:a=1h x/y/z:a=2h":                 "",
		"v*=1h v1=2h":                         "v1=2h by v*=1h",
		"v1=1h v*=2h":                         "",
		"v*=1h v1*=2h":                        "", // it takes more than to compare
		"{a,b}=1h b=2h":                       "b=2h by {a,b}=1h",
		"a=1h {a,b}=2h":                       "",
		"{a,b,c*}=1h {b,cd}=2h":               "{b,cd}=2h by {a,b,c*}=1h",
		"semver=1h 1.2.3=2h":                  "1.2.3=2h by semver=1h",
		"semver=1h semver=2h":                 "semver=2h by semver=1h",
		"semver=1h {v1.0.0,latest}=2h":        "",
		"s*=1h semver=2h":                     "",
		"*=1h semver=2h":                      "semver=2h by *=1h",
		"{library/**,**}:{x,*}=1h a/b:c=2h":   "a/b:c=2h by {library/**,**}:{x,*}=1h",
		"a=1h a=2h a=3h":                      "a=2h by a=1h, a=3h by a=1h",
		"team/app:v[1]=1h team/app:v1=always": "team/app:v1=always by team/app:v[1]=1h",
	} {
		var got []string
		for _, h := range rulesOf(t, rules).Hidden() {
			got = append(got, fmt.Sprint(h.Rule, " by ", h.By))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: got %q, want %q", rules, got, want)
		}
	}
}

func TestZeroRule(t *testing.T) {
	var zero tagpolicy.Rule
	for _, tag := range []string{"", "a", "1.2.3"} {
		if p, ok := (tagpolicy.Rules{zero}).Find("a", tag); ok {
			t.Errorf("%q: got %v", tag, p)
		}
	}
	if zero.CoversAll() || zero.Covers(zero) {
		t.Error("a rule that matches nothing covers something")
	}
}

func TestCoversAll(t *testing.T) {
	for text, want := range map[string]bool{
		"*=1h": true, "**:{a,*}=1h": true, "team/**:*=1h": false, "semver=1h": false, "**:a=1h": false,
	} {
		if got := rulesOf(t, text)[0].CoversAll(); got != want {
			t.Errorf("%s covers all: %v, want %v", text, got, want)
		}
	}
}

// TestFindDoesNotAllocate also bounds what a rule costs that is meant to be costly.
func TestFindDoesNotAllocate(t *testing.T) {
	rules := rulesOf(t, "**/x/**/{a,b}{c,d}*:{semver,v[0-9]*-{alpha,beta}.*}=1h {a,b}{a,b}{a,b}{a,b}{a,b}{a,b}=1h semver=immutable "+
		strings.Repeat("*a", 300)+"=1h "+strings.Repeat("**/", 300)+"x:*=1h")
	repo, tag := strings.Repeat("x/", 127)+"x", strings.Repeat("a", 127)+"!"
	start := time.Now()
	if n := testing.AllocsPerRun(10, func() { rules.Find(repo, tag) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("11 times took %v", d)
	}
}
