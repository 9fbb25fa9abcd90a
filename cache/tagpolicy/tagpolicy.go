// Package tagpolicy says how long the answer for a tag holds, by patterns for
// repositories and tags.
//
// It promises that the first rule that matches decides, and that a rule that can
// never match is refused. It imports nothing of this module.
package tagpolicy

import "time"

// Policy says when a remote is asked again what a tag stands for.
type Policy struct {
	// Immutable tags are never asked about again.
	Immutable bool
	// TTL is how long others are answered without asking. 0 asks each time.
	TTL time.Duration
}

// Rule is a policy for tags that match. Create it with [Parse].
type Rule struct {
	Policy
	repositories, tags string
}

// Rules are tried in order.
type Rules []Rule

// Find returns the policy of the first rule that matches the tag of the repository,
// whose name is that at the remote, and false where none does.
func (rs Rules) Find(repo, tag string) (Policy, bool) { return Policy{}, false }
