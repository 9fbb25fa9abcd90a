package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// watcher notes what an observer is told.
type watcher struct {
	mu           sync.Mutex
	ended        []cache.FillEnd
	gone         []cache.Eviction
	roomsChanged []cache.Room
}

func (w *watcher) FillEnded(e cache.FillEnd) { note(w, &w.ended, e) }
func (w *watcher) Evicted(e cache.Eviction)  { note(w, &w.gone, e) }
func (w *watcher) RoomChanged(r cache.Room)  { note(w, &w.roomsChanged, r) }

func note[T any](w *watcher, to *[]T, what T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*to = append(*to, what)
}

func noted[T any](w *watcher, what *[]T) []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(*what)
}

func (w *watcher) fills() []cache.FillEnd      { return noted(w, &w.ended) }
func (w *watcher) evictions() []cache.Eviction { return noted(w, &w.gone) }
func (w *watcher) rooms() []cache.Room         { return noted(w, &w.roomsChanged) }

// watched is a site with an observer.
func watched(t *testing.T, adjust ...func(*cache.Options)) (*site, *watcher) {
	t.Helper()
	w := new(watcher)
	return newSite(t, append([]func(*cache.Options){func(o *cache.Options) { o.Observer = w }}, adjust...)...), w
}

// stats are those of the site when nothing moves any more, in which every download that has
// begun is accounted for.
func (s *site) stats(t *testing.T) cache.Stats {
	t.Helper()
	synctest.Wait()
	got, err := s.Stats(t.Context())
	must(t, err)
	for _, r := range got.Remotes {
		ended := r.Stored.Times + r.Passed.Times
		for _, n := range r.Failed {
			ended += n
		}
		if r.Started != ended+int64(r.Filling) {
			t.Errorf("%s: %d downloads have begun, %d have ended, and %d are under way", r.Host, r.Started, ended, r.Filling)
		}
	}
	return got
}

// failed are the causes that are not 0.
func failed(r cache.RemoteStats) map[string]int64 {
	causes := maps.Clone(r.Failed)
	maps.DeleteFunc(causes, func(_ string, n int64) bool { return n == 0 })
	return causes
}

// A download counts when it begins and when it has ended, and those who share it.
func TestStatsOfHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const herd, size = 50, 200_000
		w := new(watcher)
		s, feed, content, dgst := fedSite(t, "a", size)
		s.reopen(t, func(o *cache.Options) { o.Observer = w })
		var wg sync.WaitGroup
		outcomes := make([]cache.Outcome, herd)
		for i := range outcomes {
			wg.Go(func() {
				b, err := s.Repository("a").OpenBlob(cache.WithOutcome(t.Context(), &outcomes[i]), dgst)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, error %v", len(got), err)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		must(t, feed.Send(content[:100_000]))
		synctest.Wait()
		got := s.stats(t)
		r := got.Remotes[0]
		if r.Filling != 1 || r.Waiting != 0 || r.Joined != herd-1 || len(got.Fills) != 1 {
			t.Fatalf("under way: %+v, %+v", r, got.Fills)
		}
		f := got.Fills[0]
		if f.LastByte.IsZero() || f.Begun.IsZero() {
			t.Errorf("download %+v has no times", f)
		}
		f.LastByte, f.Begun = time.Time{}, time.Time{}
		want := cache.FillStats{Place: cache.Place{Host: "upstream.test", Repo: "a"}, Digest: dgst, Size: size, Have: 100_000, Fetched: 100_000, Clients: herd}
		if f != want {
			t.Errorf("download %+v, want %+v", f, want)
		}
		must(t, feed.Send(content[100_000:]))
		feed.End(nil)
		wg.Wait()
		synctest.Wait()
		got = s.stats(t)
		r = got.Remotes[0]
		if r.Started != 1 || r.Stored != (cache.Count{Times: 1, Bytes: size}) || r.Joined != herd-1 || len(failed(r)) > 0 || len(got.Fills) > 0 || got.Blobs != 1 {
			t.Errorf("after: %+v, %d contents", r, got.Blobs)
		}
		joined := 0
		for i := range outcomes {
			a := outcomes[i].Answered()
			if a.Joined {
				joined++
			}
			if a.Source != cache.FromRemote || !a.Stored || a.Place.Repo != "a" {
				t.Errorf("outcome %+v", a)
			}
		}
		if joined != herd-1 {
			t.Errorf("%d have joined, want %d", joined, herd-1)
		}
		if len(w.fills()) != 1 || w.fills()[0].Err != nil || w.fills()[0].Fetched != size || w.fills()[0].Size != size || w.fills()[0].Resumed {
			t.Errorf("told %+v", w.fills())
		}
	})
}

