package cache_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// storageInBlocks is a storage in blocks, as a file system is.
type storageInBlocks struct{ *cachetest.Blobs }

const block = 4096

func (b storageInBlocks) Occupies(size int64) int64 { return (size+block-1)/block*block + block }

func (b storageInBlocks) OccupiesRef(kind cache.RefKind) int64 {
	return map[cache.RefKind]int64{cache.RefLayer: 2, cache.RefTag: 3, cache.RefManifest: 10}[kind] * block
}

// inBlocks makes a site one of a storage in blocks with a limit.
func inBlocks(limit int64) func(*cache.Options) {
	return func(o *cache.Options) {
		o.Usage = storageInBlocks{o.Blobs.(*cachetest.Blobs)}
		o.MaxSize = limit
	}
}

// fits asks whether images of a layer of size bytes each, n of them, have room.
func fits(t *testing.T, s *site, images ...imported) cache.Fit {
	t.Helper()
	var all []cache.BlobEntry
	for _, i := range images {
		all = append(all, i.contents()...)
	}
	f, err := s.Fit(t.Context(), all)
	must(t, err)
	return f
}

// What has room by Fit has it, and what has none misses it by no more than the margins.
func TestFit(t *testing.T) {
	const limit = 24 * mib
	for name, tt := range map[string]struct {
		images int
		before func(t *testing.T, s *site)
		adjust func(*cache.Options)
	}{
		"empty":      {images: 1},
		"many small": {images: 15},
		"others that may go": {images: 3, before: func(t *testing.T, s *site) {
			for i := range 80 {
				tag := fmt.Sprint(i)
				s.push("o", tag, tag)
				s.pull(t, "o", tag)
			}
		}},
		"some that are pinned": {images: 3, before: func(t *testing.T, s *site) {
			_, err := s.PinImages(t.Context(), cache.Pin{Pattern: "o:1*", Reason: cache.PinnedByOperator})
			must(t, err)
			for i := range 60 {
				tag := fmt.Sprint(i)
				s.push("o", tag, tag)
				s.pull(t, "o", tag)
			}
		}},
		"a small storage": {images: 3, adjust: func(o *cache.Options) {
			o.MaxSize = 0
			o.MinFree = func(int64) int64 { return mib }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fresh := func() *site {
					s := newSite(t, inBlocks(limit), func(o *cache.Options) {
						if tt.adjust != nil {
							tt.adjust(o)
							o.Blobs.(*cachetest.Blobs).Room = limit
						}
					})
					if tt.before != nil {
						tt.before(t, s)
					}
					s.rest()
					return s
				}
				images := func(size int) (all []imported) {
					for range tt.images {
						all = append(all, newImported(size))
					}
					return all
				}
				s := fresh()
				small := newImported(kib).contents()
				ok := func(size int) bool {
					var all []cache.BlobEntry
					for n := range tt.images {
						for i, e := range small {
							e.Digest = digest.FromString(fmt.Sprint(n, i))
							if i == 1 { // the layer
								e.Size = int64(size)
							}
							all = append(all, e)
						}
					}
					f, err := s.Fit(t.Context(), all)
					must(t, err)
					return f.OK
				}
				low, high := 0, limit
				for high-low > 16*kib {
					if middle := (low + high) / 2; ok(middle) {
						low = middle
					} else {
						high = middle
					}
				}
				store := func(s *site, size int) error {
					all := images(size)
					h := s.Hold()
					defer h.Release()
					for _, i := range all {
						for _, e := range i.contents() {
							h.Keep(e.Digest)
						}
					}
					for n, i := range all {
						if err := i.into(t.Context(), s.Cache, s.Repository(fmt.Sprint("new", n))); err != nil {
							return err
						}
					}
					return nil
				}
				if err := store(fresh(), low); err != nil {
					t.Errorf("%d bytes fit, and then: %v", low, err)
				}
				if tt.adjust != nil {
					return // the room of that storage does not become less
				}
				const margin = 16 * 14 * block // of fills that run at the same time
				if larger := low + low*3/100 + margin/tt.images + 10*block; store(fresh(), larger) == nil {
					t.Errorf("%d bytes are said to fit at most, and %d do", low, larger)
				}
			})
		})
	}
}

func TestFitCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, inBlocks(24*mib))
		i := newImported(mib)
		before := fits(t, s, i)
		if want := int64(mib + 2*block + 2*block /* links */ + 2*12*block); !before.OK || before.More < want-block || before.More > want+2*block {
			t.Errorf("it is %+v, and some %d are needed", before, want)
		}
		must(t, i.into(t.Context(), s.Cache, s.Repository("a")))
		after := fits(t, s, i)
		if !after.OK || after.More != 0 || after.Kept > before.Kept {
			t.Errorf("when it is there: %+v, before: %+v", after, before)
		}
		if nothing := fits(t, s); nothing.Kept != 0 || !nothing.OK {
			t.Errorf("nothing: %+v", nothing)
		}
		_, err := s.PinImages(t.Context(), cache.Pin{Pattern: "a:1", Reason: cache.PinnedBySeed})
		must(t, err)
		if pinned := fits(t, s); pinned.Kept != after.Kept {
			t.Errorf("pinned: %+v, want %d kept", pinned, after.Kept)
		}
		if more := fits(t, s, newImported(24*mib)); more.OK || more.Kept < 25*mib {
			t.Errorf("too much: %+v", more)
		}
		twice, err := s.Fit(t.Context(), append(i.contents(), i.contents()...))
		must(t, err)
		if twice.More < 2*block || twice.More > 40*block {
			t.Errorf("in another repository it takes %d", twice.More)
		}
		if f, err := s.Fit(t.Context(), []cache.BlobEntry{{Digest: digest.FromString("x"), Size: 1<<63 - 1}}); err != nil || f.OK {
			t.Errorf("absurd: %+v, %v", f, err)
		}
	})
}

// What cannot be told of the pins is no reason to say that there is room.
func TestFitWithoutPins(t *testing.T) {
	doc := &memDocument{err: errors.New("unreadable")}
	s := newSite(t, func(o *cache.Options) { o.Pinned = doc })
	if _, err := s.Fit(t.Context(), nil); err == nil {
		t.Error("no error")
	}
}
