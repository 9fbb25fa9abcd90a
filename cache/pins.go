package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"
)

// pins are which images are kept. What the operator has decided is in a document of its
// own, and not in the index, which may be lost.
type pins struct {
	doc Document
	// more counts how often something was pinned. It grows only while nobody removes
	// content, see [holds], so that who removes some knows whether it was asked about.
	more atomic.Uint64

	mu     sync.Mutex
	policy []Pin
	state  pinState
	// broken is why the document cannot be read. Nothing is evicted then: it would tell
	// what must not be.
	broken error
}

// pinState is what the document contains.
type pinState struct {
	Version int   `json:"version"`
	Pins    []Pin `json:"pins,omitempty"`
	// Held has for tags that are pinned, in the form REPOSITORY:TAG, what they have stood
	// for before they moved to something that is not complete yet.
	Held map[string]digest.Digest `json:"held,omitempty"`
}

const pinsVersion = 1

// loadPins reads which images are kept. Policy are patterns of the configuration.
func loadPins(ctx context.Context, doc Document, policy []string) (*pins, error) {
	patterns, err := policyOf(policy)
	if err != nil {
		return nil, err
	}
	p := &pins{doc: doc, policy: patterns, state: pinState{Version: pinsVersion}}
	if doc == nil {
		return p, nil
	}
	content, err := doc.Read(ctx)
	if absent(err) {
		return p, nil
	}
	var state pinState
	if err == nil {
		err = json.Unmarshal(content, &state)
	}
	switch {
	case err == nil && state.Version > pinsVersion:
		err = fmt.Errorf("they are of version %d, and this program knows versions up to %d: use a newer one", state.Version, pinsVersion)
	case err == nil && state.Version < 1:
		err = errors.New("they are damaged: no version")
	}
	for _, pin := range state.Pins {
		err = errors.Join(err, pin.Validate())
	}
	if err != nil {
		p.broken = fmt.Errorf("the pins cannot be read, so that nothing is evicted: %w; mend registry-module.pins.json, or delete it to do without them", err)
		return p, nil
	}
	p.state = state
	return p, nil
}

// policyOf returns the pins for patterns of the configuration.
func policyOf(patterns []string) (policy []Pin, err error) {
	for _, pattern := range patterns {
		pin := Pin{Pattern: pattern, Reason: PinnedByPolicy}
		if err := pin.Validate(); err != nil {
			return nil, err
		}
		policy = append(policy, pin)
	}
	return policy, nil
}

// setPolicy replaces the pins of the configuration.
func (c *Cache) setPolicy(policy []Pin) {
	set := func() error {
		c.pins.mu.Lock()
		defer c.pins.mu.Unlock()
		c.pins.policy = policy
		return nil
	}
	before := c.pins.all()
	if slices.ContainsFunc(policy, func(p Pin) bool { return !slices.ContainsFunc(before, p.same) }) {
		_ = c.pinning(set) // never fails
		return
	}
	_ = set() // the same
}

// pinning does what pins something. What is being removed meanwhile is gone before, and
// nothing that is pinned by it goes afterwards.
func (c *Cache) pinning(pin func() error) error {
	defer c.holds.adding()()
	if err := pin(); err != nil {
		return err
	}
	c.pins.more.Add(1)
	return nil
}

// Validate returns what is wrong with the pattern, nil if nothing is.
func (p Pin) Validate() error {
	repo, ref, kind := p.split()
	switch {
	case repo == "":
		return fmt.Errorf("pin %q names no repository", p.Pattern)
	case !doublestar.ValidatePattern(repo), kind == ':' && !doublestar.ValidatePattern(ref):
		return fmt.Errorf("pin %q is no pattern: * stands for anything but a slash, and ** for anything", p.Pattern)
	case kind == ':' && ref == "":
		return fmt.Errorf("pin %q names no tag: write REPOSITORY:TAG, or REPOSITORY for all of it", p.Pattern)
	case kind == '@':
		if err := digest.Digest(ref).Validate(); err != nil {
			return fmt.Errorf("pin %q: %w", p.Pattern, err)
		}
	}
	return nil
}

// split cuts the pattern into the repository's, and that of a tag, or a digest. Kind is
// ':' or '@', and 0 where there is neither.
func (p Pin) split() (repo, ref string, kind byte) {
	if repo, ref, ok := strings.Cut(p.Pattern, "@sha"); ok {
		return repo, "sha" + ref, '@'
	}
	if slash, colon := strings.LastIndexByte(p.Pattern, '/'), strings.LastIndexByte(p.Pattern, ':'); colon > slash {
		return p.Pattern[:colon], p.Pattern[colon+1:], ':'
	}
	return p.Pattern, "", 0
}

// matches tells whether the pin is for a manifest of a repository, by one of its tags, or
// by none where tag is empty.
func (p Pin) matches(repo, tag string, dgst digest.Digest) bool {
	pattern, ref, kind := p.split()
	if pattern != repo && !doublestar.MatchUnvalidated(pattern, repo) {
		return false
	}
	switch kind {
	case '@':
		return digest.Digest(ref) == dgst
	case ':':
		return tag != "" && (ref == tag || doublestar.MatchUnvalidated(ref, tag))
	}
	return true
}

