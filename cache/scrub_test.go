package cache_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// countedIndex counts what is written to an index.
type countedIndex struct {
	cache.Index
	writes atomic.Int64
}

func (x *countedIndex) Apply(ctx context.Context, changes ...cache.Change) error {
	x.writes.Add(1)
	return x.Index.Apply(ctx, changes...)
}

// realClock is for what waits: the clock of synctest.
func realClock(o *cache.Options) { o.Now = time.Now }

func scrubbing(every time.Duration, rate int64) func(*cache.Options) {
	return func(o *cache.Options) { o.ScrubInterval, o.ScrubRate = every, rate }
}

// stock pulls n blobs of size bytes of repository a, and returns them in the order of
// their digests.
func (w *ward) stock(t *testing.T, n, size int) ([]digest.Digest, map[digest.Digest][]byte) {
	t.Helper()
	all := make(map[digest.Digest][]byte)
	for range n {
		content := randomBytes(size)
		dgst := w.up.AddBlob("a", content)
		all[dgst] = content
		readAll(t, w.openBlob(t, "a", dgst))
	}
	synctest.Wait()
	return slices.Sorted(maps.Keys(all)), all
}

// All that is damaged is found and fetched again, once.
func TestScrub(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, realClock, scrubbing(time.Hour, 0))
				order, all := w.stock(t, 5, 100_000)
				damage.do(t, w, order[2])
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if h := w.Health(); h.Damaged != 1 || h.Repaired != 1 || h.Healed != 0 || h.Passed.IsZero() {
					t.Errorf("health %+v", h)
				}
				if n := len(w.log.AllEntries()); n != 1 {
					t.Errorf("%d warnings, want 1", n)
				}
				w.wantCalls(t, "blob", 6)
				w.up.Fail(cache.ErrUnavailable)
				for dgst, content := range all {
					if got := readAll(t, w.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
						t.Error("other content")
					}
				}
			})
		})
	}
}

// What cannot be fetched again at once is, in the next pass.
func TestScrubWhileRemoteIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, realClock, scrubbing(time.Hour, 0))
		order, all := w.stock(t, 2, 100_000)
		damages["a bit"].do(t, w, order[1])
		w.up.SetAway(cache.ErrUnavailable, false)
		time.Sleep(90 * time.Minute)
		w.wantCalls(t, "blob", 2)
		if h := w.Health(); h.Damaged != 1 || h.Repaired != 0 {
			t.Errorf("while it is away: health %+v", h)
		}
		w.up.SetAway(nil, false)
		time.Sleep(time.Hour)
		w.up.Fail(cache.ErrUnavailable)
		if got := readAll(t, w.openBlob(t, "a", order[1])); !bytes.Equal(got, all[order[1]]) {
			t.Error("other content")
		}
	})
}

// A damaged manifest comes back, too: from memory, where it is there.
func TestScrubManifests(t *testing.T) {
	for _, remembered := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWard(t, realClock, scrubbing(time.Hour, 0))
			w.addImage("a", "v1", "first")
			m, err := w.Repository("a").Tag(t.Context(), "v1")
			must(t, err)
			if !remembered {
				w.reopen(t)
			}
			w.alter(t, m.Digest, flip(func(n int) int { return n / 2 }))
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			want := 2
			if remembered {
				want = 1
			}
			w.wantCalls(t, "manifest", want)
			w.reopen(t, noUpstream)
			if _, err := w.Repository("a").Manifest(t.Context(), m.Digest); err != nil {
				t.Errorf("remembered %v: %v", remembered, err)
			}
		})
	}
}

