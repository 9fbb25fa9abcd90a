package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/upstream/breaker"
)

// mute is a request on whose connection no answer came.
func mute() error {
	return &cache.UpstreamError{
		Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching manifest a:1", Err: errors.New("timeout awaiting response headers"),
	}
}

// patchy is a remote some of whose repositories hang, within the limit for headers, and
// all others of which answer at once that they have nothing.
type patchy struct {
	cache.Upstream
	hangs func(repo string) bool

	mu                   sync.Mutex
	asked, under, atOnce int // those that hang
}

const headers = 15 * time.Second // the limit

func newPatchy(hangs func(repo string) bool) *patchy {
	return &patchy{Upstream: new(cachetest.Upstream), hangs: hangs}
}

func (p *patchy) Resolve(ctx context.Context, repo, _ string, _ digest.Digest) (cache.Descriptor, error) {
	if !p.hangs(repo) {
		return cache.Descriptor{}, cache.ErrNotFound
	}
	p.mu.Lock()
	p.asked++
	p.under++
	p.atOnce = max(p.atOnce, p.under)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.under--
	}()
	select {
	case <-time.After(headers):
		return cache.Descriptor{}, mute()
	case <-ctx.Done():
		return cache.Descriptor{}, ctx.Err()
	}
}

func (p *patchy) Blob(ctx context.Context, repo string, _ digest.Digest, _ cache.BlobPart) (*cache.BlobStream, error) {
	_, err := p.Resolve(ctx, repo, "", "")
	return nil, err
}

func (p *patchy) StatBlob(ctx context.Context, repo string, _ digest.Digest) (int64, error) {
	_, err := p.Resolve(ctx, repo, "", "")
	return 0, err
}

// tag asks for one of a repository, and returns how long that took.
func tag(ctx context.Context, b *breaker.Breaker, repo, tag string) (time.Duration, error) {
	start := time.Now()
	_, err := b.Resolve(ctx, repo, tag, "")
	return time.Since(start), err
}

// TestHangingRepository has clients who go on to ask for what hangs, and others for
// what does not.
func TestHangingRepository(t *testing.T) {
	for name, tt := range map[string]struct{ repos, each int }{
		"one client":                  {1, 1},
		"three clients":               {1, 3},
		"ten clients":                 {1, 10},
		"ten clients of each of five": {5, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newPatchy(func(repo string) bool { return repo != "good" })
				b := breaker.New(remote, breaker.Options{})
				ctx, stop := context.WithCancel(t.Context())
				var all sync.WaitGroup
				for i := range tt.repos * tt.each {
					all.Go(func() {
						for ctx.Err() == nil {
							_, _ = tag(ctx, b, fmt.Sprint("hangs", i%tt.repos), fmt.Sprint("v", i)) // it does
							time.Sleep(time.Second)
						}
					})
				}
				states := map[breaker.State]int{}
				synctest.Wait()
				for i := range 100 {
					states[b.Status().State]++
					if took, err := tag(ctx, b, "good", "v1"); !errors.Is(err, cache.ErrNotFound) || took > 6*time.Second || i > 0 && took != 0 {
						t.Errorf("got %v, after %v", err, took)
					}
					time.Sleep(time.Duration(i) * 700 * time.Millisecond)
				}
				if states[breaker.Unknown] != 1 || states[breaker.Offline] == 0 {
					t.Errorf("states %v", states)
				}
				stop()
				all.Wait()
			})
		})
	}
}

// TestNoHeaders has a remote that can be connected to, and says nothing.
func TestNoHeaders(t *testing.T) {
	for name, tt := range map[string]struct {
		repos, atOnce int
		most          time.Duration
	}{
		"one repository": {1, 4, headers + 6*time.Second},
		// One of the first one's that waits goes on when that has failed.
		"six repositories": {6, 4 + 6, 2 * headers},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := newPatchy(func(string) bool { return true })
				b := breaker.New(remote, breaker.Options{})
				for range 3 {
					var all sync.WaitGroup
					for i := range 100 {
						all.Go(func() {
							took, err := tag(t.Context(), b, fmt.Sprint("a", i%tt.repos), fmt.Sprint("v", i))
							if e, ok := errors.AsType[*cache.UpstreamError](err); !ok || e.Kind != cache.ErrUnavailable || took > tt.most {
								t.Errorf("got %v, after %v", err, took)
							}
						})
					}
					all.Wait()
				}
				if remote.atOnce > tt.atOnce || remote.asked > 4*tt.atOnce {
					t.Errorf("asked %d times, %d at once", remote.asked, remote.atOnce)
				}
				_, err := tag(t.Context(), b, "a0", "v1")
				if s := b.Status(); err == nil || s.State != breaker.Offline || s.Reason != "timeout awaiting response headers" || errors.Is(err, cache.ErrNotAsked) {
					t.Errorf("%+v, %v", s, err)
				}
				if left := time.Until(b.Status().NextTry); left <= 3*time.Second {
					t.Errorf("away for %v", left)
				}
			})
		})
	}
}

