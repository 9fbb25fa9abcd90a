package e2e

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// TestTransparent compares each kind of content with upstream's, to the byte:
// by tag and by digest, cold and warm, asked for by HEAD first and by GET first.
func TestTransparent(t *testing.T) {
	samples := must(lab.Samples())(t)
	for _, methods := range [][]string{{http.MethodHead, http.MethodGet}, {http.MethodGet, http.MethodHead}} {
		t.Run(methods[0]+" first", func(t *testing.T) {
			t.Parallel()
			up := upstream(t, lab.UpstreamOptions{}, samples...)
			m := module(t, up.Env())
			for _, img := range samples {
				t.Run(img.Kind, func(t *testing.T) {
					for _, what := range []string{"cold", "warm"} {
						up.Reset()
						for _, method := range methods {
							compareImage(t, what, method, m, up, img)
						}
						t.Logf("%s: %v", what, up.Counts())
					}
					requests(t, up, "warm", 0)
				})
			}
			checkStore(t, m)
		})
	}
}

// compareImage compares all manifests and blobs of an image.
func compareImage(t *testing.T, what, method string, m *lab.Server, up *lab.Upstream, img lab.Image) {
	t.Helper()
	refs := []string{img.Tag}
	for _, raw := range img.Manifests {
		refs = append(refs, raw.Digest.String())
	}
	for _, ref := range refs {
		got := do(t, method, manifestURL(m, img.Repo, ref))
		want := do(t, method, manifestURL(up.Registry, img.Repo, ref))
		sameContent(t, fmt.Sprintf("%s %s of manifest %s", what, method, ref), got, want)
	}
	for _, b := range img.Blobs {
		got := do(t, method, blobURL(m, img.Repo, b.Digest))
		want := do(t, method, blobURL(up.Registry, img.Repo, b.Digest))
		sameContent(t, fmt.Sprintf("%s %s of blob %s", what, method, b.Digest), got, want)
	}
}

// sameContent compares what content is: bytes, length, type and digest.
func sameContent(t *testing.T, what string, got, want answer) {
	t.Helper()
	if got.Status != http.StatusOK || want.Status != http.StatusOK {
		t.Errorf("%s: status %d, upstream's %d\n%.300s", what, got.Status, want.Status, got.Body)
		return
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Docker-Content-Digest", "Etag"} {
		if g, w := got.Header.Values(name), want.Header.Values(name); !slices.Equal(g, w) {
			t.Errorf("%s: %s is %q, upstream's %q", what, name, g, w)
		}
	}
	if string(got.Body) != string(want.Body) || got.Err != nil {
		t.Errorf("%s: %d bytes (%v), upstream's %d", what, len(got.Body), got.Err, len(want.Body))
	}
}

// TestAbsentContent asks for what manifests name and upstream does not have:
// the images of a sparse index, a layer that lies elsewhere.
func TestAbsentContent(t *testing.T) {
	t.Parallel()
	sparse, foreign := sample(t, "sparse index"), sample(t, "non-distributable layer")
	up := upstream(t, lab.UpstreamOptions{}, sparse, foreign)
	m := module(t, up.Env())
	for _, img := range []lab.Image{sparse, foreign} {
		if a := get(t, manifestURL(m, img.Repo, img.Tag)); a.Status != http.StatusOK {
			t.Fatalf("%s: status %d\n%s", img.Kind, a.Status, a.Body)
		}
	}
	full := sample(t, "sparse index")
	absent := 0
	for dgst := range digestsIn(full.Root().Bytes) {
		if dgst == full.Manifests[0].Digest {
			continue
		}
		absent++
		if a := get(t, manifestURL(m, sparse.Repo, dgst.String())); a.Status != http.StatusNotFound || a.code(t) != "MANIFEST_UNKNOWN" {
			t.Errorf("manifest %s: status %d, want 404\n%s", dgst, a.Status, a.Body)
		}
	}
	elsewhere := lab.BytesBlob([]byte("not in the registry")).Digest
	if a := get(t, blobURL(m, foreign.Repo, elsewhere)); a.Status != http.StatusNotFound || a.code(t) != "BLOB_UNKNOWN" {
		t.Errorf("blob %s: status %d, want 404\n%s", elsewhere, a.Status, a.Body)
	}
	if absent != 2 {
		t.Errorf("the sparse index names %d absent images, want 2", absent)
	}
}

