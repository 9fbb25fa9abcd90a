package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Repeat is a job: clients download one blob again and again, each over one
// connection.
type Repeat struct {
	// URL is that of the blob.
	URL string `json:"url"`
	// Size and Digest are what is expected. The digest is computed once, before
	// the clock starts.
	Size   int64         `json:"size"`
	Digest digest.Digest `json:"digest"`
	// Clients is how many there are.
	Clients int `json:"clients"`
	// For is how long they go on. The downloads that are under way then are
	// cut, and what came of them counts.
	For time.Duration `json:"for"`
}

// RepeatResult is what came of a [Repeat].
type RepeatResult struct {
	// Bytes were received in Seconds by all clients together.
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// CPUSeconds is what all clients together have used.
	CPUSeconds float64 `json:"cpuSeconds"`
	// Error is empty where all downloads went well.
	Error string `json:"error,omitempty"`
}

// Run downloads.
func (r Repeat) Run(ctx context.Context) RepeatResult {
	if err := r.verify(ctx); err != nil {
		return RepeatResult{Error: err.Error()}
	}
	cpu, begin := cpuTime(), time.Now() // before the deadline is set, which is counted from then
	ctx, cancel := context.WithTimeout(ctx, r.For)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards what follows
		bytes int64
		errs  []error
	)
	for range r.Clients {
		wg.Go(func() {
			n, err := r.client(ctx)
			mu.Lock()
			defer mu.Unlock()
			bytes += n
			errs = append(errs, err)
		})
	}
	wg.Wait()
	result := RepeatResult{
		Bytes:      bytes,
		Seconds:    time.Since(begin).Seconds(),
		CPUSeconds: (cpuTime() - cpu).Seconds(),
	}
	if err := errors.Join(errs...); err != nil {
		result.Error = err.Error()
	}
	return result
}

// client downloads until ctx is done and returns how many bytes it got.
func (r Repeat) client(ctx context.Context) (sum int64, err error) {
	client := newDropper()
	defer client.CloseIdleConnections()
	for {
		n, err := r.download(ctx, client)
		sum += n
		if ctx.Err() != nil {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// download reads the blob once.
func (r Repeat) download(ctx context.Context, client *dropper) (size int64, err error) {
	resp, err := do(ctx, &client.Client, http.MethodGet, r.URL)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for {
		n, err := resp.Body.Read(client.scratch[0])
		size += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return size, fmt.Errorf("reading after %d bytes: %w", size, err)
		}
	}
	if size != r.Size {
		return size, fmt.Errorf("got %d bytes, want %d", size, r.Size)
	}
	return size, nil
}

// verify downloads the blob once and compares its digest.
func (r Repeat) verify(ctx context.Context) error {
	client := newDropper()
	defer client.CloseIdleConnections()
	resp, err := do(ctx, &client.Client, http.MethodGet, r.URL)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := digest.FromReader(resp.Body)
	if err != nil {
		return fmt.Errorf("reading %s: %w", r.URL, err)
	}
	if got != r.Digest {
		return fmt.Errorf("%s has digest %s, want %s", r.URL, got, r.Digest)
	}
	return nil
}
