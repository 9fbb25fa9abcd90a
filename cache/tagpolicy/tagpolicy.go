// Package tagpolicy says how long the answer for a tag holds, by patterns for
// repositories and tags.
//
// It promises that the first rule that matches decides, that a rule which can
// never apply is found by [Rules.Hidden], and that [Rules.Find] neither fails nor
// allocates, whatever it is asked. It imports nothing of this module.
package tagpolicy

import (
	"strings"
	"time"
)

// Policy says when a remote is asked again what a tag stands for.
type Policy struct {
	// Immutable tags are never asked about again.
	Immutable bool
	// TTL is how long others are answered without asking. 0 asks each time.
	TTL time.Duration
}

// The policies that are words.
const (
	immutable = "immutable"
	always    = "always"
)

// String returns the policy as [Parse] reads it.
func (p Policy) String() string {
	switch {
	case p.Immutable:
		return immutable
	case p.TTL <= 0:
		return always
	}
	// 1h0m0s is what nobody writes.
	s := p.TTL.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}

// Rule is a policy for tags that match. Create it with [Parse]. The zero value
// matches none.
type Rule struct {
	Policy
	repositories, tags glob
}

// Repositories returns the pattern for names of repositories, as it was written.
// It is empty where the rule is for all of them.
func (r Rule) Repositories() string { return r.repositories.text }

// String returns the rule as [Parse] reads it.
func (r Rule) String() string {
	s := r.tags.text + "=" + r.Policy.String()
	if r.repositories.text != "" {
		s = r.repositories.text + ":" + s
	}
	return s
}

// Covers tells whether r matches all that other matches. Where it takes more than
// to compare the alternatives of their patterns, the answer is false.
func (r Rule) Covers(other Rule) bool {
	return r.repositories.covers(other.repositories) && r.tags.covers(other.tags)
}

// CoversAll tells whether r matches every tag of every repository.
func (r Rule) CoversAll() bool {
	return r.repositories.matchesAll() && r.tags.matchesAll()
}

// Rules are tried in order.
type Rules []Rule

// Find returns the policy of the first rule that matches the tag of the repository,
// whose name is that at the remote, and false where none does. It is for every
// request: it takes a time that is linear in the number of rules.
func (rs Rules) Find(repo, tag string) (Policy, bool) {
	if i := rs.first(repo, tag); i >= 0 {
		return rs[i].Policy, true
	}
	return Policy{}, false
}

// First returns the rule that Find goes by.
func (rs Rules) First(repo, tag string) (Rule, bool) {
	if i := rs.first(repo, tag); i >= 0 {
		return rs[i], true
	}
	return Rule{}, false
}

// first returns the index of the first rule that matches, -1 where none does.
func (rs Rules) first(repo, tag string) int {
	for i := range rs {
		if r := &rs[i]; r.tags.matches(tag) && r.repositories.matches(repo) {
			return i
		}
	}
	return -1
}

// Hidden is a rule that never applies, and the one before it because of which.
type Hidden struct{ Rule, By Rule }

// Hidden returns the rules that never apply, since one before them covers them
// (see [Rule.Covers]).
func (rs Rules) Hidden() []Hidden {
	var hidden []Hidden
	for i, r := range rs {
		for _, by := range rs[:i] {
			if by.Covers(r) {
				hidden = append(hidden, Hidden{r, by})
				break
			}
		}
	}
	return hidden
}
