package throttled_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/upstream/throttled"
)

// zeros is a body of so many bytes, which come without delay.
type zeros struct {
	left    int64
	largest int // Read
	closed  bool
}

func (z *zeros) Read(p []byte) (int, error) {
	z.largest = max(z.largest, len(p))
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func (z *zeros) Close() error {
	z.closed = true
	return nil
}

// large is a remote whose blobs have n bytes and tell no length.
func large(n int64) (up *cachetest.Upstream, dgst digest.Digest) {
	up = &cachetest.Upstream{HideSize: true}
	up.Body = func(digest.Digest, []byte) io.ReadCloser { return &zeros{left: n} }
	return up, up.AddBlob("a", []byte("stands for all"))
}

// open opens a blob.
func open(ctx context.Context, t *testing.T, up cache.Upstream, dgst digest.Digest, part cache.BlobPart) *cache.BlobStream {
	t.Helper()
	s, err := up.Blob(ctx, "a", dgst, part)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// read reads a blob as the cache does, and returns how many bytes it has.
func read(t *testing.T, up cache.Upstream, dgst digest.Digest, part cache.BlobPart) (n int64) {
	t.Helper()
	s, err := up.Blob(t.Context(), "a", dgst, part)
	if err != nil {
		t.Error(err)
		return 0
	}
	buf := make([]byte, 256<<10)
	for {
		got, err := s.Body.Read(buf)
		n += int64(got)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	if err := s.Body.Close(); err != nil {
		t.Error(err)
	}
	return n
}

// took compares the time since start with what n bytes take at a rate.
func took(t *testing.T, start time.Time, n, bytesPerSecond int64) {
	t.Helper()
	want := float64(n) / float64(bytesPerSecond)
	if got := time.Since(start).Seconds(); got < 0.95*want || got > 1.05*want {
		t.Errorf("%d bytes at %d/s took %.3f s, want %.3f s", n, bytesPerSecond, got, want)
	}
}

func TestNewLimiter(t *testing.T) {
	for perSecond, burst := range map[int64]int{
		1:           4 << 10,
		100 << 10:   4 << 10,
		1 << 20:     (1 << 20) / 50,
		3_000_000:   60_000,
		100 << 20:   64 << 10,
		1<<63 - 1:   64 << 10,
		200<<10 + 1: 4 << 10,
	} {
		l := throttled.NewLimiter(perSecond).Now()
		if l.Limit() != rate.Limit(perSecond) || l.Burst() != burst {
			t.Errorf("NewLimiter(%d) has limit %v and burst %d, want burst %d", perSecond, l.Limit(), l.Burst(), burst)
		}
	}
	for _, none := range []int64{0, -1} {
		if l := throttled.NewLimiter(none).Now(); l != nil {
			t.Errorf("NewLimiter(%d) limits to %v", none, l.Limit())
		}
	}
}

func TestNoLimit(t *testing.T) {
	up := new(cachetest.Upstream)
	for i, got := range []cache.Upstream{throttled.New(up), throttled.New(up, nil, nil)} {
		if got != cache.Upstream(up) {
			t.Errorf("%d: got %T", i, got)
		}
	}
	limiters := []*throttled.Limiter{nil, throttled.NewLimiter(1)}
	if _, same := throttled.New(up, limiters...).(*cachetest.Upstream); same || limiters[0] != nil || limiters[1] == nil {
		t.Errorf("got the remote without limit: %v; limiters %v", same, limiters)
	}
}

func TestRate(t *testing.T) {
	for _, perSecond := range []int64{1 << 10, 20_000, 1 << 20, 20 << 20} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := max(3*perSecond, 100<<10)
				up, dgst := large(n)
				limited := throttled.New(up, throttled.NewLimiter(perSecond))
				start := time.Now()
				if got := read(t, limited, dgst, cache.BlobPart{}); got != n {
					t.Errorf("read %d bytes of %d", got, n)
				}
				took(t, start, n, perSecond)
			})
		})
	}
}

// TestReadsAreSmall makes sure that bytes come evenly, however large the buffer.
func TestReadsAreSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &zeros{left: 1 << 20}
		up, dgst := large(0)
		up.Body = func(digest.Digest, []byte) io.ReadCloser { return body }
		wide, narrow := throttled.NewLimiter(2_000_000), throttled.NewLimiter(1_000_000)
		read(t, throttled.New(up, wide, narrow), dgst, cache.BlobPart{})
		if body.largest != 20_000 {
			t.Errorf("the largest Read was of %d bytes, want 20000", body.largest)
		}
		if !body.closed {
			t.Error("the body was not closed")
		}
	})
}

func TestStreamsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, perSecond, streams = 2 << 20, 1 << 20, 3
		up, dgst := large(n)
		limited := throttled.New(up, throttled.NewLimiter(perSecond))
		start := time.Now()
		var wg sync.WaitGroup
		for range streams {
			wg.Go(func() {
				read(t, limited, dgst, cache.BlobPart{})
				took(t, start, streams*n, perSecond) // none is done before the others
			})
		}
		wg.Wait()
	})
}

