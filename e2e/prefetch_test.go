package e2e

import (
	"net/http"
	"testing"

	"registry-module/e2e/lab"
)

// TestPrefetch shows that with REGISTRY_CACHE_PREFETCH a client that has fetched
// the manifest of an image finds its layers there, or on their way, when it asks
// for them; that a client which only looks causes nothing; and that nothing comes
// twice.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	looked, pulled := noise(t, "prefetch/looked", mib, 2*mib), noise(t, "prefetch/pulled", 40*mib, 3*mib, 1000)
	up := origin(t, lab.OriginOptions{}, looked, pulled)
	m := module(t, up.Env(), lab.Env{"REGISTRY_CACHE_PREFETCH": "true"})

	// Twice, so that the second is answered from what is stored, if it is.
	for _, ref := range []string{looked.Tag, looked.Root().Digest.String()} {
		if a := do(t, http.MethodHead, manifestURL(m, looked.Repo, ref)); a.Status != http.StatusOK {
			t.Fatalf("HEAD of %s: status %d", ref, a.Status)
		}
	}
	// As docker does: it asks what the tag is, then for that.
	if a := do(t, http.MethodHead, manifestURL(m, pulled.Repo, pulled.Tag)); a.Status != http.StatusOK {
		t.Fatalf("HEAD: status %d", a.Status)
	}
	if got := up.Counts().BlobGET; got != 0 {
		t.Errorf("%d blobs were fetched for nobody but who asked by HEAD", got)
	}
	if a := get(t, manifestURL(m, pulled.Repo, pulled.Root().Digest.String())); a.Status != http.StatusOK {
		t.Fatalf("status %d\n%s", a.Status, a.Body)
	}
	eventually(t, "all blobs are stored though no client has asked for them", func() bool { return allStored(m, pulled) })
	// What HEAD might have caused would have come before.
	for _, b := range looked.Blobs {
		if stored(m, b.Digest) {
			t.Errorf("blob %s is stored, and nobody has asked for more than to look", b.Digest)
		}
	}
	if err := pull(t.Context(), m, pulled); err != nil {
		t.Error(err)
	}
	amplification(t, up, pulled.Size(), 1)
	checkStore(t, m)
}

// TestPrefetchPlatform shows that of an image for several platforms, what comes is
// what the manifest of the client's platform names.
func TestPrefetchPlatform(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := origin(t, lab.OriginOptions{}, img)
	m := module(t, up.Env(), lab.Env{"REGISTRY_CACHE_PREFETCH": "true"})
	mine := img.Manifests[0]
	for _, ref := range []string{img.Tag, mine.Digest.String()} {
		if a := get(t, manifestURL(m, img.Repo, ref)); a.Status != http.StatusOK {
			t.Fatalf("%s: status %d\n%s", ref, a.Status, a.Body)
		}
	}
	named := digestsIn(mine.Bytes)
	eventually(t, "the platform's blobs are stored", func() bool {
		for _, b := range img.Blobs {
			if named[b.Digest] && !stored(m, b.Digest) {
				return false
			}
		}
		return true
	})
	for _, b := range img.Blobs {
		if !named[b.Digest] && stored(m, b.Digest) {
			t.Errorf("blob %s of another platform is stored", b.Digest)
		}
	}
	checkStore(t, m)
}
