package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/cache/tagpolicy"
)

// attach makes the remote have something that refers to subject.
func (s *site) attach(repo, tag, artifactType string, subject digest.Digest) digest.Digest {
	config := s.up.AddBlob(repo, []byte("{}"))
	return s.up.AddManifest(repo, tag, v1.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"of":%q}}`,
		v1.MediaTypeImageManifest, artifactType, config, v1.MediaTypeImageManifest, subject, artifactType))
}

// types are the artifact types of a list, in order.
func types(list cache.Referrers) []string {
	var all []string
	for _, d := range list.Manifests {
		all = append(all, d.ArtifactType)
	}
	slices.Sort(all)
	return all
}

func TestReferrers(t *testing.T) {
	s := newSite(t)
	image, _ := s.addImage("a", "v1", "first")
	s.attach("a", "", "test/signature", image)
	s.attach("b", "", "test/elsewhere", image)
	r := s.Repository("a")
	_, err := r.Tag(t.Context(), "v1")
	must(t, err)
	want := func(requests int, fresh bool, want ...string) {
		t.Helper()
		before := s.up.Calls("")
		list, err := r.Referrers(t.Context(), image)
		if err != nil || !slices.Equal(types(list), want) || (list.Stale == nil) != fresh {
			t.Errorf("%q, %+v, %v: want %q", types(list), list.Freshness, err, want)
		}
		if n := s.up.Calls("") - before; n != requests {
			t.Errorf("%d requests, want %d", n, requests)
		}
	}
	want(1, true, "test/signature")
	want(0, true, "test/signature")
	sbom := s.attach("a", "", "test/sbom", image)
	want(0, true, "test/signature")
	s.pass(tagTTL)
	want(1, true, "test/sbom", "test/signature")

	s.reopen(t) // it outlives a restart
	r = s.Repository("a")
	want(0, true, "test/sbom", "test/signature")
	s.pass(tagTTL)
	s.up.SetAway(cache.ErrUnavailable, false)
	want(0, false, "test/sbom", "test/signature")
	s.up.SetAway(nil, false)
	s.up.Fail(status(cache.ErrDenied))
	want(1, false, "test/sbom", "test/signature")
	want(0, false, "test/sbom", "test/signature")
	s.up.Fail(nil)
	s.pass(10 * time.Second)

	// What the remote does not list any more is not listed, though it is stored.
	_, err = r.Manifest(t.Context(), sbom)
	must(t, err)
	s.up.SetManifest("a", sbom.String(), cache.Manifest{})
	want(1, true, "test/signature")
	if list, err := r.Fresh().Referrers(t.Context(), image); err != nil || len(list.Manifests) != 1 || list.Manifests[0].Annotations["of"] != "test/signature" {
		t.Errorf("%+v, %v", list, err)
	}
}

// Without the remote what is stored tells.
func TestReferrersOfWhatIsStored(t *testing.T) {
	s := newSite(t)
	image, _ := s.addImage("a", "v1", "first")
	attached := s.attach("a", "", "test/signature", image)
	listed := s.attach("a", "", "test/listed", image)
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":1,"artifactType":"test/listed"}]}`,
		v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, listed)
	s.up.AddManifest("a", strings.Replace(image.String(), ":", "-", 1), v1.MediaTypeImageIndex, index)
	r := s.Repository("a")
	for _, tag := range []string{"v1", strings.Replace(image.String(), ":", "-", 1)} {
		_, err := r.Tag(t.Context(), tag)
		must(t, err)
	}
	_, err := r.Manifest(t.Context(), attached)
	must(t, err)
	want := []string{"test/listed", "test/signature"}
	unknown := digest.FromString("unknown")

	s.up.SetAway(cache.ErrUnavailable, false)
	s.up.Fail(cache.ErrUnavailable)
	if list, err := r.Referrers(t.Context(), image); err != nil || !slices.Equal(types(list), want) || list.Stale == nil {
		t.Errorf("away: %q, %v, %v", types(list), list.Stale, err)
	}
	if _, err := r.Referrers(t.Context(), unknown); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("of what was never asked for: %v", err)
	}
	for _, lost := range []bool{false, true} {
		if lost {
			s.loseIndex()
		}
		s.reopen(t, noUpstream)
		if list, err := s.Repository("a").Referrers(t.Context(), image); err != nil || !slices.Equal(types(list), want) || list.Stale != nil {
			t.Errorf("as a mirror: %q, %v, %v", types(list), list.Stale, err)
		}
		if list, err := s.Repository("a").Referrers(t.Context(), unknown); err != nil || len(list.Manifests) != 0 {
			t.Errorf("as a mirror, of what is unknown: %+v, %v", list, err)
		}
	}
}

