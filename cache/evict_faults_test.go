package cache_test

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// stuckRefs cannot remove links to one manifest.
type stuckRefs struct {
	cache.Refs
	stuck digest.Digest
}

func (r *stuckRefs) Remove(ctx context.Context, ref cache.Ref) error {
	if ref.Kind == cache.RefManifest && ref.Name == r.stuck.String() {
		return syscall.EIO
	}
	return r.Refs.Remove(ctx, ref)
}

// An image whose manifest cannot be removed keeps what it consists of.
func TestWhatCannotBeRemovedStaysWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := new(stuckRefs)
		s := newSite(t, func(o *cache.Options) { stuck.Refs, o.Refs = o.Refs, stuck })
		stuck.stuck = s.push("a", "1", "1")
		s.push("a", "2", "2")
		s.pull(t, "a", "1")
		s.pull(t, "a", "2")
		_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
		must(t, err)
		for image, err := range s.Images(t.Context()) {
			must(t, err)
			if image.Digest != stuck.stuck || !image.Complete {
				t.Errorf("left is %+v", image)
			}
		}
		if n := s.blobs.Len(); n != 3 {
			t.Errorf("%d blobs are left of an image of 3", n)
		}
	})
}

// That the pins cannot be written, as on a full disk, is no reason to keep it full.
func TestRoomIsMadeWhenPinsCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := new(memDocument)
		s := newSite(t, limited(4), func(o *cache.Options) { o.Pinned, o.Pins = doc, []string{"a:latest"} })
		s.push("a", "latest", "old")
		s.pull(t, "a", "latest")
		s.push("a", "latest", "new")
		s.pass(2 * tagTTL)
		s.pull(t, "a", "latest")
		doc.mu.Lock()
		doc.err = syscall.ENOSPC
		doc.mu.Unlock()
		for _, tag := range []string{"1", "2", "3", "4"} {
			s.push("b", tag, tag)
			s.pull(t, "b", tag)
		}
		if got := s.images(t); !slices.Contains(got, "b:4") || !slices.Contains(got, "a:latest") {
			t.Errorf("stored are %q", got)
		}
	})
}
