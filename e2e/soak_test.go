package e2e

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestSoak pulls ten times as many images as there is room for, some much more often
// than others, from an upstream that breaks off, goes silent and refuses: for 20 s or,
// as `make soak`, 10 GiB through 1 GiB for 10 minutes, with the race detector in the
// module. It shows that
//
//   - the data directory never takes more than the limit, be it for a moment;
//   - each answer that is complete is right, and none that has begun breaks off;
//   - what is pinned stays, though nobody asks for it;
//   - in the end the index says what is on the disk, and nothing is damaged;
//   - goroutines, sockets and files are given back, and memory does not grow.
func TestSoak(t *testing.T) {
	duration := sized(20*time.Second, 10*time.Minute)
	limit := sized[int64](64*mib, 1<<30)
	s := newSoak(t, limit*10, duration)
	binary := bin.module
	if *full && os.Getenv("E2E_BINARY") == "" {
		binary = must(lab.RaceModule(t.Context()))(t)
	}
	m := moduleFrom(t, binary, s.up.Env(), lab.Env{
		"REGISTRY_CACHE_MAXSIZE":      fmt.Sprintf("%dMiB", limit/mib),
		"REGISTRY_CACHE_MINFREE":      "0%",
		"REGISTRY_PROXY_STALLTIMEOUT": "1s",
		"REGISTRY_LOG_LEVEL":          "error",
	})
	s.m = m
	idle := resourcesOf(t, m)

	// Pinned is what is least popular, so that it would go first.
	pinned := s.pin(t, limit/4)
	s.up.Reset()

	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	memory, disk := make(chan []int64, 1), make(chan diskUse, 1)
	go func() { memory <- sampleMemory(ctx, m) }()
	go func() { disk <- sampleDisk(ctx, m.Data, limit) }()
	var wg sync.WaitGroup
	for i := range sized(8, 16) {
		wg.Go(func() { s.client(ctx, uint64(i)) })
	}
	wg.Wait()
	use := <-disk
	use.check(t, limit)
	s.report(t)
	flat(t, <-memory)

	// Nothing is left that uses something.
	s.healed.Store(true)
	takeDown(t, s.up)
	var now resources
	eventually(t, "what clients and downloads have used is given back", func() bool {
		now = resourcesOf(t, m)
		now.files = nil // what has come of a download that broke off may be kept
		return now.atMost(idle)
	})
	t.Logf("idle before: %v\nidle after: %v", idle, now)

	for _, img := range pinned {
		if err := pull(t.Context(), m, img); err != nil {
			t.Errorf("%s is pinned, and not there without upstream: %v", img.Repo, err)
		}
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	sameAsIndex(t, m)
	verified(t, m)
	last := must(lab.Allocated(m.Data))(t).Bytes()
	if last > limit {
		t.Errorf("%d bytes are taken after the end, more than the limit of %d", last, limit)
	}
}

// soak is an upstream that goes wrong, and the clients of a module before it.
type soak struct {
	up     *lab.Origin
	m      *lab.Server
	images []lab.Image // the most popular first
	healed atomic.Bool

	pulls, refused, served, truncated atomic.Int64

	mu   sync.Mutex // guards errs
	errs []error
}

// newSoak makes images of that many bytes, in which layers are shared as they are in
// images that are built on each other, and their upstream.
func newSoak(t *testing.T, total int64, duration time.Duration) *soak {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 6))
	unit := sized[int64](mib, 4*mib)
	// A size from an eighth of a unit to eight units, small ones as often as large.
	size := func() int64 { return int64(float64(unit) / 8 * math.Pow(64, random.Float64())) }
	seed := uint64(0)
	layer := func() lab.RawBlob {
		seed++
		return must(lab.NoiseLayer(seed, size()))(t)
	}
	const perBase = 10 // images with the same base
	s := new(soak)
	var sum int64
	for i := 0; sum < total; i++ {
		base := []lab.RawBlob{layer(), layer()}
		sum += base[0].Size + base[1].Size
		for j := 0; j < perBase && sum < total; j++ {
			layers := base
			for range 1 + random.IntN(4) {
				own := layer()
				sum += own.Size
				layers = append(layers[:len(layers):len(layers)], own)
			}
			s.images = append(s.images, must(lab.LayeredImage(fmt.Sprintf("soak/%d-%d", i, j), "1.0", layers...))(t))
		}
	}
	random.Shuffle(len(s.images), func(i, j int) { s.images[i], s.images[j] = s.images[j], s.images[i] })
	t.Logf("%d images, %.0f MiB of layers", len(s.images), float64(sum)/mib)
	// Fast enough for some of it to come, and to be evicted, again and again.
	rate := 3 * float64(total) / duration.Seconds()
	s.up = origin(t, lab.OriginOptions{Link: &lab.Link{Rate: int64(rate)}}, s.images...)
	s.up.Use(lab.Each(s.fault))
	return s
}

// fault chooses what goes wrong with a request to upstream.
func (s *soak) fault(r *http.Request) lab.Middleware {
	if s.healed.Load() || !lab.Blobs(r) || r.Method != http.MethodGet {
		return nil
	}
	after := func() int64 { return int64(16 << 10 * math.Pow(256, rand.Float64())) }
	switch p := rand.IntN(1000); {
	case p < 700:
		return nil
	case p < 800:
		return lab.Cut(lab.Blobs, after)
	case p < 890:
		return lab.Reset(lab.Blobs, after)
	case p < 920:
		return lab.Stall(lab.Blobs, after)
	case p < 995:
		status := []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable}[rand.IntN(3)]
		return lab.Answer(lab.Blobs, refuse(status))
	default: // seldom, because nobody asks for anything until then
		return lab.Answer(lab.Blobs, refuse(http.StatusTooManyRequests, "Retry-After", "1"))
	}
}

// pin pins images of that many bytes and fetches them. They are the least popular.
func (s *soak) pin(t *testing.T, size int64) (pinned []lab.Image) {
	t.Helper()
	s.healed.Store(true)
	defer s.healed.Store(false)
	for i := len(s.images) - 1; i > 0; i-- {
		img := s.images[i]
		if size -= img.Size(); size < 0 {
			break
		}
		cli(t, s.m, "pin", img.Repo+":"+img.Tag)
		if err := pull(t.Context(), s.m, img); err != nil {
			t.Fatalf("filling the cache with what is pinned: %v", err)
		}
		pinned = append(pinned, img)
	}
	if len(pinned) == 0 {
		t.Fatal("no image is small enough to be pinned")
	}
	for _, img := range pinned {
		eventually(t, img.Repo+" is stored", func() bool { return allStored(s.m, img) })
	}
	return pinned
}

func (s *soak) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

func (s *soak) report(t *testing.T) {
	t.Helper()
	sent, served := s.up.Counts().BlobBytes, s.served.Load()
	t.Logf("%d pulls, %.0f MiB served, %.0f MiB from upstream, byte hit ratio %.1f %%; %d answers were refused, %d broke off; %v",
		s.pulls.Load(), float64(served)/mib, float64(sent)/mib, 100*(1-float64(sent)/float64(served)),
		s.refused.Load(), s.truncated.Load(), s.up.Counts())
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, err := range s.errs {
		if i == 10 {
			t.Errorf("and others; %d in all", len(s.errs))
			break
		}
		t.Error(err)
	}
	if s.pulls.Load() < 10 {
		t.Errorf("%d pulls have ended well, which shows nothing", s.pulls.Load())
	}
}
