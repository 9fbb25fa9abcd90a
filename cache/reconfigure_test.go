package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// reconfigure changes the site's options by adjust, and has them hold.
func (s *site) reconfigure(t *testing.T, adjust ...func(*cache.Options)) {
	t.Helper()
	must(t, s.tryReconfigure(adjust...))
}

func (s *site) tryReconfigure(adjust ...func(*cache.Options)) error {
	next := s.opts
	next.Remotes = slices.Clone(next.Remotes)
	for _, a := range adjust {
		a(&next)
	}
	if err := s.Reconfigure(next); err != nil {
		return err
	}
	s.opts = next
	return nil
}

// another is the same registry by another value, as with other credentials.
type another struct {
	*cachetest.Upstream
	_ byte // so that no two are the same
}

func otherUpstream(o *cache.Options) {
	up, ok := o.Remotes[0].Upstream.(*another)
	if !ok {
		up = &another{Upstream: o.Remotes[0].Upstream.(*cachetest.Upstream)}
	}
	o.Remotes[0].Upstream = &another{Upstream: up.Upstream}
}

// second adds a remote second.test, and replacedBySecond puts it in the place of the first.
func second(up *cachetest.Upstream) func(*cache.Options) {
	return func(o *cache.Options) {
		o.Remotes = append(o.Remotes, cache.Remote{
			Host: "second.test", Upstream: up, TagTTL: tagTTL, Naming: cache.Naming{Prefix: "second.test/"},
		})
		o.Remotes[0].Naming = cache.Naming{Others: []string{"second.test/"}, Aside: "@upstream.test/"}
	}
}

func replacedBySecond(o *cache.Options) {
	second(&cachetest.Upstream{Name: "second.test"})(o)
	o.Remotes = o.Remotes[1:]
}

// What cannot be changes nothing at all.
func TestReconfigureIsAllOrNothing(t *testing.T) {
	for name, bad := range map[string]func(*cache.Options){
		"two remotes of a host": func(o *cache.Options) { o.Remotes = append(o.Remotes, o.Remotes[0]) },
		"two remotes of a name": func(o *cache.Options) {
			o.Remotes = append(o.Remotes, cache.Remote{Host: "x.test"}, cache.Remote{Host: "y.test"})
		},
		"a pin": func(o *cache.Options) { o.Pins = []string{"a:["} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, limited(3), func(o *cache.Options) { o.Pins = []string{"b"} })
				s.push("a", "1", "1")
				s.pull(t, "a", "1")
				before := s.opts.MaxSize
				err := s.tryReconfigure(func(o *cache.Options) {
					replacedBySecond(o)
					o.MaxSize, o.Pins, o.BindingTTL = 1, nil, time.Second
				}, bad)
				if err == nil {
					t.Fatal("no error")
				}
				synctest.Wait()
				s.wantImages(t, "a:1")
				c, err := s.Collect(t.Context(), cache.CollectOptions{DryRun: true})
				must(t, err)
				if c.Limit != before {
					t.Errorf("the limit is %d, want %d", c.Limit, before)
				}
				pins, err := s.Pins(t.Context())
				must(t, err)
				if len(pins) != 1 || pins[0].Pattern != "b" {
					t.Errorf("pins %v", pins)
				}
				if _, ok := s.Cache.Repository(cache.Place{Host: "second.test", Repo: "a"}); ok {
					t.Error("the other remote is served")
				}
				s.pull(t, "a", "1")
			})
		})
	}
}

func TestReconfigureClosed(t *testing.T) {
	s := newSite(t)
	s.close(t, s.Cache)
	if err := s.tryReconfigure(func(o *cache.Options) { o.Prefetch, o.Resume, o.ScrubInterval = true, true, 1 }); !errors.Is(err, cache.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
}

// What has no room any more goes at once, and what has had none is stored when there is.
func TestReconfigureLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, tag := range []string{"1", "2", "3"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		began := time.Now()
		s.reconfigure(t, limited(2))
		synctest.Wait()
		if taken := s.blobs.Len(); taken > 6 {
			t.Errorf("%d blobs are stored", taken)
		}
		s.reconfigure(t, func(o *cache.Options) { o.MaxSize = 1 })
		synctest.Wait()
		if taken := s.blobs.Len(); taken != 0 {
			t.Errorf("%d blobs are stored, and none may", taken)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it took %v", waited)
		}
		layer := s.up.AddBlob("a", randomBytes(mib))
		readAll(t, s.openBlob(t, "a", layer))
		// The reserve is a limit, too.
		s.reconfigure(t, func(o *cache.Options) { o.MaxSize, o.MinFree = 0, func(total int64) int64 { return total } })
		readAll(t, s.openBlob(t, "a", layer))
		synctest.Wait()
		if s.blobs.Len() != 0 {
			t.Error("it is stored without room")
		}
		s.reconfigure(t, func(o *cache.Options) { o.MinFree = nil })
		readAll(t, s.openBlob(t, "a", layer))
		synctest.Wait()
		if s.blobs.Len() != 1 {
			t.Error("it is not stored, and there is room")
		}
	})
}

