package cache_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
	"registry-module/cache/tagpolicy"
)

// What a pull of a:v1 would meet, after a site was prepared in some way. Nobody is asked.
func TestExplain(t *testing.T) {
	away := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "asking", Err: errors.New("no route")}
	pulled := func(t *testing.T, s *site) {
		addImageAt(s.up, "a", "v1", "first")
		tagged, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		s.pullParts(t, "a", tagged.Manifest)
		synctest.Wait() // until they are stored
	}
	for name, tt := range map[string]struct {
		adjust  func(*cache.Options)
		prepare func(t *testing.T, s *site)
		want    cache.Verdict
		why     string
		stored  int64
	}{
		"never seen":                   {prepare: func(*testing.T, *site) {}, want: cache.Fetched},
		"never seen, and away":         {prepare: func(_ *testing.T, s *site) { s.up.SetAway(away, true) }, want: cache.NotToBeHad, why: "no route"},
		"known not to exist":           {prepare: func(t *testing.T, s *site) { _, _ = s.Repository("a").Tag(t.Context(), "v1") }, want: cache.SaidAbsent, why: "asked again in"},
		"fresh":                        {prepare: pulled, want: cache.FromStoreAlone, stored: 1},
		"fresh, and away":              {prepare: func(t *testing.T, s *site) { pulled(t, s); s.up.SetAway(away, true) }, want: cache.FromStoreAlone, stored: 1},
		"stale":                        {prepare: func(t *testing.T, s *site) { pulled(t, s); s.pass(time.Hour) }, want: cache.AskedFirst, stored: 1},
		"stale, and away":              {prepare: func(t *testing.T, s *site) { pulled(t, s); s.pass(time.Hour); s.up.SetAway(away, true) }, want: cache.FromStoreAlone, why: "no route", stored: 1},
		"stale, and away for too long": {adjust: func(o *cache.Options) { o.Remotes[0].MaxStale = time.Minute }, prepare: func(t *testing.T, s *site) { pulled(t, s); s.pass(time.Hour); s.up.SetAway(away, true) }, want: cache.NotToBeHad, why: "no route", stored: 1},
		"just stale":                   {adjust: func(o *cache.Options) { o.Remotes[0].StaleWhileRevalidate = time.Minute }, prepare: func(t *testing.T, s *site) { pulled(t, s); s.pass(tagTTL + time.Second) }, want: cache.FromStoreAsking, stored: 1},
		"immutable":                    {adjust: func(o *cache.Options) { o.Remotes[0].TagRules = rules(t, "v*=immutable") }, prepare: func(t *testing.T, s *site) { pulled(t, s); s.pass(1000 * time.Hour) }, want: cache.FromStoreAlone, stored: 1},
		"offline mirror":               {adjust: func(o *cache.Options) { o.Remotes[0].Upstream = nil }, prepare: func(*testing.T, *site) {}, want: cache.SaidAbsent, why: "no remote registry is configured"},
		"only its manifest": {prepare: func(t *testing.T, s *site) {
			addImageAt(s.up, "a", "v1", "first")
			_, err := s.Repository("a").Tag(t.Context(), "v1")
			must(t, err)
		}, want: cache.FromStoreAlone},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var adjust []func(*cache.Options)
				if tt.adjust != nil {
					adjust = append(adjust, tt.adjust)
				}
				s := newSite(t, adjust...)
				tt.prepare(t, s)
				synctest.Wait()
				asked := s.up.Calls("")
				got, err := s.explain(t.Context(), "a", "v1")
				must(t, err)
				if got.Verdict != tt.want || !strings.Contains(got.Why, tt.why) || tt.why == "" && got.Why != "" || got.Stored.Times != tt.stored {
					t.Errorf("%+v", got)
				}
				if missing := got.Missing.Times; (name == "only its manifest") != (missing == 1) {
					t.Errorf("%d blobs are missing", missing)
				}
				if now := s.up.Calls(""); now != asked {
					t.Errorf("the remote was asked %d times", now-asked)
				}
				if got.Place != (cache.Place{Host: "upstream.test", Repo: "a"}) {
					t.Errorf("it is %v", got.Place)
				}
				if (name == "immutable") != (got.Tag != nil && got.Tag.Immutable && got.Tag.Rule == "v*=immutable") {
					t.Errorf("the tag is %+v", got.Tag)
				}
			})
		})
	}
}

// A name that can mean two remotes.
func TestExplainName(t *testing.T) {
	s, second := newPair(t)
	got, err := s.explain(t.Context(), "a", "v1")
	must(t, err)
	if got.Verdict != cache.Fetched || len(got.Among) != 2 || got.Among[1].Host != second.Host() || got.Bound != nil {
		t.Errorf("before it is known: %+v", got)
	}
	addImageAt(second, "a", "v1", "second")
	_, err = s.called("a").Tag(t.Context(), "v1")
	must(t, err)
	if got, err = s.explain(t.Context(), "a", "v1"); err != nil || got.Place.Host != second.Host() || got.Bound == nil || got.Bound.Host != second.Host() {
		t.Errorf("when it is bound: %+v, %v", got, err)
	}
	s.up.SetAway(errors.New("no route"), false)
	if got, err = s.explain(t.Context(), "b", "v1"); err != nil || got.Verdict != cache.NotToBeHad || got.Why != "no route" {
		t.Errorf("with the first away: %+v, %v", got, err)
	}
}

// Digests, platforms and what is kept of downloads.
func TestExplainDigest(t *testing.T) {
	s := newSite(t)
	dgst := addImageAt(s.up, "a", "v1", "first")
	if got, err := s.explain(t.Context(), "a", dgst.String()); err != nil || got.Verdict != cache.Fetched || got.Tag != nil {
		t.Errorf("not stored: %+v, %v", got, err)
	}
	_, err := s.Repository("a").Manifest(t.Context(), dgst)
	must(t, err)
	if got, err := s.explain(t.Context(), "a", dgst.String()); err != nil || got.Verdict != cache.FromStoreAlone || got.Missing.Times != 1 {
		t.Errorf("stored: %+v, %v", got, err)
	}
}

// explain is about what clients call name, see called.
func (s *site) explain(ctx context.Context, name, ref string) (cache.Explanation, error) {
	var places []cache.Place
	for _, r := range s.opts.Remotes {
		places = append(places, cache.Place{Host: r.Host, Repo: name})
	}
	return s.Explain(ctx, name, ref, places...)
}

func rules(t *testing.T, text string) tagpolicy.Rules {
	t.Helper()
	r, err := tagpolicy.Parse(text)
	must(t, err)
	return tagpolicy.Rules{r}
}

// pullParts fetches what a manifest names.
func (s *site) pullParts(t *testing.T, repo string, m cache.Manifest) {
	t.Helper()
	for _, d := range m.References() {
		b := s.openBlob(t, repo, d.Digest)
		readAll(t, b)
		must(t, b.Close())
	}
}