// What goes on with the bytes of an earlier process says so, and how many came now.
func TestStatsOfResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(watcher)
		s, content, dgst := interrupted(t, 3*mib, mib, func(o *cache.Options) { o.Observer = w })
		if len(w.fills()) != 1 || !errors.Is(w.fills()[0].Err, cache.ErrClosed) {
			t.Errorf("told %+v of the interrupted one", w.fills())
		}
		s.open(t)
		if kept := s.stats(t).Kept; kept != (cache.Count{Times: 1, Bytes: mib}) {
			t.Errorf("kept are %+v", kept)
		}
		s.wantPull(t, dgst, content)
		synctest.Wait()
		got := s.stats(t)
		if r := got.Remotes[0]; r.Started != 1 || r.Resumed != 1 || r.Stored != (cache.Count{Times: 1, Bytes: 3 * mib}) || got.Kept.Times != 0 {
			t.Errorf("%+v, kept are %+v", r, got.Kept)
		}
		if f := w.fills()[1]; !f.Resumed || f.Fetched != 2*mib || f.Size != 3*mib {
			t.Errorf("told %+v", f)
		}
	})
}

// A download that is broken off and goes on is still one.
func TestStatsOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, 3*mib)
		s.up.Answer = func(n int, _ cache.BlobPart, st *cache.BlobStream) error {
			switch n {
			case 1:
				cutAfter(st, mib)
			case 2:
				return away()
			}
			return nil
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.wantPull(t, dgst, content)
		}()
		time.Sleep(50 * time.Millisecond) // while it waits before it tries again
		if f := s.stats(t).Fills; len(f) != 1 || !errors.Is(f[0].Failure, errReset) || f[0].Have != mib {
			t.Errorf("broken off: %+v", f)
		}
		<-done
		synctest.Wait()
		if r := s.stats(t).Remotes[0]; r.Retried != 2 || r.Started != 1 || r.Stored.Times != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// Why downloads fail is counted by cause.
func TestStatsOfFailures(t *testing.T) {
	wrong := func(s *site, dgst digest.Digest) {
		s.up.Replace("a", dgst, []byte("something else"))
	}
	for cause, arrange := range map[string]func(s *site, dgst digest.Digest){
		"not_found":    func(s *site, _ digest.Digest) { s.up.Fail(refusal(cache.ErrNotFound, 404, 0)) },
		"denied":       func(s *site, _ digest.Digest) { s.up.Fail(refusal(cache.ErrDenied, 403, 0)) },
		"rate_limited": func(s *site, _ digest.Digest) { s.up.Fail(refusal(cache.ErrRateLimited, 429, time.Hour)) },
		"unavailable":  func(s *site, _ digest.Digest) { s.up.Fail(away()) },
		"loop":         func(s *site, _ digest.Digest) { s.up.Fail(refusal(cache.ErrLoop, 508, 0)) },
		"error":        func(s *site, _ digest.Digest) { s.up.Fail(errors.New("a bug")) },
		"invalid":      wrong,
	} {
		t.Run(cause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := watched(t, func(o *cache.Options) { o.Remotes[0].RetryFor = -1 })
				dgst := s.up.AddBlob("a", []byte("some content"))
				arrange(s, dgst)
				if b, err := s.Repository("a").OpenBlob(t.Context(), dgst); err == nil {
					t.Error("it was opened")
					must(t, b.Close())
				}
				r := s.stats(t).Remotes[0]
				if got := failed(r); len(got) != 1 || got[cause] != 1 || len(r.Failed) != 9 {
					t.Errorf("failed are %v", r.Failed)
				}
				if len(w.fills()) != 1 || w.fills()[0].Err == nil || w.fills()[0].Size != int64(len("something else")) && cause == "invalid" {
					t.Errorf("told %+v", w.fills())
				}
			})
		})
	}
}