// A pass keeps to its rate, goes on after a restart where it was, and between two passes
// nothing is read or written.
func TestScrubGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, n = 1 << 20, 20
		w := newWard(t, realClock)
		order, _ := w.stock(t, n, size)
		index := &countedIndex{Index: w.index}
		w.reopen(t, scrubbing(24*time.Hour, size), func(o *cache.Options) { o.Index = index })
		time.Sleep(5*time.Minute + n/2*time.Second)
		if got := w.Health().Scrubbed; got < (n/2-2)*size || got > (n/2+1)*size {
			t.Errorf("after half the time %d bytes are read", got)
		}
		damages["a bit"].do(t, w, order[0]) // it was there already
		w.reopen(t)
		time.Sleep(5*time.Minute + n*time.Second)
		h := w.Health()
		if h.Scrubbed < (n/2-2)*size || h.Scrubbed > (n/2+3)*size || h.Passed.IsZero() || h.Damaged != 0 {
			t.Errorf("after the restart: %+v", h)
		}
		before := index.writes.Load()
		w.reopen(t)
		w.reopen(t)
		if wrote := index.writes.Load() - before; wrote > 4 { // that it was not, and was, closed as it should be
			t.Errorf("two restarts in its pause: %d writes", wrote)
		}
		before, h = index.writes.Load(), w.Health()
		time.Sleep(18 * time.Hour)
		if wrote := index.writes.Load() - before; wrote != 0 || w.Health().Scrubbed != h.Scrubbed {
			t.Errorf("in its pause: %d writes, %d bytes read", wrote, w.Health().Scrubbed-h.Scrubbed)
		}
		w.reopen(t) // which does not begin a pass
		time.Sleep(time.Hour)
		if got := w.Health().Scrubbed; got != 0 {
			t.Errorf("restarted in its pause: %d bytes read", got)
		}
		time.Sleep(6 * time.Hour)
		if h := w.Health(); h.Damaged != 1 || h.Repaired != 1 {
			t.Errorf("the next pass: %+v", h)
		}
	})
}

// After an end that was none, a pass begins soon.
func TestScrubSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, realClock, scrubbing(24*time.Hour, 0))
		w.stock(t, 1, 1000)
		w.loseIndex()
		w.reopen(t)
		time.Sleep(time.Minute)
		if w.Health().Passed.IsZero() {
			t.Error("no pass")
		}
	})
}