// TestLimitsAddUp has two remotes, one of them with a limit of its own, and a
// limit for both.
func TestLimitsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, own, all = 12 << 20, 4_000_000, 16_000_000 // of equal bursts
		both := throttled.NewLimiter(all)
		slow, dgst := large(n)
		fast, _ := large(3 * n)
		limitedSlow := throttled.New(slow, throttled.NewLimiter(own), both)
		limitedFast := throttled.New(fast, both)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			read(t, limitedSlow, dgst, cache.BlobPart{})
			took(t, start, n, own)
		})
		wg.Go(func() {
			read(t, limitedFast, dgst, cache.BlobPart{}) // has the rest
			took(t, start, 3*n, all-own)
		})
		wg.Wait()
		took(t, start, 4*n, all)
		start = time.Now()
		read(t, limitedSlow, dgst, cache.BlobPart{})
		took(t, start, n, own) // alone as well
		start = time.Now()
		read(t, throttled.New(slow, both, throttled.NewLimiter(10*all)), dgst, cache.BlobPart{})
		took(t, start, n, all) // the least of them
	})
}

// TestLimitChanges has a limit come, change and go while a blob comes.
func TestLimitChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, slow, fast = 1 << 20, 100 << 10, 200 << 10
		up, dgst := large(3 * n)
		limiter := throttled.NewLimiter(0)
		s := open(t.Context(), t, throttled.New(up, limiter), dgst, cache.BlobPart{})
		part := func(bytesPerSecond int64) {
			limiter.Set(bytesPerSecond)
			limiter.Set(bytesPerSecond) // the same again changes nothing
			begun := time.Now()
			if _, err := io.CopyN(io.Discard, s.Body, n); err != nil {
				t.Fatal(err)
			}
			if bytesPerSecond > 0 {
				took(t, begun, n, bytesPerSecond)
			} else if waited := time.Since(begun); waited != 0 {
				t.Errorf("without a limit it has waited for %v", waited)
			}
		}
		part(0)
		part(slow)
		part(fast)
		limiter.Set(0)
		if rest, err := io.Copy(io.Discard, s.Body); err != nil || rest != 0 {
			t.Errorf("%d bytes more, %v", rest, err)
		}
		if err := s.Body.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSmallGoesAhead asks for small things while ten large blobs come.
func TestSmallGoesAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, perSecond = 200 << 10, 100 << 10
		limiter := throttled.NewLimiter(perSecond)
		up, dgst := large(n)
		busy := throttled.New(up, limiter)
		start := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { read(t, busy, dgst, cache.BlobPart{}) })
		}
		time.Sleep(time.Second) // of the bubble
		begun := time.Now()

		up = new(cachetest.Upstream)
		whole := bytes.Repeat([]byte("s"), 64<<10)
		small := up.AddBlob("a", whole)
		big := up.AddBlob("a", bytes.Repeat([]byte("b"), 64<<10+1))
		up.AddManifest("a", "v1", "application/json", whole)
		limited := throttled.New(up, limiter)
		if got := read(t, limited, small, cache.BlobPart{}); got != 64<<10 {
			t.Errorf("read %d bytes", got)
		}
		read(t, limited, big, cache.BlobPart{Offset: 1}) // a small part of it
		if m, err := limited.Manifest(t.Context(), "a", "v1"); err != nil || !bytes.Equal(m.Bytes, whole) {
			t.Errorf("%d bytes, %v", len(m.Bytes), err)
		}
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("small ones have waited for %v", waited)
		}
		wg.Wait()
		took(t, start, 10*n+3*(64<<10), perSecond) // the large ones have paid for them

		begun = time.Now()
		read(t, limited, big, cache.BlobPart{})
		took(t, begun, 64<<10+1, perSecond) // one byte more is not small
	})
}

// TestManifestsCount makes sure that blobs wait for what manifests have taken.
func TestManifestsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, perSecond = 1 << 20, 100 << 10
		up, dgst := large(n)
		up.AddManifest("a", "v1", "application/json", make([]byte, n))
		limited := throttled.New(up, throttled.NewLimiter(perSecond))
		start := time.Now()
		if _, err := limited.Manifest(t.Context(), "a", "v1"); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		read(t, limited, dgst, cache.BlobPart{})
		took(t, start, 2*n, perSecond)
	})
}

// onlySize is a remote that tells how long a blob is, but not its answer.
type onlySize struct{ cache.Upstream }

func (o onlySize) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	s, err := o.Upstream.Blob(ctx, repo, dgst, part)
	s.Length = -1
	return s, err
}

func TestSmallBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := new(cachetest.Upstream)
		small, large := up.AddBlob("a", make([]byte, 64<<10)), up.AddBlob("a", make([]byte, 64<<10+1))
		limited := throttled.New(onlySize{up}, throttled.NewLimiter(64<<10))
		start := time.Now()
		read(t, limited, small, cache.BlobPart{})
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the small one has waited for %v", waited)
		}
		read(t, limited, large, cache.BlobPart{})
		took(t, start, 128<<10, 64<<10)
	})
}

