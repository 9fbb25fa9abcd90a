package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"
)

// Pull is a job: clients pull one image at once.
type Pull struct {
	// Registry is the base URL, Repo and Tag name the image.
	Registry string `json:"registry"`
	Repo     string `json:"repo"`
	Tag      string `json:"tag"`
	// Clients is how many there are.
	Clients int `json:"clients"`
	// Verify is how many of them, the last ones, compute digests. The others
	// check lengths only.
	Verify int `json:"verify"`
	// Slow limits the first client to that many bytes per second; 0 is no
	// limit. It is cut off when all others have ended.
	Slow int64 `json:"slow,omitempty"`
	// Lag passes between the start of the first client and of the others.
	Lag time.Duration `json:"lag,omitempty"`
}

// PullResult is what came of a [Pull].
type PullResult struct {
	Clients []Client `json:"clients"`
	// Seconds is the time from the first start to the last end.
	Seconds float64 `json:"seconds"`
	// CPUSeconds is what all clients together have used.
	CPUSeconds float64 `json:"cpuSeconds"`
}

// Client is what came of one client.
type Client struct {
	// Seconds is the time from its own start to its end.
	Seconds float64 `json:"seconds"`
	// Bytes is the length of the blobs it has received.
	Bytes int64 `json:"bytes"`
	// FirstByte holds, for each layer, the seconds from the request to the
	// first byte of the body.
	FirstByte []float64 `json:"firstByte"`
	// Cut tells that the client was the slow one, and was cut off.
	Cut bool `json:"cut,omitempty"`
	// Error is empty where the image was received whole.
	Error string `json:"error,omitempty"`
}

// Err joins the errors of all clients.
func (r PullResult) Err() error {
	var errs []error
	for i, c := range r.Clients {
		if c.Error != "" {
			errs = append(errs, fmt.Errorf("client %d: %s", i, c.Error))
		}
	}
	return errors.Join(errs...)
}

// blobsAtOnce is how many blobs a client downloads at a time: the default of
// Docker Engine and of containerd.
const blobsAtOnce = 3

// bufferSize is what a client that looks at the bytes reads at a time.
const bufferSize = 128 << 10

// Run pulls.
func (p Pull) Run(ctx context.Context) PullResult {
	clients := make([]*puller, p.Clients)
	for i := range clients {
		clients[i] = &puller{job: p, http: newDropper(), verify: i >= p.Clients-p.Verify}
		defer clients[i].http.CloseIdleConnections()
	}
	first, cut := context.WithCancel(ctx)
	defer cut()
	if p.Slow > 0 {
		clients[0].pace = rate.NewLimiter(rate.Limit(p.Slow), bufferSize)
	}

	cpu, begin := cpuTime(), time.Now()
	results := make([]Client, p.Clients)
	var leader, others sync.WaitGroup
	leader.Go(func() {
		results[0] = clients[0].pull(first)
		if first.Err() != nil && ctx.Err() == nil {
			results[0].Cut, results[0].Error = true, ""
		}
	})
	select {
	case <-time.After(p.Lag):
	case <-ctx.Done(): // the others will see it too
	}
	for i := 1; i < p.Clients; i++ {
		others.Go(func() { results[i] = clients[i].pull(ctx) })
	}
	others.Wait()
	if p.Slow > 0 {
		cut()
	}
	leader.Wait()
	return PullResult{
		Clients:    results,
		Seconds:    time.Since(begin).Seconds(),
		CPUSeconds: (cpuTime() - cpu).Seconds(),
	}
}

// puller is one client of a Pull.
type puller struct {
	job    Pull
	http   *dropper
	verify bool
	pace   *rate.Limiter // nil: as fast as it comes

	mu        sync.Mutex // guards what follows
	bytes     int64
	firstByte []float64
	err       error
}

// pull does what containerd does: HEAD of the tag, the manifest by its digest,
// then the blobs, some at a time.
func (p *puller) pull(ctx context.Context) Client {
	begin := time.Now()
	if blobs, err := p.resolve(ctx); err != nil {
		p.err = err
	} else {
		p.fetchAll(ctx, blobs)
	}
	c := Client{Seconds: time.Since(begin).Seconds(), Bytes: p.bytes, FirstByte: p.firstByte}
	if p.err != nil {
		c.Error = p.err.Error()
	}
	return c
}

func (p *puller) fetchAll(ctx context.Context, blobs []ocispec.Descriptor) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	queue := make(chan ocispec.Descriptor, len(blobs))
	for _, b := range blobs {
		queue <- b
	}
	close(queue)
	var wg sync.WaitGroup
	for i := range blobsAtOnce {
		wg.Go(func() {
			buf := make([]byte, bufferSize)
			if !p.verify && p.pace == nil {
				buf = p.http.scratch[i]
			}
			for b := range queue {
				if err := p.blob(ctx, b, buf); err != nil {
					p.mu.Lock()
					if p.err == nil {
						p.err = err
					}
					p.mu.Unlock()
					stop() // the first error says why; the rest would repeat it
					return
				}
			}
		})
	}
	wg.Wait()
}

// resolve returns the blobs of the image.
func (p *puller) resolve(ctx context.Context) ([]ocispec.Descriptor, error) {
	resp, err := p.do(ctx, http.MethodHead, "manifests/"+p.job.Tag)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close() // there is none
	dgst, err := digest.Parse(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return nil, fmt.Errorf("HEAD of tag %s: Docker-Content-Digest: %w", p.job.Tag, err)
	}
	resp, err = p.do(ctx, http.MethodGet, "manifests/"+dgst.String())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	if got := digest.FromBytes(raw); got != dgst {
		return nil, fmt.Errorf("manifest has digest %s, want %s", got, dgst)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("decoding the manifest: %w", err)
	}
	return slices.Concat([]ocispec.Descriptor{m.Config}, m.Layers), nil
}

// blob downloads one.
func (p *puller) blob(ctx context.Context, want ocispec.Descriptor, buf []byte) error {
	begin := time.Now()
	resp, err := p.do(ctx, http.MethodGet, "blobs/"+want.Digest.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var h hash.Hash
	if p.verify {
		h = want.Digest.Algorithm().Hash()
	}
	var size int64
	var first time.Duration
	for {
		if p.pace != nil {
			buf = buf[:min(len(buf), 16<<10)] // slow, but not in leaps
		}
		n, err := resp.Body.Read(buf)
		if size == 0 && n > 0 {
			first = time.Since(begin)
		}
		size += int64(n)
		if h != nil {
			h.Write(buf[:n]) // never fails
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading blob %s after %d bytes: %w", want.Digest, size, err)
		}
		if p.pace != nil {
			if err := p.pace.WaitN(ctx, n); err != nil {
				return fmt.Errorf("reading blob %s after %d bytes: %w", want.Digest, size, err)
			}
		}
	}
	if size != want.Size {
		return fmt.Errorf("blob %s has %d bytes, want %d", want.Digest, size, want.Size)
	}
	if h != nil {
		if got := digest.NewDigest(want.Digest.Algorithm(), h); got != want.Digest {
			return fmt.Errorf("blob %s has digest %s", want.Digest, got)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += size
	if want.MediaType != ocispec.MediaTypeImageConfig {
		p.firstByte = append(p.firstByte, first.Seconds())
	}
	return nil
}

// do sends a request below the repository and expects 200.
func (p *puller) do(ctx context.Context, method, path string) (*http.Response, error) {
	url := fmt.Sprintf("%s/v2/%s/%s", p.job.Registry, p.job.Repo, path)
	return do(ctx, &p.http.Client, method, url)
}