// Anybody can ask for the referrers of any digest: it leaves nothing behind.
func TestReferrersOfNothing(t *testing.T) {
	s := newSite(t)
	unknown := digest.FromString("unknown")
	entries := s.entries(t)
	for range 3 {
		if list, err := s.Repository("a").Referrers(t.Context(), unknown); err != nil || len(list.Manifests) != 0 || list.Stale != nil {
			t.Errorf("%+v, %v", list, err)
		}
	}
	s.wantCalls(t, "", 1)
	if n := s.entries(t); n != entries {
		t.Errorf("%d entries in the index, %d before", n, entries)
	}
	s.attach("a", "", "test/signature", unknown)
	s.pass(30 * time.Second)
	if list, err := s.Repository("a").Referrers(t.Context(), unknown); err != nil || len(list.Manifests) != 1 {
		t.Errorf("later: %+v, %v", list, err)
	}
}

// Of a name that could be of several remotes, an empty list says nothing.
func TestReferrersOfName(t *testing.T) {
	s, second := newPair(t)
	image := addImageAt(second, "a", "v1", "second")
	config := second.AddBlob("a", []byte("{}"))
	second.AddManifest("a", "", v1.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"artifactType":"test/signature","config":{"digest":%q,"size":2},"subject":{"digest":%q,"size":1}}`, config, image))
	list, err := s.called("a").Referrers(t.Context(), image)
	if err != nil || !slices.Equal(types(list), []string{"test/signature"}) {
		t.Errorf("%q, %v", types(list), err)
	}
	if got := s.bindings(t); !slices.Equal(got, []string{"a=second.test"}) {
		t.Errorf("bindings %q", got)
	}
	if list, err := s.called("nowhere").Referrers(t.Context(), image); err != nil || len(list.Manifests) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	s.up.Fail(status(cache.ErrUnavailable))
	if list, err := s.called("other").Referrers(t.Context(), image); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("with the first remote away: %+v, %v", list, err)
	}
}

// Who has a list does not wait for a remote that hangs.
func TestReferrersOfHangingRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		image, _ := s.addImage("a", "v1", "first")
		s.attach("a", "", "test/signature", image)
		_, err := s.Repository("a").Referrers(t.Context(), image)
		must(t, err)
		s.pass(tagTTL)
		s.up.Asked = hang
		start := time.Now()
		list, err := s.Repository("a").Referrers(t.Context(), image)
		if took := time.Since(start); err != nil || len(list.Manifests) != 1 || list.Stale == nil || took != 1500*time.Millisecond {
			t.Errorf("%+v, %v, after %v", list, err, took)
		}
	})
}

// What is attached to an image that is pulled is there when the remote is away, in
// whichever way it is attached.
func TestAttachedIsFetched(t *testing.T) {
	for _, on := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.Attached = on })
			image, layer := s.addImage("a", "v1", "first")
			sbom := s.up.AddBlob("a", []byte("the sbom"))
			config := s.up.AddBlob("a", []byte("{}"))
			s.up.AddManifest("a", "", v1.MediaTypeImageManifest, fmt.Appendf(nil,
				`{"schemaVersion":2,"artifactType":"test/sbom","config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":8}],"subject":{"digest":%q,"size":1}}`, config, sbom, image))
			signature := s.up.AddBlob("a", []byte("the signature"))
			sigTag := strings.Replace(image.String(), ":", "-", 1) + ".sig"
			s.up.AddManifest("a", sigTag, v1.MediaTypeImageManifest, fmt.Appendf(nil,
				`{"schemaVersion":2,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":13}]}`, config, signature))
			r := s.Repository("a")
			m, err := r.Tag(t.Context(), "v1")
			must(t, err)
			for range 2 {
				r.Prefetch(m.Manifest)
			}
			synctest.Wait()
			if !on {
				s.wantCalls(t, "", 1)
				return
			}
			s.wantCalls(t, "referrers", 2) // the second for what refers to what refers to it
			s.wantCalls(t, "blob", 3)
			s.up.Fail(cache.ErrUnavailable)
			list, err := r.Referrers(t.Context(), image)
			must(t, err)
			attached, err := r.Manifest(t.Context(), list.Manifests[0].Digest)
			must(t, err)
			signed, err := r.Tag(t.Context(), sigTag)
			must(t, err)
			for _, m := range []cache.Manifest{attached, signed.Manifest} {
				r.Prefetch(m) // which has nothing attached that would be asked for
				for _, d := range m.References() {
					readAll(t, s.openBlob(t, "a", d.Digest))
				}
			}
			if _, err := r.OpenBlob(t.Context(), layer); !errors.Is(err, cache.ErrUnavailable) {
				t.Errorf("the image itself was not asked for: %v", err)
			}
			synctest.Wait()
		})
	}
}

