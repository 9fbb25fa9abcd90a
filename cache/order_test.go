package cache_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/via"
)

// gated is a remote whose word of what a tag stands for arrives later.
type gated struct {
	*hooked
	gate chan struct{} // nil is at once
}

func (g *gated) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	gate := g.gate
	d, err := g.hooked.Resolve(ctx, repo, ref, known)
	if gate != nil {
		<-gate
	}
	return d, err
}

// newGated returns a site with a stale tag, at a remote that is still saying what it was
// before it has moved to the digest that is returned.
func newGated(t *testing.T) (s *site, moved digest.Digest, open func()) {
	t.Helper()
	g := &gated{hooked: new(hooked)}
	s = newSite(t, func(o *cache.Options) {
		hook(g.hooked)(o)
		o.Remotes[0].Upstream = g
	})
	s.addImage("a", "v1", "first")
	_, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	s.pass(tagTTL)
	gate := make(chan struct{})
	g.gate = gate
	go func() { _, _ = s.Repository("a").Tag(t.Context(), "v1") }() // what it gets does not matter
	synctest.Wait()
	g.gate = nil
	moved, _ = s.addImage("a", "v1", "moved")
	return s, moved, func() { close(gate); synctest.Wait() }
}

// A tag never goes back to what an older request has heard.
func TestTagDoesNotGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, moved, open := newGated(t)
		other := via.With(t.Context(), via.Ours([]string{"below"})) // does not share the request
		if m, err := s.Repository("a").Tag(other, "v1"); err != nil || m.Digest != moved {
			t.Fatal(m.Digest, err)
		}
		open()
		if m, err := s.Repository("a").Tag(t.Context(), "v1"); err != nil || m.Digest != moved {
			t.Errorf("%s, %v, want %s", m.Digest, err, moved)
		}
	})
}

// Who wants to know what the remote says now is not told what it said before.
func TestFreshDoesNotShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, moved, open := newGated(t)
		m, err := s.Repository("a").Fresh().Tag(t.Context(), "v1")
		if err != nil || m.Digest != moved || m.Stale != nil {
			t.Errorf("%s, %v, %v, want %s", m.Digest, m.Stale, err, moved)
		}
		open()
	})
}

// pager is a remote with a long list of tags.
type pager struct {
	*hooked
	pages, calls int
	takes        time.Duration // for a page
}

func (p *pager) Tags(ctx context.Context, _ string, _ int, _ string) ([]string, bool, error) {
	select {
	case <-time.After(p.takes):
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	p.calls++
	return []string{fmt.Sprint("t", p.calls)}, p.calls < p.pages, nil
}

// A list takes as long as it takes for who waits for it, and for nobody else.
func TestLongList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pager{hooked: new(hooked), pages: 60, takes: time.Second}
		s := newSite(t, func(o *cache.Options) {
			hook(p.hooked)(o)
			o.Remotes[0].Upstream = p
		})
		s.addImage("b", "v1", "first")
		for i := range 1000 {
			_, _ = s.Repository("a").Tags(canceled(t), -1, fmt.Sprint("x", i)) // what it gets does not matter
		}
		start := time.Now()
		_, err := s.Repository("b").Tag(t.Context(), "v1")
		if took := time.Since(start); err != nil || took != 0 {
			t.Errorf("a pull: %v, after %v", err, took)
		}
		if p.calls != 0 {
			t.Errorf("%d requests for clients that have left", p.calls)
		}
		if list, err := s.Repository("a").Tags(t.Context(), -1, ""); err != nil || len(list.Tags) != 60 || list.More {
			t.Errorf("%d tags, %v", len(list.Tags), err)
		}
	})
}

// A question that a remote does not like says nothing about other questions, and what is
// pulled from is there.
func TestListsAreApart(t *testing.T) {
	s := newSite(t)
	r := s.Repository("a")
	if _, err := r.Tags(t.Context(), -1, ""); err == nil {
		t.Fatal("there is no list yet")
	}
	s.addImage("a", "v1", "first")
	s.addImage("a", "v2", "second")
	_, err := r.Tag(t.Context(), "v1")
	must(t, err)
	s.up.FailOp("tags", status(cache.ErrInvalid))
	if list, err := r.Tags(t.Context(), 1<<30, ""); err != nil || list.Stale == nil {
		t.Errorf("%+v, %v", list, err)
	}
	s.up.FailOp("tags", nil)
	if list, err := r.Tags(t.Context(), -1, ""); err != nil || list.Stale != nil || !slices.Equal(list.Tags, []string{"v1", "v2"}) {
		t.Errorf("%+v, %v", list, err)
	}
}

// That the request of one client goes round in a circle is nobody else's.
func TestLoopIsNotRemembered(t *testing.T) {
	s := newSite(t, remote0(maxStale(-1)))
	s.addImage("a", "v1", "first")
	r := s.Repository("a")
	_, err := r.Tag(t.Context(), "v1")
	must(t, err)
	s.pass(tagTTL)
	s.up.Fail(status(cache.ErrLoop))
	if _, err := r.Tag(t.Context(), "v1"); err == nil {
		t.Fatal("there is no circle")
	}
	s.up.Fail(nil)
	if _, err := r.Tag(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
}

// What a name means from now on is found out, and not remembered.
func TestMemoryBindsNoName(t *testing.T) {
	s, second := newPair(t)
	if _, err := s.called("a").Tag(t.Context(), "v1"); err == nil {
		t.Fatal("it is nowhere yet")
	}
	s.pass(29 * time.Second)
	ours := addImageAt(s.up, "a", "v2", "ours")
	addImageAt(second, "a", "v2", "theirs")
	if m, err := s.called("a").Tag(t.Context(), "v2"); err != nil || m.Digest != ours {
		t.Errorf("%s, %v, want %s", m.Digest, err, ours)
	}
	if got := s.bindings(t); !slices.Equal(got, []string{"a=upstream.test"}) {
		t.Errorf("bindings %q", got)
	}
	if _, err := s.called("b").Tags(t.Context(), -1, ""); err == nil {
		t.Fatal("it is nowhere yet")
	}
	s.pass(29 * time.Second)
	addImageAt(s.up, "b", "v1", "ours")
	s.pass(time.Second) // the second is asked again, and so the first is
	addImageAt(second, "b", "v2", "theirs")
	list, err := s.called("b").Tags(t.Context(), -1, "")
	if err != nil || !slices.Equal(list.Tags, []string{"v1"}) {
		t.Errorf("%q, %v", list.Tags, err)
	}
}
