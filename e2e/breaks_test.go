package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// between returns a function that returns random numbers of bytes.
func between(least, most int64) func() int64 {
	return func() int64 { return least + rand.Int64N(most-least) }
}

// flaky cuts connections after random numbers of bytes, in order or by a reset.
func flaky(after func() int64) lab.Middleware {
	cut, reset := lab.Cut(lab.Blobs, after), lab.Reset(lab.Blobs, after)
	return lab.Each(func(*http.Request) lab.Middleware {
		if rand.IntN(2) == 0 {
			return cut
		}
		return reset
	})
}

// TestCuts downloads a large blob from an upstream that cuts each connection after
// 1 to 10 MiB. One request of a client gets all of it, and next to no byte comes
// twice: what a reset destroys on its way is all that may.
func TestCuts(t *testing.T) {
	for name, tt := range map[string]struct{ known, nginx bool }{
		"size known":    {known: true},
		"size unknown":  {},
		"through nginx": {known: true, nginx: true},
	} {
		t.Run(name, func(t *testing.T) {
			img := noise(t, "cuts/image", sized[int64](256*mib, 1024*mib))
			layer := img.Blobs[0]
			// A line that is slower than the machine: what upstream has sent is there.
			up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 150e6}}, img)
			up.Use(flaky(between(mib, 10*mib)))
			m := module(t, up.Env())
			var front interface{ URL() string } = m
			if tt.nginx {
				p, url, err := lab.StartNginx(t.Context(), tempDir(t), lab.NginxProxy(m.Addr))
				if err != nil {
					t.Fatal(err)
				}
				end(t, p)
				front = address(url)
			}
			if tt.known {
				knowSize(t, front, img)
			}
			start := time.Now()
			wholeBlob(t, front, img.Repo, layer)
			t.Logf("%d MiB in one request of a client, in %.1f s, by %d requests to upstream",
				layer.Size/mib, time.Since(start).Seconds(), up.Counts().BlobGET)
			amplification(t, up, layer.Size, 1.02)
			if gets := int64(up.Counts().BlobGET); gets < layer.Size/(10*mib) {
				t.Errorf("%d requests to upstream: the connections were not cut", gets)
			}
			checkStore(t, m)
		})
	}
}

// TestStall has upstream go silent in the middle of a blob, with the connection
// open. The client's request goes on after the time that silence is borne.
func TestStall(t *testing.T) {
	const (
		limit = time.Second
		// What the client may wait: the limit, and the time for another connection,
		// on a machine that does other things too.
		most = limit + 1500*time.Millisecond
	)
	for name, tt := range map[string]struct {
		size  int64
		known bool
	}{
		"one connection":      {size: 24 * mib},
		"several connections": {size: 96 * mib, known: true},
	} {
		t.Run(name, func(t *testing.T) {
			img := noise(t, "stall/image", tt.size)
			layer := img.Blobs[0]
			up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 48e6}}, img)
			var stalls atomic.Int32
			silence := lab.Stall(lab.Blobs, func() int64 { return 4 * mib })
			up.Use(lab.Each(func(r *http.Request) lab.Middleware {
				if lab.Blobs(r) && stalls.Add(1) == 1 {
					return silence
				}
				return nil
			}))
			m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_STALLTIMEOUT": limit.String()})
			if tt.known {
				knowSize(t, m, img)
			}
			f, gap, err := fetchGap(t.Context(), blobURL(m, img.Repo, layer.Digest))
			if err != nil {
				t.Fatal(err)
			}
			if err := f.whole(layer); err != nil {
				t.Error(err)
			}
			t.Logf("stall limit %v: the client waited for %.2f s between two bytes at the most", limit, gap.Seconds())
			if gap > most {
				t.Errorf("the client waited for %v, want at most %v", gap, most)
			}
			amplification(t, up, layer.Size, 1.005)
			if stalls.Load() < 2 {
				t.Error("one request to upstream, and that has stalled")
			}
		})
	}
}

// TestExpiry downloads for longer than tokens and signed URLs are good for, over
// connections that are cut: each new one needs a new URL, for which a new token
// is needed. No byte comes twice, and the host of the URLs never sees the token.
func TestExpiry(t *testing.T) {
	t.Parallel()
	const rate = 4 * mib
	img := noise(t, "expiry/image", rate*sized[int64](15, 30))
	up := origin(t, lab.OriginOptions{
		Link: &lab.Link{Rate: rate}, TokenLife: 2 * time.Second, URLLife: 3 * time.Second,
	}, img)
	up.BlobHost.Use(lab.Cut(lab.Blobs, between(mib, 5*mib)))
	m := module(t, up.Env())
	start := time.Now()
	if err := pull(t.Context(), m, img); err != nil {
		t.Error(err)
	}
	took := time.Since(start)
	amplification(t, up, img.Size(), 1)
	refused := map[lab.Kind]int{}
	for _, r := range up.Requests() {
		if r.Kind == lab.Signed && r.Header.Get("Authorization") != "" {
			t.Errorf("the blob host was sent a token: %v", r)
		}
		if r.Status >= 400 {
			refused[r.Kind]++
		}
	}
	got := up.Counts()
	t.Logf("%.1f s, tokens of 2 s, URLs of 3 s: %d tokens, %d redirects, %d requests by signed URLs; refused: %v",
		took.Seconds(), got.Tokens, got.BlobGET, got.Signed, fmt.Sprint(refused))
	if got.Tokens < 2 || got.BlobGET < 3 {
		t.Errorf("%d tokens and %d redirects: nothing has expired", got.Tokens, got.BlobGET)
	}
	checkStore(t, m)
}
