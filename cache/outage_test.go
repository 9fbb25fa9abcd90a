package cache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

// Who must not be given what is stored waits for the remote as long as it takes, and is
// not told of an earlier failure.
func TestNothingStaleMayBeGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, remote0(func(r *cache.Remote) { r.TagTTL, r.MaxStale = 0, -1 }))
		s.addImage("a", "v1", "first")
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), "v1")
		must(t, err)
		s.up.Asked = func(context.Context, string) { <-time.After(2 * time.Second) }
		for range 3 {
			if _, err := r.Tag(t.Context(), "v1"); err != nil {
				t.Error(err)
			}
		}
		s.up.Fail(status(cache.ErrInvalid))
		if _, err := r.Tag(t.Context(), "v1"); err == nil {
			t.Error("an answer that nobody has confirmed")
		}
		s.up.Fail(nil)
		if _, err := r.Tag(t.Context(), "v1"); err != nil {
			t.Errorf("the remote is well: %v", err)
		}
	})
}

// An outage is over for a tag when it is over for the remote.
func TestOutageIsNotOfTheTag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.addImage("a", "v1", "first")
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), "v1")
		must(t, err)
		s.pass(tagTTL)
		gone := status(cache.ErrUnavailable)
		gone.NoConnection = true
		s.up.Fail(gone)
		s.up.SetAway(gone, true)
		for range 5 {
			if _, err := r.Tag(t.Context(), "v1"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			s.pass(time.Minute)
		}
		s.up.Fail(nil)
		s.up.SetAway(nil, false)
		if m, err := r.Tag(t.Context(), "v1"); err != nil || m.Stale != nil {
			t.Errorf("%v, %v", m.Stale, err)
		}
	})
}

// A list of tags is waited for until its beginning, and not waited for twice in vain.
func TestListOfSlowRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pager{hooked: new(hooked), pages: 10, takes: time.Second}
		s := newSite(t, func(o *cache.Options) {
			hook(p.hooked)(o)
			o.Remotes[0].Upstream = p
		})
		s.addImage("a", "v1", "first")
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), "v1")
		must(t, err)
		if list, err := r.Tags(t.Context(), -1, ""); err != nil || len(list.Tags) != 10 || list.Stale != nil {
			t.Errorf("%+v, %v", list, err)
		}
		p.takes = time.Hour
		for i, want := range []time.Duration{1500 * time.Millisecond, 0, 0} {
			start := time.Now()
			list, err := r.Tags(t.Context(), -1, "")
			if took := time.Since(start); err != nil || list.Stale == nil || len(list.Tags) != 1 || took != want {
				t.Errorf("list %d: %+v, %v, after %v", i, list, err, took)
			}
		}
	})
}

// A remote that is away is looked for again by who has a name that could be its.
func TestNameFindsRemoteAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t, func(o *cache.Options) { o.BindingTTL = time.Hour })
		addImageAt(second, "a", "v1", "second")
		_, err := s.called("a").Tag(t.Context(), "v1")
		must(t, err)
		s.pass(2 * time.Hour)
		s.up.SetAway(cache.ErrUnavailable, true)
		before := s.up.Calls("tags")
		_, err = s.called("a").Tag(t.Context(), "v1")
		must(t, err)
		synctest.Wait()
		if n := s.up.Calls("tags") - before; n != 1 {
			t.Errorf("it is asked %d times", n)
		}
	})
}

// What was asked for first does not make what was confirmed last disappear.
func TestLateAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gated{hooked: new(hooked)}
		s := newSite(t, func(o *cache.Options) {
			hook(g.hooked)(o)
			o.Remotes[0].Upstream = g
			o.Remotes[0].TagTTL = 0
		})
		want, _ := s.addImage("a", "v1", "first")
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), "v1")
		must(t, err)
		gate := make(chan struct{})
		g.gate = gate
		s.up.FailOp("resolve", cache.ErrNotFound)
		go func() { _, _ = r.Fresh().Tag(t.Context(), "v1") }() // what it gets does not matter
		synctest.Wait()
		g.gate = nil
		s.up.FailOp("resolve", nil)
		_, err = r.Tag(t.Context(), "v1")
		must(t, err)
		close(gate)
		synctest.Wait()
		if m, err := r.Tag(t.Context(), "v1"); err != nil || m.Digest != want {
			t.Errorf("%s, %v", m.Digest, err)
		}
	})
}

// The word of a remote that was kept in a way that cannot be read is asked for anew.
func TestDamagedReferrers(t *testing.T) {
	s := newSite(t)
	image, _ := s.addImage("a", "v1", "first")
	s.attach("a", "", "test/signature", image)
	r := s.Repository("a")
	_, err := r.Referrers(t.Context(), image)
	must(t, err)
	must(t, s.index.Apply(t.Context(), cache.Change{Key: []byte("f\x00a\x00" + image.String()), Value: []byte("{")}))
	for _, requests := range []int{2, 2} {
		if list, err := r.Referrers(t.Context(), image); err != nil || len(list.Manifests) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
		s.wantCalls(t, "referrers", requests)
	}
}
