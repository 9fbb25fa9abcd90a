package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestChaos has many clients, who ask for all and for parts and leave when they
// like, at a module whose upstream goes wrong in all the ways that package lab
// knows, for 20 s or, as `make chaos`, for 5 minutes with the race detector in the
// module. It shows that
//
//   - no client ever got a byte that is not the blob's, at that place, and no
//     answer that has begun breaks off;
//   - in the end each blob was downloaded once: what comes twice is at most what
//     resets have destroyed on its way;
//   - when all have left, so have goroutines, sockets, files and drafts;
//   - memory does not grow.
func TestChaos(t *testing.T) {
	duration := sized(20*time.Second, 5*time.Minute)
	c := newChaos(t, sized(150, 1000), duration)
	binary := bin.module
	if *full && os.Getenv("E2E_BINARY") == "" {
		binary = must(lab.RaceModule(t.Context()))(t)
	}
	m := moduleFrom(t, binary, c.up.Env(), lab.Env{
		"REGISTRY_PROXY_STALLTIMEOUT": "1s",
		"REGISTRY_LOG_LEVEL":          "error", // there is one of everything else
	})
	c.url = m.URL()
	idle := resourcesOf(t, m)
	for _, img := range c.known {
		knowSize(t, m, img)
	}

	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	memory := make(chan []int64, 1)
	go func() { memory <- sampleMemory(ctx, m) }()
	var wg sync.WaitGroup
	for i := range sized(30, 100) {
		wg.Go(func() { c.client(ctx, uint64(i)) })
	}
	wg.Wait()
	t.Logf("%v with %d blobs, %d bytes: %s", duration, len(c.blobs), c.size(), &c.tally)
	for i, err := range c.failures() {
		if i == 10 {
			t.Errorf("and others; %d in all", len(c.failures()))
			break
		}
		t.Error(err)
	}
	if n := c.tally.broken.Load(); n > 0 {
		t.Errorf("%d answers have broken off, which the client had to ask for again", n)
	}
	flat(t, <-memory)

	// What is not complete yet is completed, by an upstream that is well again.
	c.healed.Store(true)
	c.fetchAll(t)
	c.account(t)
	checkStore(t, m)

	// Idle connections to upstream, which each side may keep, are closed by it.
	if err := c.up.Down(); err != nil {
		t.Error(err)
	}
	var now resources
	eventually(t, "what clients and downloads have used is given back", func() bool {
		now = resourcesOf(t, m)
		return now.atMost(idle)
	})
	t.Logf("idle before: %v\nidle after: %v", idle, now)
}

// TestChaosClients has the clients ask upstream itself, without a module: they are
// content with it while it is well, and notice one wrong byte.
func TestChaosClients(t *testing.T) {
	for name, tt := range map[string]struct {
		with  []lab.Middleware
		wrong bool
	}{
		"well":           {},
		"one wrong byte": {[]lab.Middleware{lab.FlipByte(lab.Blobs, 100)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChaos(t, 10, 10*time.Millisecond)
			c.url = c.up.URL()
			c.up.Use(tt.with...)
			ctx, stop := context.WithTimeout(t.Context(), time.Second/2)
			defer stop()
			c.client(ctx, 1)
			t.Log(&c.tally)
			errs := c.failures()
			if tt.wrong != slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, errDiffers) }) {
				t.Errorf("%d failures: %v", len(errs), errors.Join(errs...))
			}
			if n := c.tally.broken.Load(); n > 0 {
				t.Errorf("%d answers broke off", n)
			}
		})
	}
}

// chaos is an upstream that goes wrong, and the clients of a module before it.
type chaos struct {
	url   string // the module's
	up    *lab.Origin
	blobs []chaosBlob // the most popular first
	// known are the images whose manifests the module has from the start on. What it
	// knows of the others' sizes is up to the clients.
	known []lab.Image
	// spoiled has the requests for a part that were answered with another one, or
	// with all.
	spoiled lab.Ledger
	healed  atomic.Bool
	tally   tally

	mu          sync.Mutex      // guards what follows
	spoiledLast map[string]bool // paths whose last request was spoiled
	errs        []error
}

type chaosBlob struct {
	lab.RawBlob
	img lab.Image
}

