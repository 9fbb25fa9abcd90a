package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

// image is a manifest that names config and layers, each of size bytes.
func image(size int, config digest.Digest, layers ...digest.Digest) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[`,
		v1.MediaTypeImageManifest, config, size)
	for i, l := range layers {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}`, l, size)
	}
	return []byte(b.String() + "]}")
}

// addImage puts an image of one layer, which differs by its text, into repo.
func (s *site) addImage(repo, tag, text string) (dgst, layer digest.Digest) {
	layer = s.up.AddBlob(repo, []byte(text))
	config := s.up.AddBlob(repo, []byte("c"+text[1:]))
	return s.up.AddManifest(repo, tag, v1.MediaTypeImageManifest, image(len(text), config, layer)), layer
}

func TestTagLifetime(t *testing.T) {
	s := newSite(t)
	first, _ := s.addImage("a", "v1", "first")
	wantTag := func(want digest.Digest) {
		t.Helper()
		m, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		if m.Digest != want || digest.FromBytes(m.Bytes) != want || m.MediaType != v1.MediaTypeImageManifest {
			t.Errorf("tag is %s, %s", m.Digest, m.MediaType)
		}
	}
	wantTag(first)
	wantTag(first)
	s.wantCalls(t, "", 1) // cold: one request; fresh: none

	second, _ := s.addImage("a", "v1", "other")
	s.pass(tagTTL - time.Second)
	wantTag(first) // still fresh
	s.wantCalls(t, "", 1)

	s.pass(time.Second)
	wantTag(second) // stale: HEAD, and GET since it has moved
	s.wantCalls(t, "resolve", 1)
	s.wantCalls(t, "manifest", 2)

	s.pass(tagTTL)
	wantTag(second) // stale and unmoved: HEAD only
	wantTag(second) // fresh again
	s.wantCalls(t, "resolve", 2)
	s.wantCalls(t, "manifest", 2)

	s.pass(-time.Hour) // the clock was wrong
	wantTag(second)
	s.wantCalls(t, "resolve", 3)

	s.reopen(t) // lifetimes outlive a restart
	wantTag(second)
	s.wantCalls(t, "", 5)
}

func TestTagTTLZeroAsksEachTime(t *testing.T) {
	s := newSite(t, func(o *cache.Options) { o.Remotes[0].TagTTL = 0 })
	s.addImage("a", "v1", "first")
	for range 3 {
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
	}
	s.wantCalls(t, "manifest", 1)
	s.wantCalls(t, "resolve", 2)
}

func TestStaleTagWhenRemoteFails(t *testing.T) {
	for _, failure := range []error{cache.ErrUnavailable, cache.ErrRateLimited, cache.ErrDenied, cache.ErrInvalid} {
		t.Run(failure.Error(), func(t *testing.T) {
			s := newSite(t)
			want, _ := s.addImage("a", "v1", "first")
			_, err := s.Repository("a").Tag(t.Context(), "v1")
			must(t, err)
			confirmed := s.now
			s.pass(tagTTL)
			s.up.Fail(failure)
			outage := errors.Is(failure, cache.ErrUnavailable) || errors.Is(failure, cache.ErrRateLimited)
			for i := range 5 {
				if i == 1 && outage {
					s.up.SetAway(failure, false)
				}
				m, err := s.Repository("a").Tag(t.Context(), "v1")
				must(t, err)
				if m.Digest != want || !errors.Is(m.Stale, failure) || !m.Confirmed.Equal(confirmed) {
					t.Errorf("tag is %s, %+v, want the stale %s", m.Digest, m.Freshness, want)
				}
			}
			s.wantCalls(t, "resolve", 1) // the others do not wait for it
			if _, err := s.Repository("a").Tag(t.Context(), "v2"); !errors.Is(err, failure) {
				t.Errorf("tag that is not stored: error %v, want %v", err, failure)
			}
			s.up.Fail(nil)
			s.up.SetAway(nil, false)
			s.pass(10 * time.Second)
			m, err := s.Repository("a").Tag(t.Context(), "v1")
			must(t, err)
			if s.wantCalls(t, "resolve", 2); m.Stale != nil || !m.Confirmed.Equal(s.now) {
				t.Errorf("%+v", m.Freshness)
			}
		})
	}
}

func TestTagRemovedAtRemote(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("a", "v1", "first")
	_, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	s.up.RemoveTag("a", "v1")
	s.pass(tagTTL)
	for range 2 {
		if _, err := s.Repository("a").Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
	}
	s.up.Fail(cache.ErrUnavailable)
	_, err = s.Repository("a").Manifest(t.Context(), dgst)
	must(t, err) // by digest it stays
}