// What was looked for in vain is looked for again with other limits, and not 10 minutes
// later.
func TestReconfigureAfterVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Pins = []string{"a:1"} })
		s.push("a", "1", "1")
		s.pull(t, "a", "1")
		s.reconfigure(t, func(o *cache.Options) { o.MaxSize = 1 }) // it is pinned
		synctest.Wait()
		s.wantImages(t, "a:1")
		s.reconfigure(t, func(o *cache.Options) { o.Pins = nil })
		synctest.Wait()
		s.wantImages(t)
	})
}

// locating is an index that does something when the places of the first victims are looked
// up, which are decided by then.
type locating struct {
	cache.Index
	once sync.Once
	do   func()
}

func (x *locating) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	if bytes.HasPrefix(prefix, []byte("l\x00")) && x.do != nil {
		x.once.Do(x.do)
	}
	return x.Index.Scan(ctx, prefix, from)
}

// What is pinned stays, even if it was about to go.
func TestPinnedWhileRemoving(t *testing.T) {
	for name, pin := range map[string]func(*testing.T, *site){
		"by the configuration": func(t *testing.T, s *site) {
			s.reconfigure(t, func(o *cache.Options) { o.Pins = []string{"a:2"} })
		},
		"by the operator": func(t *testing.T, s *site) {
			_, err := s.PinImages(t.Context(), cache.Pin{Pattern: "a:2", Reason: cache.PinnedByOperator})
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				index := new(locating)
				s := newSite(t, func(o *cache.Options) { index.Index, o.Index = o.Index, index })
				for _, tag := range []string{"1", "2", "3"} {
					s.push("a", tag, tag)
					s.pull(t, "a", tag)
				}
				index.do = func() { pin(t, s) }
				for range 2 { // the plan of the first is not carried out
					_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
					must(t, err)
				}
				s.wantImages(t, "a:2")
			})
		})
	}
}

// Unfinished downloads expire by what is said now.
func TestReconfigurePartialTTL(t *testing.T) {
	for ttl, want := range map[time.Duration]int{-1: 0, time.Hour: 0, 5 * time.Hour: 1, 0: 1} {
		synctest.Test(t, func(t *testing.T) {
			s, _, _ := interruptedNow(t, 3*mib, mib)
			s.open(t)
			time.Sleep(2 * time.Hour)
			s.reconfigure(t, func(o *cache.Options) { o.PartialTTL = ttl })
			synctest.Wait()
			if n := s.leftovers(t); n != want {
				t.Errorf("with %v: %d unfinished downloads, want %d", ttl, n, want)
			}
			time.Sleep(4*time.Hour + time.Minute)
			synctest.Wait()
			if n := s.leftovers(t); n != 0 && ttl == 5*time.Hour {
				t.Errorf("%d unfinished downloads after %v", n, ttl)
			}
		})
	}
}

