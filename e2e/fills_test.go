package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

const mib = 1 << 20

// TestHerd has 50 clients pull one cold image of 100 MiB at once. It comes from
// upstream once.
func TestHerd(t *testing.T) {
	const clients = 50
	img := noise(t, "herd/image", 60*mib, 25*mib, 10*mib, 5*mib)
	up := upstream(t, lab.UpstreamOptions{Link: &lab.Link{Rate: 100e6}}, img)
	m := module(t, up.Env())

	errs := make(chan error, clients)
	for range clients {
		go func() { errs <- pull(t.Context(), m, img) }()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}

	got := up.Counts()
	t.Logf("%d clients, %d bytes each: %v", clients, img.Size(), got)
	t.Logf("upstream blob bytes / unique bytes = %.2f", float64(got.BlobBytes)/float64(img.Size()))
	// In one GET or, of the layer of 60 MiB, in several for parts of it.
	if got.BlobBytes != img.Size() || got.ManifestGET != 1 {
		t.Errorf("upstream sent %d blob bytes and %d manifests, want %d, 1\n%v",
			got.BlobBytes, got.ManifestGET, img.Size(), up)
	}
	usage := must(m.Usage())(t)
	t.Logf("peak memory %.1f MiB, CPU %v", float64(usage.PeakRSS)/mib, usage.CPU)
	if usage.PeakRSS > 64*mib {
		t.Errorf("peak memory is %d bytes, want at most 64 MiB", usage.PeakRSS)
	}
	checkStore(t, m)
}

// pull fetches an image as an engine does: the manifest by its tag, then all
// blobs at once, each compared with what was pushed.
func pull(ctx context.Context, s *lab.Server, img lab.Image) error {
	f, err := fetch(ctx, manifestURL(s, img.Repo, img.Tag))
	if err != nil {
		return err
	}
	if f.Status != http.StatusOK || f.Digest != img.Root().Digest {
		return fmt.Errorf("manifest: status %d, %s, want 200, %s", f.Status, f.Digest, img.Root().Digest)
	}
	errs := make(chan error, len(img.Blobs))
	for _, b := range img.Blobs {
		go func() {
			f, err := fetch(ctx, blobURL(s, img.Repo, b.Digest))
			if err == nil {
				err = f.whole(b)
			}
			errs <- err
		}()
	}
	err = nil
	for range img.Blobs {
		err = errors.Join(err, <-errs)
	}
	return err
}

// TestFirstClientLeaves shows that a download belongs to the cache: it goes on
// when the client that has caused it is gone.
func TestFirstClientLeaves(t *testing.T) {
	t.Parallel()
	img := noise(t, "leave/image", 32*mib)
	layer := img.Blobs[0]
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())

	// Upstream pauses at a half, so that the client leaves in the middle.
	gate := lab.NewGate(lab.ForDigest(layer.Digest.String()), layer.Size/2)
	up.Use(gate.Middleware)
	ctx, leave := context.WithCancel(t.Context())
	resp := open(t, ctx, http.MethodGet, blobURL(m, img.Repo, layer.Digest))
	if _, err := io.CopyN(io.Discard, resp.Body, layer.Size*3/10); err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	leave()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the client was served to the end though it had left")
	}
	resp.Body.Close()
	gate.Open()

	eventually(t, "the fill is complete", func() bool { return stored(m, layer.Digest) })
	if err := up.Down(); err != nil {
		t.Fatal(err)
	}
	wholeBlob(t, m, img.Repo, layer)
	got := up.Counts()
	t.Logf("client left at 30%%: %v", got)
	if got.BlobBytes != layer.Size {
		t.Errorf("upstream sent %d bytes, want %d\n%v", got.BlobBytes, layer.Size, up)
	}
	checkStore(t, m)
}

// TestSlowFirstClient shows that a client which hardly reads does not hold up
// the others of the same blob, and gets all of it in the end.
func TestSlowFirstClient(t *testing.T) {
	t.Parallel()
	const fast = 9
	img := noise(t, "slow/image", 64*mib)
	layer := img.Blobs[0]
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())

	// The slow client takes one MiB, and no more before the others have ended:
	// that is slower than any line. What is left of 64 MiB is more than the
	// sockets between hold.
	slow := open(t, t.Context(), http.MethodGet, blobURL(m, img.Repo, layer.Digest))
	defer slow.Body.Close()
	hash := digest.Canonical.Digester()
	if _, err := io.CopyN(hash.Hash(), slow.Body, mib); err != nil {
		t.Fatal(err)
	}

	var wg sync.WaitGroup
	errs := make(chan error, fast)
	for range fast {
		wg.Go(func() {
			f, err := fetch(t.Context(), blobURL(m, img.Repo, layer.Digest))
			if err == nil {
				err = f.whole(layer)
			}
			errs <- err
		})
	}
	wg.Wait() // hangs here, and go test's timeout tells, if they wait for the slow one
	for range fast {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}

	if _, err := io.Copy(hash.Hash(), slow.Body); err != nil {
		t.Errorf("the slow client: %v", err)
	}
	if got := hash.Digest(); slow.StatusCode != http.StatusOK || got != layer.Digest {
		t.Errorf("the slow client: status %d, %s, want 200, %s", slow.StatusCode, got, layer.Digest)
	}
	got := up.Counts()
	t.Logf("one slow and %d fast clients: %v", fast, got)
	if got.BlobBytes != layer.Size {
		t.Errorf("upstream sent %d bytes, want %d\n%v", got.BlobBytes, layer.Size, up)
	}
}

// TestColdHead shows that the size of a blob which a cached manifest names is
// known without asking.
func TestColdHead(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	child := img.Manifests[0]
	for _, ref := range []string{img.Tag, child.Digest.String()} {
		if a := get(t, manifestURL(m, img.Repo, ref)); a.Status != http.StatusOK {
			t.Fatalf("manifest %s: status %d\n%s", ref, a.Status, a.Body)
		}
	}
	up.Reset()
	for _, b := range img.Blobs[:3] { // of the first child
		a := do(t, http.MethodHead, blobURL(m, img.Repo, b.Digest))
		if a.Status != http.StatusOK || a.Header.Get("Content-Length") != fmt.Sprint(b.Size) ||
			a.Header.Get("Docker-Content-Digest") != b.Digest.String() {
			t.Errorf("HEAD of a cold blob: status %d, %v, want 200, %d bytes", a.Status, a.Header, b.Size)
		}
	}
	requests(t, up, "HEAD of cold blobs", 0)
}

// TestSharedBlob shows that a blob which is cached for one repository is not
// downloaded again for another; whether the other has it is upstream's say.
func TestSharedBlob(t *testing.T) {
	t.Parallel()
	img := noise(t, "shared/one", mib)
	up := upstream(t, lab.UpstreamOptions{}, img, img.In("shared/two", "1.0"))
	m := module(t, up.Env())
	layer := img.Blobs[0]
	wholeBlob(t, m, "shared/one", layer)
	up.Reset()
	wholeBlob(t, m, "shared/two", layer)
	got := up.Counts()
	t.Logf("from a second repository: %v", got)
	if got.BlobBytes != 0 || got.BlobHEAD != 1 || got.Requests != 1 {
		t.Errorf("upstream sent %d bytes in %d requests, want none and one HEAD\n%v", got.BlobBytes, got.Requests, up)
	}
	if a := get(t, blobURL(m, "shared/three", layer.Digest)); a.Status != http.StatusNotFound || a.code(t) != "BLOB_UNKNOWN" {
		t.Errorf("from a repository that does not have it: status %d, want 404\n%.200s", a.Status, a.Body)
	}
}
