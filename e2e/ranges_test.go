package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// conditions are what clients ask for beside all of a blob. DIGEST stands for
// the blob's.
func conditions() map[string][]string {
	return map[string][]string{
		"plain":                       nil,
		"range, first byte":           {"Range", "bytes=0-0"},
		"range, middle":               {"Range", "bytes=1000-1999"},
		"range, open end":             {"Range", "bytes=5000-"},
		"range, from 0 to the end":    {"Range", "bytes=0-"},
		"range, suffix":               {"Range", "bytes=-100"},
		"range, suffix of all":        {"Range", "bytes=-100000000"},
		"range, suffix of nothing":    {"Range", "bytes=-0"},
		"range, beyond the end":       {"Range", "bytes=10-100000000"},
		"range, behind the end":       {"Range", "bytes=100000000-"},
		"range, backwards":            {"Range", "bytes=5-4"},
		"range, malformed":            {"Range", "bytes=a-b"},
		"range, unknown unit":         {"Range", "lines=1-2"},
		"range, overflow":             {"Range", "bytes=99999999999999999999-"},
		"two ranges":                  {"Range", "bytes=0-9,20-29"},
		"range if it is the same":     {"Range", "bytes=10-19", "If-Range", `"DIGEST"`},
		"range if it is another":      {"Range", "bytes=10-19", "If-Range", `"other"`},
		"if none match, same":         {"If-None-Match", `"DIGEST"`},
		"if none match, same, weak":   {"If-None-Match", `W/"DIGEST"`},
		"if none match, list":         {"If-None-Match", `"other", "DIGEST"`},
		"if none match, any":          {"If-None-Match", "*"},
		"if none match, other":        {"If-None-Match", `"other"`},
		"if none match, and range":    {"If-None-Match", `"DIGEST"`, "Range", "bytes=0-9"},
		"if match, same":              {"If-Match", `"DIGEST"`},
		"if match, other":             {"If-Match", `"other"`},
		"if modified since":           {"If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT"},
		"if unmodified since":         {"If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"},
		"accepts gzip":                {"Accept-Encoding", "gzip, zstd"},
		"accepts nothing of the kind": {"Accept", "text/html"},
	}
}

// TestBlobConditions compares answers with those that the stock registry gives
// for a blob that it has: for a blob that the module has to fetch, and again
// when it has it. (The stock registry as a cache answers like this only some
// time after it has fetched a blob, so it is upstream's own that is asked.)
func TestBlobConditions(t *testing.T) {
	t.Parallel()
	// Each condition has a repository of its own, so that the blob is cold there,
	// and a blob of its own, so that it is nowhere else.
	type subject struct {
		img    lab.Image
		header []string
	}
	subjects := map[string]subject{}
	var images []lab.Image
	for name, header := range conditions() {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			img := noise(t, fmt.Sprintf("conditions/%d", len(images)), 20_000)
			images = append(images, img)
			own := make([]string, len(header))
			for i, h := range header {
				own[i] = strings.ReplaceAll(h, "DIGEST", img.Blobs[0].Digest.String())
			}
			subjects[method+" "+name] = subject{img, own}
		}
	}
	up := upstream(t, lab.UpstreamOptions{}, images...)
	ours, stock := module(t, up.Env()), up.Registry

	for name, s := range subjects {
		t.Run(name, func(t *testing.T) {
			method, _, _ := strings.Cut(name, " ")
			blob := s.img.Blobs[0]
			want := do(t, method, blobURL(stock, s.img.Repo, blob.Digest), s.header...)

			up.Reset()
			cold := do(t, method, blobURL(ours, s.img.Repo, blob.Digest), s.header...)
			same(t, "cold", cold, want)
			if got := up.Counts(); got.BlobGET > 1 || got.BlobBytes > blob.Size {
				t.Errorf("cold: %v, want the blob once at most", got)
			}
			wholeBlob(t, ours, s.img.Repo, blob)
			up.Reset()
			warm := do(t, method, blobURL(ours, s.img.Repo, blob.Digest), s.header...)
			same(t, "warm", warm, want)
			requests(t, up, "warm", 0)
		})
	}
	checkStore(t, ours)
}