// Whatever is wrong is reported, changed only on request, and right after that.
func TestVerify(t *testing.T) {
	link := cache.Ref{Repo: "a", Kind: cache.RefLayer}
	for name, tt := range map[string]struct {
		spoil func(*testing.T, *ward, digest.Digest)
		what  string // of the one problem
	}{
		"a bit":         {damages["a bit"].do, "does not match its digest"},
		"truncated":     {damages["truncated"].do, "does not match its digest"},
		"deleted":       {damages["deleted"].do, "is missing"},
		"directory":     {damages["directory"].do, "is not a file"},
		"not permitted": {damages["not permitted"].do, "permission denied"},
		"read error":    {damages["read error"].do, "from byte 600 on: "},
		"dangling link": {func(t *testing.T, w *ward, _ digest.Digest) {
			gone := digest.FromString("gone")
			must(t, w.opts.Refs.Put(t.Context(), cache.Ref{Repo: "b", Kind: cache.RefLayer, Name: gone.String()}, gone))
		}, "is linked, and not stored"},
		"damaged link": {func(t *testing.T, w *ward, d digest.Digest) {
			f, err := w.fs.OpenFile("/docker/registry/v2/repositories/a/_layers/sha256/"+d.Encoded()+"/link", syscall.O_WRONLY|syscall.O_TRUNC, 0)
			must(t, err)
			must(t, f.Close())
		}, "missing or damaged"},
		"deleted link": {func(t *testing.T, w *ward, d digest.Digest) {
			must(t, w.opts.Refs.Remove(t.Context(), cache.Ref{Repo: "a", Kind: cache.RefLayer, Name: d.String()}))
		}, "missing or damaged"},
		"damaged link of nothing": {func(t *testing.T, w *ward, d digest.Digest) {
			gone := digest.FromString("gone")
			must(t, w.opts.Refs.Put(t.Context(), cache.Ref{Repo: "b", Kind: cache.RefLayer, Name: gone.String()}, gone))
			f, err := w.fs.OpenFile("/docker/registry/v2/repositories/b/_layers/sha256/"+gone.Encoded()+"/link", syscall.O_WRONLY|syscall.O_TRUNC, 0)
			must(t, err)
			must(t, f.Close())
		}, "is damaged"},
		"not in the index": {func(t *testing.T, w *ward, d digest.Digest) {
			must(t, w.index.Apply(t.Context(), cache.Change{Key: []byte("b\x00" + d.String()), Delete: true}))
		}, "the index does not know it"},
		"link is a directory": {func(t *testing.T, w *ward, d digest.Digest) {
			name := "/docker/registry/v2/repositories/a/_layers/sha256/" + d.Encoded() + "/link"
			must(t, w.fs.Remove(name))
			must(t, w.fs.Mkdir(name, 0o755))
		}, "missing or damaged"},
		"another size": {func(t *testing.T, w *ward, d digest.Digest) {
			must(t, w.index.Apply(t.Context(), cache.Change{Key: []byte("b\x00" + d.String()), Value: []byte(`{"s":7}`)}))
		}, "the index says that it has 7 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t)
				_, dgst := w.addImage("a", "v1", strings.Repeat("first", 20_000))
				_, err := w.Repository("a").Tag(t.Context(), "v1")
				must(t, err)
				readAll(t, w.openBlob(t, "a", dgst))
				synctest.Wait()
				if r, err := w.Verify(t.Context(), cache.VerifyOptions{}); err != nil || len(r.Problems) != 0 || r.Blobs != 2 {
					t.Fatalf("before: %+v, %v", r, err)
				}
				link.Name = dgst.String()
				tt.spoil(t, w, dgst)
				var last cache.VerifyProgress
				for range 2 { // it changes nothing
					r, err := w.Verify(t.Context(), cache.VerifyOptions{Progress: func(p cache.VerifyProgress) { last = p }})
					must(t, err)
					if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].What, tt.what) || r.Problems[0].Repaired || r.Problems[0].Hint == "" {
						t.Fatalf("problems %+v", r.Problems)
					}
					if p := r.Problems[0]; p.Digest == dgst && p.Image != "a:v1" && !strings.Contains(name, "link") {
						t.Errorf("it is of image %q", p.Image)
					}
					if last.Damaged != 1 || last.Blobs != r.Blobs || last.Bytes != r.Bytes {
						t.Errorf("progress %+v, report %d blobs, %d bytes", last, r.Blobs, r.Bytes)
					}
				}
				r, err := w.Verify(t.Context(), cache.VerifyOptions{Repair: true})
				must(t, err)
				if len(r.Problems) != 1 || !r.Problems[0].Repaired || r.Problems[0].Hint != "" {
					t.Errorf("repair: %+v", r.Problems)
				}
				synctest.Wait()
				r, err = w.Verify(t.Context(), cache.VerifyOptions{})
				if err != nil || len(r.Problems) != 0 {
					t.Errorf("after the repair: %+v, %v", r.Problems, err)
				}
				w.up.Fail(cache.ErrUnavailable)
				readAll(t, w.openBlob(t, "a", dgst))
				if got, err := w.opts.Refs.Get(t.Context(), link); err != nil || got != dgst {
					t.Errorf("its link: %v, %v", got, err)
				}
			})
		})
	}
}

// What does not belong into the directory is reported.
func TestVerifyFindsStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t)
		w.stock(t, 1, 1000)
		must(t, w.fs.Mkdir("/docker/registry/v2/strange", 0o755))
		r, err := w.Verify(t.Context(), cache.VerifyOptions{})
		must(t, err)
		if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].What, "v2/strange") || r.Problems[0].Hint == "" {
			t.Errorf("%+v", r.Problems)
		}
	})
}

// Where nothing can be taken away, or fetched again, the report says what to do.
func TestVerifyCannotRepair(t *testing.T) {
	for name, tt := range map[string]struct {
		prevent func(*ward)
		hint    string
	}{
		"remote away": {func(w *ward) { w.up.Fail(cache.ErrUnavailable) }, "somebody asks for it"},
		"read-only": {func(w *ward) {
			w.vault.refuse(syscall.EROFS)
			w.fs.readOnly(true)
		}, "can be written to"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t)
				order, _ := w.stock(t, 3, 1000)
				damages["a bit"].do(t, w, order[1])
				tt.prevent(w)
				r, err := w.Verify(t.Context(), cache.VerifyOptions{Repair: true})
				must(t, err)
				if len(r.Problems) != 1 || r.Problems[0].Repaired || !strings.Contains(r.Problems[0].Hint, tt.hint) {
					t.Errorf("%+v", r.Problems)
				}
			})
		})
	}
}

