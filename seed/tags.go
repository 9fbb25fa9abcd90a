package seed

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// maxPattern bounds, in bytes, a pattern for tags, which have at most 128 characters.
const maxPattern = 1 << 10

// attachedTag is the form of tags that only tell what is attached to a manifest: those of
// the OCI distribution specification, "Referrers Tag Schema", and of cosign.
var attachedTag = regexp.MustCompile(`^sha(256|512)-[0-9a-f]{64}`)

// Validate returns all that is wrong with t, joined; nil where nothing is.
func (t *Tags) Validate() error {
	_, err := t.compile()
	return err
}

// Pick returns those of tags that are wanted, each once, the highest versions first; see
// [Tags] for what comes after those. Tags that say what is attached to a manifest are never
// among them: that comes with the manifest. Of an invalid t there are none.
func (t *Tags) Pick(tags []string) []string {
	wants, err := t.compile()
	if err != nil {
		return nil
	}
	type candidate struct {
		tag     string
		version *semver.Version // nil for what is none
	}
	var picked []candidate
	seen := make(map[string]bool)
	for _, tag := range tags {
		version, err := semver.NewVersion(tag)
		if err != nil {
			version = nil
		}
		if !seen[tag] && tagForm.MatchString(tag) && !attachedTag.MatchString(tag) && wants(tag, version) {
			picked = append(picked, candidate{tag, version})
		}
		seen[tag] = true
	}
	slices.SortFunc(picked, func(a, b candidate) int {
		switch {
		case a.version != nil && b.version != nil:
			return cmp.Or(b.version.Compare(a.version), strings.Compare(b.tag, a.tag))
		case a.version != nil:
			return -1
		case b.version != nil:
			return 1
		}
		return strings.Compare(b.tag, a.tag)
	})
	if t.Newest > 0 && len(picked) > t.Newest {
		picked = picked[:t.Newest]
	}
	names := make([]string, 0, len(picked))
	for _, c := range picked {
		names = append(names, c.tag)
	}
	return names
}

// compile returns what tells whether a tag, which is that version, or none where it is nil,
// is wanted.
func (t *Tags) compile() (wants func(tag string, version *semver.Version) bool, err error) {
	var wrong []error
	for _, glob := range t.Glob {
		switch _, err := path.Match(glob, ""); {
		case glob == "", err != nil:
			wrong = append(wrong, fmt.Errorf("the pattern %.80q for tags cannot match: write for example 1.27*", glob))
		case len(glob) > maxPattern:
			wrong = append(wrong, fmt.Errorf("a pattern for tags is longer than %d characters", maxPattern))
		}
	}
	var whole *regexp.Regexp
	switch _, err := regexp.Compile(t.Regexp); {
	case len(t.Regexp) > maxPattern:
		wrong = append(wrong, fmt.Errorf("the regular expression for tags is longer than %d characters", maxPattern))
	case err != nil:
		wrong = append(wrong, fmt.Errorf("the regular expression for tags: %w", err))
	case t.Regexp != "":
		whole, err = regexp.Compile(`^(?:` + t.Regexp + `)$`)
		if err != nil { // for example \Q without its end
			wrong = append(wrong, fmt.Errorf("the regular expression for tags: %w", err))
		}
	}
	var within *semver.Constraints
	switch {
	case len(t.SemVer) > maxPattern:
		wrong = append(wrong, fmt.Errorf("the range of versions is longer than %d characters", maxPattern))
	case t.SemVer != "":
		if within, err = semver.NewConstraint(t.SemVer); err != nil {
			wrong = append(wrong, fmt.Errorf("%.80q is no range of versions: write for example >=1.2 <2, or ~1.4", t.SemVer))
		}
	}
	if t.Newest < 0 {
		wrong = append(wrong, fmt.Errorf("the newest %d tags cannot be taken: write a positive number, or leave it out for all", t.Newest))
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	return func(tag string, version *semver.Version) bool {
		return len(t.Glob) == 0 && whole == nil && within == nil ||
			slices.ContainsFunc(t.Glob, func(glob string) bool { ok, _ := path.Match(glob, tag); return ok }) ||
			whole != nil && whole.MatchString(tag) ||
			within != nil && version != nil && within.Check(version)
	}, nil
}
