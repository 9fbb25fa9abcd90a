package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"syscall"
	"time"
)

// errDiffers is the one thing that must not happen to a client.
var errDiffers = errors.New("not the blob's bytes")

// client asks for blobs, some much more often than others, until ctx ends.
func (c *chaos) client(ctx context.Context, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	popular := rand.NewZipf(random, 1.1, 4, uint64(len(c.blobs)-1))
	// It keeps connections as engines do, as far as it reads answers to their end.
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	a := asker{c, random, &http.Client{Transport: transport}}
	for ctx.Err() == nil {
		b := c.blobs[popular.Uint64()]
		if err := a.ask(ctx, b); err != nil {
			c.fail(fmt.Errorf("blob %s of %d bytes: %w", b.Digest, b.Size, err))
		}
		// They have other things to do, too.
		think := time.NewTimer(time.Duration(random.IntN(20)) * time.Millisecond)
		select {
		case <-think.C:
		case <-ctx.Done():
			think.Stop()
		}
	}
}

// asker is one client.
type asker struct {
	*chaos
	random *rand.Rand
	http   *http.Client
}

// ask asks for something of a blob, one way or the other. An error is something
// that must not be.
func (a asker) ask(ctx context.Context, b chaosBlob) error {
	if a.random.IntN(4) == 0 {
		if err := a.manifest(ctx, b); err != nil {
			return err
		}
	}
	first, last := int64(0), b.Size-1
	header := ""
	switch p := a.random.IntN(100); {
	case p < 10:
		return a.head(ctx, b)
	case p < 55:
		// all of it
	case p < 75:
		first = a.random.Int64N(b.Size)
		last = first + a.random.Int64N(b.Size-first)
		header = fmt.Sprintf("bytes=%d-%d", first, last)
	case p < 90:
		first = a.random.Int64N(b.Size)
		header = fmt.Sprintf("bytes=%d-", first)
	default:
		n := 1 + a.random.Int64N(b.Size)
		first = b.Size - n
		header = fmt.Sprintf("bytes=-%d", n)
	}
	return a.get(ctx, b, first, last, header)
}

func (a asker) do(ctx context.Context, method string, b chaosBlob, path string, headers ...string) (*http.Response, error) {
	req, err := request(ctx, method, a.url+"/v2/"+b.img.Repo+path, headers...)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, err // the module has gone
	}
	if err != nil {
		a.broke(ctx)
		return nil, nil
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resp, nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		a.tally.refused.Add(1)
		return nil, resp.Body.Close()
	}
	return nil, errors.Join(fmt.Errorf("%s %s %v: %s", method, path, headers, resp.Status), resp.Body.Close())
}

// broke counts an answer that has ended early, unless it is the client's time that
// has.
func (a asker) broke(ctx context.Context) {
	if ctx.Err() == nil {
		a.tally.broken.Add(1)
	}
}

func (a asker) manifest(ctx context.Context, b chaosBlob) error {
	resp, err := a.do(ctx, http.MethodGet, b, "/manifests/"+b.img.Tag)
	if resp == nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		a.broke(ctx)
		return nil
	}
	if !bytes.Equal(got, b.img.Root().Bytes) {
		return fmt.Errorf("manifest %s: %w", b.img.Repo, errDiffers)
	}
	return nil
}

func (a asker) head(ctx context.Context, b chaosBlob) error {
	resp, err := a.do(ctx, http.MethodHead, b, "/blobs/"+b.Digest.String())
	if resp == nil {
		return err
	}
	defer resp.Body.Close()
	a.tally.heads.Add(1)
	if resp.ContentLength != b.Size {
		return fmt.Errorf("HEAD: %d bytes", resp.ContentLength)
	}
	return nil
}

// get asks for the bytes from first to last, compares what comes, and may leave in
// the middle of it.
func (a asker) get(ctx context.Context, b chaosBlob, first, last int64, ranges string) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	var headers []string
	status := http.StatusOK
	if ranges != "" {
		headers, status = []string{"Range", ranges}, http.StatusPartialContent
	}
	resp, err := a.do(ctx, http.MethodGet, b, "/blobs/"+b.Digest.String(), headers...)
	if resp == nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == status:
	case resp.StatusCode == http.StatusOK:
		// Any range may be ignored (RFC 9110, section 14.2), and is where nobody knows
		// how long the blob is.
		a.tally.ignored.Add(1)
		first, last, ranges = 0, b.Size-1, ""
	default:
		return fmt.Errorf("%s: %s, want %d", ranges, resp.Status, status)
	}
	want := last - first + 1
	limit := want
	if a.random.IntN(5) == 0 {
		limit = a.random.Int64N(want)
	}
	n, err := a.compare(io.LimitReader(resp.Body, limit+1), b, first)
	a.tally.bytes.Add(n)
	switch {
	case errors.Is(err, errDiffers) || n > want:
		return fmt.Errorf("%q: %d bytes, of %d: %w", ranges, n, want, errors.Join(err, errDiffers))
	case err != nil:
		a.broke(ctx)
	case limit < want:
		a.tally.left.Add(1)
	case n < want:
		return fmt.Errorf("%q: a complete answer of %d bytes, want %d", ranges, n, want)
	case ranges == "":
		a.tally.whole.Add(1)
	default:
		a.tally.parts.Add(1)
	}
	return nil
}

// compare reads to the end, or up to the first byte that is not the blob's at its
// place, counted from off.
func (a asker) compare(r io.Reader, b chaosBlob, off int64) (n int64, err error) {
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		k, err := r.Read(got)
		if k > 0 {
			m, _ := b.Content.ReadAt(want[:k], off+n) // too short is different
			if !bytes.Equal(got[:k], want[:m]) {
				return n, fmt.Errorf("%w, at %d or soon after", errDiffers, off+n)
			}
		}
		n += int64(k)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
