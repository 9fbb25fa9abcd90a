package seed_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/seed"
)

func failure(kind error, wait time.Duration) error {
	return &cache.UpstreamError{Kind: kind, Remote: "remote.test", Op: "asking", RetryAfter: wait}
}

// One image that fails stops no other, and what can pass is tried again.
func TestFaults(t *testing.T) {
	layer := digestOf("b")
	tests := map[string]struct {
		op    string // that fails
		times int32  // how often
		err   error
		tries int // how often it is asked for
		ok    bool
		least time.Duration // how long it takes
	}{
		"blob, once":              {"blob app " + layer, 1, failure(cache.ErrUnavailable, 0), 2, true, 0},
		"blob, twice":             {"blob app " + layer, 2, failure(cache.ErrUnavailable, 0), 3, true, time.Second},
		"blob, for ever":          {"blob app " + layer, 99, failure(cache.ErrUnavailable, 0), 3, false, time.Second},
		"blob, rate limit":        {"blob app " + layer, 1, failure(cache.ErrRateLimited, time.Minute), 2, true, time.Minute},
		"blob, long rate limit":   {"blob app " + layer, 1, failure(cache.ErrRateLimited, time.Hour), 1, false, 0},
		"blob, not there":         {"blob app " + layer, 99, failure(cache.ErrNotFound, 0), 1, false, 0},
		"blob, no space":          {"blob app " + layer, 99, cache.ErrNoSpace, 1, false, 0},
		"offline mode":            {"blob app " + layer, 99, errors.Join(cache.ErrUnavailable, cache.ErrOffline), 1, false, 0},
		"manifest, once":          {"peek app 2", 1, failure(cache.ErrUnavailable, 0), 2, true, 0},
		"manifest, denied":        {"peek app 2", 99, failure(cache.ErrDenied, 0), 1, false, 0},
		"name, once":              {"find app 2", 1, failure(cache.ErrUnavailable, 0), 2, true, 0},
		"name, for ever":          {"find app 2", 99, failure(cache.ErrUnavailable, 0), 3, false, time.Second},
		"referrers, once":         {"referrers app", 1, failure(cache.ErrUnavailable, 0), 3, true, 0},
		"referrers, for ever":     {"referrers app", 99, failure(cache.ErrUnavailable, 0), 6, false, time.Second},
		"referrers, not served":   {"referrers app", 99, failure(cache.ErrInvalid, 0), 2, true, 0},
		"signature, for ever":     {"peek app sha256-", 99, failure(cache.ErrUnavailable, 0), 18, false, 0},
		"signature, not told":     {"peek app sha256-", 99, failure(cache.ErrDenied, 0), 6, true, 0},
		"signature, rate limited": {"peek app sha256-", 1, failure(cache.ErrRateLimited, time.Second), 7, true, time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.image("app", "1", "a")
				f.image("app", "2", "a", "b")
				var failed atomic.Int32
				f.asked = func(_ context.Context, op string) error {
					if strings.HasPrefix(op, tt.op) && failed.Add(1) <= tt.times {
						return tt.err
					}
					return nil
				}
				began := time.Now()
				report := run(t, f, images("app:1", "app:2"))
				states := string(report.Images[0].State + " " + report.Images[1].State)
				all := strings.Contains(tt.op, "app 2") || strings.Contains(tt.op, layer)
				switch {
				case tt.ok && states != "seeded seeded":
					t.Errorf("%s: %+v", states, report)
				case !tt.ok && all && (states != "seeded failed" || report.Images[1].Error == ""):
					t.Errorf("%s: %+v", states, report)
				case !tt.ok && !all && states != "failed failed":
					t.Errorf("%s: %+v", states, report)
				}
				if !tt.ok && all && (f.tags["app:2"] != "" || len(f.pinned()) != 1) {
					t.Error("a tag stands for what is not there")
				}
				if n := f.count(tt.op); n != tt.tries {
					t.Errorf("asked %d times", n)
				}
				if took := time.Since(began); took < tt.least || report.Took != took {
					t.Errorf("took %v, and says %v", took, report.Took)
				}
				if len(f.holds) > 0 {
					t.Error("something is held for ever")
				}
			})
		})
	}
}

// A blob that cannot be had is asked for once, however many images have it.
func TestFaultIsShared(t *testing.T) {
	f := newFake(t)
	for n := range 5 {
		f.image("app", fmt.Sprint(n), "bad")
	}
	f.asked = func(_ context.Context, op string) error {
		if strings.HasSuffix(op, digestOf("bad")) {
			return failure(cache.ErrNotFound, 0)
		}
		return nil
	}
	report := run(t, f, images("app:0", "app:1", "app:2", "app:3", "app:4"))
	if report.Failures() != 5 || f.count("blob app "+digestOf("bad")) != 1 {
		t.Errorf("%+v, %v", report, f.calls)
	}
}

// Where the remote cannot be asked, what is stored is not confirmed, and nothing is
// written.
func TestUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.image("app", "1", "a")
		run(t, f, images("app:1"))
		f.reset()
		f.stale = failure(cache.ErrUnavailable, 0)
		report := run(t, f, seed.Job{Wants: []seed.Want{{Image: "app:1"}, {Image: "app:2"}}})
		i := report.Images[0]
		if i.State != seed.Unconfirmed || i.Error != "" || !strings.Contains(i.Warning, "the remote could not be asked") || len(f.order) != 0 {
			t.Errorf("%+v, %q", i, f.order)
		}
		if report.Images[1].State != seed.Failed || report.Failures() != 2 {
			t.Errorf("%+v", report)
		}
		report = run(t, f, seed.Job{Wants: []seed.Want{{Image: "app", Tags: &seed.Tags{}}}, Prune: true})
		if !strings.Contains(report.Warning, "could not be listed") || report.Images[0].State != seed.Unconfirmed {
			t.Errorf("%+v", report)
		}
	})
}

