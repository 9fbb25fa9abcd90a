package cache_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// refillingBlobs stores a blob anew as soon as it was removed, before that is accounted for.
type refillingBlobs struct {
	cache.Blobs
	dgst digest.Digest
	once sync.Once
	fill func()
}

func (b *refillingBlobs) Remove(ctx context.Context, dgst digest.Digest) error {
	err := b.Blobs.Remove(ctx, dgst)
	if dgst == b.dgst {
		b.once.Do(func() {
			b.fill()
			for {
				stored, err := b.Blobs.Open(ctx, dgst)
				if err == nil {
					_ = stored.Close()
					return
				}
				runtime.Gosched()
			}
		})
	}
	return err
}

// wantTaken compares the account with what is stored.
func (s *site) wantTaken(t *testing.T) {
	t.Helper()
	var want int64
	for b, err := range s.blobs.All(t.Context()) {
		must(t, err)
		want += s.usage().Occupies(b.Size)
	}
	for ref, err := range s.refs.All(t.Context()) {
		must(t, err)
		want += s.usage().OccupiesRef(ref.Kind)
	}
	got, err := s.Collect(t.Context(), cache.CollectOptions{DryRun: true})
	must(t, err)
	if used := got.Used + got.Freed; used != want {
		t.Errorf("%d bytes are counted, %d taken", used, want)
	}
}

func (s *site) usage() cache.Usage {
	if s.opts.Usage != nil {
		return s.opts.Usage
	}
	return s.blobs
}

// What is stored again while it is being removed is counted.
func TestStoredAgainWhileRemoved(t *testing.T) {
	refilling := new(refillingBlobs)
	s := newSite(t, func(o *cache.Options) { refilling.Blobs, o.Blobs = o.Blobs, refilling })
	content := randomBytes(300 * kib)
	refilling.dgst = s.up.AddBlob("a", content)
	refilling.fill = func() {
		b, err := s.Repository("a").OpenBlob(t.Context(), refilling.dgst)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := io.Copy(io.Discard, b); err != nil {
			t.Error(err)
		}
		_ = b.Close()
	}
	refilling.fill()
	for s.blobs.Len() == 0 {
		runtime.Gosched()
	}
	s.wantTaken(t)
	s.close(t, s.Cache)
	s.opts.Now = nil // so that nothing is being pulled
	s.open(t)
	_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
	must(t, err)
	if s.blobs.Len() != 1 {
		t.Fatal("it was not stored again")
	}
	s.close(t, s.Cache)
	s.open(t)
	s.wantTaken(t)
}

// What is linked while the index is being rebuilt is counted once.
func TestLinksWhileRebuilding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Usage = new(blocks) })
		for i := range 3 {
			tag := fmt.Sprint(i)
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		s.wantTaken(t)
		s.close(t, s.Cache)
		s.loseIndex()
		held := make(chan struct{})
		s.opts.Refs = heldRefs{s.refs, held}
		c, err := cache.New(t.Context(), s.opts)
		must(t, err)
		defer func() { s.close(t, c) }()
		s.Cache = c
		s.push("a", "3", "3", "0")
		s.pull(t, "a", "3")
		s.push("b", "1", "1")
		s.pull(t, "b", "1")
		s.pass(2 * tagTTL)
		s.up.SetManifest("a", "0", cache.Manifest{})
		close(held)
		must(t, c.Ready(t.Context()))
		s.wantTaken(t)
		s.push("a", "4", "4")
		s.pull(t, "a", "4")
		_, err = s.RemoveImage(t.Context(), "a", "3")
		must(t, err)
		s.wantTaken(t)
	})
}

// A clean start after a full disk does not believe in what was removed.
func TestDeletionsAreOwedNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := new(fullIndex)
		s := newSite(t, func(o *cache.Options) { full.Index, o.Index = o.Index, full })
		for i := range 60 {
			tag := fmt.Sprint(i)
			s.push("a", tag, tag)
			must(t, s.tryPull(t.Context(), t, "a", tag))
		}
		s.rest()
		full.full.Store(true)
		_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
		must(t, err)
		full.full.Store(false)
		s.reopen(t)
		s.wantImages(t)
		s.wantTaken(t)
	})
}
