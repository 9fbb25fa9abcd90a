// Package policy knows what a policy file says: which callers may pull which
// repositories.
//
// A policy has rules. Each says about whom it is, what of all repositories those may pull,
// and whether they may list the catalog. A caller may pull what any rule about it allows,
// and nothing else.
//
// It promises that a file that can be misunderstood is refused, with all that is wrong
// with it, and that a decision depends on the file, the caller and the names of the
// repository alone. Who a caller is, and what a repository is called, is for others to
// find out. It touches neither network nor files, and imports, of this module,
// internal/pattern.
package policy

import (
	"slices"
	"strings"

	"registry-module/internal/pattern"
)

// Policy is what a file says. Create it with [Parse]. It does not change, and is safe for
// use by several goroutines.
type Policy struct {
	rules []rule
	// first are the rules by the first components of what may be pulled by them, and
	// anywhere those that are for any, in order. With them a catalog of many repositories
	// and a policy of many rules go together.
	first    map[string][]int
	anywhere []int
}

func newPolicy(rules []rule) *Policy {
	p := &Policy{rules: rules, first: map[string][]int{}}
	for i, r := range rules {
		firsts := map[string]bool{}
		anywhere := false
		for _, pattern := range r.pull {
			first, ok := pattern.First()
			firsts[first] = true
			anywhere = anywhere || !ok
		}
		if anywhere {
			p.anywhere = append(p.anywhere, i)
			continue
		}
		for first := range firsts {
			p.first[first] = append(p.first[first], i)
		}
	}
	return p
}

// rule is one entry of the file.
type rule struct {
	users, certificates []wildcard
	anonymous           bool
	pull, deny          []pattern.Pattern
	catalog             bool
}

// Caller is who asks.
type Caller struct {
	// User is the name by which the caller has logged in; empty where it has not.
	User string
	// Certificates are the names in the client certificate that the caller has shown,
	// which was verified.
	Certificates []string
}

// Repository is what is asked for.
type Repository struct {
	// Names are all by which clients can ask for it: with the host, the alias or a
	// namespace of the remote in front, and without where the remote is a default.
	Names []string
}

// AnonymousMay tells whether a rule is about who has not logged in.
func (p *Policy) AnonymousMay() bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { return r.anonymous })
}

// About returns the rules that are about c. Who has a decision to make about many
// repositories looks for them once. What is allowed to those who have not logged in is
// allowed to those who have, too: they could leave their credentials out.
func (p *Policy) About(c Caller) Rules {
	found := Rules{policy: p, about: make([]bool, len(p.rules))}
	for i := range p.rules {
		r := &p.rules[i]
		byName := r.named(c)
		if byName || r.anonymous {
			found.about[i] = true
			found.any = true
			found.named = found.named || byName
			found.list = found.list || r.catalog
		}
	}
	return found
}

// named tells whether the rule is about c by a name.
func (r *rule) named(c Caller) bool {
	return c.User != "" && anyMatches(r.users, c.User) || slices.ContainsFunc(c.Certificates, func(name string) bool {
		return name != "" && anyMatches(r.certificates, name)
	})
}

// Rules are those about one caller. The zero value allows nothing.
type Rules struct {
	policy           *Policy
	about            []bool // of the rules of policy, which of them are about the caller
	any, named, list bool
}

// MayPull tells whether one of the rules allows to pull r: one of the names matches a
// pattern of what may be pulled, and none a pattern of what is denied, of the same rule.
func (rs Rules) MayPull(r Repository) bool {
	if !rs.any {
		return false
	}
	allows := func(i int) bool {
		rule := &rs.policy.rules[i]
		return rs.about[i] && pattern.Any(rule.pull, r.Names) && !pattern.Any(rule.deny, r.Names)
	}
	return slices.ContainsFunc(rs.policy.anywhere, allows) || slices.ContainsFunc(r.Names, func(name string) bool {
		first, _, _ := strings.Cut(name, "/")
		return slices.ContainsFunc(rs.policy.first[first], allows)
	})
}

// MayList tells whether one of the rules allows to list the catalog: of what the caller
// may pull.
func (rs Rules) MayList() bool { return rs.list }

// Any tells whether there is a rule.
func (rs Rules) Any() bool { return rs.any }

// Named tells whether there is a rule that names the caller: one that is not about who has
// not logged in.
func (rs Rules) Named() bool { return rs.named }

// wildcard is a name of users or certificates, in which * stands for any characters, or
// none. It is in the parts between them.
type wildcard struct {
	parts []string
}

func newWildcard(text string) wildcard { return wildcard{strings.Split(text, "*")} }

func anyMatches(all []wildcard, name string) bool {
	return slices.ContainsFunc(all, func(w wildcard) bool { return w.match(name) })
}

// match tells whether w matches all of name. The case of letters counts.
func (w wildcard) match(name string) bool {
	last := len(w.parts) - 1
	if last <= 0 {
		return last == 0 && w.parts[0] == name
	}
	rest, ok := strings.CutPrefix(name, w.parts[0])
	if !ok {
		return false
	}
	if rest, ok = strings.CutSuffix(rest, w.parts[last]); !ok {
		return false
	}
	for _, part := range w.parts[1:last] {
		// The first place is as good as any: what comes after has the most room.
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return true
}
