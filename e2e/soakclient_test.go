package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

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