// A tag that has moved is written, and one that has not is only after a while.
func TestTagMoves(t *testing.T) {
	f := newFake(t)
	f.image("app", "1", "a")
	clock := time.Now()
	s := seed.New(seed.Options{Cache: f, Now: func() time.Time { return clock }})
	do := func(want string) {
		t.Helper()
		f.reset()
		if _, err := s.Seed(t.Context(), images("app:1"), nil); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, op := range f.order {
			if op == "tag 1" {
				n++
			}
		}
		if got := fmt.Sprintf("%d of %d", n, len(f.order)); got != want {
			t.Errorf("%s writes are of the tag: %q", got, f.order)
		}
	}
	do("1 of 5")
	do("0 of 0")
	clock = clock.Add(2 * time.Hour)
	do("1 of 1")
	f.image("app", "1", "a", "b")
	do("1 of 4") // a blob, the configuration, the manifest: it is pinned already
}

// What was done is told when there is no more time, and nothing goes on.
func TestContextEnds(t *testing.T) {
	f := newFake(t)
	f.image("app", "1", "a")
	f.image("app", "2", "b")
	f.image("app", "3", "c")
	ctx, cancel := context.WithCancel(t.Context())
	f.asked = func(ctx context.Context, op string) error {
		if strings.HasSuffix(op, digestOf("b")) {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	report, err := seed.New(seed.Options{Cache: f, Parallel: 1}).Seed(ctx, seed.Job{Wants: images("app:1", "app:2", "app:3").Wants, Prune: true}, func(seed.Progress) {})
	if !errors.Is(err, context.Canceled) || len(report.Images) != 3 {
		t.Fatalf("%v, %+v", err, report)
	}
	for n, want := range []seed.State{seed.Seeded, seed.Failed, seed.Failed} {
		if got := report.Images[n]; got.State != want {
			t.Errorf("%+v", got)
		}
	}
	f.asked = nil
	f.reset()
	if report := run(t, f, images("app:1", "app:2", "app:3")); report.Failures() > 0 || f.count("blob") > 4 {
		t.Errorf("%+v, %v", report, f.calls)
	}
	f.asked = func(ctx context.Context, _ string) error { cancel(); return ctx.Err() }
	if _, err := seed.New(seed.Options{Cache: f}).Seed(ctx, images("app:1"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		var names []string
		for n := range 10 {
			f.image("app", fmt.Sprint(n), "base", strings.Repeat(fmt.Sprint(n), 100))
			names = append(names, fmt.Sprintf("app:%d", n))
		}
		f.asked = func(_ context.Context, op string) error {
			if strings.HasPrefix(op, "blob") {
				time.Sleep(time.Second)
			}
			return nil
		}
		names = append(names, "app:bad")
		var all []seed.Progress
		report, err := seed.New(seed.Options{Cache: f, Parallel: 2}).Seed(t.Context(), images(names...), func(p seed.Progress) { all = append(all, p) })
		if err != nil {
			t.Fatal(err)
		}
		var done, active int
		for n, p := range all {
			if p.TotalImages != 11 || p.TotalBytes != report.Size || p.Bytes > p.TotalBytes {
				t.Fatalf("%+v", p)
			}
			if n > 0 {
				if b := all[n-1]; p.Bytes < b.Bytes || p.Images < b.Images || p.Failed < b.Failed || p.Fetched < b.Fetched {
					t.Errorf("%+v comes after %+v", p, b)
				}
			}
			if p.Done != nil {
				if done++; p.Images != done || p.Done.State == "" {
					t.Errorf("%+v", p)
				}
			}
			active = max(active, len(p.Active))
		}
		last := all[len(all)-1]
		if last.Bytes != last.TotalBytes || last.Fetched != report.Fetched || last.Failed != 1 || last.Images != 11 || len(last.Active) != 0 || done != 11 {
			t.Errorf("%+v", last)
		}
		if most := int(report.Took/(200*time.Millisecond)) + 13; len(all) > most || active < 3 {
			t.Errorf("%d calls in %v, %d blobs at a time", len(all), report.Took, active)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"` + aDigest + `","size":3,"platform":{"os":"linux","architecture":"arm","variant":"9"}}]}`))
	f.Add([]byte(`{"config":{"digest":"` + aDigest + `","size":3},"layers":[{"digest":"` + aDigest + `","size":3,"urls":["x"]}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		fake := newFake(t)
		d := fake.add("app", v1.MediaTypeImageIndex, content, "1")
		fake.repo("app").referrers[d.Digest] = []v1.Descriptor{d}
		p, err := seed.New(seed.Options{Cache: fake}).Plan(t.Context(), seed.Job{Wants: []seed.Want{{Image: "app:1", Platforms: []string{"linux/arm/v7"}}}})
		if err != nil || p.Size < 0 || p.Fetch < 0 || p.Present < 0 || len(p.Images) != 1 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
