package cache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// outcome is what o is told by do, without the place.
func outcome(t *testing.T, do func(ctx context.Context) error) (cache.Answered, error) {
	t.Helper()
	var o cache.Outcome
	err := do(cache.WithOutcome(t.Context(), &o))
	a := o.Answered()
	if a.Source != "" && a.Place.Repo == "" {
		t.Errorf("outcome %+v without place", a)
	}
	a.Place = cache.Place{}
	return a, err
}

var (
	fromStore  = cache.Answered{Source: cache.FromStore}
	confirmed  = cache.Answered{Source: cache.Confirmed}
	fromStale  = cache.Answered{Source: cache.FromStaleStore}
	fromMemory = cache.Answered{Source: cache.FromMemory}
	passed     = cache.Answered{Source: cache.FromRemote}
	fetched    = cache.Answered{Source: cache.FromRemote, Stored: true}
	nothing    = cache.Answered{}
)

// Every way in which a request is answered is told.
func TestOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		dgst, layer := s.addImage("a", "v1", "first")
		s.up.AddBlob("b", []byte("first")) // the layer
		synctest.Wait()
		unknown := digest.FromString("nothing")
		a, b := s.Repository("a"), s.Repository("b")

		tag := func(r *cache.Repository, name string) func(context.Context) error {
			return func(ctx context.Context) error { _, err := r.Tag(ctx, name); return err }
		}
		manifest := func(d digest.Digest) func(context.Context) error {
			return func(ctx context.Context) error { _, err := a.Manifest(ctx, d); return err }
		}
		blob := func(r *cache.Repository, d digest.Digest) func(context.Context) error {
			return func(ctx context.Context) error {
				b, err := r.OpenBlob(ctx, d)
				if err == nil {
					readAll(t, b)
				}
				return err
			}
		}
		stat := func(r *cache.Repository, d digest.Digest) func(context.Context) error {
			return func(ctx context.Context) error { _, err := r.StatBlob(ctx, d); return err }
		}
		tags := func(ctx context.Context) error { _, err := a.Tags(ctx, -1, ""); return err }
		referrers := func(d digest.Digest) func(context.Context) error {
			return func(ctx context.Context) error { _, err := a.Referrers(ctx, d); return err }
		}
		wait := func(d time.Duration) func(context.Context) error {
			return func(context.Context) error { synctest.Wait(); s.pass(d); return nil }
		}
		fail := func(err error) func(context.Context) error {
			return func(context.Context) error { s.up.Fail(err); return nil }
		}
		for _, step := range []struct {
			name string
			do   func(context.Context) error
			want cache.Answered
			err  error
		}{
			{"cold tag", tag(a, "v1"), fetched, nil},
			{"warm tag", tag(a, "v1"), fromStore, nil},
			{"warm tag, at once", func(ctx context.Context) error { _, err := a.CachedTag(ctx, "v1"); return err }, fromStore, nil},
			{"tag for who insists", tag(a.Fresh(), "v1"), confirmed, nil},
			{"no such tag", tag(a, "v2"), nothing, cache.ErrNotFound},
			{"no such tag again", tag(a, "v2"), fromMemory, cache.ErrNotFound},
			{"warm manifest", manifest(dgst), fromStore, nil},
			{"warm manifest, at once", func(ctx context.Context) error { _, err := a.CachedManifest(ctx, dgst); return err }, fromStore, nil},
			{"no such manifest", manifest(unknown), nothing, cache.ErrNotFound},
			{"no such manifest again", manifest(unknown), fromMemory, cache.ErrNotFound},
			{"HEAD of a blob that a manifest names", stat(a, layer), fromStore, nil},
			{"cold blob", blob(a, layer), fetched, nil},
			{"it is stored", wait(0), nothing, nil},
			{"warm blob", blob(a, layer), fromStore, nil},
			{"warm blob, at once", func(ctx context.Context) error {
				b, err := a.CachedBlob(ctx, layer)
				if err == nil {
					readAll(t, b)
				}
				return err
			}, fromStore, nil},
			{"blob that is stored for another repository", blob(b, layer), confirmed, nil},
			{"and again", blob(b, layer), fromStore, nil},
			{"HEAD of a cold blob", stat(b, s.up.AddBlob("b", []byte("other"))), passed, nil},
			{"no such blob", blob(a, unknown), nothing, cache.ErrNotFound},
			{"HEAD of no such blob", stat(a, unknown), nothing, cache.ErrNotFound},
			{"list of tags", tags, passed, nil},
			{"list of referrers", referrers(dgst), fetched, nil},
			{"and again", referrers(dgst), fromStore, nil},
			{"list of referrers of nothing", referrers(unknown), fetched, nil},
			{"and again", referrers(unknown), fromMemory, nil},
			{"the lifetime ends", wait(2 * tagTTL), nothing, nil},
			{"tag that the remote confirms", tag(a, "v1"), confirmed, nil},
			{"the lifetime ends", wait(2 * tagTTL), nothing, nil},
			{"the remote goes away", fail(away()), nothing, nil},
			{"stale tag", tag(a, "v1"), fromStale, nil},
			{"stale list of tags", tags, fromStale, nil},
			{"stale list of referrers", referrers(dgst), fromStale, nil},
			{"cold tag without remote", tag(a, "v3"), nothing, cache.ErrUnavailable},
			{"cold blob without remote", blob(a, digest.FromString("cold")), nothing, cache.ErrUnavailable},
		} {
			got, err := outcome(t, step.do)
			if got != step.want || !errors.Is(err, step.err) {
				t.Errorf("%s: outcome %+v, error %v; want %+v, %v", step.name, got, err, step.want, step.err)
			}
		}
	})
}