// Unfinished downloads go on when that is wanted, while it is wanted, and when their remote
// is there or there anew.
func TestReconfigureResume(t *testing.T) {
	resume := func(o *cache.Options) { o.Resume = true }
	for name, tt := range map[string]struct {
		before, after []func(*cache.Options)
		calls         int // between the two, while the remote is away
	}{
		"wanted":           {nil, []func(*cache.Options){resume}, 0},
		"another upstream": {[]func(*cache.Options){resume}, []func(*cache.Options){otherUpstream}, 1},
		"another remote": {[]func(*cache.Options){resume, replacedBySecond}, []func(*cache.Options){func(o *cache.Options) {
			o.Remotes = []cache.Remote{{Host: "upstream.test", Upstream: new(cachetest.Upstream)}}
		}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := interrupted(t, 3*mib, mib)
				s.open(t)
				s.up.FailOp("blob", &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "x", Op: "x", RetryAfter: time.Hour})
				before := s.up.Calls("blob")
				s.reconfigure(t, tt.before...)
				synctest.Wait()
				s.reconfigure(t)
				synctest.Wait()
				if n := s.up.Calls("blob") - before; n != tt.calls {
					t.Errorf("%d requests before, want %d", n, tt.calls)
				}
				s.up.FailOp("blob", nil)
				s.reconfigure(t, tt.after...)
				s.reconfigure(t, func(o *cache.Options) {
					if o.Remotes[0].Upstream.Host() == "upstream.test" && name == "another remote" {
						o.Remotes[0].Upstream = s.up
					}
				})
				synctest.Wait()
				s.wantStored(t, dgst, content)
				s.wantSent(t, len(content))
			})
		})
	}
}

// Who does not want it any more, gets no more of it.
func TestReconfigureResumeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := interrupted(t, 3*mib, mib, func(o *cache.Options) { o.Resume = true })
		s.up.FailOp("blob", away())
		s.open(t)
		time.Sleep(time.Second)
		s.reconfigure(t, func(o *cache.Options) { o.Resume = false })
		before := s.up.Calls("")
		time.Sleep(time.Hour)
		s.wantCalls(t, "", before)
	})
}

func TestReconfigurePrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up := newSite(t), &cachetest.Upstream{Name: "second.test"}
		push := func(up *cachetest.Upstream, tag string) {
			layer := randomBytes(mib)
			up.AddManifest("a", tag, "application/vnd.oci.image.manifest.v1+json", image(len(layer), up.AddBlob("a", layer)))
		}
		ahead := func(up *cachetest.Upstream, tag string, want int) {
			t.Helper()
			push(up, tag)
			r, ok := s.Cache.Repository(cache.Place{Host: up.Host(), Repo: "a"})
			if !ok {
				t.Fatal("no such remote")
			}
			m, err := r.Tag(t.Context(), tag)
			must(t, err)
			r.Prefetch(m.Manifest)
			synctest.Wait()
			if n := up.Calls("blob"); n != want {
				t.Errorf("%s: %d blobs were asked for, want %d", tag, n, want)
			}
		}
		ahead(s.up, "off", 0)
		s.reconfigure(t, func(o *cache.Options) { o.Prefetch = true })
		ahead(s.up, "on", 1)
		s.reconfigure(t, second(up))
		ahead(up, "of a new remote", 1)
		s.reconfigure(t, otherUpstream)
		ahead(s.up, "of another upstream", 2)
		s.reconfigure(t, func(o *cache.Options) { o.Prefetch = false })
		ahead(s.up, "off again", 2)
		before := s.up.Calls("referrers")
		s.reconfigure(t, func(o *cache.Options) { o.Attached = true })
		ahead(s.up, "attached", 2)
		if n := s.up.Calls("referrers"); n != before+1 {
			t.Errorf("%d lists of referrers were asked for, want 1", n-before)
		}
	})
}

// What has waited when a remote went is fetched ahead when it is back.
func TestReconfigurePrefetchAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &cachetest.Upstream{Name: "second.test"}
		s := newSite(t, func(o *cache.Options) { o.Prefetch = true }, second(up))
		slow := make(chan struct{})
		up.Asked = func(_ context.Context, op string) {
			if op == "blob" {
				<-slow
			}
		}
		const images = 6 // more than are fetched at the same time
		pullAll := func() {
			for i := range images {
				layer := bytes.Repeat([]byte{byte(i)}, 1000)
				tag := fmt.Sprint(i)
				up.AddManifest("a", tag, "application/vnd.oci.image.manifest.v1+json", image(len(layer), up.AddBlob("a", layer)))
				r, ok := s.Cache.Repository(cache.Place{Host: up.Host(), Repo: "a"})
				if !ok {
					t.Fatal("no such remote")
				}
				m, err := r.Tag(t.Context(), tag)
				must(t, err)
				r.Prefetch(m.Manifest)
			}
			synctest.Wait()
		}
		pullAll()
		s.reconfigure(t, func(o *cache.Options) { o.Remotes = o.Remotes[:1] })
		synctest.Wait()
		close(slow)
		synctest.Wait()
		s.reconfigure(t, second(up))
		pullAll()
		if n := up.Calls("blob"); n != images {
			t.Errorf("%d blobs were fetched, want %d", n, images)
		}
	})
}

