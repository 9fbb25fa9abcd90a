package synth

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

const size = 64 << 10

// start returns a registry with one image of two layers, and its URL.
func start(t *testing.T) (Remote, Image) {
	t.Helper()
	s := NewServer()
	registry, control := httptest.NewServer(s), httptest.NewServer(s.Control())
	t.Cleanup(registry.Close)
	t.Cleanup(control.Close)
	r := Remote{Registry: registry.URL, URL: control.URL}
	img, err := r.Add(t.Context(), "a/b", "1", 7, []int64{size, 2 * size})
	if err != nil {
		t.Fatal(err)
	}
	return r, img
}

func get(t *testing.T, method, url string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestServesAnImage(t *testing.T) {
	r, img := start(t)
	for _, ref := range []string{"1", img.Manifest.String()} {
		resp, body := get(t, http.MethodGet, r.Registry+"/v2/a/b/manifests/"+ref, nil)
		if resp.StatusCode != http.StatusOK || digest.FromBytes(body) != img.Manifest {
			t.Errorf("manifest %s: %s with digest %s, want %s", ref, resp.Status, digest.FromBytes(body), img.Manifest)
		}
		if got := resp.Header.Get("Content-Type"); got != img.MediaType {
			t.Errorf("manifest %s has media type %q, want %q", ref, got, img.MediaType)
		}
		if got := resp.Header.Get("Docker-Content-Digest"); got != img.Manifest.String() {
			t.Errorf("manifest %s has Docker-Content-Digest %q, want %q", ref, got, img.Manifest)
		}
	}
	if len(img.Layers) != 2 {
		t.Fatalf("the image has layers %v, want 2", img.Layers)
	}
	for _, l := range img.Layers {
		resp, body := get(t, http.MethodGet, r.Registry+"/v2/a/b/blobs/"+l.Digest.String(), nil)
		if resp.StatusCode != http.StatusOK || digest.FromBytes(body) != l.Digest || int64(len(body)) != l.Size {
			t.Errorf("layer %v: %s with digest %s and %d bytes", l, resp.Status, digest.FromBytes(body), len(body))
		}
	}
}

func TestIsTheSameInEachRun(t *testing.T) {
	_, one := start(t)
	_, two := start(t)
	if one.Manifest != two.Manifest {
		t.Errorf("manifests are %s and %s, want the same", one.Manifest, two.Manifest)
	}
}

func TestAnswers(t *testing.T) {
	r, img := start(t)
	layer := "/v2/a/b/blobs/" + img.Layers[0].Digest.String()
	for _, c := range []struct {
		name, method, path, rng string
		status, length          int
	}{
		{"base", http.MethodGet, "/v2/", "", http.StatusOK, 2},
		{"range", http.MethodGet, layer, "bytes=1000-", http.StatusPartialContent, int(img.Layers[0].Size) - 1000},
		{"head", http.MethodHead, layer, "", http.StatusOK, 0},
		{"unknown tag", http.MethodGet, "/v2/a/b/manifests/2", "", http.StatusNotFound, -1},
		{"unknown blob", http.MethodGet, "/v2/a/b/blobs/sha256:00", "", http.StatusNotFound, -1},
		{"push", http.MethodPut, "/v2/a/b/manifests/1", "", http.StatusMethodNotAllowed, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := http.Header{}
			if c.rng != "" {
				header.Set("Range", c.rng)
			}
			resp, body := get(t, c.method, r.Registry+c.path, header)
			if resp.StatusCode != c.status || c.length >= 0 && len(body) != c.length {
				t.Errorf("got %s with %d bytes, want %d with %d", resp.Status, len(body), c.status, c.length)
			}
		})
	}
}

func TestCounts(t *testing.T) {
	r, img := start(t)
	layer := r.Registry + "/v2/a/b/blobs/" + img.Layers[0].Digest.String()
	get(t, http.MethodGet, layer, nil)
	get(t, http.MethodGet, layer, nil)
	get(t, http.MethodHead, layer, nil)
	get(t, http.MethodGet, r.Registry+"/v2/a/b/manifests/1", nil)
	c, err := r.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.Requests != 4 || c.BlobGET != 2 || c.BlobHEAD != 1 || c.ManifestGET != 1 {
		t.Errorf("counted %s, want 2 GET and 1 HEAD of a blob and 1 GET of a manifest", c.Counts)
	}
	if l := img.Layers[0].Size; c.BlobBytes != 2*l || c.UniqueBlobBytes != l {
		t.Errorf("counted %d bytes, %d unique; want %d and %d", c.BlobBytes, c.UniqueBlobBytes, 2*l, l)
	}
	if err := r.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := r.Counters(t.Context()); err != nil || c != (Counters{}) {
		t.Errorf("after a reset: %+v, %v; want zeros", c, err)
	}
}

func TestClear(t *testing.T) {
	r, _ := start(t)
	if err := r.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if resp, _ := get(t, http.MethodGet, r.Registry+"/v2/a/b/manifests/1", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a removed image gives %s, want 404", resp.Status)
	}
}

// TestShape measures in the time of a bubble, so the figures are exact.
func TestShape(t *testing.T) {
	const bytesPerSecond = burst
	for name, c := range map[string]struct {
		shape Shape
		ahead int64 // what may leave at once
	}{
		"all together":    {Shape{BytesPerSecond: bytesPerSecond, Latency: 3 * time.Second}, burst},
		"each connection": {Shape{ConnBytesPerSecond: bytesPerSecond, Latency: 3 * time.Second}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer()
				img, err := s.Add("a/b", "1", 7, []int64{10 * burst})
				if err != nil {
					t.Fatal(err)
				}
				s.SetShape(c.shape)
				begin := time.Now()
				w := httptest.NewRecorder()
				s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet,
					"/v2/a/b/blobs/"+img.Layers[0].Digest.String(), nil))
				if int64(w.Body.Len()) != img.Layers[0].Size {
					t.Fatalf("got %d bytes, want %d", w.Body.Len(), img.Layers[0].Size)
				}
				want := 3*time.Second + time.Duration((img.Layers[0].Size-c.ahead)*int64(time.Second)/bytesPerSecond)
				if took := time.Since(begin); (took - want).Abs() > time.Millisecond {
					t.Errorf("took %v, want %v", took, want)
				}
			})
		})
	}
}

func TestNoRanges(t *testing.T) {
	r, img := start(t)
	if err := r.SetShape(t.Context(), Shape{NoRanges: true}); err != nil {
		t.Fatal(err)
	}
	layer := img.Layers[0]
	resp, body := get(t, http.MethodGet, r.Registry+"/v2/a/b/blobs/"+layer.Digest.String(), http.Header{"Range": {"bytes=1000-"}})
	if resp.StatusCode != http.StatusOK || int64(len(body)) != layer.Size {
		t.Errorf("a range: %s with %d bytes, want all of %d", resp.Status, len(body), layer.Size)
	}
}