// A blob that has no room is passed through to each client, which is a download each.
func TestStatsWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 150 * kib
		s, w := watched(t, func(o *cache.Options) { o.MaxSize = 100 * kib })
		content := randomBytes(size)
		dgst := s.up.AddBlob("a", content)
		var o cache.Outcome
		b, err := s.Repository("a").OpenBlob(cache.WithOutcome(t.Context(), &o), dgst)
		must(t, err)
		got := s.stats(t)
		if r := got.Remotes[0]; r.Filling != 1 || len(got.Fills) != 1 || !got.Fills[0].Passing || got.Fills[0].Size != size {
			t.Errorf("under way: %+v, %+v", r, got.Fills)
		}
		readAll(t, b)
		if a := o.Answered(); a.Source != cache.FromRemote || a.Stored || a.Joined {
			t.Errorf("outcome %+v", a)
		}
		if b, err = s.Repository("a").OpenBlob(t.Context(), dgst); err == nil {
			_, err = io.CopyN(io.Discard, b, size/2)
		}
		must(t, errors.Join(err, b.Close())) // a client that leaves
		r := s.stats(t).Remotes[0]
		if want := map[string]int64{"no_space": 2, "closed": 1}; r.Passed != (cache.Count{Times: 1, Bytes: size}) || !maps.Equal(failed(r), want) {
			t.Errorf("%+v", r)
		}
		if n := len(w.fills()); n != 4 || !errors.Is(w.fills()[1].Unstored, cache.ErrNoSpace) || w.fills()[1].Err != nil || w.fills()[1].Fetched != size {
			t.Errorf("told %+v", w.fills())
		}
	})
}

// What is verified and cannot be stored has passed through.
func TestStatsOfUnstored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := watched(t)
		synctest.Wait()
		s.blobs.Fail = func(op string) error {
			if op == "commit" {
				return syscall.EROFS
			}
			return nil
		}
		content := randomBytes(100 * kib)
		dgst := s.up.AddBlob("a", content)
		readAll(t, s.openBlob(t, "a", dgst))
		synctest.Wait()
		if r := s.stats(t).Remotes[0]; r.Passed != (cache.Count{Times: 1, Bytes: 100 * kib}) || r.Stored.Times != 0 {
			t.Errorf("%+v", r)
		}
		if len(w.fills()) != 1 || w.fills()[0].Err != nil || !errors.Is(w.fills()[0].Unstored, syscall.EROFS) {
			t.Errorf("told %+v", w.fills())
		}
		if len(w.rooms()) != 1 || !w.rooms()[0].Short || !strings.Contains(w.rooms()[0].Reason, "read-only") {
			t.Errorf("room %+v", w.rooms())
		}
	})
}

// told are evictions as "cause image bytes".
func told(evictions []cache.Eviction) (all []string) {
	for _, e := range evictions {
		if e.Digest.Validate() != nil {
			all = append(all, "without digest")
		}
		all = append(all, fmt.Sprintf("%s %s %d", e.Cause, e.Image, (e.Bytes+50)/kib))
	}
	return all
}

// What is removed is counted by cause, and told of image by image.
func TestStatsOfEvictions(t *testing.T) {
	for name, tt := range map[string]struct {
		adjust func(*cache.Options)
		do     func(t *testing.T, s *site)
		want   []string
	}{
		"for room": {
			adjust: limited(2),
			do: func(t *testing.T, s *site) {
				s.push("b", "1", "other")
				s.pull(t, "b", "1")
			},
			want: []string{"room a:1 200"},
		},
		"expired": {
			adjust: remote0(func(r *cache.Remote) { r.TTL = time.Hour }),
			do: func(t *testing.T, s *site) {
				s.pass(24 * time.Hour)
				_, err := s.Collect(t.Context(), cache.CollectOptions{})
				must(t, err)
			},
			want: []string{"expired a:1 200", "expired a:2 200"},
		},
		"unused": {
			do: func(t *testing.T, s *site) {
				readAll(t, s.openBlob(t, "c", s.up.AddBlob("c", bytes.Repeat([]byte("c"), 100*kib))))
				s.rest()
				_, err := s.Collect(t.Context(), cache.CollectOptions{})
				must(t, err)
			},
			want: []string{"unused  100"},
		},
		"by hand": {
			do: func(t *testing.T, s *site) {
				_, err := s.RemoveImage(t.Context(), "a", "1")
				must(t, err)
			},
			want: []string{"removed a:1 200"},
		},
		"all by hand": {
			do: func(t *testing.T, s *site) {
				_, err := s.RemoveImage(t.Context(), "a", "")
				must(t, err)
			},
			want: []string{"removed a:1 200", "removed a:2 200"},
		},
		"a trial": {
			do: func(t *testing.T, s *site) {
				_, err := s.Collect(t.Context(), cache.CollectOptions{DryRun: true, Free: 1 << 30})
				must(t, err)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				adjust := func(*cache.Options) {}
				if tt.adjust != nil {
					adjust = tt.adjust
				}
				s, w := watched(t, adjust)
				for _, tag := range []string{"1", "2"} {
					s.push("a", tag, tag)
					s.pull(t, "a", tag)
				}
				before := s.stats(t)
				tt.do(t, s)
				s.rest()
				got := told(w.evictions())
				slices.Sort(got)
				if !slices.Equal(got, tt.want) {
					t.Errorf("told %q, want %q", got, tt.want)
				}
				after := s.stats(t)
				sum := cache.Count{}
				for _, n := range after.Evictions {
					sum.Times += n.Times
					sum.Bytes += n.Bytes
				}
				if len(after.Evictions) != 4 || sum.Times != int64(len(tt.want)) {
					t.Errorf("counted %v", after.Evictions)
				}
				if n := s.blobs.Len(); after.Blobs != int64(n) || name == "all by hand" && n != 0 {
					t.Errorf("%d contents are counted, and %d stored (%d before)", after.Blobs, n, before.Blobs)
				}
				if used := after.Space.Used; used != before.Space.Used-sum.Bytes && tt.adjust == nil && name != "unused" {
					t.Errorf("%d bytes are used after %d, less %d", used, before.Space.Used, sum.Bytes)
				}
			})
		})
	}
}

