package tagpolicy

import "strings"

// semver is the pattern for tags that are versions.
const semver = "semver"

// isVersion tells whether tag is a version as Semantic Versioning 2.0.0 has it in
// sections 2, 9 and 10, in full, with or without v in front. A tag cannot have the
// plus sign before the metadata of a build: others write an underscore for it, as
// Helm does, and so both are known here.
func isVersion(tag string) bool {
	s := strings.TrimPrefix(tag, "v")
	if i := strings.IndexAny(s, "_+"); i >= 0 {
		if !areIdentifiers(s[i+1:], false) {
			return false
		}
		s = s[:i]
	}
	s, pre, hasPre := strings.Cut(s, "-")
	if hasPre && !areIdentifiers(pre, true) {
		return false
	}
	for range 2 {
		number, rest, ok := strings.Cut(s, ".")
		if !ok || !isNumber(number) {
			return false
		}
		s = rest
	}
	return isNumber(s)
}

// areIdentifiers tells whether s is identifiers with dots in between. Those of a
// pre-release that are numbers have no 0 in front.
func areIdentifiers(s string, ofPreRelease bool) bool {
	for more := true; more; {
		var id string
		id, s, more = strings.Cut(s, ".")
		if id == "" || ofPreRelease && consistsOf(id, isDigit) && !isNumber(id) || !consistsOf(id, isIdentifier) {
			return false
		}
	}
	return true
}

// isNumber tells whether s is a number without a 0 in front.
func isNumber(s string) bool {
	return s != "" && consistsOf(s, isDigit) && (s == "0" || s[0] != '0')
}

func consistsOf(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isIdentifier(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-'
}
