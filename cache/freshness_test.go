package cache_test

import (
	"context"
	"errors"
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

// remote0 adjusts the first remote of a site.
func remote0(adjust func(*cache.Remote)) func(*cache.Options) {
	return func(o *cache.Options) { adjust(&o.Remotes[0]) }
}

// What is done with a tag whose lifetime is over.
func TestStaleTag(t *testing.T) {
	const day = 24 * time.Hour
	away := status(cache.ErrUnavailable)
	type want struct {
		stale    error // the answer's
		err      error // instead of an answer
		resolves int
	}
	for name, tt := range map[string]struct {
		remote func(*cache.Remote)
		age    time.Duration
		away   bool
		due    bool
		fails  error
		insist bool
		want   want
	}{
		"fresh":                          {age: tagTTL - 1},
		"fresh, client insists":          {age: 1, insist: true, want: want{resolves: 1}},
		"stale":                          {age: tagTTL, want: want{resolves: 1}},
		"stale, remote fails":            {age: tagTTL, fails: away, want: want{stale: away, resolves: 1}},
		"stale, remote denies":           {age: day, fails: cache.ErrDenied, want: want{stale: cache.ErrDenied, resolves: 1}},
		"away":                           {age: day, away: true, want: want{stale: away}},
		"away, client insists":           {age: 1, away: true, insist: true, want: want{stale: away, resolves: 1}},
		"away, but fresh":                {age: tagTTL - 1, away: true},
		"away, and due":                  {age: day, away: true, due: true, want: want{stale: away, resolves: 1}},
		"from the future":                {age: -day, want: want{resolves: 1}},
		"from the future, away":          {age: -day, away: true, want: want{stale: away}},
		"just stale":                     {remote: revalidate, age: tagTTL + 59*time.Second, want: want{stale: cache.ErrRevalidating, resolves: 1}},
		"just stale, client insists":     {remote: revalidate, age: tagTTL + 59*time.Second, insist: true, want: want{resolves: 1}},
		"just stale, away":               {remote: revalidate, age: tagTTL + 59*time.Second, away: true, want: want{stale: away}},
		"stale for longer":               {remote: revalidate, age: tagTTL + time.Minute, want: want{resolves: 1}},
		"no longer than the lifetime":    {remote: func(r *cache.Remote) { r.StaleWhileRevalidate, r.TagTTL = day, time.Minute }, age: 2 * time.Minute, want: want{resolves: 1}},
		"always asked":                   {remote: func(r *cache.Remote) { r.StaleWhileRevalidate, r.TagTTL = day, 0 }, age: 0, want: want{resolves: 1}},
		"away, within the limit":         {remote: maxStale(day), age: day, away: true, want: want{stale: away}},
		"away, beyond the limit":         {remote: maxStale(day), age: day + 1, away: true, fails: away, want: want{err: cache.ErrUnavailable, resolves: 1}},
		"back, beyond the limit":         {remote: maxStale(day), age: day + 1, away: true, want: want{resolves: 1}},
		"fails, beyond the limit":        {remote: maxStale(day), age: day + 1, fails: cache.ErrDenied, want: want{err: cache.ErrUnavailable, resolves: 1}},
		"confirmed, beyond the limit":    {remote: maxStale(day), age: day + 1, want: want{resolves: 1}},
		"away, no stale answers":         {remote: maxStale(-1), age: tagTTL, away: true, fails: away, want: want{err: cache.ErrUnavailable, resolves: 1}},
		"just stale, no stale answers":   {remote: func(r *cache.Remote) { revalidate(r); r.MaxStale = -1 }, age: tagTTL, want: want{resolves: 1}},
		"away, from the future, limited": {remote: maxStale(day), age: -day, away: true, want: want{stale: away}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, remote0(func(r *cache.Remote) {
					if tt.remote != nil {
						tt.remote(r)
					}
				}))
				dgst, _ := s.addImage("a", "v1", "first")
				r := s.Repository("a")
				_, err := r.Tag(t.Context(), "v1")
				must(t, err)
				confirmed := s.now
				s.pass(tt.age)
				if tt.away {
					s.up.SetAway(away, tt.due)
				}
				s.up.Fail(tt.fails)
				if tt.insist {
					r = r.Fresh()
				}
				start := time.Now()
				m, err := r.Tag(t.Context(), "v1")
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v", took)
				}
				synctest.Wait() // for what nobody waits for
				s.wantCalls(t, "resolve", tt.want.resolves)
				if tt.want.err != nil {
					if !errors.Is(err, tt.want.err) || !strings.Contains(err.Error(), "REGISTRY_PROXY_MAXSTALE") {
						t.Errorf("error %v, want %v", err, tt.want.err)
					}
					return
				}
				must(t, err)
				if m.Digest != dgst || !errors.Is(m.Stale, tt.want.stale) || (m.Stale == nil) != (tt.want.stale == nil) {
					t.Errorf("%s, stale: %v, want %v", m.Digest, m.Stale, tt.want.stale)
				}
				if tt.want.resolves > 0 && tt.want.stale == nil {
					confirmed = s.now
				}
				if !m.Confirmed.Equal(confirmed) {
					t.Errorf("confirmed at %v, want %v", m.Confirmed, confirmed)
				}
			})
		})
	}
}