// How much is stored is known after each kind of start.
func TestStatsAfterStart(t *testing.T) {
	for name, lose := range map[string]func(*site){
		"in order":   func(*site) {},
		"index lost": (*site).loseIndex,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.push("a", "1", "1")
				s.pull(t, "a", "1")
				before := s.stats(t)
				s.close(t, s.Cache)
				lose(s)
				s.open(t)
				after := s.stats(t)
				if before.Blobs != 3 || after.Blobs != 3 || after.Space.Used != before.Space.Used || !after.Space.Known {
					t.Errorf("before %d contents and %+v, after %d and %+v", before.Blobs, before.Space, after.Blobs, after.Space)
				}
			})
		})
	}
}

// counting are Blobs that count how often they are asked for what is free, and may hang.
type counting struct {
	*cachetest.Blobs
	asked int
	hang  chan struct{}
}

func (b *counting) Free(ctx context.Context) (free, total int64, err error) {
	b.asked++
	if b.hang != nil {
		<-b.hang
	}
	return b.Blobs.Free(ctx)
}

// The storage is asked once a second at most, and who asks for stats does not wait for it
// longer than it wants to.
func TestStatsAreCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs := new(counting)
		s := newSite(t, func(o *cache.Options) {
			blobs.Blobs = o.Blobs.(*cachetest.Blobs)
			o.Blobs, o.Now = blobs, time.Now
		})
		s.push("a", "1", "1")
		s.pull(t, "a", "1")
		time.Sleep(time.Minute)
		synctest.Wait()
		before := blobs.asked
		for range 100 {
			s.stats(t)
			time.Sleep(20 * time.Millisecond)
		}
		if n := blobs.asked - before; n > 3 {
			t.Errorf("the storage was asked %d times in 2 s", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		blobs.hang = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := s.Stats(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || got.Space.Known || got.Space.Total != 0 || got.Remotes[0].Stored.Times != 2 || got.Blobs != 3 {
			t.Errorf("while the storage hangs: %+v, error %v", got, err)
		}
		close(blobs.hang)
	})
}

// After the end, counters can still be read.
func TestStatsAfterClose(t *testing.T) {
	s := newSite(t)
	s.addImage("a", "v1", "first")
	_, err := s.Repository("a").Tag(t.Context(), "v1")
	must(t, err)
	must(t, s.Close())
	got, err := s.Stats(t.Context())
	if !errors.Is(err, cache.ErrClosed) || got.Blobs != 1 || len(got.Remotes) != 1 {
		t.Errorf("%+v, error %v", got, err)
	}
}

// Several observers are all told.
func TestObservers(t *testing.T) {
	a, b := new(watcher), new(watcher)
	all := cache.Observers{a, b}
	all.FillEnded(cache.FillEnd{Size: 1})
	all.Evicted(cache.Eviction{Bytes: 2})
	all.RoomChanged(cache.Room{Short: true})
	for _, w := range []*watcher{a, b} {
		if len(w.fills()) != 1 || len(w.evictions()) != 1 || len(w.rooms()) != 1 {
			t.Error("one was not told all")
		}
	}
}

// That a remote has not answered in time is its failure, though its error is one of a
// deadline, as those of package net are.
func TestStatsOfTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := watched(t, func(o *cache.Options) { o.Remotes[0].RetryFor = -1 })
		s.up.FailOp("blob", &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching", Err: context.DeadlineExceeded})
		if _, err := s.Repository("a").OpenBlob(t.Context(), digest.FromString("x")); !errors.Is(err, cache.ErrUnavailable) {
			t.Fatal(err)
		}
		if got := failed(s.stats(t).Remotes[0]); !maps.Equal(got, map[string]int64{"unavailable": 1}) {
			t.Errorf("failed: %v", got)
		}
	})
}