// It ends with its context, and keeps to its rate.
func TestVerifyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t)
		w.stock(t, 10, 1<<20)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := w.Verify(ctx, cache.VerifyOptions{Rate: 1 << 20})
		if !errors.Is(err, context.DeadlineExceeded) && err == nil || r.Bytes < 3<<20 || r.Bytes > 6<<20 {
			t.Errorf("%d bytes, %v", r.Bytes, err)
		}
	})
}

// refilling fetches again what was put aside before anybody hears of that.
type refilling struct {
	aside cache.Quarantine
	then  func()
}

func (r refilling) Quarantine(ctx context.Context, dgst digest.Digest) error {
	if err := r.aside.Quarantine(ctx, dgst); err != nil {
		return err
	}
	r.then()
	return nil
}

// What was fetched again while it was being taken away stays in the account.
func TestFetchedAgainWhileTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t)
		order, all := w.stock(t, 1, 100_000)
		dgst := order[0]
		fetch := func() {
			if got := readAll(t, w.openBlob(t, "a", dgst)); !bytes.Equal(got, all[dgst]) {
				t.Error("other content")
			}
			synctest.Wait()
		}
		w.reopen(t, func(o *cache.Options) { o.Quarantine = refilling{w.vault, fetch} })
		damages["a bit"].do(t, w, dgst)
		fetch()
		r, err := w.Verify(t.Context(), cache.VerifyOptions{})
		must(t, err)
		if len(r.Problems) != 0 || r.Blobs != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// slowList is a store that is listed when gate is closed.
type slowList struct {
	cache.Blobs
	gate chan struct{}
}

func (b slowList) All(ctx context.Context) iter.Seq2[cache.BlobEntry, error] {
	return func(yield func(cache.BlobEntry, error) bool) {
		<-b.gate
		b.Blobs.All(ctx)(yield)
	}
}

// Who compares what is stored waits until it is known what that is: what the index does not
// know yet would be counted twice.
func TestVerifyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, realClock, scrubbing(time.Hour, 0))
		w.stock(t, 3, 1000)
		w.loseIndex()
		gate := make(chan struct{})
		w.close(t, w.Cache)
		opts := w.opts
		opts.Blobs = slowList{opts.Blobs, gate}
		c, err := cache.New(t.Context(), opts)
		must(t, err)
		done := make(chan cache.VerifyReport)
		go func() {
			r, err := c.Verify(t.Context(), cache.VerifyOptions{Repair: true})
			if err != nil {
				t.Error(err)
			}
			done <- r
		}()
		time.Sleep(10 * time.Minute)
		if h := c.Health(); h.Scrubbed != 0 {
			t.Errorf("%d bytes were compared before", h.Scrubbed)
		}
		close(gate)
		if r := <-done; len(r.Problems) != 0 || r.Blobs != 3 {
			t.Errorf("%+v", r)
		}
		time.Sleep(time.Minute)
		if h := c.Health(); h.Scrubbed == 0 {
			t.Error("no pass")
		}
		must(t, c.Close())
	})
}

// What is known of the parts of a blob goes some time after the blob, if that does not come
// back.
func TestSumsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, realClock, scrubbing(time.Hour, 0))
		order, _ := w.stock(t, 3, 100_000)
		has := func(dgst digest.Digest) bool {
			_, err := w.index.Get(t.Context(), []byte("c\x00"+dgst.String()))
			return err == nil
		}
		w.up.Fail(cache.ErrUnavailable)
		damages["a bit"].do(t, w, order[1])
		time.Sleep(2 * time.Hour)
		for _, dgst := range order {
			if !has(dgst) {
				t.Errorf("%s has no sums, damaged: %t", dgst, dgst == order[1])
			}
		}
		w.reopen(t) // nobody knows any more that it is missed
		time.Sleep(2 * time.Hour)
		if !has(order[0]) || has(order[1]) || !has(order[2]) {
			t.Errorf("sums: %t, %t (of what is gone), %t", has(order[0]), has(order[1]), has(order[2]))
		}
	})
}
