package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// plant is a hierarchy of a top and three lower layers in front of one registry.
func plant(t *testing.T, link *lab.Link, env lab.Env, images ...lab.Image) (*lab.Hierarchy, *lab.Origin) {
	t.Helper()
	h := hierarchy(t, lab.HierarchyOptions{
		Lower: 3, Env: env,
		Registries: []lab.RegistryHost{{Host: "plant.azurecr.io", Link: link, Images: images}},
		// What a proxy takes ahead of a client, in proportion to what is pulled.
		MaxTempFile: sized("8m", "1024m"),
	})
	return h, h.Origins[0]
}

// slowReader reads no faster than rate bytes a second.
type slowReader struct {
	io.Reader
	rate  int64
	start time.Time
	n     int64
}

// slowly is a wrap for fetch.
func slowly(rate int64) func(io.Reader) io.Reader {
	return func(r io.Reader) io.Reader { return &slowReader{Reader: r, rate: rate, start: time.Now()} }
}

func (s *slowReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p[:min(len(p), 64<<10)])
	s.n += int64(n)
	due := s.start.Add(time.Duration(float64(s.n) / float64(s.rate) * float64(time.Second)))
	<-time.After(time.Until(due))
	return n, err
}

// logged returns how long the module's requests for a path took that its log has, in
// order of their ends.
func logged(t *testing.T, m *lab.Server, target string) (took []time.Duration) {
	t.Helper()
	text := string(must(os.ReadFile(m.Log()))(t))
	milliseconds := regexp.MustCompile(` ms=(\d+) `)
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "msg=request") || !strings.Contains(line, target) {
			continue
		}
		if match := milliseconds.FindStringSubmatch(line); match != nil {
			ms := must(strconv.Atoi(match[1]))(t)
			took = append(took, time.Duration(ms)*time.Millisecond)
		}
	}
	return took
}

// TestHierarchySlowClient pulls a layer of 64 MiB, at its full size one of 3 GiB, through
// a top and three lower layers, with a client that takes it more slowly than it comes: the
// proxies take what they may ahead of the client, and then leave the module waiting.
func TestHierarchySlowClient(t *testing.T) {
	t.Parallel()
	rate := sized[int64](16e6, 40e6)
	img := noise(t, "line/slow", sized[int64](64*mib, 3<<30))
	layer := img.Blobs[0]
	h, up := plant(t, nil, nil, img)
	b := newBottom(t, h, h.Lowest())
	start := time.Now()
	f, err := b.fetch(t.Context(), blobTarget(img.Repo, layer), slowly(rate))
	if err == nil {
		err = f.whole(layer)
	}
	if err != nil {
		t.Error(err)
	}
	took := time.Since(start)
	once(t, "a slow client", h.Origins, []lab.RawBlob{layer}, 0, 0)
	var served []time.Duration
	eventually(t, "the module has logged the request", func() bool {
		served = logged(t, h.Top().Module, layer.Digest.Encoded())
		return len(served) > 0
	})
	t.Logf("%d MiB in %.1f s, %.1f MB/s; the module was busy with it for %v, upstream sent %d bytes",
		layer.Size/mib, took.Seconds(), float64(layer.Size)/1e6/took.Seconds(), served, up.Counts().BlobBytes)
	if least := time.Duration(float64(layer.Size)/float64(rate)*float64(time.Second)) * 9 / 10; took < least {
		t.Errorf("it took %v, want at least %v: the client was not slow", took, least)
	}
	if len(served) != 1 || served[0] < 500*time.Millisecond {
		t.Errorf("the module was busy for %v, want one request that has waited for the proxies", served)
	}
	u := must(h.Top().Module.Usage())(t)
	t.Logf("module: RSS %.1f MiB, peak %.1f MiB", float64(u.RSS)/mib, float64(u.PeakRSS)/mib)
}

// TestHierarchyGivesUp has an engine pull as edgeAgent does, which cancels what takes too
// long, again and again, over a link that needs far longer for the image. In the end it
// has it, and each byte has come once from upstream.
func TestHierarchyGivesUp(t *testing.T) {
	t.Parallel()
	patience := sized(1500*time.Millisecond, 5*time.Second)
	// Without the link, all of it has to come in that time.
	rate := sized[int64](5e6, 2e6)
	img := noise(t, "line/patience", sized[int64](24*mib, 64*mib), 100<<10)
	h, _ := plant(t, &lab.Link{Rate: rate}, nil, img)
	b := newBottom(t, h, h.Lowest())
	d := must(lab.StartDockerAt(t.Context(), b.at(), tempDir(t)))(t)
	end(t, d)
	start, tries := time.Now(), 0
	for done := false; !done; {
		tries++
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := d.CreateImage(ctx, img.ByTag(b.Parent))
		gaveUp := ctx.Err() != nil
		cancel()
		switch {
		case err == nil:
			done = true
		case !gaveUp:
			t.Fatalf("try %d: %v", tries, err)
		case tries > 40:
			t.Fatalf("not there after %d tries: %v", tries, err)
		}
	}
	t.Logf("there after %d tries of at most %v, in %.1f s, of %d MiB at %d MB/s", tries, patience, time.Since(start).Seconds(), img.Size()/mib, rate/1e6)
	if tries < 3 {
		t.Errorf("there after %d tries: the client did not give up", tries)
	}
	if digests := must(d.HasImage(t.Context(), img.ByTag(b.Parent)))(t); !slices.Contains(digests, img.Root().Digest.String()) {
		t.Errorf("the engine has %v, want %s", digests, img.Root().Digest)
	}
	once(t, "a client that gives up", h.Origins, img.Blobs, 1, 0)
}

