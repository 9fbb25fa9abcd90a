// Package pattern matches names of repositories with the patterns that operators write:
// * within a component, ** over components, ? for a character, [a-z] and [!a-z] for one
// of several, {a,b} for alternatives.
//
// It promises that a pattern that cannot match any name is refused with what to write
// instead, since who denies something by it would not notice that it is served; and that
// a pattern costs next to nothing for a name that does not begin as it does. It imports
// nothing of this module.
package pattern

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// MaxLength is how long a pattern may be, in bytes. Names have up to 255, and that is
// enough for some of them as alternatives.
const MaxLength = 2 << 10

// Pattern is a pattern that was checked. The zero value matches nothing but the empty
// name. It is safe for use by several goroutines.
type Pattern struct {
	text string
	kind kind
	// literal is, by kind, the whole name, the one that others are below, or how all
	// names begin that match.
	literal string
}

type kind uint8

const (
	exact kind = iota // one name
	below             // literal/**
	all               // **
	other
)

// meta are the characters that mean something.
const meta = `*?[{\`

// Compile returns the pattern that text is. An error says what is wrong with it, and what
// to write instead, and is to follow the pattern in a sentence.
func Compile(text string) (Pattern, error) {
	if problem := Problem(text); problem != "" {
		return Pattern{}, errors.New(problem)
	}
	return compile(text), nil
}

// CompileWithPort is [Compile] for names that begin with a host: it may have a port.
func CompileWithPort(text string) (Pattern, error) {
	first, rest, _ := strings.Cut(text, "/")
	host, port, ok := strings.Cut(first, ":")
	if !ok || rest == "" || strings.ContainsAny(host, meta) {
		return Compile(text)
	}
	// In any other form it would be in no name.
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return Pattern{}, fmt.Errorf("has the port %.20q: it must be a number from 1 to 65535", port)
	}
	if port == "443" {
		return Pattern{}, errors.New("has the port 443, which is in no name, since it is that of HTTPS: leave it out")
	}
	if problem := Problem(host + "/" + rest); problem != "" {
		return Pattern{}, errors.New(problem)
	}
	return compile(text), nil
}

func compile(text string) Pattern {
	at := strings.IndexAny(text, meta)
	switch {
	case at < 0:
		return Pattern{text, exact, text}
	case text == "**":
		return Pattern{text, all, ""}
	case at == len(text)-2 && strings.HasSuffix(text, "/**"):
		return Pattern{text, below, text[:at-1]}
	}
	// What is below something is that itself, too, which has no slash.
	return Pattern{text, other, strings.TrimSuffix(text[:at], "/")}
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Match tells whether p matches a name.
func (p Pattern) Match(name string) bool {
	switch p.kind {
	case exact:
		return name == p.literal
	case all:
		return true
	}
	rest, ok := strings.CutPrefix(name, p.literal)
	if p.kind == below {
		return ok && (rest == "" || rest[0] == '/')
	}
	return ok && doublestar.MatchUnvalidated(p.text, name)
}

// First returns the first component of all names that p matches, or false where they begin
// in several ways.
func (p Pattern) First() (string, bool) {
	literal := p.text
	if at := strings.IndexAny(literal, meta); at >= 0 {
		literal = literal[:at]
		if !strings.Contains(literal, "/") {
			return "", false // the component goes on
		}
	}
	first, _, _ := strings.Cut(literal, "/")
	return first, true
}

// Any tells whether one of patterns matches one of names.
func Any(patterns []Pattern, names []string) bool {
	return slices.ContainsFunc(patterns, func(p Pattern) bool { return slices.ContainsFunc(names, p.Match) })
}

// Problem says what is wrong with a pattern, or nothing. What it says is to follow the
// pattern in a sentence.
func Problem(p string) string {
	switch {
	case p == "":
		return "is empty, but a pattern is wanted: write for example library/* or team/**"
	case len(p) > MaxLength:
		return "is too long: write several patterns"
	case !doublestar.ValidatePattern(p):
		return "is not a pattern: write for example library/* or team/**, and end what begins with { or [; there are no spaces in patterns"
	case p[0] == '/' || strings.HasSuffix(p, "/") || strings.Contains(p, "//"):
		return "has a slash at its beginning or end, or two in a row: write for example library/* or team/**"
	case strings.Trim(strings.NewReplacer("[!", "[", "[^", "[").Replace(p), inPatterns) != "":
		return "has characters that are in no name of a repository: write lower-case letters, digits, and . _ - /"
	case slices.ContainsFunc(strings.FieldsFunc(p, between), func(s string) bool { return s != "**" && strings.Contains(s, "**") }):
		return "has ** as a part of a component, where it is no more than *: write for example team/**"
	case commaOutside(p):
		return "has a comma outside of braces: write two patterns"
	}
	return ""
}

// inPatterns are the characters of names, and those that mean something in patterns.
const inPatterns = `abcdefghijklmnopqrstuvwxyz0123456789._-/*?[]{},\`

// between tells whether c is between parts of a pattern.
func between(c rune) bool { return strings.ContainsRune("/{},", c) }

// commaOutside tells whether a comma in p is not between alternatives. It is in no name.
func commaOutside(p string) bool {
	depth := 0
	for _, c := range p {
		switch c {
		case '{':
			depth++
		case '}':
			depth--
		case ',':
			if depth <= 0 {
				return true
			}
		}
	}
	return false
}
