package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// TestConnections downloads a large layer over as many connections as are set,
// where a manifest has told its size, and each byte once. How fast that is tells
// `make bench`.
func TestConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		env         lab.Env
		least, most int
	}{
		"default": {nil, 4, 4},
		"two":     {lab.Env{"REGISTRY_PROXY_CONNECTIONS": "2"}, 2, 2},
		"one":     {lab.Env{"REGISTRY_PROXY_CONNECTIONS": "1"}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := noise(t, "connections/image", sized[int64](100*mib, 200*mib))
			up := origin(t, lab.OriginOptions{Link: &lab.Link{ConnRate: 40e6, Latency: 50 * time.Millisecond}}, img)
			m := module(t, up.Env(), tt.env)
			knowSize(t, m, img)
			wholeBlob(t, m, img.Repo, img.Blobs[0])
			amplification(t, up, img.Blobs[0].Size, 1)
			if got := up.Parallel(); got < tt.least || got > tt.most {
				t.Errorf("%d connections at once, want %d to %d", got, tt.least, tt.most)
			}
			checkStore(t, m)
		})
	}
}

// TestNoRanges downloads from an upstream that answers a request for a part with
// the whole. It sends that once.
func TestNoRanges(t *testing.T) {
	t.Parallel()
	img := noise(t, "noranges/image", 64*mib)
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 60e6}}, img)
	up.Use(lab.IgnoreRange(lab.Blobs))
	m := module(t, up.Env())
	knowSize(t, m, img)
	wholeBlob(t, m, img.Repo, img.Blobs[0])
	amplification(t, up, img.Blobs[0].Size, 1.005)
	checkStore(t, m)
}

// TestReadersOfASlowFill has clients of all kinds ask for a blob that is being
// downloaded over a slow line. Each gets what is there at once, the end of the
// blob is fetched out of turn, nobody waits for a client that reads nothing, and
// upstream sends each byte once.
func TestReadersOfASlowFill(t *testing.T) {
	t.Parallel()
	const rate = 20e6
	img := noise(t, "readers/image", 96*mib)
	layer := img.Blobs[0]
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: rate}}, img)
	m := module(t, up.Env())
	knowSize(t, m, img)
	url := blobURL(m, img.Repo, layer.Digest)

	// It is first, and reads nothing before all others have everything.
	idle := open(t, t.Context(), http.MethodGet, url)
	defer idle.Body.Close()
	whole := make(chan error, 1)
	go func() {
		f, err := fetch(t.Context(), url)
		whole <- errors.Join(err, f.whole(layer))
	}()
	resumed := make(chan error, 1)
	go func() { resumed <- leaveAndResume(t.Context(), url, layer, 10*mib) }()

	if !reached(up, 24*mib, whole) {
		t.Fatalf("the download has ended too early: %v", <-whole)
	}
	asked := up.Counts()
	for name, tt := range map[string]struct {
		first, last int64
		within      int64 // what upstream may send meanwhile
	}{
		// Half a second of the line, for a machine that does other things too.
		"a part that is there": {0, 64<<10 - 1, rate / 2},
		"a part near the end":  {layer.Size - 1 - 64<<10, layer.Size - 2, 32 * mib},
	} {
		before := up.Counts().BlobBytes
		a := get(t, url, "Range", fmt.Sprintf("bytes=%d-%d", tt.first, tt.last))
		took := up.Counts().BlobBytes - before
		t.Logf("%s: answered after %.1f MiB of upstream", name, float64(took)/mib)
		right := make([]byte, tt.last-tt.first+1)
		if _, err := layer.Content.ReadAt(right, tt.first); err != nil {
			t.Fatal(err)
		}
		if a.Status != http.StatusPartialContent || a.Err != nil || !bytes.Equal(a.Body, right) {
			t.Errorf("%s: status %d, %d bytes, %v, want 206, the %d bytes that are there", name, a.Status, len(a.Body), a.Err, len(right))
		}
		if took > tt.within {
			t.Errorf("%s: upstream has sent %d bytes meanwhile, want %d at most", name, took, tt.within)
		}
	}
	a := do(t, http.MethodHead, url)
	if a.Status != http.StatusOK || a.Header.Get("Content-Length") != fmt.Sprint(layer.Size) {
		t.Errorf("HEAD: status %d, %s bytes, want 200, %d", a.Status, a.Header.Get("Content-Length"), layer.Size)
	}
	got := up.Counts()
	if got.BlobHEAD != asked.BlobHEAD || got.ManifestGET != asked.ManifestGET {
		t.Errorf("upstream was asked about a blob that was on its way: %v", got)
	}
	if stored(m, layer.Digest) {
		t.Error("all of it is there: the line was too fast to tell anything")
	}

	if err := <-resumed; err != nil {
		t.Errorf("a client that resumes: %v", err)
	}
	if err := <-whole; err != nil {
		t.Errorf("a client that reads all: %v", err)
	}
	digester := digest.Canonical.Digester()
	if _, err := io.Copy(digester.Hash(), idle.Body); err != nil || digester.Digest() != layer.Digest {
		t.Errorf("a client that has read nothing so far: %s, %v, want %s", digester.Digest(), err, layer.Digest)
	}
	amplification(t, up, layer.Size, 1.005)
	checkStore(t, m)
}

// leaveAndResume reads the first bytes of a blob, goes away, and comes back for the
// rest, as engines do after a break.
func leaveAndResume(ctx context.Context, url string, want lab.RawBlob, first int64) error {
	digester := digest.Canonical.Digester()
	part := func(n int64, status int, headers ...string) error {
		ctx, leave := context.WithCancel(ctx)
		defer leave()
		req, err := request(ctx, http.MethodGet, url, headers...)
		if err != nil {
			return err
		}
		resp, err := client().Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != status {
			return fmt.Errorf("%v: %s, want %d", headers, resp.Status, status)
		}
		if _, err := io.CopyN(digester.Hash(), resp.Body, n); err != nil {
			return fmt.Errorf("%v: %w", headers, err)
		}
		return nil
	}
	err := part(first, http.StatusOK)
	if err == nil {
		err = part(want.Size-first, http.StatusPartialContent, "Range", fmt.Sprintf("bytes=%d-", first))
	}
	if got := digester.Digest(); err == nil && got != want.Digest {
		err = fmt.Errorf("the parts make %s, want %s", got, want.Digest)
	}
	return err
}

// TestBandwidth downloads over several connections with a limit for all of them.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	const limit = 16 * mib // a second
	img := noise(t, "bandwidth/image", 40*mib, 16*mib, 8*mib)
	up := origin(t, lab.OriginOptions{}, img)
	m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_BANDWIDTH": "16MiB/s"})
	start := time.Now()
	if err := pull(t.Context(), m, img); err != nil {
		t.Fatal(err)
	}
	rate := float64(img.Size()) / time.Since(start).Seconds()
	t.Logf("limit %d MiB/s: %.2f MiB/s", limit/mib, rate/mib)
	// A machine that does other things too may be slower, but not by much.
	if rate > 1.1*limit || rate < 0.6*limit {
		t.Errorf("%.0f bytes a second, want %d", rate, limit)
	}
	amplification(t, up, img.Size(), 1)
}