// same compares two answers, header by header where clients look.
func same(t *testing.T, what string, got, want answer) {
	t.Helper()
	if got.Status != want.Status {
		t.Errorf("%s: status %d, the stock registry %d\n%.200s", what, got.Status, want.Status, got.Body)
		return
	}
	multipart := strings.HasPrefix(want.Header.Get("Content-Type"), "multipart/")
	for _, name := range []string{
		"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "Content-Encoding",
		"Docker-Content-Digest", "Etag", "Cache-Control", "Docker-Distribution-Api-Version", "Location",
	} {
		if name == "Content-Length" && want.Status == http.StatusPreconditionFailed {
			continue // the stock registry announces the blob's, and sends nothing
		}
		g, w := got.Header.Get(name), want.Header.Get(name)
		if multipart && name == "Content-Type" { // with a random boundary
			g, _, _ = strings.Cut(g, ";")
			w, _, _ = strings.Cut(w, ";")
		}
		if g != w {
			t.Errorf("%s: %s is %q, the stock registry's %q", what, name, g, w)
		}
	}
	if got.Err != nil {
		t.Errorf("%s: %v", what, got.Err)
	}
	if multipart {
		if len(got.Body) != len(want.Body) {
			t.Errorf("%s: %d bytes, the stock registry %d", what, len(got.Body), len(want.Body))
		}
	} else if string(got.Body) != string(want.Body) {
		t.Errorf("%s: another body than the stock registry's: %d bytes and %d\n%.200q\n%.200q",
			what, len(got.Body), len(want.Body), got.Body, want.Body)
	}
}

// TestManifestConditions does the same for manifests.
func TestManifestConditions(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.DockerList)
	root := img.Root().Digest.String()
	up := upstream(t, lab.UpstreamOptions{}, img)
	ours, stock := module(t, up.Env()), up.Registry
	for name, header := range map[string][]string{
		"plain":                nil,
		"if none match, same":  {"If-None-Match", `"` + root + `"`},
		"if none match, other": {"If-None-Match", `"other"`},
		"range":                {"Range", "bytes=0-9"},
		"accepts gzip":         {"Accept-Encoding", "gzip"},
		"accepts one type":     {"Accept", dockerList},
		"accepts with quality": {"Accept", dockerList + ";q=0.5, */*;q=0.1"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for what, ref := range map[string]string{"by tag": img.Tag, "by digest": root} {
				t.Run(method+" "+what+", "+name, func(t *testing.T) {
					got := do(t, method, manifestURL(ours, img.Repo, ref), header...)
					same(t, what, got, do(t, method, manifestURL(stock, img.Repo, ref), header...))
				})
			}
		}
	}
}

// TestAccept shows that what a client says it accepts does not change what a
// reference means. An upstream may know better, a cache does not.
func TestAccept(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{lab.OCIIndex, lab.DockerList, "OCI image", "Docker image"} {
		for name, accept := range map[string]string{
			"anything":     "*/*",
			"another type": "application/vnd.docker.distribution.manifest.v1+prettyjws",
			"all types":    strings.Join([]string{ociIndex, ociManifest, dockerList, dockerManifest}, ","),
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				img := sample(t, kind)
				up := upstream(t, lab.UpstreamOptions{}, img)
				m := module(t, up.Env())
				for _, what := range []string{"cold", "warm"} {
					for _, ref := range []string{img.Tag, img.Root().Digest.String()} {
						a := get(t, manifestURL(m, img.Repo, ref), "Accept", accept)
						if a.Status != http.StatusOK || string(a.Body) != string(img.Root().Bytes) || a.Header.Get("Content-Type") != img.Root().MediaType {
							t.Errorf("%s %s: status %d, %s, want 200, %s\n%.200s", what, ref,
								a.Status, a.Header.Get("Content-Type"), img.Root().MediaType, a.Body)
						}
					}
				}
			})
		}
	}
}
