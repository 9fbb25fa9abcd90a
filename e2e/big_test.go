package e2e

import (
	"io"
	"net/http"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestBigBlob downloads a blob of 1 GiB, at its full size (`make big`) one of
// 20 GB, through a module whose memory does not grow with it.
//
// Neither upstream nor client have the blob anywhere: upstream makes each byte
// when it is asked for it, from its position, and the client counts what it gets
// and drops it; that it is right is checked by the module, and again at the end by
// reading its file. The memory is the peak of resident memory, which the kernel
// keeps for the process, from when it was idle to the end of the download.
func TestBigBlob(t *testing.T) {
	const most = 16 * mib
	img := noise(t, "big/image", sized[int64](1<<30, 20e9))
	layer := img.Blobs[0]
	up := origin(t, lab.OriginOptions{}, img)
	m := module(t, up.Env())
	knowSize(t, m, img)
	if err := m.ResetPeak(); err != nil {
		t.Fatal(err)
	}
	idle := must(m.Usage())(t)

	start := time.Now()
	resp := open(t, t.Context(), http.MethodGet, blobURL(m, img.Repo, layer.Digest))
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	took := time.Since(start).Seconds()
	if err != nil || resp.StatusCode != http.StatusOK || n != layer.Size {
		t.Errorf("status %d, %d bytes, %v, want 200, %d", resp.StatusCode, n, err, layer.Size)
	}
	// The disk may have to write all of it.
	within(t, sized(time.Minute, 10*time.Minute), "the blob is stored", func() bool { return stored(m, layer.Digest) })

	u := must(m.Usage())(t)
	t.Logf("%.2f GB in %.1f s (%.0f MB/s), CPU %v; RSS idle %.1f MiB, peak %.1f MiB",
		float64(n)/1e9, took, float64(n)/1e6/took, u.CPU-idle.CPU, float64(idle.RSS)/mib, float64(u.PeakRSS)/mib)
	if growth := u.PeakRSS - idle.RSS; growth > most {
		t.Errorf("memory has grown by %d bytes, want %d at most", growth, most)
	}
	amplification(t, up, layer.Size, 1)
	checkStore(t, m)
}