// Many who ask at once cause one request.
func TestManifestRequestsCoalesce(t *testing.T) {
	for name, ask := range map[string]func(r *cache.Repository, dgst digest.Digest) (cache.Manifest, error){
		"tag": func(r *cache.Repository, _ digest.Digest) (cache.Manifest, error) {
			t, err := r.Tag(t.Context(), "v1")
			return t.Manifest, err
		},
		"digest": func(r *cache.Repository, dgst digest.Digest) (cache.Manifest, error) {
			return r.Manifest(t.Context(), dgst)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			dgst, _ := s.addImage("a", "v1", "first")
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if m, err := ask(s.Repository("a"), dgst); err != nil || m.Digest != dgst {
						t.Errorf("%s, %v", m.Digest, err)
					}
				})
			}
			wg.Wait()
			s.wantCalls(t, "", 1)
		})
	}
}

func TestManifestIsExact(t *testing.T) {
	index := `{"schemaVersion":2,"manifests":[]}`
	for name, tt := range map[string]struct{ declared, content, want string }{
		"OCI":                 {v1.MediaTypeImageManifest, `{"schemaVersion":2,"config":{},"layers":[]}`, v1.MediaTypeImageManifest},
		"OCI index":           {v1.MediaTypeImageIndex, index, v1.MediaTypeImageIndex},
		"Docker":              {dockerManifest, `{"schemaVersion":2,"mediaType":"` + dockerManifest + `","config":{}}`, dockerManifest},
		"Docker list":         {"application/vnd.docker.distribution.manifest.list.v2+json", index, "application/vnd.docker.distribution.manifest.list.v2+json"},
		"schema 1":            {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[],"signatures":[]}`, "application/vnd.docker.distribution.manifest.v1+prettyjws"},
		"artifact manifest":   {"application/vnd.oci.artifact.manifest.v1+json", `{"blobs":[]}`, "application/vnd.oci.artifact.manifest.v1+json"},
		"with parameters":     {v1.MediaTypeImageIndex + "; charset=utf-8", index, v1.MediaTypeImageIndex + "; charset=utf-8"},
		"vague, says itself":  {"application/json", `{"mediaType":"` + dockerManifest + `","config":{}}`, dockerManifest},
		"vague, OCI index":    {"text/plain; charset=utf-8", index, v1.MediaTypeImageIndex},
		"vague, OCI manifest": {"", `{"config":{}}`, v1.MediaTypeImageManifest},
		"white space first":   {v1.MediaTypeImageIndex, "\n  " + index + "\n", v1.MediaTypeImageIndex},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			dgst := s.up.AddManifest("a", "v1", tt.declared, []byte(tt.content))
			for range 2 { // fetched, then from the store
				m, err := s.Repository("a").Tag(t.Context(), "v1")
				must(t, err)
				if m.MediaType != tt.want || string(m.Bytes) != tt.content || m.Digest != dgst || m.Size != int64(len(tt.content)) {
					t.Errorf("got %s %q", m.MediaType, m.Bytes)
				}
				s.reopen(t)
			}
			s.wantCalls(t, "", 1)
		})
	}
}

func TestWrongManifest(t *testing.T) {
	good := image(1, digest.FromString("c"), digest.FromString("l"))
	other := digest.FromString("other")
	for name, m := range map[string]cache.Manifest{
		"HTML":            {Descriptor: cache.Descriptor{MediaType: "text/html"}, Bytes: []byte("<html>log in</html>")},
		"empty":           {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest}},
		"truncated":       {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest}, Bytes: good[:len(good)-1]},
		"an array":        {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest}, Bytes: []byte("[]")},
		"wrong digest":    {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: other}, Bytes: good},
		"no digest":       {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: "nocolon"}, Bytes: good},
		"bad digest":      {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: "sha256:x"}, Bytes: good},
		"other type":      {Descriptor: cache.Descriptor{MediaType: dockerManifest}, Bytes: good},
		"no index":        {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageIndex}, Bytes: []byte(`{"config":{}}`)},
		"an index":        {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest}, Bytes: []byte(`{"config":{},"manifests":[]}`)},
		"no schema 1":     {Descriptor: cache.Descriptor{MediaType: "application/vnd.docker.distribution.manifest.v1+json"}, Bytes: []byte(`{}`)},
		"no media type":   {Descriptor: cache.Descriptor{MediaType: "///"}, Bytes: good},
		"too long":        {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest}, Bytes: append(good, bytes.Repeat([]byte(" "), cache.MaxManifestSize)...)},
		"layers no array": {Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest}, Bytes: []byte(`{"config":{},"layers":"x"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.SetManifest("a", "v1", m)
			s.up.SetManifest("a", other.String(), m)
			if _, err := s.Repository("a").Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrInvalid) {
				t.Errorf("by tag: error %v, want ErrInvalid", err)
			}
			if _, err := s.Repository("a").Manifest(t.Context(), other); !errors.Is(err, cache.ErrInvalid) {
				t.Errorf("by digest: error %v, want ErrInvalid", err)
			}
			if n := s.blobs.Len(); n != 0 {
				t.Errorf("%d blobs are stored", n)
			}
			if repos := s.places(t); len(repos) != 0 {
				t.Errorf("repositories are listed: %v", repos)
			}
		})
	}
}

