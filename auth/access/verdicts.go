package access

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// maxCredentials and maxPairs are how many credentials, and how many of them with a
	// repository, are kept that a remote has let in.
	maxCredentials = 1000
	maxPairs       = 10_000
	// maxBad is how many refusals are kept, each for refusedFor.
	maxBad     = 4096
	refusedFor = 30 * time.Second
	// pause is how long a remote is not asked again, by who has a verdict, after it could
	// not be asked.
	pause = 10 * time.Second
)

// place is a repository of a remote, or the list of its tags alone: some remotes let
// callers list the tags who may not pull.
type place struct {
	host, repo string
	list       bool
}

// pair is a credential with a repository that it is for.
type pair struct {
	id credential
	place
}

// good is the verdict that a remote serves a repository to who has the credential.
type good struct {
	confirmed time.Time
	saved     time.Time // what was last saved of confirmed
	failed    time.Time // when the remote could not be asked
}

// bad is the verdict that it does not.
type bad struct {
	since time.Time
	err   error
}

// verdicts are what remotes have said of callers.
type verdicts struct {
	mu    sync.Mutex
	good  *simplelru.LRU[pair, *good]
	pairs map[credential]int // of good
	bad   *simplelru.LRU[pair, bad]
}

func newVerdicts() *verdicts {
	v := &verdicts{pairs: make(map[credential]int)}
	var err, badErr error
	v.good, err = simplelru.NewLRU(maxPairs, func(p pair, _ *good) {
		if v.pairs[p.id]--; v.pairs[p.id] == 0 {
			delete(v.pairs, p.id)
		}
	})
	v.bad, badErr = simplelru.NewLRU[pair, bad](maxBad, nil)
	if err := errors.Join(err, badErr); err != nil {
		panic(err) // the sizes are constants
	}
	return v
}

// standing is how a verdict stands.
type standing struct {
	fresh  bool  // good, and not to be asked about
	grace  bool  // good while the remote cannot be asked
	paused bool  // which was so just now
	bad    error // nil: not bad
}

// look returns how the verdict on p stands. Who may pull may list the tags, as long as the
// remote has not said that he may not.
func (v *verdicts) look(p pair, now time.Time, by PassThrough) standing {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.own(p, now, by)
	if !p.list || s.fresh || s.bad != nil {
		return s
	}
	p.list = false
	pull := v.own(p, now, by)
	return standing{fresh: pull.fresh, grace: s.grace || pull.grace, paused: s.paused || pull.paused}
}

// own returns how the verdict on p itself stands. The caller holds v.mu.
func (v *verdicts) own(p pair, now time.Time, by PassThrough) standing {
	if g, ok := v.good.Get(p); ok {
		age := now.Sub(g.confirmed)
		s := standing{fresh: within(age, by.TTL), paused: !g.failed.IsZero() && within(now.Sub(g.failed), pause)}
		s.grace = s.fresh || age < by.Grace
		return s
	}
	if b, ok := v.bad.Get(p); ok && within(now.Sub(b.since), refusedFor) {
		return standing{bad: b.err}
	}
	return standing{}
}

// within tells whether something is not older than limit. Of what was in the future nobody
// knows: the clock was set back.
func within(age, limit time.Duration) bool { return age >= 0 && age < limit }

// has tells whether some remote has let the credential in.
func (v *verdicts) has(id credential) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pairs[id] > 0
}

// admit takes note of a good verdict, and returns when the one before was saved; zero for
// never. Saved is when this one was, zero where the remote has just said so. One that was
// saved is not taken where a later one is bad.
func (v *verdicts) admit(p pair, confirmed, saved time.Time) (before time.Time, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b, refused := v.bad.Peek(p); refused && !saved.IsZero() && b.since.After(confirmed) {
		return time.Time{}, false
	}
	v.bad.Remove(p)
	if g, ok := v.good.Get(p); ok {
		// What the remote has just said counts in any case: the clock may have been set
		// back since the one before.
		if saved.IsZero() || confirmed.After(g.confirmed) {
			g.confirmed, g.failed = confirmed, time.Time{}
		}
		return g.saved, true
	}
	for v.pairs[p.id] == 0 && len(v.pairs) >= maxCredentials {
		oldest, _, _ := v.good.GetOldest()
		for _, other := range v.good.Keys() {
			if other.id == oldest.id {
				v.good.Remove(other)
			}
		}
	}
	v.pairs[p.id]++
	v.good.Add(p, &good{confirmed: confirmed, saved: saved})
	return saved, true
}

// refuse takes note of a bad verdict, and tells whether there was a good one.
func (v *verdicts) refuse(p pair, now time.Time, err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bad.Add(p, bad{now, err})
	return v.good.Remove(p)
}

// absent takes note that the remote could not be asked about p.
func (v *verdicts) absent(p pair, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if g, ok := v.good.Peek(p); ok {
		g.failed = now
	}
}

// each calls use for the good verdicts that choose chooses, and notes that they are saved.
func (v *verdicts) each(now time.Time, choose func(pair) bool, use func(p pair, confirmed time.Time)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range v.good.Keys() {
		if g, ok := v.good.Peek(p); ok && choose(p) {
			g.saved = now
			use(p, g.confirmed)
		}
	}
}