// An offline mirror answers from what it has.
func TestOutcomesOfMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		dgst, _ := s.addImage("a", "v1", "first")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		s.reopen(t, noUpstream)
		for name, do := range map[string]func(ctx context.Context, r *cache.Repository) error{
			"tag":       func(ctx context.Context, r *cache.Repository) error { _, err := r.Tag(ctx, "v1"); return err },
			"tags":      func(ctx context.Context, r *cache.Repository) error { _, err := r.Tags(ctx, -1, ""); return err },
			"referrers": func(ctx context.Context, r *cache.Repository) error { _, err := r.Referrers(ctx, dgst); return err },
		} {
			got, err := outcome(t, func(ctx context.Context) error { return do(ctx, s.Repository("a")) })
			if got != fromStore || err != nil {
				t.Errorf("%s: outcome %+v, error %v", name, got, err)
			}
		}
	})
}

// All who share one request are told what has come of it, and all but one that they have
// shared it.
func TestOutcomesOfFlight(t *testing.T) {
	for name, tt := range map[string]struct {
		warm bool
		want cache.Source
	}{
		"cold":  {false, cache.FromRemote},
		"stale": {true, cache.Confirmed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const herd = 20
				s := newSite(t)
				s.addImage("a", "v1", "first")
				synctest.Wait()
				if tt.warm {
					_, err := s.Repository("a").Tag(t.Context(), "v1")
					must(t, err)
					s.pass(2 * tagTTL)
				}
				gate := make(chan struct{})
				s.up.Asked = func(context.Context, string) { <-gate }
				var wg sync.WaitGroup
				outcomes := make([]cache.Outcome, herd)
				for i := range outcomes {
					wg.Go(func() {
						if _, err := s.Repository("a").Tag(cache.WithOutcome(t.Context(), &outcomes[i]), "v1"); err != nil {
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				close(gate)
				wg.Wait()
				joined := 0
				for i := range outcomes {
					a := outcomes[i].Answered()
					if a.Joined {
						joined++
					}
					if a.Source != tt.want || a.Place != s.Repository("a").Place() {
						t.Errorf("outcome %+v", a)
					}
				}
				if joined != herd-1 {
					t.Errorf("%d have joined, want %d", joined, herd-1)
				}
			})
		})
	}
}

// The place is the one that a name has turned out to mean.
func TestOutcomesOfName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t)
		addImageAt(second, "x", "v1", "text")
		for range 2 { // to be found out, and known
			var o cache.Outcome
			_, err := s.called("x").Tag(cache.WithOutcome(t.Context(), &o), "v1")
			must(t, err)
			if a := o.Answered(); a.Place != (cache.Place{Host: "second.test", Repo: "x"}) {
				t.Errorf("outcome %+v", a)
			}
		}
		var o cache.Outcome
		if _, err := s.called("nowhere").Tag(cache.WithOutcome(t.Context(), &o), "v1"); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		if a := o.Answered(); a != nothing {
			t.Errorf("outcome of what is nowhere: %+v", a)
		}
	})
}

// A reader that cannot go on with a download that is stored says so.
func TestOutcomeOfDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 100_000
		s, feed, content, dgst := fedSite(t, "a", size)
		var o cache.Outcome
		b, err := s.Repository("a").OpenBlob(cache.WithOutcome(t.Context(), &o), dgst)
		must(t, err)
		if a := o.Answered(); a != (cache.Answered{Source: cache.FromRemote, Stored: true, Place: s.Repository("a").Place()}) {
			t.Errorf("outcome %+v", a)
		}
		synctest.Wait()
		s.up.Body = nil // for the next one
		s.blobs.Fail = func(op string) error {
			if op == "write" {
				return errors.New("the disk is gone")
			}
			return nil
		}
		go func() { _ = feed.Send(content[:50_000]) }()
		if got := readAll(t, b); len(got) != size {
			t.Errorf("%d bytes", len(got))
		}
		if a := o.Answered(); a.Source != cache.FromRemote || a.Stored {
			t.Errorf("outcome %+v", a)
		}
	})
}

// BenchmarkOutcome answers for a stored manifest, without anybody who is told how, and with.
func BenchmarkOutcome(b *testing.B) {
	up := new(cachetest.Upstream)
	blobs := new(cachetest.Blobs)
	c, err := cache.New(context.Background(), cache.Options{
		Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
		Remotes: []cache.Remote{{Host: up.Host(), Upstream: up, TagTTL: time.Hour}},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	dgst := addImageAt(up, "a", "v1", "text")
	r, _ := c.Repository(cache.Place{Host: up.Host(), Repo: "a"})
	if _, err := r.Manifest(context.Background(), dgst); err != nil {
		b.Fatal(err)
	}
	for name, ctx := range map[string]func() context.Context{
		"nobody":   context.Background,
		"somebody": func() context.Context { return cache.WithOutcome(context.Background(), new(cache.Outcome)) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.CachedManifest(ctx(), dgst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
