package tagpolicy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"

	"registry-module/cache/tagpolicy"
)

// FuzzParse checks that a rule reads back as the same, that it decides as patterns
// do which are matched as they are written, and that what covers another rule
// matches whatever that does.
func FuzzParse(f *testing.F) {
	for _, s := range [][4]string{
		{"semver=immutable", "*=1h", "a", "1.2.3"},
		{"library/**:latest=always", "latest=1h", "library/nginx", "latest"},
		{"team/app:{stable,prod-*}=1h", "team/**:stable=0", "team/app", "prod-1"},
		{"v[!0-9]{a,{b,c}}=90s", "vxc=1h", "", "vxc"},
		{`\v1{,[,]}=1ns`, "**:{semver,**}=5m", "x", "v1,"},
		{"{a:b=c", "=", "\xff", "\xff"},
		{"a{b,[}]}c=1h", ":::===", "{}", "[]"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, text, other, repo, tag string) {
		r, err := tagpolicy.Parse(text)
		if err != nil {
			if p, ok := (tagpolicy.Rules{r}).Find(repo, tag); ok {
				t.Errorf("%q is an error and gives %v", text, p)
			}
			return
		}
		again, err := tagpolicy.Parse(r.String())
		if err != nil || again.String() != r.String() || again.Policy != r.Policy || !again.Covers(r) || !r.Covers(again) {
			t.Errorf("%q is %q, which reads back as %q, %v", text, r, again, err)
		}
		p, got := (tagpolicy.Rules{r}).Find(repo, tag)
		if got && p != r.Policy {
			t.Errorf("%q gives %v", text, p)
		}
		if r.CoversAll() && !strings.Contains(tag, "/") && !got {
			t.Errorf("%q does not match %q of %q", text, tag, repo)
		}
		repos, tags := r.Repositories(), text[:strings.IndexByte(text, '=')]
		if repos == "" {
			repos = "**"
		} else {
			tags = tags[len(repos)+1:]
		}
		// The word and two asterisks mean something of their own in tags. An asterisk
		// beside braces is not always matched right where those are not expanded.
		if !strings.Contains(tags, "s") && !strings.Contains(tags, "**") && !(strings.Contains(text, "*") && strings.Contains(text, "{")) {
			if want := doublestar.MatchUnvalidated(repos, repo) && doublestar.MatchUnvalidated(tags, tag); got != want {
				t.Errorf("%q matches %q of %q: %v, want %v", text, tag, repo, got, want)
			}
		}
		o, err := tagpolicy.Parse(other)
		if err != nil || !o.Covers(r) || strings.Contains(tag, "/") {
			return
		}
		if _, ok := (tagpolicy.Rules{o}).Find(repo, tag); got && !ok {
			t.Errorf("%q covers %q and does not match %q of %q", other, text, tag, repo)
		}
		if len((tagpolicy.Rules{o, r}).Hidden()) != 1 {
			t.Errorf("%q covers %q and does not hide it", other, text)
		}
	})
}

// FuzzVersion compares what is taken for a version with a regular expression.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{"1.2.3", "v0.0.0-rc.1_build", "1.2.3-01", "1.2.3-0a.--+0", "01.2.3", "1.2.3_", "1.2.3-a..b"} {
		f.Add(s)
	}
	const number, word = `(?:0|[1-9][0-9]*)`, `[0-9A-Za-z-]+`
	const label = `(?:` + number + `|[0-9]*[A-Za-z-][0-9A-Za-z-]*)`
	want := regexp.MustCompile(`\Av?` + number + `\.` + number + `\.` + number +
		`(?:-` + label + `(?:\.` + label + `)*)?(?:[_+]` + word + `(?:\.` + word + `)*)?\z`)
	versions := rulesOf(f, "semver=immutable")
	f.Fuzz(func(t *testing.T, tag string) {
		if _, got := versions.Find("a", tag); got != want.MatchString(tag) {
			t.Errorf("%q is a version: %v", tag, got)
		}
	})
}
