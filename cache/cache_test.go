package cache_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a cache over fakes, with a clock of its own.
type site struct {
	*cache.Cache
	blobs    *cachetest.Blobs
	partials *cachetest.Partials
	refs     *cachetest.Refs
	index    *cachetest.Index
	up       *cachetest.Upstream
	opts     cache.Options

	ticking sync.Mutex // held by clock and pass
	now     time.Time
}

const tagTTL = 5 * time.Minute

// newSite returns a site over an empty store, with the changes that adjust makes
// to its options.
func newSite(t *testing.T, adjust ...func(*cache.Options)) *site {
	t.Helper()
	s := &site{
		blobs: new(cachetest.Blobs), refs: new(cachetest.Refs), index: new(cachetest.Index),
		up:  new(cachetest.Upstream),
		now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
	}
	s.partials = &cachetest.Partials{Blobs: s.blobs, Now: s.clock}
	s.opts = cache.Options{
		Blobs: s.blobs, Partials: s.partials, Refs: s.refs, Index: s.index,
		Remotes: []cache.Remote{{Host: s.up.Host(), Upstream: s.up, TagTTL: tagTTL}},
		Now:     s.clock,
	}
	for _, a := range adjust {
		a(&s.opts)
	}
	s.open(t)
	return s
}

// clock is what the cache takes for the time.
func (s *site) clock() time.Time {
	s.ticking.Lock()
	defer s.ticking.Unlock()
	return s.now
}

// pass has time pass, while the cache may look at its clock in the background.
func (s *site) pass(d time.Duration) {
	s.ticking.Lock()
	defer s.ticking.Unlock()
	s.now = s.now.Add(d)
}

// Repository returns a repository of the site's first remote.
func (s *site) Repository(name string) *cache.Repository {
	r, ok := s.Cache.Repository(cache.Place{Host: s.opts.Remotes[0].Host, Repo: name})
	if !ok {
		panic("the site has no remote")
	}
	return r
}

func (s *site) open(t *testing.T) {
	t.Helper()
	c, err := cache.New(t.Context(), s.opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Cache = c
	t.Cleanup(func() { s.close(t, c) })
	must(t, c.Ready(t.Context()))
}

// close closes c, after which no draft may be left.
func (s *site) close(t *testing.T, c *cache.Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := s.blobs.Drafts(); n != 0 {
		t.Errorf("%d drafts are left", n)
	}
}

// reopen is a restart with the options changed by adjust.
func (s *site) reopen(t *testing.T, adjust ...func(*cache.Options)) {
	t.Helper()
	s.close(t, s.Cache)
	for _, a := range adjust {
		a(&s.opts)
	}
	s.open(t)
}

// places are the repositories of which something is stored.
func (s *site) places(t *testing.T) []cache.Place {
	t.Helper()
	var places []cache.Place
	for p, err := range s.Places(t.Context()) {
		must(t, err)
		places = append(places, p)
	}
	return places
}

func noUpstream(o *cache.Options) { o.Remotes[0].Upstream = nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCalls checks how often the remote was asked.
func (s *site) wantCalls(t *testing.T, op string, want int) {
	t.Helper()
	if got := s.up.Calls(op); got != want {
		t.Errorf("%d calls of %q, want %d", got, op, want)
	}
}

// loseIndex makes the index empty for the next opening.
func (s *site) loseIndex() {
	s.index = new(cachetest.Index)
	s.opts.Index = s.index
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
