package tagpolicy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
)

// maxLength is how long a rule can be, in bytes: arbitrary, and more than the
// longest names of a repository and a tag together (255 and 128).
const maxLength = 1024

// Parse reads a rule:
//
//	[REPOSITORIES:]TAGS=POLICY
//
// REPOSITORIES is a pattern for names of repositories as the remote knows them,
// with * within a component and ** over components; without it the rule is for all.
// TAGS is a pattern for whole tags, in which letters count as they are written. Both
// can have ?, [a-z], [!a-z] and {a,b}. The word semver, alone or as one of those in
// braces, stands for tags that are full semantic versions, with or without v in
// front. POLICY is immutable, always, or a duration such as 10m, where 0 is always.
//
// Of REPOSITORIES it is only checked that it is a pattern, not whether a name can
// match it. An error is the continuation of a sentence that begins with text, and
// says what to write instead.
func Parse(text string) (Rule, error) {
	if len(text) > maxLength {
		return Rule{}, fmt.Errorf("is longer than %d bytes: write several rules", maxLength)
	}
	patterns, policy, ok := strings.Cut(text, "=")
	if !ok {
		return Rule{}, errors.New("is not a rule: write [REPOSITORIES:]TAGS=POLICY, for example semver=immutable or team/**:latest=10m")
	}
	repositories, tags, ok := strings.Cut(patterns, ":")
	if !ok {
		repositories, tags = "", patterns
	}
	var r Rule
	var err error
	if r.repositories, err = parseRepositories(repositories, ok); err != nil {
		return Rule{}, err
	}
	if r.tags, err = parseTags(tags); err != nil {
		return Rule{}, err
	}
	if r.Policy, err = parsePolicy(policy); err != nil {
		return Rule{}, err
	}
	return r, nil
}

func parseRepositories(text string, written bool) (glob, error) {
	g := glob{kind: ofRepositories, text: text}
	switch {
	case !written:
		g.alternatives = []string{g.kind.all()}
		return g, nil
	case text == "":
		return g, errors.New("has nothing before the colon: write a pattern for repositories there, for example team/**, or no colon to mean all")
	case !doublestar.ValidatePattern(text):
		return g, errors.New("has no pattern before the colon: write for example library/* or team/**, and end what begins with { or [")
	}
	var ok bool
	if g.alternatives, ok = expand(text); !ok {
		return g, errTooMany
	}
	return g, nil
}

var errTooMany = fmt.Errorf("has braces that stand for more than %d patterns: write several rules", mostAlternatives)

func parseTags(text string) (glob, error) {
	g := glob{kind: ofTags, text: text}
	switch {
	case text == "":
		return g, errors.New("has no pattern for tags before the equals sign: write for example latest, or * for all")
	case strings.Contains(text, ":"):
		return g, errors.New("has a second colon: write names of repositories as the remote knows them, without host and port, then one colon, then tags, for example team/app:latest=10m")
	case strings.Contains(text, "/"):
		return g, errors.New("has a pattern for tags with a slash: write tags behind the repositories, for example team/app:*=10m")
	case !doublestar.ValidatePattern(text):
		return g, errors.New("has no pattern for tags: write for example v1.*, and end what begins with { or [")
	case strings.Trim(strings.NewReplacer("[!", "[", "[^", "[").Replace(text), inTagPatterns) != "":
		return g, errors.New("has characters that are in no tag: write letters, digits, and . _ -, without digest")
	}
	alternatives, ok := expand(text)
	if !ok {
		return g, errTooMany
	}
	for _, a := range alternatives {
		if a == "" || strings.ContainsAny(a[:1], ".-") {
			return g, fmt.Errorf("has a pattern for tags that none matches, %q: write one that begins with a letter, a digit, _ or *", a)
		}
		if a == "**" {
			a = g.kind.all() // there are no components in a tag
		}
		g.alternatives = append(g.alternatives, a)
	}
	return g, nil
}

// inTagPatterns are the characters of tags, as the distribution specification has
// them under "Pulling manifests", and those that mean something in patterns.
const inTagPatterns = `abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-*?[]{},\`

func parsePolicy(text string) (Policy, error) {
	switch text {
	case immutable:
		return Policy{Immutable: true}, nil
	case always:
		return Policy{}, nil
	}
	ttl, err := time.ParseDuration(text)
	switch {
	case err == nil && ttl >= 0:
		return Policy{TTL: ttl}, nil
	case err == nil:
		return Policy{}, fmt.Errorf("has the policy %.40q, which is negative: write for example 10m, or always", text)
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return Policy{}, fmt.Errorf("has the policy %.40q, which has no unit: write for example %.40ss or %.40sm", text, text, text)
	}
	return Policy{}, fmt.Errorf("has the policy %.40q: write immutable, always, or a duration such as 30s, 10m or 168h", text)
}