// TestHierarchyUpstreamCuts has upstream cut each connection in the middle of a blob.
// Nobody below notices.
func TestHierarchyUpstreamCuts(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/cuts", sized[int64](32*mib, 512*mib), mib)
	h, up := plant(t, &lab.Link{Rate: 100e6}, nil, img)
	up.Use(lab.Cut(lab.Blobs, between(mib, sized[int64](4, 20)*mib)))
	b := newBottom(t, h, h.Lowest())
	if err := b.pull(t.Context(), img); err != nil {
		t.Error(err)
	}
	amplification(t, up, img.Size(), 1)
	if gets := up.Counts().BlobGET; gets < len(img.Blobs)+2 {
		t.Errorf("%d requests to upstream: the connections were not cut", gets)
	}
}

// TestHierarchyUpstreamGone has the registry refuse connections, and vanish. What is
// cached is served at once, and for what is not there is an answer in time that says what
// it is about.
func TestHierarchyUpstreamGone(t *testing.T) {
	t.Parallel()
	// A connection that was open is noticed to be dead when no header comes for 15 s.
	const soon, bounded = time.Second, 20 * time.Second
	here, half, away := noise(t, "line/here", 2*mib, 5000), noise(t, "line/half", 5000, 6000), noise(t, "line/away", 5000)
	h, up := plant(t, nil, nil, here, half, away)
	b := newBottom(t, h, h.Lowest())
	if err := b.pull(t.Context(), here); err != nil {
		t.Fatal(err)
	}
	if a := b.get(t, "/v2/"+half.Repo+"/manifests/"+half.Tag); a.Status != http.StatusOK {
		t.Fatalf("status %d\n%s", a.Status, a.Body)
	}
	skopeo := must(lab.NewSkopeoAt(b.at(), tempDir(t)))(t)
	for _, step := range []struct {
		what string
		do   func()
	}{
		// First, so that nobody knows that yet.
		{"is a black hole", func() {
			if err := h.WAN.Drop(t.Context(), 443, true); err != nil {
				t.Fatal(err)
			}
		}},
		{"refuses", func() {
			takeDown(t, up)
			if err := h.WAN.Drop(t.Context(), 443, false); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		step.do()
		up.Reset()
		timed := func(limit time.Duration, what string, do func()) {
			start := time.Now()
			do()
			took := time.Since(start)
			t.Logf("upstream %s: %s after %v", step.what, what, took.Round(time.Millisecond))
			if took > limit {
				t.Errorf("upstream %s: %s after %v, want at most %v", step.what, what, took, limit)
			}
		}
		for _, target := range []string{"/v2/" + away.Repo + "/manifests/" + away.Tag, blobTarget(half.Repo, half.Blobs[0])} {
			timed(bounded, "refusal of "+target[:20], func() {
				a := b.get(t, target)
				if a.Status != http.StatusServiceUnavailable || a.code(t) != "UNAVAILABLE" || a.Header.Get("Retry-After") == "" ||
					!strings.Contains(string(a.Body), "plant.azurecr.io") {
					t.Errorf("%s: status %d, Retry-After %q, want 503 with one, and the registry's name\n%s", target, a.Status, a.Header.Get("Retry-After"), a.Body)
				}
			})
		}
		timed(soon, "GET /v2/", func() {
			if a := b.get(t, "/v2/"); a.Status != http.StatusOK {
				t.Errorf("GET /v2/: status %d", a.Status)
			}
		})
		timed(2*soon, "all of what is cached", func() {
			if err := b.pull(t.Context(), here); err != nil {
				t.Error(err)
			}
		})
		timed(bounded, "what skopeo says", func() {
			_, err := skopeo.Pull(t.Context(), away.ByTag(b.Parent), "")
			if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") {
				t.Errorf("skopeo: %v, want a 503", err)
			}
		})
	}
}

// TestHierarchyPing asks each layer for the version of the API.
func TestHierarchyPing(t *testing.T) {
	t.Parallel()
	h := hierarchy(t, lab.HierarchyOptions{Lower: 5, Registries: []lab.RegistryHost{{Host: "plant.azurecr.io"}}})
	for i, l := range h.Layers {
		b := newBottom(t, h, l)
		var took []time.Duration
		for range 10 {
			start := time.Now()
			if a := b.get(t, "/v2/"); a.Status != http.StatusOK {
				t.Errorf("status %d, want 200\n%s", a.Status, a.Body)
			}
			took = append(took, time.Since(start))
		}
		p50 := quantile(took, 0.5)
		t.Logf("GET /v2/ through %d proxies: p50 %v, max %v", i+1, p50.Round(100*time.Microsecond), slices.Max(took).Round(100*time.Microsecond))
		if limit := 500 * time.Millisecond; p50 > limit {
			t.Errorf("GET /v2/ through %d proxies: %v, want at most %v", i+1, p50, limit)
		}
	}
	if got := h.Origins[0].Counts(); got.Requests != 0 {
		t.Errorf("%d requests to upstream, want 0: %s", got.Requests, fmt.Sprint(h.Origins[0]))
	}
}
