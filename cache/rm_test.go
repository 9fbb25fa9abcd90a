package cache_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// pushIndex puts an index of images into repository repo.
func (s *site) pushIndex(repo, tag string, images ...digest.Digest) digest.Digest {
	list := ""
	for i, image := range images {
		if i > 0 {
			list += ","
		}
		list += fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1,"platform":{"os":"linux","architecture":"arch%d"}}`,
			v1.MediaTypeImageManifest, image, i)
	}
	return s.up.AddManifest(repo, tag, v1.MediaTypeImageIndex,
		fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, v1.MediaTypeImageIndex, list))
}

// Signatures go with the image that they are for, whether by a tag or as a referrer.
func TestRemoveWithSignatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		image := s.push("a", "1", "1")
		s.push("a", "sha256-"+image.Encoded()+".sig", "signature")
		referrer := s.attach("a", "", "test/sbom", image)
		s.pull(t, "a", "1")
		s.pull(t, "a", "sha256-"+image.Encoded()+".sig")
		_, err := s.Repository("a").Manifest(t.Context(), referrer)
		must(t, err)
		s.rest()
		_, err = s.RemoveImage(t.Context(), "a", "1")
		must(t, err)
		s.wantImages(t)
		if n := s.blobs.Len(); n != 0 {
			t.Errorf("%d blobs are left", n)
		}
	})
}

// What is pinned is not removed as a part of something else, nor from within.
func TestRemoveAroundPins(t *testing.T) {
	for name, c := range map[string]struct {
		pin    func(index, image digest.Digest) string
		remove func(index, image digest.Digest) string
		pinned bool // so that it fails
	}{
		"an image of a pinned index": {
			pin:    func(digest.Digest, digest.Digest) string { return "a:index" },
			remove: func(_, image digest.Digest) string { return image.String() },
			pinned: true,
		},
		"an index of a pinned image": {
			pin:    func(_, image digest.Digest) string { return "a@" + image.String() },
			remove: func(digest.Digest, digest.Digest) string { return "index" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				image := s.push("a", "", "1")
				index := s.pushIndex("a", "index", image)
				_, err := s.PinImages(t.Context(), cache.Pin{Pattern: c.pin(index, image), Reason: cache.PinnedByOperator})
				must(t, err)
				_, err = s.Repository("a").Tag(t.Context(), "index")
				must(t, err)
				m, err := s.Repository("a").Manifest(t.Context(), image)
				must(t, err)
				for _, part := range m.References() {
					readAll(t, s.openBlob(t, "a", part.Digest))
				}
				s.rest()
				_, err = s.RemoveImage(t.Context(), "a", c.remove(index, image))
				if errors.Is(err, cache.ErrPinned) != c.pinned || !c.pinned && err != nil {
					t.Errorf("got %v", err)
				}
				if c.pinned {
					s.wantImages(t, "a:index")
				} else {
					s.wantImages(t, "a@"+image.Encoded()[:6])
				}
			})
		})
	}
}

// What is linked while an image is removed is not taken from whom it is for.
func TestPullWhileRemoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waking := new(wakingBlobs)
		s := newSite(t, func(o *cache.Options) { waking.Blobs, o.Blobs = o.Blobs, waking })
		s.push("a", "1", "1", "base")
		s.push("b", "1", "other", "base")
		s.pull(t, "a", "1")
		waking.do = func(digest.Digest) { must(t, s.tryPull(t.Context(), t, "b", "1")) }
		_, err := s.RemoveImage(t.Context(), "a", "1")
		must(t, err)
		s.rest()
		s.up.Fail(cache.ErrUnavailable)
		must(t, s.tryPull(t.Context(), t, "b", "1"))
		if got := s.images(t); !slices.Equal(got, []string{"b:1"}) {
			t.Errorf("stored are %q", got)
		}
		s.wantTaken(t)
	})
}