func revalidate(r *cache.Remote) { r.StaleWhileRevalidate = time.Minute }

func maxStale(d time.Duration) func(*cache.Remote) {
	return func(r *cache.Remote) { r.MaxStale = d }
}

// Rules say how long the answer for a tag holds.
func TestTagRules(t *testing.T) {
	var rules tagpolicy.Rules
	for _, text := range []string{"semver=immutable", "a:latest=always", "*=1h"} {
		rule, err := tagpolicy.Parse(text)
		must(t, err)
		rules = append(rules, rule)
	}
	s := newSite(t, remote0(func(r *cache.Remote) { r.TagRules, r.TagTTL = rules[:2], time.Minute }))
	for tag, want := range map[string][]int{"1.2.3": {0, 0, 0}, "latest": {1, 1, 1}, "v1": {0, 1, 0}} {
		s.addImage("a", tag, "of "+tag)
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), tag)
		must(t, err)
		for i, after := range []time.Duration{0, time.Minute, 0} {
			s.pass(after)
			before := s.up.Calls("resolve")
			if m, err := r.Tag(t.Context(), tag); err != nil || m.Stale != nil {
				t.Errorf("%s: %v, %v", tag, m.Stale, err)
			}
			if n := s.up.Calls("resolve") - before; n != want[i] {
				t.Errorf("%s, %d: %d requests, want %d", tag, i, n, want[i])
			}
		}
	}
	moved, _ := s.addImage("a", "1.2.3", "another one")
	s.pass(365 * 24 * time.Hour)
	if m, err := s.Repository("a").Tag(t.Context(), "1.2.3"); err != nil || m.Digest == moved || m.Stale != nil {
		t.Errorf("an immutable tag: %s, %v, %v", m.Digest, m.Stale, err)
	}
	if m, err := s.Repository("a").Fresh().Tag(t.Context(), "1.2.3"); err != nil || m.Digest != moved {
		t.Errorf("and who insists: %s, %v", m.Digest, err)
	}
}

// A remote that is a cache itself says how old its answer is, and that counts.
func TestAgeOfRemote(t *testing.T) {
	s := newSite(t)
	s.addImage("a", "v1", "first")
	m, err := s.up.Manifest(t.Context(), "a", "v1")
	must(t, err)
	says := func(age time.Duration, stale bool) {
		m.Age, m.Stale = age, stale
		s.up.SetManifest("a", "v1", m)
	}
	want := func(age time.Duration, stale bool, requests int) {
		t.Helper()
		before := s.up.Calls("")
		got, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		if !got.Confirmed.Equal(s.now.Add(-age)) || (got.Stale != nil) != stale || got.Age != 0 || got.Descriptor.Stale {
			t.Errorf("%+v", got.Freshness)
		}
		if n := s.up.Calls("") - before; n != requests {
			t.Errorf("%d requests, want %d", n, requests)
		}
	}
	says(24*time.Hour, false)
	want(24*time.Hour, false, 1)
	want(24*time.Hour, false, 0) // it was asked just now
	s.pass(tagTTL)
	says(48*time.Hour, true)
	want(48*time.Hour, true, 1)
	want(48*time.Hour, true, 0)
	s.pass(tagTTL)
	says(0, false)
	want(0, false, 1)
	want(0, false, 0)

	s.reopen(t, remote0(maxStale(24*time.Hour)))
	s.pass(tagTTL)
	says(48*time.Hour, true)
	if m, err := s.Repository("a").Tag(t.Context(), "v1"); err != nil || m.Stale == nil {
		t.Errorf("what we know ourselves is newer: %+v, %v", m.Freshness, err)
	}
	if _, err := s.Repository("a").Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("what is too old for us: %v", err)
	}
}

