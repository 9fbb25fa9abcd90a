package cache_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// pushPlatforms puts an index of two platforms into repository repo.
func (s *site) pushPlatforms(repo, tag string) (index, amd64, arm digest.Digest) {
	amd64, arm = s.push(repo, "", "amd64"+repo), s.push(repo, "", "arm"+repo)
	index = s.up.AddManifest(repo, tag, v1.MediaTypeImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[
		{"mediaType":%q,"digest":%q,"size":1,"platform":{"os":"linux","architecture":"amd64"}},
		{"mediaType":%q,"digest":%q,"size":1,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`,
		v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, amd64, v1.MediaTypeImageManifest, arm))
	return index, amd64, arm
}

// Who asks for a platform that is not stored is told so, where it is known that it cannot
// be had.
func TestMissingPlatform(t *testing.T) {
	away := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "asking"}
	offline := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "asking", Err: cache.ErrOffline}
	for name, tt := range map[string]struct {
		mirror bool
		err    error
		pin    string
		reason cache.PinReason
		told   bool
		want   error
	}{
		"mirror":             {mirror: true, told: true, want: cache.ErrNotFound},
		"held offline":       {err: offline, told: true, want: cache.ErrNotFound},
		"away":               {err: away, want: cache.ErrUnavailable},
		"away, seeded":       {err: away, pin: "a:1", reason: cache.PinnedBySeed, told: true, want: cache.ErrNotFound},
		"away, pinned":       {err: away, pin: "a:1", reason: cache.PinnedByOperator, want: cache.ErrUnavailable},
		"away, other seeded": {err: away, pin: "a:2", reason: cache.PinnedBySeed, want: cache.ErrUnavailable},
		"limited, seeded":    {err: &cache.UpstreamError{Kind: cache.ErrRateLimited}, pin: "a:1", reason: cache.PinnedBySeed, want: cache.ErrRateLimited},
		"gone":               {err: &cache.UpstreamError{Kind: cache.ErrNotFound}, want: cache.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			_, amd64, arm := s.pushPlatforms("a", "1")
			_, err := s.Repository("a").Tag(t.Context(), "1")
			must(t, err)
			_, err = s.Repository("a").Manifest(t.Context(), amd64)
			must(t, err)
			if tt.pin != "" {
				_, err := s.PinImages(t.Context(), cache.Pin{Pattern: tt.pin, Reason: tt.reason})
				must(t, err)
			}
			if tt.mirror {
				s.reopen(t, noUpstream)
			}
			s.up.Fail(tt.err)
			_, err = s.Repository("a").Manifest(t.Context(), arm)
			if !errors.Is(err, tt.want) || errors.Is(tt.want, cache.ErrNotFound) && errors.Is(err, cache.ErrUnavailable) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			told := strings.Contains(err.Error(), "upstream.test/a:1") && strings.Contains(err.Error(), "platform linux/arm/v7")
			if told != tt.told {
				t.Errorf("the error says %q", err)
			}
			if _, err := s.Repository("a").Manifest(t.Context(), digest.FromString("other")); err == nil || strings.Contains(err.Error(), "platform") {
				t.Errorf("of what no index lists it says %v", err)
			}
		})
	}
}

// What is said to be stored of an image is nothing that only another repository has.
func TestMissingPlatformOfOthers(t *testing.T) {
	s := newSite(t)
	index, amd64, arm := s.pushPlatforms("a", "1")
	for _, ref := range []digest.Digest{index, amd64} {
		m, err := s.Repository("a").Peek(t.Context(), ref.String())
		must(t, err)
		s.up.SetManifest("b", ref.String(), m.Manifest)
		if ref == index {
			must(t, s.Repository("a").StoreManifest(t.Context(), m.Manifest))
			continue
		}
		for _, d := range m.References() {
			must(t, s.StoreBlob(t.Context(), d.Digest, d.Size, bytesReader(s.content(t, "a", d))))
		}
		must(t, s.Repository("b").StoreManifest(t.Context(), m.Manifest))
	}
	s.reopen(t, noUpstream)
	_, err := s.Repository("a").Manifest(t.Context(), arm)
	if !errors.Is(err, cache.ErrNotFound) || !strings.Contains(err.Error(), "none of its platforms") {
		t.Errorf("it says %v", err)
	}
}

// content is that of a blob of the remote.
func (s *site) content(t *testing.T, repo string, d v1.Descriptor) []byte {
	t.Helper()
	stream, err := s.up.Blob(t.Context(), repo, d.Digest, cache.BlobPart{})
	must(t, err)
	content, err := io.ReadAll(stream.Body)
	must(t, err)
	must(t, stream.Body.Close())
	return content
}

// A remote can be added while the cache works, and has names of its own.
func TestAddRemote(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("other.test/x", "1", "x")
	if err := s.AddRemote(cache.Remote{Host: "asked.test", Upstream: s.up}); err == nil {
		t.Error("one that can be asked was added")
	}
	if err := s.AddRemote(cache.Remote{Host: "same.test"}); err == nil {
		t.Error("one of the same names was added")
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := s.AddRemote(cache.Remote{Host: "other.test", Naming: cache.Naming{Prefix: "other.test/"}}); err != nil {
				t.Error(err)
			}
			if _, err := s.Repository("other.test/x").Tag(t.Context(), "1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r, ok := s.Cache.Repository(cache.Place{Host: "other.test", Repo: "x"})
	if !ok || r.Key() != "other.test/x" {
		t.Fatalf("it is stored as %q", r.Key())
	}
	if key := s.Repository("other.test/x").Key(); key != "@upstream.test/other.test/x" {
		t.Errorf("a name of the first remote that begins so is stored as %q", key)
	}
	i := newImported(kib)
	must(t, i.into(t.Context(), s.Cache, r))
	if got, err := r.Tag(t.Context(), "1"); err != nil || got.Digest != i.manifest.Digest || got.Digest == dgst {
		t.Errorf("it has %s, %v", got.Digest, err)
	}
	for image, err := range s.Images(t.Context()) {
		must(t, err)
		if image.Tag == "1" && image.Digest == i.manifest.Digest && (image.Remote != "other.test" || image.Name != "x") {
			t.Errorf("it is listed as %s of %s", image.Name, image.Remote)
		}
	}
}

func TestAttachedTo(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("a", "1", "x")
	tag := cache.ReferrersTag(dgst)
	for _, suffix := range []string{"", ".sig", ".sbom", ".other"} {
		s.addImage("a", tag+suffix, "y"+suffix)
		_, err := s.Repository("a").Tag(t.Context(), tag+suffix)
		must(t, err)
	}
	_, err := s.Repository("a").Tag(t.Context(), "1")
	must(t, err)
	want := []string{tag, tag + ".sig", tag + ".sbom"}
	if _, tags, err := s.Repository("a").Attached(t.Context(), dgst); err != nil || !slices.Equal(tags, want) {
		t.Errorf("attached are %q, %v", tags, err)
	}
	if d, err := s.InspectImage(t.Context(), "a", "1"); err != nil || !slices.Equal(d.AttachedTags, want) || d.Name != "a" {
		t.Errorf("attached are %q, %v", d.AttachedTags, err)
	}
}
