package cache_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/internal/via"
)

// neighbour is the remote of one cache that is another one, with the Via headers that
// go along.
type neighbour struct {
	cachetest.Upstream
	from, to string // names
	site     *site  // of to; nil while it has content of its own
}

// pass returns the context of a request as the neighbour gets it.
func (n *neighbour) pass(ctx context.Context) (context.Context, error) {
	chain := append(slices.Clone(via.From(ctx)), n.from)
	if slices.Contains(chain, n.to) {
		return nil, status(cache.ErrLoop)
	}
	return via.With(context.WithoutCancel(ctx), chain), nil
}

func (n *neighbour) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	if n.site == nil {
		return n.Upstream.Manifest(ctx, repo, ref)
	}
	ctx, err := n.pass(ctx)
	if err != nil {
		return cache.Manifest{}, err
	}
	t, err := n.site.Repository(repo).Tag(ctx, ref)
	return t.Manifest, err
}

func (n *neighbour) Blob(ctx context.Context, repo string, dgst digest.Digest, _ cache.BlobPart) (*cache.BlobStream, error) {
	ctx, err := n.pass(ctx)
	if err != nil {
		return nil, err
	}
	b, err := n.site.Repository(repo).OpenBlob(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return &cache.BlobStream{Body: b, Size: b.Size(), Length: b.Size()}, nil
}

func (n *neighbour) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	ctx, err := n.pass(ctx)
	if err != nil {
		return 0, err
	}
	d, err := n.site.Repository(repo).StatBlob(ctx, dgst)
	return d.Size, err
}

// Registries that fetch from each other notice it, also if they are all asked for the
// same at once, so that each has something that the other one could wait for.
func TestLoopOfMany(t *testing.T) {
	for _, op := range []string{"tag", "blob", "stat", "blob that is known of"} {
		synctest.Test(t, func(t *testing.T) {
			names := []string{"registry-module-x", "registry-module-y", "registry-module-z"}
			ring := make([]*neighbour, len(names))
			sites := make([]*site, len(names))
			for i, name := range names {
				ring[i] = &neighbour{from: name, to: names[(i+1)%len(names)]}
				sites[i] = newSite(t, func(o *cache.Options) { o.Remotes[0].Upstream = ring[i] })
			}
			dgst := digest.FromString("of nobody")
			if op == "blob that is known of" {
				for i, s := range sites {
					addImageAt(&ring[i].Upstream, "a", "v1", "nobody")
					_, err := s.Repository("a").Tag(t.Context(), "v1")
					must(t, err)
				}
				dgst = digest.FromString("config of nobody")
			}
			for i := range ring {
				ring[i].site = sites[(i+1)%len(names)]
			}
			start := time.Now()
			failed := make(chan error)
			for _, s := range sites {
				go func() {
					var err error
					switch op {
					case "tag":
						_, err = s.Repository("a").Tag(t.Context(), "v1")
					case "blob", "blob that is known of":
						_, err = s.Repository("a").OpenBlob(t.Context(), dgst)
					case "stat":
						_, err = s.Repository("a").StatBlob(t.Context(), dgst)
					}
					failed <- err
				}()
			}
			for range sites {
				if err := <-failed; !errors.Is(err, cache.ErrLoop) {
					t.Errorf("%s: %v", op, err)
				}
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s: noticed after %v", op, took)
			}
		})
	}
}

// Registries side by side, below this one, share what they ask for.
func TestNeighboursShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.up.Asked = func(context.Context, string) { <-time.After(time.Second) }
		s.addImage("a", "v1", "text")
		blob := s.up.AddBlob("a", bytes.Repeat([]byte("x"), 1<<20))
		failed := make(chan error)
		for i := range 50 {
			go func() {
				ctx := via.With(t.Context(), []string{"registry-module-" + string(rune('a'+i))})
				_, err := s.Repository("a").Tag(ctx, "v1")
				if err == nil {
					var b *cache.Reader
					if b, err = s.Repository("a").OpenBlob(ctx, blob); err == nil {
						readAll(t, b)
					}
				}
				failed <- err
			}()
		}
		for range 50 {
			must(t, <-failed)
		}
		if n := s.up.Calls(""); n != 2 {
			t.Errorf("%d requests, want one for the manifest and one for the blob", n)
		}
	})
}

// A request that is refused as part of a loop spoils nothing for others.
func TestLoopOfSomebodyElse(t *testing.T) {
	for _, op := range []string{"tag", "blob"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			want := s.up.AddBlob("a", bytes.Repeat([]byte("x"), 1<<20))
			s.addImage("a", "v1", "text")
			goes := make(chan struct{})
			s.up.Asked = func(ctx context.Context, _ string) {
				if len(via.From(ctx)) > 0 {
					<-goes
				}
			}
			ask := func(ctx context.Context) error {
				if op == "tag" {
					_, err := s.Repository("a").Tag(ctx, "v1")
					return err
				}
				b, err := s.Repository("a").OpenBlob(ctx, want)
				if err == nil {
					readAll(t, b)
				}
				return err
			}
			s.up.Answer = func(n int, _ cache.BlobPart, _ *cache.BlobStream) error {
				if n == 1 {
					return status(cache.ErrLoop)
				}
				return nil
			}
			round, honest := make(chan error), make(chan error)
			go func() { round <- ask(via.With(t.Context(), []string{"registry-module-forged"})) }()
			synctest.Wait()
			go func() { honest <- ask(t.Context()) }()
			go func() {
				time.Sleep(time.Second)
				close(goes)
			}()
			refused := <-round
			if op == "blob" && !errors.Is(refused, cache.ErrLoop) {
				t.Errorf("the one that goes round: %v", refused)
			}
			if err := <-honest; err != nil {
				t.Errorf("%s: the other one: %v", op, err)
			}
		})
	}
}