// A tag in use never makes a client wait, and is never older than allowed.
func TestTagInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, remote0(revalidate))
		s.addImage("a", "v1", "first")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		slow := time.Second // is what the remote takes
		s.up.Asked = func(context.Context, string) { <-time.After(slow) }
		for i := range 60 {
			synctest.Wait()
			s.pass(30 * time.Second)
			text := "moved, " + strings.Repeat("x", i)
			moved, _ := s.addImage("a", "v1", text)
			start := time.Now()
			m, err := s.Repository("a").CachedTag(t.Context(), "v1")
			must(t, err)
			if age := s.now.Sub(m.Confirmed); time.Since(start) != 0 || age >= tagTTL+time.Minute {
				t.Errorf("an answer of %v ago, after %v", age, time.Since(start))
			}
			<-time.After(3 * time.Second)
			m, err = s.Repository("a").CachedTag(t.Context(), "v1")
			must(t, err)
			if m.Stale != nil || m.Digest != moved && s.now.Sub(m.Confirmed) >= tagTTL {
				t.Errorf("%s, %v, of %v: want %s", m.Digest, m.Stale, s.now.Sub(m.Confirmed), moved)
			}
		}
		if n := s.up.Calls("resolve"); n < 5 || n > 6 {
			t.Errorf("%d requests in half an hour", n)
		}
	})
}

// The adopted tags of a volume have no confirmation at all.
func TestUnconfirmedTag(t *testing.T) {
	s := newSite(t)
	want, _ := s.addImage("a", "v1", "first")
	_, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	s.loseIndex()
	s.reopen(t)
	s.up.SetAway(cache.ErrUnavailable, false)
	m, err := s.Repository("a").Tag(t.Context(), "v1")
	if err != nil || m.Digest != want || m.Stale == nil || !m.Confirmed.IsZero() {
		t.Errorf("%s, %+v, %v", m.Digest, m.Freshness, err)
	}
	s.reopen(t, remote0(maxStale(24*time.Hour)))
	s.up.Fail(status(cache.ErrUnavailable))
	if _, err = s.Repository("a").Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrUnavailable) || !strings.Contains(err.Error(), "never been confirmed") {
		t.Errorf("error %v", err)
	}
}

// Who pulls while a tag moves gets all of what the tag was, or all of what it is.
func TestTagMovesDuringPull(t *testing.T) {
	s := newSite(t)
	old, oldLayer := s.addImage("a", "v1", "first")
	r := s.Repository("a")
	m, err := r.Tag(t.Context(), "v1")
	must(t, err)
	_, newLayer := s.addImage("a", "v1", "moved")
	s.pass(tagTTL)
	moved, err := r.Tag(t.Context(), "v1")
	must(t, err)
	if moved.Digest == m.Digest {
		t.Fatal("the tag has not moved")
	}
	s.up.SetManifest("a", old.String(), cache.Manifest{}) // which is gone from the remote
	if again, err := r.Manifest(t.Context(), old); err != nil || !slices.Equal(again.Bytes, m.Bytes) {
		t.Errorf("the manifest of before: %v", err)
	}
	for _, layer := range []digest.Digest{oldLayer, newLayer} {
		if _, err := r.StatBlob(t.Context(), layer); err != nil {
			t.Errorf("a layer: %v", err)
		}
	}
	if _, err := r.OpenBlob(t.Context(), oldLayer); err != nil {
		t.Errorf("a layer of before: %v", err)
	}
}