// all returns all pins: of the operator, then of the configuration.
func (p *pins) all() []Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.state.Pins, p.policy)
}

// none tells that nothing is pinned, nor held for what is.
func (p *pins) none() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken == nil && len(p.state.Pins)+len(p.policy)+len(p.state.Held) == 0
}

// of returns the pins for a manifest, see [Pin.matches].
func of(all []Pin, repo, tag string, dgst digest.Digest) (matching []Pin) {
	for _, pin := range all {
		if pin.matches(repo, tag, dgst) {
			matching = append(matching, pin)
		}
	}
	return matching
}

// held returns what pinned tags have stood for.
func (p *pins) held() map[string]digest.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.state.Held)
}

// change alters the state, durably, if alter says that it has.
func (p *pins) change(ctx context.Context, alter func(*pinState) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	next := pinState{pinsVersion, slices.Clone(p.state.Pins), maps.Clone(p.state.Held)}
	if !alter(&next) {
		return nil
	}
	if p.doc != nil {
		content, err := json.MarshalIndent(next, "", "  ")
		if err != nil {
			return err
		}
		if err := p.doc.Write(ctx, append(content, '\n')); err != nil {
			return fmt.Errorf("keeping the pins: %w", err)
		}
	}
	p.state = next
	return nil
}

// heldName is the key of a tag in pinState.Held.
func heldName(repo, tag string) string { return repo + ":" + tag }

// hold keeps what a pinned tag stands for, which is about to stand for something else, or
// for nothing. It does nothing for tags that are not pinned.
func (r *Repository) hold(ctx context.Context, tag string, old digest.Digest) error {
	p := r.c.pins
	if len(of(p.all(), r.key, tag, old)) == 0 {
		return nil
	}
	return p.change(ctx, func(s *pinState) bool {
		name := heldName(r.key, tag)
		switch before := s.Held[name]; {
		case before == "":
		case before == old, !r.c.replaces(ctx, r.c.isWhole, old, before):
			return false // that is the last one that was complete
		}
		if s.Held == nil {
			s.Held = make(map[string]digest.Digest)
		}
		s.Held[name] = old
		return true
	})
}

// keepIfPinned is hold where that succeeds: what a remote says of a tag counts in any case.
func (r *Repository) keepIfPinned(ctx context.Context, tag string, old digest.Digest) {
	if err := r.hold(ctx, tag, old); err != nil {
		r.c.log.WithError(err).Warnf("what the pinned tag %s of %s has stood for, %s, may be evicted", tag, r.key, old)
	}
}

// letGo forgets what was held for tags.
func (p *pins) letGo(ctx context.Context, tags ...string) error {
	return p.change(ctx, func(s *pinState) bool {
		before := len(s.Held)
		for _, tag := range tags {
			delete(s.Held, tag)
		}
		return len(s.Held) < before
	})
}

// Pins returns which images are kept, and why.
func (c *Cache) Pins(context.Context) ([]Pin, error) { return c.pins.all(), c.pins.broken }

// PinImages keeps images that match p from being evicted, those to come too, until
// [Cache.UnpinImages]. It returns how many tags, and manifests without one, it is for now.
func (c *Cache) PinImages(ctx context.Context, p Pin) (matches int, err error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	if p.Reason == PinnedByPolicy {
		return 0, errors.New("pins of the configuration are set there")
	}
	p.Since = c.opts.Now().UTC().Truncate(1e9)
	err = c.pinning(func() error {
		return c.pins.change(ctx, func(s *pinState) bool {
			if slices.ContainsFunc(s.Pins, p.same) {
				return false
			}
			s.Pins = append(s.Pins, p)
			return true
		})
	})
	if err != nil {
		return 0, err
	}
	c.counters.pinned.Store(-1) // until room is made again
	for repo, err := range c.names(ctx, "", kindRepo) {
		if err != nil {
			return matches, err
		}
		names, err := c.listed(ctx, repo)
		if err != nil {
			return matches, err
		}
		for _, n := range names {
			if p.matches(n.repo, n.tag, n.dgst) {
				matches++
			}
		}
	}
	return matches, nil
}

// same tells whether two pins are for the same, for the same reason.
func (p Pin) same(other Pin) bool { return p.Pattern == other.Pattern && p.Reason == other.Reason }

// UnpinImages takes a pin back, and returns whether there was one. The images stay until
// there is need of room.
func (c *Cache) UnpinImages(ctx context.Context, pattern string, reason PinReason) (was bool, err error) {
	err = c.pins.change(ctx, func(s *pinState) bool {
		before := len(s.Pins)
		s.Pins = slices.DeleteFunc(s.Pins, Pin{Pattern: pattern, Reason: reason}.same)
		was = len(s.Pins) < before
		if !was {
			return false
		}
		// What was held for tags that are not pinned any more.
		rest := slices.Concat(s.Pins, c.pins.policy)
		maps.DeleteFunc(s.Held, func(name string, dgst digest.Digest) bool {
			i := strings.LastIndexByte(name, ':')
			return len(of(rest, name[:max(i, 0)], name[i+1:], dgst)) == 0
		})
		return true
	})
	c.counters.pinned.Store(-1) // until room is made again
	return was, err
}