// newChaos makes n blobs of 1 KiB to 40 MiB, in images of ten, and the upstream that
// has them, over a line on which all of them take most of the time.
func newChaos(t *testing.T, n int, duration time.Duration) *chaos {
	t.Helper()
	const perImage = 10
	c := &chaos{spoiledLast: map[string]bool{}}
	random := rand.New(rand.NewPCG(1, 2))
	var images []lab.Image
	for i := range n / perImage {
		var sizes []int64
		for range perImage {
			// As many of 1 to 2 KiB as of 20 to 40 MiB.
			sizes = append(sizes, int64(1<<10*math.Pow(40<<10, random.Float64())))
		}
		img := noise(t, fmt.Sprintf("chaos/%d", i), sizes...)
		images = append(images, img)
		for _, b := range img.Blobs {
			c.blobs = append(c.blobs, chaosBlob{b, img})
		}
	}
	random.Shuffle(len(c.blobs), func(i, j int) { c.blobs[i], c.blobs[j] = c.blobs[j], c.blobs[i] })
	c.known = images[:len(images)/2]
	rate := float64(c.size()) / (0.7 * duration.Seconds())
	c.up = origin(t, lab.OriginOptions{Link: &lab.Link{Rate: int64(rate)}}, images...)
	c.up.Use(lab.Each(c.fault))
	return c
}

func (c *chaos) size() (size int64) {
	for _, b := range c.blobs {
		size += b.Size
	}
	return size
}

// fault chooses what goes wrong with a request to upstream.
func (c *chaos) fault(r *http.Request) lab.Middleware {
	if c.healed.Load() || !lab.Blobs(r) || r.Method != http.MethodGet {
		return nil
	}
	if c.misled(r.URL.Path) {
		return nil
	}
	// After few bytes as often as after many.
	after := func() int64 { return int64(16 << 10 * math.Pow(256, rand.Float64())) }
	switch p := rand.IntN(100); {
	case p < 50:
		return nil
	case p < 60:
		return lab.Cut(lab.Blobs, after)
	case p < 70:
		return lab.Reset(lab.Blobs, after)
	case p < 74:
		return lab.Stall(lab.Blobs, after)
	case p < 79:
		status := []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable}[rand.IntN(3)]
		return lab.Answer(lab.Blobs, refuse(status))
	case p < 82:
		return lab.Answer(lab.Blobs, refuse(http.StatusTooManyRequests, "Retry-After", "1"))
	case p < 87:
		return (&lab.Link{ConnRate: 4e6}).Middleware
	case p < 91:
		return c.truncate(r, after)
	case p < 95:
		return c.spoil(r, lab.WrongRange(lab.Blobs))
	default:
		return c.spoil(r, lab.IgnoreRange(lab.Blobs))
	}
}

// truncate ends an answer early, where that can be told: all of a blob of which
// nobody knows how long it is has no other end than this.
func (c *chaos) truncate(r *http.Request, after func() int64) lab.Middleware {
	ofKnown := func(img lab.Image) bool { return strings.HasPrefix(r.URL.Path, "/v2/"+img.Repo+"/") }
	if r.Header.Get("Range") == "" && !slices.ContainsFunc(c.known, ofKnown) {
		return nil
	}
	return lab.Truncate(lab.Blobs, after)
}

// spoil records a request for a part, the answer to which is another one.
func (c *chaos) spoil(r *http.Request, m lab.Middleware) lab.Middleware {
	if r.Header.Get("Range") == "" {
		return nil // there is nothing to spoil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoiledLast[r.URL.Path] = true
	return func(next http.Handler) http.Handler { return c.spoiled.Record("", m(next)) }
}

// misled tells whether the request for a blob before this one was spoiled. An
// upstream that does so again and again is of no use, and may be given up.
func (c *chaos) misled(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.spoiledLast[path]
	delete(c.spoiledLast, path)
	return last
}

// account fails the test if upstream has sent more than it had to. What nobody can
// use is left out, because it cannot be helped: the bytes of a wrong range, and
// those of the whole in the place of a part that does not begin where it does.
func (c *chaos) account(t *testing.T) {
	t.Helper()
	useless := int64(0)
	for _, r := range c.spoiled.Requests() {
		var first int64
		_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
		if err != nil || r.Status == http.StatusPartialContent || first > 0 {
			useless += r.Bytes
		}
	}
	requests := map[string][]lab.Request{}
	for _, r := range c.up.Requests() {
		if r.Kind == lab.Blob && r.Method == http.MethodGet {
			requests[r.URI] = append(requests[r.URI], r)
		}
	}
	var worst int64
	var worstOf string
	for _, b := range c.blobs {
		uri := "/v2/" + b.img.Repo + "/blobs/" + b.Digest.String()
		more, story := -b.Size, fmt.Sprintf("%s, %d bytes:\n", uri, b.Size)
		for _, r := range requests[uri] {
			if r.Status < 300 {
				more += r.Bytes
			}
			story += fmt.Sprintf("  Range %q -> %d, %d bytes\n", r.Header.Get("Range"), r.Status, r.Bytes)
		}
		if more > worst {
			worst, worstOf = more, story
		}
	}
	needed, sent := c.size(), c.up.Counts().BlobBytes
	ratio := float64(sent-useless) / float64(needed)
	t.Logf("upstream bytes / unique bytes = %.4f, without %d bytes that nobody could use; %v", ratio, useless, c.up.Counts())
	if ratio > 1.02 || sent < needed {
		t.Errorf("upstream sent %d bytes of blobs, want at most 1.02 times the %d that there are; most too many of\n%s", sent-useless, needed, worstOf)
	}
}

func (c *chaos) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

func (c *chaos) failures() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.errs)
}