// What the remote has taken away does not come back, whatever is asked when.
func TestReferrersAreGone(t *testing.T) {
	s := newSite(t)
	subject := digest.FromString("not stored")
	signature := s.attach("a", "", "test/signature", subject)
	r := s.Repository("a")
	if list, err := r.Referrers(t.Context(), subject); err != nil || len(list.Manifests) != 1 {
		t.Fatal(list, err)
	}
	s.up.SetManifest("a", signature.String(), cache.Manifest{})
	s.pass(tagTTL)
	for i := range 6 {
		if list, err := r.Referrers(t.Context(), subject); err != nil || len(list.Manifests) != 0 || list.Stale != nil {
			t.Errorf("request %d: %q, %v, %v", i, types(list), list.Stale, err)
		}
		s.pass(10 * time.Second)
	}
	s.up.SetAway(cache.ErrUnavailable, false)
	s.up.Fail(cache.ErrUnavailable)
	if list, err := r.Referrers(t.Context(), subject); err == nil && len(list.Manifests) != 0 {
		t.Errorf("away: %q", types(list))
	}
}

// What is stored is listed as well when the remote fails while it is asked.
func TestReferrersWhenRemoteFails(t *testing.T) {
	s := newSite(t)
	image, _ := s.addImage("a", "v1", "first")
	s.attach("a", "", "test/one", image)
	r := s.Repository("a")
	_, err := r.Referrers(t.Context(), image)
	must(t, err)
	s.up.FailOp("referrers", status(cache.ErrUnavailable))
	two := s.attach("a", "", "test/two", image)
	_, err = r.Manifest(t.Context(), two)
	must(t, err)
	if list, err := r.Referrers(t.Context(), image); err != nil || !slices.Equal(types(list), []string{"test/one", "test/two"}) || list.Stale == nil {
		t.Errorf("%q, %v, %v", types(list), list.Stale, err)
	}
	s.up.FailOp("referrers", nil)
	s.pass(10 * time.Second)
	if list, err := r.Referrers(t.Context(), image); err != nil || len(list.Manifests) != 2 || list.Stale != nil {
		t.Errorf("%q, %v, %v", types(list), list.Stale, err)
	}
}

// Something new that refers to an image makes its list due, whatever was known.
func TestReferrersOfWhatIsNew(t *testing.T) {
	rule, err := tagpolicy.Parse("*=immutable")
	must(t, err)
	s := newSite(t, remote0(func(r *cache.Remote) { r.TagRules = tagpolicy.Rules{rule} }))
	image, _ := s.addImage("a", "v1", "first")
	r := s.Repository("a")
	_, err = r.Tag(t.Context(), "v1")
	must(t, err)
	want := func(requests int, want ...string) {
		t.Helper()
		before := s.up.Calls("referrers")
		if list, err := r.Referrers(t.Context(), image); err != nil || !slices.Equal(types(list), want) || list.Stale != nil {
			t.Errorf("%q, %v, %v, want %q", types(list), list.Stale, err, want)
		}
		if n := s.up.Calls("referrers") - before; n != requests {
			t.Errorf("%d requests, want %d", n, requests)
		}
	}
	want(1)
	want(0)
	one := s.attach("a", "", "test/one", image)
	want(0)
	_, err = r.Manifest(t.Context(), one)
	must(t, err)
	want(1, "test/one")
	want(0, "test/one")
	s.attach("a", "", "test/two", image)
	s.pass(tagTTL) // lists are not immutable, whatever is said of tags
	want(1, "test/one", "test/two")
}

