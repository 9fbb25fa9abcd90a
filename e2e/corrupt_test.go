package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"registry-module/e2e/lab"
)

// TestCorruptBlob has upstream send one wrong byte. No client takes the result
// for the blob, nothing of it stays, and a healed upstream is served right.
func TestCorruptBlob(t *testing.T) {
	t.Parallel()
	const clients = 4
	img := noise(t, "corrupt/image", 8*mib, 100)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())

	for _, b := range img.Blobs {
		for _, offset := range []int64{0, b.Size / 2, b.Size - 1} {
			up.Use(lab.FlipByte(lab.ForDigest(b.Digest.String()), offset))
			results := make(chan error, clients)
			for range clients {
				go func() {
					f, err := fetch(t.Context(), blobURL(m, img.Repo, b.Digest))
					if err == nil && f.Status == http.StatusOK && f.Err == nil {
						err = fmt.Errorf("byte %d of %d was wrong, and a client got a complete 200 of %d bytes", offset, b.Size, f.Size)
					} else {
						err = nil // whatever else it got: it knows that it is not the blob
					}
					results <- err
				}()
			}
			for range clients {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
			if stored(m, b.Digest) {
				t.Errorf("byte %d of %d was wrong, and the blob is stored", offset, b.Size)
			}
		}
	}
	if n := checkStore(t, m); n != 0 {
		t.Errorf("%d blobs are stored, want none", n)
	}

	up.Use()
	for _, b := range img.Blobs {
		wholeBlob(t, m, img.Repo, b)
		eventually(t, "the blob is stored", func() bool { return stored(m, b.Digest) })
	}
	checkStore(t, m)
}

// TestCorruptRange asks for the rest of a cold blob that has a wrong byte in it,
// as Docker does after a break. The end of the blob does not come. A closed range
// is answered before anybody can tell (docs/design.md, "Ranges"); here it comes
// first, so that there is a download that the rest can follow.
func TestCorruptRange(t *testing.T) {
	t.Parallel()
	img := noise(t, "corrupt/range", 2*mib)
	layer := img.Blobs[0]
	right := readAll(t, layer)
	// A slow line, so that the part is there long before the whole is.
	up := upstream(t, lab.UpstreamOptions{Link: &lab.Link{Rate: 10e6}}, img)
	m := module(t, up.Env())
	up.Use(lab.FlipByte(lab.ForDigest(layer.Digest.String()), 1000))
	url := blobURL(m, img.Repo, layer.Digest)
	if a := blobOnce(t, url, "Range", "bytes=0-9"); a.Status != http.StatusPartialContent || string(a.Body) != right[:10] {
		t.Errorf("a part that is there: status %d, %q", a.Status, a.Body)
	}
	for _, from := range []int{0, 500, 1000} {
		a := blobOnce(t, url, "Range", fmt.Sprintf("bytes=%d-", from))
		if a.Status/100 == 2 && a.Err == nil && string(a.Body) != right[from:] {
			t.Errorf("from %d: a complete %d of %d bytes, one of them wrong", from, a.Status, len(a.Body))
		}
	}
	if n := checkStore(t, m); n != 0 {
		t.Errorf("%d blobs are stored, want none", n)
	}
}

// TestCorruptManifest is the same for manifests, which are small enough to be
// answered with a proper error.
func TestCorruptManifest(t *testing.T) {
	t.Parallel()
	img := sample(t, "OCI image")
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	root := img.Root()

	up.Use(lab.FlipByte(func(r *http.Request) bool { return lab.KindOf(r.URL.Path) == lab.Manifest }, int64(len(root.Bytes))/2))
	for _, ref := range []string{img.Tag, root.Digest.String()} {
		a := get(t, manifestURL(m, img.Repo, ref))
		if a.Status != http.StatusBadGateway || a.code(t) != "UNAVAILABLE" {
			t.Errorf("%s: status %d, want 502\n%s", ref, a.Status, a.Body)
		}
	}
	if n := checkStore(t, m); n != 0 {
		t.Errorf("%d blobs are stored, want none", n)
	}

	up.Use()
	for _, ref := range []string{img.Tag, root.Digest.String()} {
		if a := get(t, manifestURL(m, img.Repo, ref)); string(a.Body) != string(root.Bytes) {
			t.Errorf("%s from a healed upstream: status %d\n%s", ref, a.Status, a.Body)
		}
	}
}