// The scrub goes by the interval of now, from when its waiting has begun.
func TestReconfigureScrub(t *testing.T) {
	for name, tt := range map[string]struct {
		first time.Duration // interval
		at    time.Duration // after the first pass or the start, when there is another one
		then  time.Duration
		want  time.Duration // until the next pass, from at on; 0 is none within a day
	}{
		"shorter": {12 * time.Hour, 2 * time.Hour, 3 * time.Hour, time.Hour},
		"due":     {12 * time.Hour, 2 * time.Hour, time.Hour, time.Millisecond},
		"longer":  {3 * time.Hour, 2 * time.Hour, 12 * time.Hour, 10 * time.Hour},
		"off":     {3 * time.Hour, 2 * time.Hour, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, realClock, scrubbing(tt.first, 0))
				w.stock(t, 1, 1000)
				for w.Health().Passed.IsZero() {
					time.Sleep(time.Second)
				}
				passed := w.Health().Passed
				time.Sleep(time.Until(passed.Add(tt.at)))
				w.reconfigure(t, scrubbing(tt.then, 0))
				w.reconfigure(t) // nothing else
				if tt.want == 0 {
					time.Sleep(24 * time.Hour)
				} else {
					time.Sleep(tt.want - time.Millisecond)
				}
				synctest.Wait()
				if now := w.Health().Passed; !now.Equal(passed) && tt.want != time.Millisecond {
					t.Errorf("a pass has ended %v after the first", now.Sub(passed))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if now := w.Health().Passed; now.Equal(passed) != (tt.want == 0) {
					t.Errorf("the last pass is %v after the first", now.Sub(passed))
				}
			})
		})
	}
}

// A scrub is switched on, changed in its speed while it reads, and switched off while it
// reads.
func TestReconfigureScrubbing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, realClock)
		w.stock(t, 10, mib)
		time.Sleep(48 * time.Hour)
		if h := w.Health(); h.Scrubbed != 0 {
			t.Errorf("it reads without an interval: %+v", h)
		}
		reads := func() (read int64) { // waits until it does
			for before := w.Health().Scrubbed; read == 0; read = w.Health().Scrubbed - before {
				time.Sleep(100 * time.Millisecond)
			}
			return read
		}
		w.reconfigure(t, scrubbing(time.Hour, 64*kib))
		reads()
		time.Sleep(30 * time.Second)
		if n := w.Health().Scrubbed; n > 3*mib {
			t.Errorf("%d bytes were read in 30 s at 64 KiB/s", n)
		}
		w.reconfigure(t, scrubbing(0, 64*kib))
		synctest.Wait()
		off := w.Health().Scrubbed
		time.Sleep(time.Hour)
		if n := w.Health().Scrubbed; n != off {
			t.Errorf("%d bytes were read since it is off", n-off)
		}
		w.reconfigure(t, scrubbing(time.Hour, 64*kib))
		reads()
		w.reconfigure(t, scrubbing(time.Hour, 0))
		time.Sleep(5 * time.Second) // what it waits for was reckoned before
		if h := w.Health(); h.Passed.IsZero() || h.Scrubbed > 10*mib+2*mib {
			t.Errorf("health %+v: it should have gone on where it was, and be through", h)
		}
	})
}

