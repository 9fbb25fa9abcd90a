package config

import (
	"slices"
	"strings"

	"registry-module/internal/pattern"
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
	if rest != "" && rest[0] != '/' && likeHost(first) && !slices.Contains(namespaces, first) {
		return "begins with what looks like a host: write names as the remote knows them, for example " + rest +
			"; where it is none, write [.] for its dots"
	}
	return pattern.Problem(p)
}

// likeHost tells whether the first component of a name is taken for a host, as
// Docker does it.
func likeHost(s string) bool {
	return (strings.ContainsAny(s, ".:") || s == "localhost") && !strings.ContainsAny(s, `*?[]{}\`)
}
