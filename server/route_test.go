package server

import (
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzGrammars compares what is written by hand with the grammars of the OCI distribution
// specification.
func FuzzGrammars(f *testing.F) {
	name := regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tag := regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	for _, s := range []string{
		"", "a", "A", "a/b", "a//b", "/a", "a/", "a_b", "a__b", "a___b", "a-b", "a---b", "a.b", "a..b", "a._b", "a-_b", "a_-b", "a_/b", "a/_b", "-a", "a-",
		"_", ".a", "v1.2-3_4", "a\n", "a\x00", "ä", "a b", strings.Repeat("a", 128), strings.Repeat("a", 129), "a-/b", "a__/b", "__a", "a--", "a__",
		digest.FromString("").String(), strings.ToUpper(digest.FromString("").String()), "sha256:" + strings.Repeat("G", 64), "sha256:" + strings.Repeat("f", 63),
		digest.SHA512.FromString("").String(),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if isName(s) != name.MatchString(s) {
			t.Errorf("%q: a name %v", s, isName(s))
		}
		if isTagName(s) != tag.MatchString(s) {
			t.Errorf("%q: a tag %v", s, isTagName(s))
		}
		valid := digest.Digest(s).Validate() == nil
		if isSHA256(s) != (valid && strings.HasPrefix(s, "sha256:")) {
			t.Errorf("%q: a digest %v", s, isSHA256(s))
		}
	})
}
