package upstreamtest_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/upstream/upstreamtest"
)

func TestReferrers(t *testing.T) {
	reg := upstreamtest.New(t)
	img := reg.AddRandomImage("a/b", "v1", 1, 10)
	of := v1.Descriptor{MediaType: img.MediaType, Digest: img.Digest, Size: int64(len(img.Manifest))}
	added := make(map[digest.Digest]v1.Descriptor)
	for _, text := range []string{"x", "y", "z"} {
		desc := reg.AddReferrer("a/b", of, "application/"+text, map[string]string{"a": text})
		added[desc.Digest] = desc
		if resp, content, err := get(t, reg, "/v2/a/b/manifests/"+desc.Digest.String()); err != nil || resp.StatusCode != 200 ||
			digest.FromBytes(content) != desc.Digest || int64(len(content)) != desc.Size || resp.Header.Get("Content-Type") != desc.MediaType {
			t.Errorf("the artifact is %v, %q, %v", resp, content, err)
		}
	}
	check := func(content []byte, n int) {
		t.Helper()
		var index v1.Index
		if err := json.Unmarshal(content, &index); err != nil || index.MediaType != v1.MediaTypeImageIndex || index.Manifests == nil || len(index.Manifests) != n {
			t.Errorf("the list is %q, %v, want one of %d", content, err, n)
		}
		for _, desc := range index.Manifests {
			if want := added[desc.Digest]; desc.ArtifactType != want.ArtifactType || desc.Annotations["a"] != want.Annotations["a"] || desc.Size != want.Size {
				t.Errorf("the list has %+v, want %+v", desc, want)
			}
		}
	}
	path := "/v2/a/b/referrers/" + img.Digest.String()
	for path, n := range map[string]int{path: 3, "/v2/other/referrers/" + img.Digest.String(): 0, "/v2/a/b/referrers/" + digest.FromString("x").String(): 0} {
		resp, content, err := get(t, reg, path)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != v1.MediaTypeImageIndex || resp.Header.Get("Link") != "" {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
		check(content, n)
	}

	reg.SetReferrersPage(2)
	resp, content, err := get(t, reg, path)
	next, _, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">; rel=\"next\"")
	if err != nil || !ok {
		t.Errorf("first page: %v, %v", resp, err)
	}
	check(content, 2)
	if resp, content, err = get(t, reg, next); err != nil || resp.Header.Get("Link") != "" {
		t.Errorf("last page: %v, %v", resp, err)
	}
	check(content, 1)

	reg.SetReferrers(false)
	if resp, content, err = get(t, reg, path); err != nil || resp.StatusCode != 404 || strings.Contains(string(content), "errors") {
		t.Errorf("without the API: %v, %q, %v", resp, content, err)
	}
	dgst := reg.TagReferrers("a/b", img.Digest)
	if _, content, err = get(t, reg, "/v2/a/b/manifests/"+strings.Replace(img.Digest.String(), ":", "-", 1)); err != nil || digest.FromBytes(content) != dgst {
		t.Errorf("the tag is %q, %v", content, err)
	}
	check(content, 3)
	if n := reg.Requests(upstreamtest.Referrers); n != 6 {
		t.Errorf("%d requests, want 6", n)
	}
}