// TestSmallAsIsSaid has a remote that lies about a blob's length.
func TestSmallAsIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, perSecond = 1 << 20, 100 << 10
		up := &cachetest.Upstream{Body: func(digest.Digest, []byte) io.ReadCloser { return &zeros{left: n} }}
		dgst := up.AddBlob("a", []byte("said to be small"))
		start := time.Now()
		if got := read(t, throttled.New(up, throttled.NewLimiter(perSecond)), dgst, cache.BlobPart{}); got != n {
			t.Errorf("read %d bytes", got)
		}
		took(t, start, n, perSecond)
	})
}

func TestWaitEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(cancel context.CancelFunc, body io.Closer) error
		want error
	}{
		{"with the context", func(cancel context.CancelFunc, _ io.Closer) error { cancel(); return nil }, context.Canceled},
		{"with Close", func(_ context.CancelFunc, body io.Closer) error { return errors.Join(body.Close(), body.Close()) }, fs.ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up, dgst := large(1 << 20)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := open(ctx, t, throttled.New(up, throttled.NewLimiter(1)), dgst, cache.BlobPart{})
				start := time.Now()
				buf := make([]byte, 4<<10)
				if n, err := s.Body.Read(buf); n != len(buf) || err != nil || time.Since(start) != 0 {
					t.Fatalf("the first Read: %d, %v after %v", n, err, time.Since(start))
				}
				type result struct {
					n   int
					err error
				}
				done := make(chan result, 1)
				go func() {
					n, err := s.Body.Read(buf)
					done <- result{n, err}
				}()
				synctest.Wait()
				select {
				case r := <-done:
					t.Fatalf("the second Read has not waited: %+v", r)
				default:
				}
				if err := tt.end(cancel, s.Body); err != nil {
					t.Error(err)
				}
				if r := <-done; r.n != len(buf) || !errors.Is(r.err, tt.want) {
					t.Errorf("got %+v, want all bytes and %v", r, tt.want)
				}
				if waited := time.Since(start); waited != 0 {
					t.Errorf("the wait has ended after %v", waited)
				}
			})
		})
	}
}

// endsWithData is a body that tells its end together with its last bytes.
type endsWithData struct{ io.Reader }

func (e endsWithData) Read(p []byte) (int, error) {
	n, _ := e.Reader.Read(p)
	return n, io.EOF
}

func (endsWithData) Close() error { return nil }

// TestEndIsKept makes sure that the end of a body, which may come with bytes, is
// not replaced by that of the wait for them.
func TestEndIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, dgst := large(0)
		up.Body = func(digest.Digest, []byte) io.ReadCloser { return endsWithData{bytes.NewReader(make([]byte, 8<<10))} }
		limiter := throttled.NewLimiter(1)
		limiter.Now().ReserveN(time.Now(), 4<<10)
		ctx, cancel := context.WithCancel(t.Context())
		s := open(ctx, t, throttled.New(up, limiter), dgst, cache.BlobPart{})
		cancel()
		if n, err := s.Body.Read(make([]byte, 8<<10)); n != 4<<10 || err != io.EOF {
			t.Errorf("got %d, %v", n, err)
		}
	})
}

func TestPassesOn(t *testing.T) {
	up := new(cachetest.Upstream)
	dgst := up.AddBlob("a", []byte("0123456789"))
	up.AddManifest("a", "v1", "application/json", []byte("{}"))
	limited := throttled.New(up, throttled.NewLimiter(1<<20))
	ctx := t.Context()
	s := open(ctx, t, limited, dgst, cache.BlobPart{Offset: 4, Length: 3})
	if got, err := io.ReadAll(s.Body); err != nil || string(got) != "456" || s.Offset != 4 || s.Length != 3 || s.Size != 10 || !s.Part {
		t.Errorf("%q, %v of %+v", got, err, s)
	}
	if d, err := limited.Resolve(ctx, "a", "v1", ""); err != nil || d.Size != 2 {
		t.Errorf("%+v, %v", d, err)
	}
	if n, err := limited.StatBlob(ctx, "a", dgst); err != nil || n != 10 {
		t.Errorf("%d, %v", n, err)
	}
	if tags, more, err := limited.Tags(ctx, "a", -1, ""); err != nil || more || len(tags) != 1 {
		t.Errorf("%q, %v, %v", tags, more, err)
	}
	if limited.Host() != up.Host() {
		t.Errorf("host %q", limited.Host())
	}
	up.Fail(cache.ErrDenied)
	if s, err := limited.Blob(ctx, "a", dgst, cache.BlobPart{}); s != nil || !errors.Is(err, cache.ErrDenied) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := limited.Manifest(ctx, "a", "v1"); !errors.Is(err, cache.ErrDenied) {
		t.Error(err)
	}
}
