package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/index"
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

// client pulls images until ctx ends.
func (s *soak) client(ctx context.Context, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	popular := rand.NewZipf(random, 1.1, 4, uint64(len(s.images)-1))
	for ctx.Err() == nil {
		img := s.images[popular.Uint64()]
		ref := img.Tag
		if random.IntN(2) == 0 {
			ref = img.Root().Digest.String()
		}
		if s.pull(ctx, img, ref) {
			s.pulls.Add(1)
		}
	}
}

// pull fetches an image as engines do: its manifest, then its configuration, then up to
// three layers at a time. It tells whether that has ended well; what must not be, it
// notes.
func (s *soak) pull(ctx context.Context, img lab.Image, ref string) bool {
	root := img.Root()
	manifest := lab.RawBlob{Digest: root.Digest, Size: int64(len(root.Bytes))}
	if !s.fetch(ctx, manifestURL(s.m, img.Repo, ref), manifest) {
		return false
	}
	config := len(img.Blobs) - 1
	if !s.fetch(ctx, blobURL(s.m, img.Repo, img.Blobs[config].Digest), img.Blobs[config]) {
		return false
	}
	var wg sync.WaitGroup
	var failed atomic.Bool
	places := make(chan struct{}, 3)
	for _, b := range img.Blobs[:config] {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if !s.fetch(ctx, blobURL(s.m, img.Repo, b.Digest), b) {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	return !failed.Load()
}

// fetch fetches from a URL what is wanted, as often as it is refused.
func (s *soak) fetch(ctx context.Context, url string, want lab.RawBlob) bool {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil {
		f, err := fetch(ctx, url)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			s.fail(fmt.Errorf("%s: %w", url, err))
			return false
		case f.Status == http.StatusOK && f.Err != nil:
			s.truncated.Add(1)
			s.fail(fmt.Errorf("%s: 200, and the end after %d of %d bytes: %w", url, f.Size, want.Size, f.Err))
		case f.Status == http.StatusOK:
			if err := f.whole(want); err != nil {
				s.fail(fmt.Errorf("%s: %w", url, err))
				return false
			}
			s.served.Add(f.Size)
			return true
		case f.Status == http.StatusBadGateway, f.Status == http.StatusServiceUnavailable, f.Status == http.StatusTooManyRequests:
			s.refused.Add(1)
		default:
			s.fail(fmt.Errorf("%s: status %d", url, f.Status))
			return false
		}
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
	return false
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

// diskUse is what a data directory has taken.
type diskUse struct {
	samples int
	most    int64 // of one measurement
	certain int64 // that was more than the limit for sure; 0 where none was
	slowest time.Duration
	err     error
}

// sampleDisk measures a directory ten times a second until ctx ends.
func sampleDisk(ctx context.Context, dir string, limit int64) (u diskUse) {
	every(ctx, 100*time.Millisecond, func() bool {
		begun := time.Now()
		v, err := lab.Allocated(dir)
		u.slowest = max(u.slowest, time.Since(begun))
		if err != nil {
			u.err = err
			return false
		}
		u.samples++
		u.most = max(u.most, v.Bytes())
		if v.Bytes() <= limit {
			return ctx.Err() == nil
		}
		// What was removed while others came counts, and was not there with them.
		next, err := lab.Allocated(dir)
		if err != nil {
			u.err = err
			return false
		}
		if n := v.Both(next).Bytes(); n > limit {
			u.certain = max(u.certain, n)
		}
		return ctx.Err() == nil
	})
	return u
}

func (u diskUse) check(t *testing.T, limit int64) {
	t.Helper()
	t.Logf("disk: %d samples, each within %v, at most %.1f MiB of %.1f MiB", u.samples, u.slowest, float64(u.most)/mib, float64(limit)/mib)
	if u.err != nil {
		t.Error(u.err)
	}
	if u.certain > 0 {
		t.Errorf("%d bytes were taken at a moment, more than the limit of %d", u.certain, limit)
	}
	if u.samples < 50 {
		t.Errorf("%d samples are too few", u.samples)
	}
	if u.most < limit/2 {
		t.Errorf("at most %d bytes were taken, too few for the limit of %d to mean something", u.most, limit)
	}
}

// cli runs a command for the data directory of a server, whether that runs or not, and
// returns what it prints.
func cli(t *testing.T, m *lab.Server, args ...string) string {
	t.Helper()
	out, err := tryCLI(t.Context(), m, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryCLI is as cli, for any goroutine.
func tryCLI(ctx context.Context, m *lab.Server, args ...string) (string, error) {
	return lab.Run(ctx, filepath.Dir(m.Data), lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": m.Data}, bin.module, args...)
}

// cliJSON runs one and reads the JSON that it prints.
func cliJSON[T any](t *testing.T, m *lab.Server, args ...string) (v T) {
	t.Helper()
	out := cli(t, m, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return v
}

// verified fails the test if `registry-module verify` finds something.
func verified(t *testing.T, m *lab.Server) {
	t.Helper()
	report := cliJSON[cache.VerifyReport](t, m, "verify")
	t.Logf("verify: %d blobs, %d bytes in %v", report.Blobs, report.Bytes, report.Took)
	for _, p := range report.Problems {
		t.Errorf("verify: %+v", p)
	}
	if n, size, err := lab.CheckStore(m.Data); err != nil || n != report.Blobs || size != report.Bytes {
		t.Errorf("verify has found %d blobs, %d bytes; there are %d, %d, %v", report.Blobs, report.Bytes, n, size, err)
	}
}

// sameAsIndex compares the blobs of a server that was stopped with its index.
func sameAsIndex(t *testing.T, m *lab.Server) {
	t.Helper()
	idx := must(index.Open(filepath.Join(m.Data, "index"), nil))(t)
	defer func() {
		if err := idx.Close(); err != nil {
			t.Error(err)
		}
	}()
	indexed := map[digest.Digest]int64{}
	prefix := []byte("b\x00") // docs/disk-format.md
	for e, err := range idx.Scan(t.Context(), prefix, nil) {
		if err != nil {
			t.Fatal(err)
		}
		var blob struct {
			Size int64 `json:"s"`
		}
		if err := json.Unmarshal(e.Value, &blob); err != nil {
			t.Fatal(err)
		}
		indexed[digest.Digest(e.Key[len(prefix):])] = blob.Size
	}
	blobs := 0
	err := filepath.WalkDir(filepath.Join(m.Data, "docker/registry/v2/blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		blobs++
		hex := filepath.Base(filepath.Dir(path))
		dgst := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if size, known := indexed[dgst]; !known || size != info.Size() {
			t.Errorf("%s has %d bytes on the disk, and %d in the index (%v)", dgst, info.Size(), size, known)
		}
		delete(indexed, dgst)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for dgst, size := range indexed {
		t.Errorf("%s has %d bytes in the index, and is not on the disk", dgst, size)
	}
	t.Logf("the index has the %d blobs that are on the disk", blobs)
}
