package cache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

// What a tag in use has moved to does not expire before anybody has got it.
func TestMovedTagDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) {
			o.Now, o.Remotes[0].TTL = time.Now, 10*time.Hour
			o.Remotes[0].StaleWhileRevalidate = tagTTL
		})
		s.partials.Now = time.Now
		s.push("a", "1", "1")
		must(t, s.tryPull(t.Context(), t, "a", "1"))
		for range 3 {
			time.Sleep(8 * time.Hour)
			must(t, s.tryPull(t.Context(), t, "a", "1"))
		}
		moved := s.push("a", "1", "2")
		time.Sleep(tagTTL + time.Minute)
		_, err := s.Repository("a").CachedTag(t.Context(), "1") // gets the old, and has it asked about
		must(t, err)
		time.Sleep(2 * time.Hour)
		s.up.Fail(cache.ErrUnavailable)
		got, err := s.Repository("a").Tag(t.Context(), "1")
		if err != nil || got.Digest != moved {
			t.Errorf("%v, %v", got.Digest, err)
		}
	})
}

// A clock that is set right later, as on gateways that wake up in the past, does not make
// what was used meanwhile look old.
func TestUsedBeforeClockWasSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		s := newSite(t, func(o *cache.Options) {
			o.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			o.Remotes[0].TTL = 48 * time.Hour
		})
		s.partials.Now = s.opts.Now
		s.push("a", "1", "1")
		must(t, s.tryPull(t.Context(), t, "a", "1"))
		for range 3 {
			time.Sleep(24 * time.Hour)
			must(t, s.tryPull(t.Context(), t, "a", "1"))
		}
		s.reopen(t)
		time.Sleep(24 * time.Hour)
		off.Store(int64(-10000 * time.Hour))
		must(t, s.tryPull(t.Context(), t, "a", "1"))
		time.Sleep(time.Hour) // it is written
		off.Store(0)
		time.Sleep(time.Minute)
		_, err := s.Collect(t.Context(), cache.CollectOptions{})
		must(t, err)
		s.wantImages(t, "a:1")
	})
}

// fullIndex takes no changes while it is full.
type fullIndex struct {
	cache.Index
	full atomic.Bool
}

func (x *fullIndex) Apply(ctx context.Context, changes ...cache.Change) error {
	if x.full.Load() {
		return syscall.ENOSPC
	}
	return x.Index.Apply(ctx, changes...)
}

// Uses that cannot be written are written later.
func TestUsesAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := new(fullIndex)
		s := newSite(t, func(o *cache.Options) { full.Index, o.Index = o.Index, full })
		s.push("a", "1", "1")
		s.pull(t, "a", "1")
		s.pass(time.Hour)
		want := s.now
		_, err := s.Repository("a").CachedManifest(t.Context(), s.push("a", "1", "1"))
		must(t, err)
		full.full.Store(true)
		s.images(t)
		full.full.Store(false)
		for _, err := range s.Images(canceled(t)) {
			if !errors.Is(err, context.Canceled) {
				t.Logf("a list for who has left: %v", err)
			}
		}
		if got := s.used(t, "a:1"); !got.Equal(want) {
			t.Errorf("used at %v, want %v", got, want)
		}
	})
}