// TestOneTooMany has a repository of which enough is asked, and then one less.
func TestOneTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := newGated()
		b := breaker.New(remote, breaker.Options{})
		var all, late, later clients
		all.resolve(t.Context(), b, 1)
		remote.answers <- mute()
		all.resolve(t.Context(), b, 4)
		late.resolve(t.Context(), b, 3)
		time.Sleep(5 * time.Second)
		if n := remote.asked.Load(); n != 5 || len(late.ended()) != 0 {
			t.Errorf("asked %d times; %d do not wait", n, len(late.ended()))
		}
		later.resolve(t.Context(), b, 1)
		time.Sleep(time.Second)
		if len(late.ended()) != 3 || len(later.ended()) != 0 {
			t.Errorf("%d and %d do not wait", len(late.ended()), len(later.ended()))
		}
		for _, err := range late.ended() {
			if notAsked(t, err, cache.ErrUnavailable); len(err.Error()) == 0 || err.Error()[len(err.Error())-len(crowded):] != crowded {
				t.Errorf("got %v", err)
			}
		}
		remote.answers <- mute() // which makes a place
		synctest.Wait()
		if n := remote.asked.Load(); n != 6 {
			t.Errorf("asked %d times", n)
		}
		for range 4 {
			remote.answers <- nil
		}
		all.wg.Wait()
		later.wg.Wait()
		if s := b.Status(); s.State != breaker.Online || later.ended()[0] != nil {
			t.Errorf("%+v, %v", s, later.ended())
		}
	})
}

const crowded = "not asked: other requests for the same repository have not been answered for 5s (timeout awaiting response headers)"

// TestAwayForOne has what is stored of many asked about by one of them at a time.
func TestAwayForOne(t *testing.T) {
	for name, answer := range map[string]error{"no connection": silence(), "no answer": mute(), "errors": broken(), "limited": limited(time.Second)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remote := new(cachetest.Upstream)
				remote.Fail(answer)
				b := breaker.New(remote, breaker.Options{})
				_ = resolve(b)
				for range 2 {
					time.Sleep(3 * time.Second)
					told := 0
					for range 100 {
						if _, due := b.Away(); due {
							told++
						}
					}
					if told != 1 {
						t.Errorf("%d are told to ask", told)
					}
				}
			})
		})
	}
}

// TestFailingIsAskedSoon has a repository of which the remote says errors, for hours.
func TestFailingIsAskedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := new(cachetest.Upstream)
		remote.Fail(broken())
		b := breaker.New(remote, breaker.Options{})
		for range 100 {
			_ = resolve(b)
			if left := time.Until(b.Status().NextTry); left > 2400*time.Millisecond {
				t.Errorf("away for %v", left)
			}
			time.Sleep(time.Minute)
		}
	})
}

// TestSlowBlob has blobs come from another host, which is slow: that says nothing of
// the remote.
func TestSlowBlob(t *testing.T) {
	for name, ask := range map[string]func(context.Context, *breaker.Breaker) error{
		"GET": func(ctx context.Context, b *breaker.Breaker) error {
			_, err := b.Blob(ctx, "slow", "", cache.BlobPart{})
			return err
		},
		"HEAD": func(ctx context.Context, b *breaker.Breaker) error { _, err := b.StatBlob(ctx, "slow", ""); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := breaker.New(newPatchy(func(repo string) bool { return repo == "slow" }), breaker.Options{})
				_, _ = tag(t.Context(), b, "a", "v1")
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _ = ask(ctx, b) })
				time.Sleep(10 * time.Second)
				if why, _ := b.Away(); why != nil {
					t.Error(why)
				}
				wg.Go(func() { _, _ = tag(ctx, b, "slow", "v1") })
				time.Sleep(2 * time.Second)
				if why, _ := b.Away(); why == nil {
					t.Error("a tag that is slow is not noticed")
				}
				stop()
				wg.Wait()
			})
		})
	}
}

// TestRuledOutOnce has the operator rule the remote out while somebody looks whether he
// has.
func TestRuledOutOnce(t *testing.T) {
	log, hook := test.NewNullLogger()
	var mu sync.Mutex
	var why error
	looked, goOn := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(looked); <-goOn })
	b := breaker.New(new(cachetest.Upstream), breaker.Options{Log: log, Offline: func() error {
		mu.Lock()
		seen := why
		mu.Unlock()
		first()
		return seen
	}})
	var all sync.WaitGroup
	all.Go(func() { b.Status() })
	<-looked
	mu.Lock()
	why = cache.ErrOffline
	mu.Unlock()
	for range 10 {
		all.Go(func() { b.Status() })
	}
	close(goOn)
	all.Wait()
	if n := len(hook.AllEntries()); n != 1 {
		t.Errorf("%d lines in the log for one change", n)
	}
}
