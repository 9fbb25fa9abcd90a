package config

import (
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// patterns checks patterns for names of repositories. One that cannot match is an
// error: who denies something by it would not notice that it is served.
func (r remoteReader) patterns(setting string, patterns list, namespaces []string) []string {
	for _, p := range patterns {
		if text := badPattern(p, namespaces); text != "" {
			r.bad(setting, p, "%s", text)
		}
	}
	return patterns
}

// badPattern says what is wrong with a pattern for names at a remote that serves
// these namespaces, or nothing.
func badPattern(p string, namespaces []string) string {
	first, rest, _ := strings.Cut(p, "/")
	switch {
	case p == "":
		return "is empty, but a pattern is wanted: write for example library/* or team/**"
	case !doublestar.ValidatePattern(p):
		return "is not a pattern: write for example library/* or team/**, and end what begins with { or [; there are no spaces in patterns"
	case p[0] == '/' || strings.HasSuffix(p, "/") || strings.Contains(p, "//"):
		return "has a slash at its beginning or end, or two in a row: write names as the remote knows them, for example library/* or team/**"
	case rest != "" && likeHost(first) && !slices.Contains(namespaces, first):
		return "begins with what looks like a host: write names as the remote knows them, for example " + rest +
			"; where it is none, write [.] for its dots"
	case strings.Trim(strings.NewReplacer("[!", "[", "[^", "[").Replace(p), inPatterns) != "":
		return "has characters that are in no name of a repository: write lower-case letters, digits, and . _ - /, without tag or digest"
	case slices.ContainsFunc(strings.FieldsFunc(p, between), func(s string) bool { return s != "**" && strings.Contains(s, "**") }):
		return "has ** as a part of a component, where it is no more than *: write for example team/**"
	}
	return ""
}

// inPatterns are the characters of names and those that mean something in
// patterns.
const inPatterns = `abcdefghijklmnopqrstuvwxyz0123456789._-/*?[]{},\`

// between tells whether c is between parts of a pattern.
func between(c rune) bool { return strings.ContainsRune("/{},", c) }

// likeHost tells whether the first component of a name is taken for a host, as
// Docker does it.
func likeHost(s string) bool {
	return (strings.ContainsAny(s, ".:") || s == "localhost") && !strings.ContainsAny(s, `*?[]{}\`)
}