// digestsIn yields what looks like a sha256 digest in a text.
func digestsIn(text []byte) map[digest.Digest]bool {
	found := map[digest.Digest]bool{}
	for _, part := range strings.Split(string(text), `"`) {
		if d := digest.Digest(part); d.Validate() == nil {
			found[d] = true
		}
	}
	return found
}

// TestSHA512 pulls content whose digests are sha512. The stock registry cannot
// keep such, so its answers are scripted.
func TestSHA512(t *testing.T) {
	t.Parallel()
	const repo = "samples/sha512"
	layer := []byte(strings.Repeat("content under a sha512 digest\n", 1000))
	layerDigest := digest.SHA512.FromBytes(layer)
	config := lab.BytesBlob([]byte("{}"))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"text/plain","digest":%q,"size":%d}]}`,
		ociManifest, config.Digest, layerDigest, len(layer))
	manifestDigest := digest.NewDigestFromBytes(digest.SHA512, sum512(manifest))

	up := upstream(t, lab.UpstreamOptions{})
	serve := map[string]http.HandlerFunc{
		"/v2/" + repo + "/manifests/1.0":                       content(ociManifest, string(manifest), "Docker-Content-Digest", manifestDigest.String()),
		"/v2/" + repo + "/manifests/" + string(manifestDigest): content(ociManifest, string(manifest), "Docker-Content-Digest", manifestDigest.String()),
		"/v2/" + repo + "/blobs/" + string(layerDigest):        content("application/octet-stream", string(layer)),
		"/v2/" + repo + "/blobs/" + string(config.Digest):      content("application/octet-stream", "{}"),
	}
	up.Use(lab.Answer(func(r *http.Request) bool { return serve[r.URL.Path] != nil }, func(w http.ResponseWriter, r *http.Request) {
		serve[r.URL.Path](w, r)
	}))
	m := module(t, up.Env())

	for _, what := range []string{"cold", "warm"} {
		up.Reset()
		for _, ref := range []string{"1.0", manifestDigest.String()} {
			a := get(t, manifestURL(m, repo, ref))
			if a.Status != http.StatusOK || string(a.Body) != string(manifest) || a.Header.Get("Docker-Content-Digest") != manifestDigest.String() {
				t.Errorf("%s manifest %.20s: status %d, %s, want 200, %s\n%.300s", what, ref,
					a.Status, a.Header.Get("Docker-Content-Digest"), manifestDigest, a.Body)
			}
		}
		a := get(t, blobURL(m, repo, layerDigest))
		if a.Status != http.StatusOK || string(a.Body) != string(layer) {
			t.Errorf("%s blob: status %d, %d bytes, want 200, %d\n%.200s", what, a.Status, len(a.Body), len(layer), a.Body)
		}
	}
	requests(t, up, "warm", 0)
	checkStore(t, m)

	// Wrong bytes under a sha512 digest are found out, too.
	wrong := digest.SHA512.FromString("something else")
	serve["/v2/"+repo+"/blobs/"+string(wrong)] = content("application/octet-stream", string(layer))
	if f, err := fetch(t.Context(), blobURL(m, repo, wrong)); err == nil && f.Status == http.StatusOK && f.Err == nil {
		t.Errorf("wrong bytes: a complete 200 of %d bytes", f.Size)
	}
	if stored(m, wrong) {
		t.Error("wrong bytes are stored")
	}
}

func sum512(b []byte) []byte {
	sum := sha512.Sum512(b)
	return sum[:]
}
