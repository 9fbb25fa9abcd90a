package seed_test

import (
	"slices"
	"strings"
	"testing"

	"registry-module/seed"
)

var aDigest = "sha256:" + strings.Repeat("0a", 32)

func TestValidate(t *testing.T) {
	tests := map[string]struct {
		want  seed.Want
		wrong string // empty where nothing is
	}{
		"name alone":               {seed.Want{Image: "nginx"}, ""},
		"host, port and tag":       {seed.Want{Image: "h.example:5000/team/app:1.2"}, ""},
		"upstream of a deployment": {seed.Want{Image: "$upstream:443/team/app:1.2"}, ""},
		"as it is stored":          {seed.Want{Image: "@h.example:5000/team/app:1.2"}, ""},
		"address":                  {seed.Want{Image: "[::1]:5000/team/app"}, ""},
		"digest":                   {seed.Want{Image: "team/app@" + aDigest}, ""},
		"tag and digest":           {seed.Want{Image: "team/app:1@" + aDigest}, ""},
		"nothing":                  {seed.Want{}, "names no image"},
		"place":                    {seed.Want{Image: "A", From: "list.txt, line 3"}, "list.txt, line 3: image \"A\": "},
		"capital letters":          {seed.Want{Image: "h.example/Team/app"}, `"Team" in its name`},
		"short digest":             {seed.Want{Image: "app@sha256:12"}, "no digest behind the @"},
		"no tag behind the colon":  {seed.Want{Image: "app:"}, "ends where"},
		"no digest behind the at":  {seed.Want{Image: "app@"}, "ends where"},
		"tag that can be none":     {seed.Want{Image: "app:-1"}, `the tag "-1"`},
		"space":                    {seed.Want{Image: "app 1"}, `"app 1" in its name`},
		"control character":        {seed.Want{Image: "h\x1b/app"}, `\x1b`},
		"two slashes":              {seed.Want{Image: "h//app"}, `"" in its name`},
		"very long":                {seed.Want{Image: strings.Repeat("a", 2000)}, "longer than"},
		"variable that is left":    {seed.Want{Image: "${HOST}/app"}, "neither a host"},
		"platforms":                {seed.Want{Image: "a", Platforms: []string{"linux/arm64", "linux/arm/v7", "Windows/x86_64"}}, ""},
		"architecture alone":       {seed.Want{Image: "a", Platforms: []string{"arm64"}}, `the platform "arm64"`},
		"too much of a platform":   {seed.Want{Image: "a", Platforms: []string{"linux/arm/v7/x"}}, "the platform"},
		"tags":                     {seed.Want{Image: "a", Tags: &seed.Tags{SemVer: ">=1.2 <2", Glob: []string{"1*"}, Regexp: "a|b", Newest: 3}}, ""},
		"tags of a tag":            {seed.Want{Image: "a:1", Tags: &seed.Tags{}}, "beside patterns for tags"},
		"tags of a digest":         {seed.Want{Image: "a@" + aDigest, Tags: &seed.Tags{}}, "beside patterns for tags"},
		"no pattern":               {seed.Want{Image: "a", Tags: &seed.Tags{Glob: []string{"[1"}}}, `the pattern "[1"`},
		"no regular expression":    {seed.Want{Image: "a", Tags: &seed.Tags{Regexp: "(a"}}, "the regular expression"},
		"half an expression":       {seed.Want{Image: "a", Tags: &seed.Tags{Regexp: "a)|(b"}}, "the regular expression"},
		"no range":                 {seed.Want{Image: "a", Tags: &seed.Tags{SemVer: "new"}}, `"new" is no range`},
		"fewer than none":          {seed.Want{Image: "a", Tags: &seed.Tags{Newest: -1}}, "the newest -1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := seed.Job{Wants: []seed.Want{tt.want}}.Validate()
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%v, want %q", err, tt.wrong)
			}
		})
	}
	all := seed.Job{Wants: []seed.Want{
		{Image: "A", Platforms: []string{"x"}}, {Image: "ok"}, {Image: "b", Tags: &seed.Tags{Regexp: "(", SemVer: "("}},
	}}.Validate()
	if n := strings.Count(all.Error(), "\n") + 1; n != 4 {
		t.Errorf("%d mistakes instead of 4: %v", n, all)
	}
}

func TestPick(t *testing.T) {
	all := []string{
		"latest", "edge", "1.2.0", "1.10.0", "v1.9", "2.0.0", "2.1.0-rc.1", "1.10.0-alpine", "3", "1.10",
		"sha256-" + strings.Repeat("0a", 32) + ".sig", "sha256-" + strings.Repeat("0a", 32), "1.2.0", "bad/tag",
	}
	tests := map[string]struct {
		tags seed.Tags
		want string
	}{
		"all, in their order":   {seed.Tags{}, "3 2.1.0-rc.1 2.0.0 1.10.0 1.10 1.10.0-alpine v1.9 1.2.0 latest edge"},
		"newest":                {seed.Tags{Newest: 2}, "3 2.1.0-rc.1"},
		"more than there are":   {seed.Tags{Glob: []string{"e*"}, Newest: 9}, "edge"},
		"range":                 {seed.Tags{SemVer: ">=1.2 <2"}, "1.10.0 1.10 v1.9 1.2.0"},
		"range and newest":      {seed.Tags{SemVer: ">=1.2 <2", Newest: 1}, "1.10.0"},
		"tilde":                 {seed.Tags{SemVer: "~1.9"}, "v1.9"},
		"range with before":     {seed.Tags{SemVer: ">=1.10-0 <2"}, "1.10.0 1.10 1.10.0-alpine"},
		"whole tags":            {seed.Tags{Glob: []string{"1.1", "lat"}}, ""},
		"globs":                 {seed.Tags{Glob: []string{"1.10*", "l?test"}}, "1.10.0 1.10 1.10.0-alpine latest"},
		"expression is whole":   {seed.Tags{Regexp: `1\.\d+|e`}, "1.10"},
		"one of them is enough": {seed.Tags{Glob: []string{"edge"}, Regexp: "3", SemVer: "2.0.0"}, "3 2.0.0 edge"},
		"invalid":               {seed.Tags{Regexp: "("}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(tt.tags.Pick(all), " "); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzWant(f *testing.F) {
	f.Add("h.example:5000/team/app:1.2@"+aDigest, "linux/arm/v7", "1.*", "a|b", ">=1.2 <2 || ~3", "v1.2.3-rc.1")
	f.Add("$upstream:443/a", "", "[", `\Qa`, "^1-0", "latest")
	f.Fuzz(func(t *testing.T, image, platform, glob, expression, version, tag string) {
		tags := &seed.Tags{Glob: []string{glob}, Regexp: expression, SemVer: version}
		for _, w := range []seed.Want{{Image: image, Platforms: []string{platform}}, {Image: image, Tags: tags}} {
			if (seed.Job{Wants: []seed.Want{w}}).Validate() == nil && strings.ContainsAny(image, " \n\x1b\"<") {
				t.Errorf("%q was accepted", image)
			}
		}
		picked := tags.Pick([]string{tag, tag, "1.0.0"})
		if tags.Validate() != nil && len(picked) > 0 || len(picked) > 2 || slices.Contains(picked, "") {
			t.Errorf("%+v picks %q", tags, picked)
		}
	})
}