// What the remote says does not exist is not asked for again at once.
func TestNegativeCache(t *testing.T) {
	absent := digest.FromString("absent")
	notFound := status(cache.ErrNotFound)
	vague := status(cache.ErrNotFound)
	vague.Vague = true
	for name, op := range map[string]struct {
		ask     func(context.Context, *cache.Repository) error
		appears func(s *site)
	}{
		"tag": {
			func(ctx context.Context, r *cache.Repository) error { _, err := r.Tag(ctx, "v1"); return err },
			func(s *site) { s.addImage("a", "v1", "first") },
		},
		"manifest": {
			func(ctx context.Context, r *cache.Repository) error { _, err := r.Manifest(ctx, absent); return err },
			func(s *site) { s.up.AddManifest("a", "", v1.MediaTypeImageManifest, []byte(`absent`)) },
		},
		"list": {
			func(ctx context.Context, r *cache.Repository) error { _, err := r.Tags(ctx, -1, ""); return err },
			func(s *site) { s.addImage("a", "v1", "first") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			ask := func(r *cache.Repository, want error, requests int) {
				t.Helper()
				before := s.up.Calls("")
				if err := op.ask(t.Context(), r); !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
				if n := s.up.Calls("") - before; n != requests {
					t.Errorf("%d requests, want %d", n, requests)
				}
			}
			r := s.Repository("a")
			s.up.Fail(vague)
			ask(r, cache.ErrNotFound, 1)
			s.up.Fail(status(cache.ErrUnavailable))
			ask(r, cache.ErrUnavailable, 1)
			s.up.Fail(notFound)
			ask(r, cache.ErrNotFound, 1)
			s.up.Fail(status(cache.ErrUnavailable))
			for range 3 {
				ask(r, cache.ErrNotFound, 0)
			}
			ask(s.Repository("b"), cache.ErrUnavailable, 1) // which is another one
			ask(r.Fresh(), cache.ErrUnavailable, 1)
			s.pass(29 * time.Second)
			ask(r, cache.ErrNotFound, 0)
			s.pass(time.Second)
			ask(r, cache.ErrUnavailable, 1)

			s.up.Fail(nil)
			ask(r, cache.ErrNotFound, 1)
			s.pass(-time.Hour) // the clock was wrong
			ask(r, cache.ErrNotFound, 1)
			op.appears(s)
			ask(r, cache.ErrNotFound, 0)
			if name != "manifest" {
				ask(r.Fresh(), nil, 1)
				ask(r, nil, map[string]int{"tag": 0, "list": 1}[name])
			}
			s.reopen(t, remote0(func(r *cache.Remote) { r.NegativeTTL = -1 }))
			s.up.Fail(notFound)
			for range 3 {
				ask(s.Repository("c"), cache.ErrNotFound, 1)
			}
		})
	}
}

// A name of several remotes costs nothing while it is known that none has it.
func TestNegativeCacheOfNames(t *testing.T) {
	s, second := newPair(t)
	for i := range 3 {
		if _, err := s.called("a").Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		if n := s.up.Calls("") + second.Calls(""); n != 4 {
			t.Errorf("%d requests after %d pulls", n, i+1)
		}
	}
	want := addImageAt(second, "a", "v1", "first")
	if m, err := s.called("a").Fresh().Tag(t.Context(), "v1"); m.Digest != want || err != nil {
		t.Errorf("%s, %v", m.Digest, err)
	}
}

// A tag is forgotten when the registry says so, and not when somebody in front of it
// may have.
func TestTagIsForgotten(t *testing.T) {
	vague, definite := status(cache.ErrNotFound), status(cache.ErrNotFound)
	vague.Vague = true
	for name, tt := range map[string]struct {
		head, get error
		forgotten bool
	}{
		"by both":            {definite, definite, true},
		"by GET":             {vague, definite, true},
		"by HEAD":            {vague, nil, false},
		"by a proxy":         {vague, vague, false},
		"by nobody":          {vague, status(cache.ErrUnavailable), false},
		"by who denies":      {vague, status(cache.ErrDenied), false},
		"by a definite HEAD": {definite, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			want, _ := s.addImage("a", "v1", "first")
			r := s.Repository("a")
			_, err := r.Tag(t.Context(), "v1")
			must(t, err)
			s.pass(tagTTL)
			s.up.FailOp("resolve", tt.head)
			s.up.FailOp("manifest", tt.get)
			m, err := r.Tag(t.Context(), "v1")
			if tt.forgotten != errors.Is(err, cache.ErrNotFound) || !tt.forgotten && m.Digest != want {
				t.Errorf("%s, %v", m.Digest, err)
			}
			s.reopen(t, noUpstream)
			if _, err := s.Repository("a").Tag(t.Context(), "v1"); tt.forgotten != errors.Is(err, cache.ErrNotFound) {
				t.Errorf("later: %v", err)
			}
			if _, err := s.Repository("a").Manifest(t.Context(), want); err != nil {
				t.Errorf("its manifest: %v", err)
			}
		})
	}
}