// fetchAll fetches each blob, a few at a time, until it is whole.
func (c *chaos) fetchAll(t *testing.T) {
	t.Helper()
	queue := make(chan chaosBlob, len(c.blobs))
	for _, b := range c.blobs {
		queue <- b
	}
	close(queue)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for b := range queue {
				url := c.url + "/v2/" + b.img.Repo + "/blobs/" + b.Digest.String()
				if err := fetchUntilWhole(t.Context(), url, b.RawBlob); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// tally is what clients have seen.
type tally struct {
	whole, parts, heads, left, ignored, broken, refused atomic.Int64

	bytes atomic.Int64
}

func (t *tally) String() string {
	return fmt.Sprintf("%d blobs and %d parts compared, %d of them whole where a part was asked for, %d HEAD, %d clients have left, %d answers broke off, %d were refused; %.1f GB compared",
		t.whole.Load(), t.parts.Load(), t.ignored.Load(), t.heads.Load(), t.left.Load(), t.broken.Load(), t.refused.Load(), float64(t.bytes.Load())/1e9)
}

// resources are what a process must give back.
type resources struct {
	goroutines, sockets int
	// files are open files with content, and drafts that are not open as well.
	files []string
}

func resourcesOf(t *testing.T, m *lab.Server) resources {
	t.Helper()
	r := resources{
		goroutines: int(must(m.Metric(t.Context(), "go_goroutines"))(t)),
		files:      partials(t, m),
	}
	for _, f := range must(m.Files())(t) {
		switch {
		case strings.HasPrefix(f, "socket:"):
			r.sockets++
		case strings.Contains(f, "/partial/"), strings.Contains(f, "/blobs/"):
			r.files = append(r.files, f)
		}
	}
	return r
}

// atMost tells whether r is no more than idle, but for the few goroutines and
// sockets that are there when something has been used once.
func (r resources) atMost(idle resources) bool {
	const few = 5
	return r.goroutines <= idle.goroutines+few && r.sockets <= idle.sockets+few && len(r.files) == 0
}

func (r resources) String() string {
	return fmt.Sprintf("%d goroutines, %d sockets, files of content: %v", r.goroutines, r.sockets, r.files)
}

// sampleMemory returns the resident memory of a server, in bytes, five times a
// second until ctx ends.
func sampleMemory(ctx context.Context, m *lab.Server) (samples []int64) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return samples
		case <-tick.C:
			if u, err := m.Usage(); err == nil { // one that has ended is seen elsewhere
				samples = append(samples, u.RSS)
			}
		}
	}
}

// flat compares the first third of samples with the last, after the time that
// everything needs to have been used once.
func flat(t *testing.T, samples []int64) {
	t.Helper()
	samples = samples[len(samples)/5:]
	if len(samples) < 9 {
		t.Fatalf("%d samples of memory are too few", len(samples))
	}
	median := func(s []int64) int64 {
		s = slices.Clone(s)
		slices.Sort(s)
		return s[len(s)/2]
	}
	third := len(samples) / 3
	first, last := median(samples[:third]), median(samples[len(samples)-third:])
	t.Logf("RSS: median of the first third %.1f MiB, of the last %.1f MiB, most %.1f MiB",
		float64(first)/mib, float64(last)/mib, float64(slices.Max(samples))/mib)
	// The index grows with what is stored, and the collector's pace is not even.
	if most := first + first/5 + 16*mib; last > most {
		t.Errorf("memory has grown from %d to %d bytes, want at most %d", first, last, most)
	}
}
