package e2e

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// passed waits until upstream has sent some bytes of blobs.
func passed(t *testing.T, up *lab.Origin, bytes int64) {
	t.Helper()
	eventually(t, "upstream has sent some of it", func() bool { return up.Counts().BlobBytes >= bytes })
}

// TestHierarchyRestart has the module end in the middle of a pull by an engine, in order
// and by SIGKILL, and start again. The engine goes on, and next to no byte comes twice from
// upstream.
func TestHierarchyRestart(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*lab.Server) error
		most float64
	}{
		// What was on its way when the connections were closed has left upstream, and has
		// not come: some KiB on each of them.
		"SIGTERM": {func(s *lab.Server) error { return s.Stop() }, 1.01},
		// What is not yet on the disk is lost.
		"SIGKILL": {func(s *lab.Server) error { return s.Kill() }, 1.5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rate := sized[int64](8e6, 20e6)
			img := noise(t, "line/restart", sized[int64](40*mib, 600*mib), 100<<10)
			h, up := plant(t, &lab.Link{Rate: rate}, nil, img)
			b := newBottom(t, h, h.Lowest())
			d := must(lab.StartDockerAt(t.Context(), b.at(), tempDir(t)))(t)
			end(t, d)
			pulled := make(chan error, 1)
			go func() { pulled <- d.CreateImage(t.Context(), img.ByTag(b.Parent)) }()
			passed(t, up, img.Size()/2)
			start := time.Now()
			m := h.Top().Module
			if err := tt.end(m); err != nil {
				t.Error(err)
			}
			down := time.Since(start)
			if err := m.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("ended after %v, there again after %v", down.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
			if err := <-pulled; err != nil {
				t.Error(err)
			}
			if digests := must(d.HasImage(t.Context(), img.ByTag(b.Parent)))(t); !slices.Contains(digests, img.Root().Digest.String()) {
				t.Errorf("the engine has %v, want %s", digests, img.Root().Digest)
			}
			amplification(t, up, img.Size(), tt.most)
			access := must(h.Lowest().Proxy.Access())(t)
			resumed := 0
			for _, line := range access {
				if strings.Contains(line, "/blobs/") && strings.Contains(line, `HTTP/1.1" 206 `) {
					resumed++
				}
			}
			t.Logf("the engine was done %v after the end, by %d requests with a range", time.Since(start).Round(100*time.Millisecond), resumed)
			checkStore(t, m)
		})
	}
}

// TestHierarchyCertificates renews the certificates of all proxies in the middle of a
// pull, twice. It goes on, and who comes then sees the new ones.
func TestHierarchyCertificates(t *testing.T) {
	t.Parallel()
	rate := sized[int64](8e6, 20e6)
	img := noise(t, "line/certificates", sized[int64](32*mib, 400*mib), mib)
	h, up := plant(t, &lab.Link{Rate: rate}, nil, img)
	b := newBottom(t, h, h.Lowest())
	pulled := make(chan error, 1)
	go func() { pulled <- b.pull(t.Context(), img) }()
	for _, part := range []int64{4, 2} {
		passed(t, up, img.Size()/part)
		start := time.Now()
		for _, l := range h.Layers {
			if err := l.Proxy.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d certificates renewed in %v, when upstream had sent %d of %d bytes",
			len(h.Layers), time.Since(start).Round(time.Millisecond), up.Counts().BlobBytes, img.Size())
		if got := up.Counts().BlobBytes; got >= img.Size() {
			t.Errorf("upstream had sent %d bytes by then: that was no renewal in mid-pull", got)
		}
	}
	if err := <-pulled; err != nil {
		t.Error(err)
	}
	if err := b.pull(t.Context(), img); err != nil {
		t.Errorf("after that: %v", err)
	}
	once(t, "certificates renewed", h.Origins, img.Blobs, 1, 0)
}

// TestHierarchyTwoBottoms has devices below two layers pull the same image at once, with
// an engine each and by an API client that comes when half of it is there: each byte
// crosses the WAN once.
func TestHierarchyTwoBottoms(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/two", sized[int64](16*mib, 600*mib), 2*mib, 100<<10)
	h, up := plant(t, &lab.Link{Rate: sized[int64](8e6, 20e6)}, nil, img)
	var wg sync.WaitGroup
	for _, l := range []*lab.Layer{h.Lowest(), h.Lowest(), h.Layers[1]} {
		b := newBottom(t, h, l)
		skopeo := must(lab.NewSkopeoAt(b.at(), tempDir(t)))(t)
		wg.Go(func() {
			digests, err := skopeo.Pull(t.Context(), img.ByTag(b.Parent), "")
			if want := img.Root().Digest.String(); err != nil || !slices.Contains(digests, want) {
				t.Errorf("skopeo has %v, %v, want %s", digests, err, want)
			}
		})
	}
	late := newBottom(t, h, h.Lowest())
	wg.Go(func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		every(ctx, 2*time.Millisecond, func() bool { return up.Counts().BlobBytes < img.Size()/2 })
		if err := late.pull(t.Context(), img); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	once(t, "four clients at once", h.Origins, img.Blobs, 1, 0)
}

// TestHierarchyMiddleRestart ends the proxy of a layer in the middle of a pull, as an
// update of the module does. A client that resumes by Range gets all, and no byte comes
// twice from upstream.
func TestHierarchyMiddleRestart(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/middle", sized[int64](24*mib, 200*mib))
	layer := img.Blobs[0]
	h, up := plant(t, &lab.Link{Rate: sized[int64](8e6, 20e6)}, nil, img)
	b := newBottom(t, h, h.Lowest())
	first := make(chan int64, 1)
	go func() {
		resp, err := b.open(t.Context(), "GET", blobTarget(img.Repo, layer), nil)
		if err != nil {
			t.Error(err)
			first <- 0
			return
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil {
			t.Error("the answer was whole: its proxy was not ended in time")
		}
		first <- n
	}()
	passed(t, up, layer.Size/2)
	proxy := h.Layers[1].Proxy
	again := must(proxy.Process.Restart(t.Context()))(t)
	proxy.Process = again
	had := <-first
	a, err := b.fetch(t.Context(), blobTarget(img.Repo, layer), nil)
	if err == nil {
		err = a.whole(layer)
	}
	if err != nil {
		t.Error(err)
	}
	t.Logf("the client had %d of %d bytes when the proxy ended", had, layer.Size)
	once(t, "a proxy restarted", h.Origins, []lab.RawBlob{layer}, 0, 0)
}
