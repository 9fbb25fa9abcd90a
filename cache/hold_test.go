package cache_test

import (
	"bytes"
	"context"
	"io"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// What is held stays, whether it was stored before or after, until it is let go.
func TestHold(t *testing.T) {
	for name, remove := range map[string]func(t *testing.T, s *site){
		"room": func(t *testing.T, s *site) {
			_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
			must(t, err)
		},
		"unused": func(t *testing.T, s *site) {
			_, err := s.Collect(t.Context(), cache.CollectOptions{})
			must(t, err)
		},
		"expired": func(t *testing.T, s *site) {
			time.Sleep(2 * 24 * time.Hour)
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, func(o *cache.Options) { o.Remotes[0].TTL, o.Now = 24*time.Hour, time.Now })
				before := s.push("a", "1", "old")
				after := s.push("a", "2", "new")
				loose := randomBytes(kib)
				s.pull(t, "a", "1")
				h := s.Hold()
				h.Keep(before, after, digest.FromBytes(loose))
				s.pull(t, "a", "2")
				must(t, s.StoreBlob(t.Context(), digest.FromBytes(loose), kib, bytesReader(loose)))
				time.Sleep(time.Minute)
				remove(t, s)
				if n := s.blobs.Len(); n != 7 {
					t.Errorf("%d are stored, want 7", n)
				}
				h.Release()
				h.Release()
				h.Keep(before)
				remove(t, s)
				want := map[string]int{"room": 0, "unused": 6, "expired": 1}[name]
				if n := s.blobs.Len(); n > want {
					t.Errorf("%d are stored when it is let go, want %d", n, want)
				}
			})
		})
	}
}

// Who removes an image by its name can do so; what is held of it beside that stays.
func TestHoldAndRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.push("a", "1", "base")
		s.pull(t, "a", "1")
		m, err := s.Repository("a").Tag(t.Context(), "1")
		must(t, err)
		base := m.References()[0].Digest
		h := s.Hold()
		defer h.Release()
		h.Keep(base)
		_, err = s.RemoveImage(t.Context(), "a", "1")
		must(t, err)
		if _, ok, err := s.Stored(t.Context(), base); err != nil || !ok {
			t.Errorf("the layer is gone: %v", err)
		}
		if n := s.blobs.Len(); n != 1 {
			t.Errorf("%d are stored, want the layer", n)
		}
	})
}

// What comes to be held when it is decided already that it goes, stays.
func TestHoldInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decided := func() {}
		s := newSite(t, func(o *cache.Options) { o.Index = &watchedIndex{Index: o.Index, placed: func() { decided() }} })
		image := s.push("a", "1", "1")
		s.push("a", "2", "2")
		s.pull(t, "a", "1")
		s.pull(t, "a", "2")
		h := s.Hold()
		defer h.Release()
		decided = func() { h.Keep(image) }
		_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
		must(t, err)
		s.wantImages(t, "a:1")
	})
}

// watchedIndex tells when somebody looks all tags through, as who is about to remove
// something.
type watchedIndex struct {
	cache.Index
	placed func()
}

func (x *watchedIndex) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	if string(prefix) == "t\x00" {
		x.placed()
	}
	return x.Index.Scan(ctx, prefix, from)
}

func bytesReader(p []byte) io.Reader { return bytes.NewReader(p) }