// A 404 that need not be the registry's is no list.
func TestReferrersAreNotKnown(t *testing.T) {
	s, _ := newPair(t)
	image := addImageAt(s.up, "a", "v1", "first")
	vague := status(cache.ErrNotFound)
	vague.Vague = true
	s.up.FailOp("referrers", vague)
	for name, r := range map[string]interface {
		Referrers(context.Context, digest.Digest) (cache.Referrers, error)
	}{"name": s.called("a"), "repository": s.Repository("a")} {
		if list, err := r.Referrers(t.Context(), image); !errors.Is(err, cache.ErrInvalid) || errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
}

// Whatever is attached, the entries of the index are small, and a list that has not
// changed is not written again.
func TestManyReferrers(t *testing.T) {
	s := newSite(t)
	image, _ := s.addImage("a", "v1", "first")
	for i := range 300 {
		s.attach("a", "", fmt.Sprintf("test/%03d/%s", i, strings.Repeat("x", 300)), image)
	}
	r := s.Repository("a")
	_, err := r.Tag(t.Context(), "v1")
	must(t, err)
	list, err := r.Referrers(t.Context(), image)
	must(t, err)
	huge := s.attach("b", "", strings.Repeat("x", 1<<20), image)
	_, err = s.Repository("b").Manifest(t.Context(), huge)
	must(t, err)
	for e, err := range s.index.Scan(t.Context(), nil, nil) {
		must(t, err)
		if len(e.Value) > 48<<10 {
			t.Errorf("an entry %q of %d bytes", e.Key[:1], len(e.Value))
		}
	}
	s.reopen(t)
	r = s.Repository("a")
	s.up.SetAway(cache.ErrUnavailable, false)
	s.pass(tagTTL)
	if kept, err := r.Referrers(t.Context(), image); err != nil || !slices.Equal(types(kept), types(list)) || len(list.Manifests) != 300 {
		t.Errorf("%d of %d are kept, %v", len(kept.Manifests), len(list.Manifests), err)
	}
	s.up.SetAway(nil, false)
	entries := s.entries(t)
	s.up.RemoveRepo("a")
	if list, err := r.Referrers(t.Context(), image); err != nil || len(list.Manifests) != 0 {
		t.Errorf("%d are left, %v", len(list.Manifests), err)
	}
	if n := s.entries(t); n > entries-4 {
		t.Errorf("%d entries in the index, %d before", n, entries)
	}
}

// What is attached later is fetched later, and no remote waits for another one.
func TestAttachedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t, func(o *cache.Options) { o.Attached, o.Prefetch = true, true })
		image, _ := s.addImage("a", "v1", "first")
		r := s.Repository("a")
		pull := func(r *cache.Repository) {
			t.Helper()
			m, err := r.Tag(t.Context(), "v1")
			must(t, err)
			r.Prefetch(m.Manifest)
			synctest.Wait()
		}
		pull(r)
		signature := s.attach("a", "", "test/signature", image)
		s.pass(59 * time.Minute)
		pull(r)
		if _, err := r.CachedManifest(t.Context(), signature); err == nil {
			t.Error("it is looked for again within the hour")
		}
		s.pass(time.Minute)
		pull(r)
		_, err := r.CachedManifest(t.Context(), signature)
		must(t, err)

		s.pass(time.Hour)
		addImageAt(second, "b", "v1", "second")
		other := s.at(t, second.Host(), "b")
		m, err := r.Tag(t.Context(), "v1")
		must(t, err)
		s.up.Asked = hang
		r.Prefetch(m.Manifest)
		start := time.Now()
		pull(other)
		if second.Calls("blob") == 0 || second.Calls("referrers") != 1 || time.Since(start) != 0 {
			t.Errorf("%d blobs, %d lists", second.Calls("blob"), second.Calls("referrers"))
		}
	})
}

// hang is a remote that does not answer.
func hang(ctx context.Context, _ string) { <-ctx.Done() }

// entries counts what is in the index.
func (s *site) entries(t *testing.T) (n int) {
	t.Helper()
	for _, err := range s.index.Scan(t.Context(), nil, nil) {
		must(t, err)
		n++
	}
	return n
}
