package cache_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// What a client has just pulled is waited for by who fills ahead.
func TestAheadWaitsForPulls(t *testing.T) {
	content := randomBytes(600 * kib)
	d := layerOf(content)
	for name, fill := range map[string]func(t *testing.T, s *site) error{
		"fetch": func(t *testing.T, s *site) error {
			_, err := s.Repository("b").FetchBlob(t.Context(), d, nil)
			return err
		},
		"store": func(t *testing.T, s *site) error {
			return s.StoreBlob(t.Context(), d.Digest, d.Size, bytes.NewReader(content))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, func(o *cache.Options) { o.MaxSize, o.Now = 700*kib, time.Now })
				s.up.AddBlob("b", content)
				s.push("a", "1", "1")
				s.pull(t, "a", "1")
				time.Sleep(time.Second)
				// Of what is read in part, the client may want the rest.
				m, err := s.Repository("a").Tag(t.Context(), "1")
				must(t, err)
				b, err := s.Repository("a").OpenBlob(t.Context(), m.References()[0].Digest)
				must(t, err)
				must(t, b.Close())
				began := time.Now()
				must(t, fill(t, s))
				if took := time.Since(began); took < 4*time.Second || took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
				if size, ok, err := s.Stored(t.Context(), d.Digest); err != nil || !ok || size != d.Size {
					t.Errorf("it is not stored: %v", err)
				}
				large := cache.BlobEntry{Digest: digest.FromString("x"), Size: 2000 * kib}
				began = time.Now()
				if err := s.StoreBlob(t.Context(), large.Digest, large.Size, errReader{}); err == nil || time.Since(began) != 0 {
					t.Errorf("what can never fit: %v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// That nothing refers to a manifest is kept though it was said before that was stored.
func TestNoReferrersBeforeTheManifest(t *testing.T) {
	s := newSite(t)
	r := s.Repository("a")
	dgst, _ := s.addImage("a", "1", "x")
	peeked, err := r.Peek(t.Context(), "1")
	must(t, err)
	_, err = r.Referrers(t.Context(), dgst)
	must(t, err)
	s.pass(time.Hour) // the layers take their time
	must(t, r.StoreManifest(t.Context(), peeked.Manifest))
	s.pass(time.Hour)
	s.reopen(t)
	s.up.Fail(&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "asking"})
	list, err := s.Repository("a").Referrers(t.Context(), dgst)
	must(t, err)
	if len(list.Manifests) != 0 || list.Stale == nil {
		t.Errorf("got %d, stale %v", len(list.Manifests), list.Stale)
	}
	if _, err := s.Repository("a").Referrers(t.Context(), digest.FromString("x")); err == nil {
		t.Error("of what nobody has asked about, there is an answer")
	}
}