// However often: no goroutine is left, nor anything that an earlier configuration has had.
func TestReconfigureLeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Prefetch, o.Attached, o.Resume = true, true, true })
		s.push("a", "1", "1")
		s.pull(t, "a", "1")
		var ups []weak.Pointer[cachetest.Upstream]
		once := func(i int) {
			s.reconfigure(t, otherUpstream, func(o *cache.Options) {
				up := &cachetest.Upstream{Name: fmt.Sprintf("host%d.test", i)}
				ups = append(ups, weak.Make(up))
				o.Remotes = append(o.Remotes[:1], cache.Remote{Host: up.Name, Upstream: up, Naming: cache.Naming{Prefix: up.Name + "/"}})
				o.Prefetch, o.Attached, o.Resume = i%2 == 0, i%3 == 0, i%5 == 0
				o.ScrubInterval = time.Duration(i%2) * time.Hour
				o.Pins = []string{fmt.Sprint("pinned", i)}
			})
			r, _ := s.Cache.Repository(cache.Place{Host: fmt.Sprintf("host%d.test", i), Repo: "a"})
			if _, err := r.Tag(t.Context(), "1"); !errors.Is(err, cache.ErrNotFound) {
				t.Fatal(err)
			}
		}
		once(0)
		synctest.Wait()
		before := runtime.NumGoroutine()
		const times = 1000
		for i := range times {
			once(i + 1)
		}
		s.reconfigure(t, func(o *cache.Options) { o.Remotes = o.Remotes[:1] })
		once(0)
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%d goroutines, and %d before", n, before)
		}
		runtime.GC()
		left := 0
		for _, up := range ups {
			if up.Value() != nil {
				left++
			}
		}
		if left > 10 {
			t.Errorf("%d of %d upstreams are still there", left, times)
		}
		s.pull(t, "a", "1")
	})
}

// Readers, downloads, the collector, lists, and nothing but changes: each blob comes once,
// right, and no pull fails.
func TestReconfigureUnderLoad(t *testing.T) {
	const clients, blobs = 8, 15
	s := newSite(t, realClock, func(o *cache.Options) { o.Prefetch = true })
	s.partials.Now = time.Now
	contents := make(map[digest.Digest][]byte)
	var order []digest.Digest
	for range blobs {
		content := randomBytes(300_000)
		order = append(order, s.up.AddBlob("a", content))
		contents[order[len(order)-1]] = content
	}
	addImageAt(s.up, "a", "v1", "x")
	s.up.Asked = func(context.Context, string) { runtime.Gosched() }
	asked := make(map[digest.Digest]int)
	s.up.Body = func(dgst digest.Digest, content []byte) io.ReadCloser { // one at a time
		asked[dgst]++
		return io.NopCloser(bytes.NewReader(content))
	}
	place := cache.Place{Host: s.up.Host(), Repo: "a"}

	var work sync.WaitGroup
	for range clients {
		work.Go(func() {
			for _, dgst := range order {
				r, ok := s.Cache.Repository(place)
				if !ok {
					t.Error("the remote is gone")
					return
				}
				b, err := r.OpenBlob(context.Background(), dgst)
				if err != nil {
					t.Error(err)
					continue
				}
				content, err := io.ReadAll(b)
				if err = errors.Join(err, b.Close()); err != nil || !bytes.Equal(content, contents[dgst]) {
					t.Errorf("%d bytes, error %v", len(content), err)
				}
				if m, err := s.Name("a", place, cache.Place{Host: "second.test", Repo: "a"}).Tag(context.Background(), "v1"); err != nil {
					t.Error(err)
				} else {
					r.Prefetch(m.Manifest)
				}
			}
		})
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			bad := func(*cache.Options) {}
			if i%3 == 0 {
				bad = func(o *cache.Options) { o.Pins = []string{"["} }
			}
			err := s.tryReconfigure(otherUpstream, func(o *cache.Options) {
				if o.Remotes = o.Remotes[:1]; i%2 == 0 {
					second(&cachetest.Upstream{Name: "second.test"})(o)
				}
				o.Prefetch, o.Attached, o.Resume, o.ScrubRate = i%4 < 2, i%5 == 0, i%7 == 0, int64(i%2)*mib
				o.ScrubInterval, o.Remotes[0].MaxConnections = time.Duration(i%3)*time.Millisecond, i%5
				o.MaxSize, o.Pins = int64(i%2)*100*mib, []string{strings.Repeat("p", i%5+1)}
			}, bad)
			if (err != nil) != (i%3 == 0) {
				t.Errorf("reconfiguring: %v", err)
			}
			for _, err := range s.Images(context.Background()) {
				if err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Collect(context.Background(), cache.CollectOptions{DryRun: true}); err != nil {
				t.Error(err)
			}
		}
	}()
	work.Wait()
	close(done)
	<-ended
	s.close(t, s.Cache)
	for dgst, n := range asked {
		if n != 1 {
			t.Errorf("blob %s was asked for %d times", dgst, n)
		}
	}
}