// A manifest that the store has no room for is served all the same.
func TestManifestWithoutSpace(t *testing.T) {
	s := newSite(t, func(o *cache.Options) { o.MaxSize = 1 })
	dgst, _ := s.addImage("a", "v1", "first")
	m, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	if m.Digest != dgst || s.blobs.Len() != 0 {
		t.Errorf("got %s, %d blobs stored", m.Digest, s.blobs.Len())
	}
	_, err = s.Repository("a").Manifest(t.Context(), dgst)
	must(t, err)
	s.wantCalls(t, "", 1)
}

func TestManifestsAreApart(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("private", "v1", "first")
	_, err := s.Repository("private").Tag(t.Context(), "v1")
	must(t, err)
	if _, err := s.Repository("public").Manifest(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	if _, err := s.Repository("public").CachedManifest(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

// A HEAD of what a stored manifest names costs no request.
func TestStatBlobFromManifest(t *testing.T) {
	s := newSite(t)
	_, layer := s.addImage("a", "v1", "first")
	_, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	d, err := s.Repository("a").StatBlob(t.Context(), layer)
	must(t, err)
	if d.Size != 5 || d.Digest != layer {
		t.Errorf("%+v", d)
	}
	s.wantCalls(t, "", 1)
	unnamed := s.up.AddBlob("a", []byte("unnamed"))
	if d, err := s.Repository("a").StatBlob(t.Context(), unnamed); err != nil || d.Size != 7 {
		t.Errorf("%+v, %v", d, err)
	}
	s.wantCalls(t, "stat", 1)
}

func TestLargeIndex(t *testing.T) {
	s := newSite(t)
	var b strings.Builder
	b.WriteString(`{"schemaVersion":2,"manifests":[`)
	const children = 2000
	for i := range children {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"mediaType":%q,"digest":%q,"size":%d}`, v1.MediaTypeImageManifest, digest.FromString(fmt.Sprint(i)), i)
	}
	b.WriteString("]}")
	s.up.AddManifest("a", "v1", v1.MediaTypeImageIndex, []byte(b.String()))
	m, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	if n := len(m.References()); n != children {
		t.Errorf("%d references, want %d", n, children)
	}
	s.reopen(t)
	if m, err := s.Repository("a").CachedTag(t.Context(), "v1"); err != nil || len(m.Bytes) != b.Len() {
		t.Errorf("stored: %v", err)
	}
}

// A stored manifest that has rotted is fetched again.
func TestRottenManifest(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("a", "v1", "first")
	_, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	s.reopen(t) // forgets what is in memory
	s.blobs.Rot(dgst)
	for range 2 {
		m, err := s.Repository("a").Manifest(t.Context(), dgst)
		must(t, err)
		if digest.FromBytes(m.Bytes) != dgst {
			t.Error("rotten bytes")
		}
	}
	s.wantCalls(t, "manifest", 2)
}

func TestTags(t *testing.T) {
	s := newSite(t)
	all := []string{"v1", "v2", "v3", "v4", "v5"}
	for _, tag := range all {
		s.addImage("a", tag, "text of "+tag)
		_, err := s.Repository("a").Tag(t.Context(), tag)
		must(t, err)
	}
	check := func() {
		t.Helper()
		for _, tt := range []struct {
			n    int
			last string
			want []string
			more bool
		}{
			{-1, "", all, false},
			{-1, "v3", all[3:], false},
			{2, "", all[:2], true},
			{3, "v1", all[1:4], true},
			{4, "v1", all[1:], false},
			{10, "v9", nil, false},
		} {
			list, err := s.Repository("a").Tags(t.Context(), tt.n, tt.last)
			got, more := list.Tags, list.More
			if err != nil || more != tt.more || !slices.Equal(got, tt.want) {
				t.Errorf("tags(%d, %q) = %q, %v, %v", tt.n, tt.last, got, more, err)
			}
		}
	}
	check()
	s.up.Fail(cache.ErrUnavailable)
	check()
	s.pass(time.Minute)
	if _, err := s.Repository("unknown").Tags(t.Context(), -1, ""); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("unknown repository, remote away: error %v, want ErrUnavailable", err)
	}
	s.up.Fail(nil)
	if _, err := s.Repository("unknown").Tags(t.Context(), -1, ""); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown repository: error %v, want ErrNotFound", err)
	}
	s.reopen(t, noUpstream)
	check()
}

// Without a remote the cache is a mirror of what it holds.
func TestOfflineMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		dgst, layer := s.addImage("a", "v1", "first")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		readAll(t, s.openBlob(t, "a", layer))
		synctest.Wait()
		s.reopen(t, noUpstream)
		s.pass(1000 * time.Hour)
		m, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		if m.Digest != dgst {
			t.Errorf("tag is %s", m.Digest)
		}
		readAll(t, s.openBlob(t, "a", layer))
		absent := digest.FromString("absent")
		_, tagErr := s.Repository("a").Tag(t.Context(), "v2")
		_, manifestErr := s.Repository("a").Manifest(t.Context(), absent)
		_, blobErr := s.Repository("a").OpenBlob(t.Context(), absent)
		_, statErr := s.Repository("a").StatBlob(t.Context(), absent)
		_, tagsErr := s.Repository("b").Tags(t.Context(), -1, "")
		for _, err := range []error{tagErr, manifestErr, blobErr, statErr, tagsErr} {
			if !errors.Is(err, cache.ErrNotFound) || !strings.Contains(err.Error(), "no remote registry is configured") {
				t.Errorf("error %v, want ErrNotFound that says why", err)
			}
		}
	})
}

// The index may be lost: everything is served as before, without the remote.
func TestIndexIsRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		dgst, layer := s.addImage("a/b", "v1", "first")
		_, err := s.Repository("a/b").Tag(t.Context(), "v1")
		must(t, err)
		readAll(t, s.openBlob(t, "a/b", layer))
		synctest.Wait()
		s.loseIndex()
		s.reopen(t)
		s.up.Fail(cache.ErrUnavailable)
		repo := s.Repository("a/b")
		m, err := repo.Tag(t.Context(), "v1")
		must(t, err)
		if m.Digest != dgst || m.MediaType != v1.MediaTypeImageManifest {
			t.Errorf("tag is %s, %s", m.Digest, m.MediaType)
		}
		readAll(t, s.openBlob(t, "a/b", layer))
		for _, r := range m.References() {
			if d, err := repo.StatBlob(t.Context(), r.Digest); err != nil || d.Size != r.Size {
				t.Errorf("HEAD of %s: %+v, %v", r.Digest, d, err)
			}
		}
		if repos := s.places(t); !slices.Equal(repos, []cache.Place{{Host: s.up.Host(), Repo: "a/b"}}) {
			t.Errorf("repositories %q", repos)
		}
	})
}

// Single entries of the index may be lost, too: a crash loses the newest.
func TestIndexLosesEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, layer := s.addImage("a", "v1", "first")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		readAll(t, s.openBlob(t, "a", layer))
		synctest.Wait()
		s.loseIndex()
		must(t, s.index.Apply(t.Context(), cache.Change{Key: []byte("z\x00complete"), Value: []byte("{}")}))
		s.reopen(t)
		s.up.Fail(cache.ErrUnavailable)
		_, err = s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		readAll(t, s.openBlob(t, "a", layer))
	})
}

func FuzzManifest(f *testing.F) {
	f.Add(v1.MediaTypeImageManifest, image(1, digest.FromString("c"), digest.FromString("l")))
	f.Add("", []byte(`{"manifests":[{"digest":"sha256:x","size":-1}]}`))
	f.Add("text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		s := newSite(t)
		dgst := s.up.AddManifest("a", "v1", mediaType, content)
		m, err := s.Repository("a").Tag(t.Context(), "v1")
		if err != nil {
			if s.blobs.Len() != 0 {
				t.Fatal("a refused manifest was stored")
			}
			return
		}
		if m.Digest != dgst || !bytes.Equal(m.Bytes, content) || m.MediaType == "" {
			t.Fatalf("%+v of %q", m.Descriptor, content)
		}
		for _, r := range m.References() {
			if r.Digest.Validate() != nil || r.Size < 0 {
				t.Fatalf("reference %+v", r)
			}
		}
	})
}
