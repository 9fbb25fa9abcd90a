package tagpolicy

import (
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// mostAlternatives is how many patterns without braces one with braces can stand
// for: arbitrary, more than anyone writes out, and bounded.
const mostAlternatives = 64

// kind is what the names are that a pattern is for.
type kind int

const (
	ofRepositories kind = iota
	ofTags
)

// all returns the pattern that matches all names of a kind.
func (k kind) all() string {
	if k == ofTags {
		return "*"
	}
	return "**"
}

// glob is a pattern. The zero value matches nothing.
type glob struct {
	kind kind
	text string // as it was written
	// alternatives are the patterns without braces that it stands for, so that
	// matching takes neither memory nor a time that grows with their product.
	alternatives []string
}

// matches tells whether the whole name matches.
func (g *glob) matches(name string) bool {
	for _, a := range g.alternatives {
		if g.kind.match(a, name) {
			return true
		}
	}
	return false
}

// match tells whether name matches a pattern without braces.
func (k kind) match(alternative, name string) bool {
	if k == ofTags && alternative == semver {
		return isVersion(name)
	}
	return doublestar.MatchUnvalidated(alternative, name)
}

// matchesAll tells whether one of the alternatives matches every name.
func (g *glob) matchesAll() bool { return slices.Contains(g.alternatives, g.kind.all()) }

// covers tells whether g matches all that other does, as far as that is seen by
// comparing alternatives. Other is of the same kind.
func (g *glob) covers(other glob) bool {
	if g.matchesAll() {
		return true
	}
	for _, a := range other.alternatives {
		// What stands for itself alone is covered where it matches.
		if !slices.Contains(g.alternatives, a) && (!other.kind.isName(a) || !g.matches(a)) {
			return false
		}
	}
	return len(other.alternatives) > 0
}

// isName tells whether an alternative matches nothing but itself.
func (k kind) isName(alternative string) bool {
	return !strings.ContainsAny(alternative, `*?[\`) && (k != ofTags || alternative != semver)
}

// expand returns the patterns without braces that a valid pattern stands for, or
// false where there are too many.
func expand(pattern string) (alternatives []string, ok bool) {
	todo := []string{pattern}
	for len(todo) > 0 {
		// The last one first: what waits is then bounded by the depth of braces and
		// not by the product of alternatives.
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		before, within, after, found := cutBraces(p)
		if !found {
			alternatives = append(alternatives, p)
		} else {
			for _, part := range slices.Backward(within) {
				todo = append(todo, before+part+after)
			}
		}
		if len(alternatives)+len(todo) > mostAlternatives {
			return nil, false
		}
	}
	return alternatives, true
}

// cutBraces cuts a valid pattern around the first braces, and what is within them
// at commas.
func cutBraces(p string) (before string, within []string, after string, found bool) {
	var depth, from int
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\':
			i++
		case c == '[':
			i = endOfClass(p, i)
		case c == '{':
			if depth++; depth == 1 {
				before, from = p[:i], i+1
			}
		case c == ',' && depth == 1:
			within = append(within, p[from:i])
			from = i + 1
		case c == '}':
			if depth--; depth == 0 {
				return before, append(within, p[from:i]), p[i+1:], true
			}
		}
	}
	return p, nil, "", false
}

// endOfClass returns the index of the bracket that ends the class which begins at
// from.
func endOfClass(p string, from int) int {
	for i := from + 1; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case ']':
			return i
		}
	}
	return len(p)
}
