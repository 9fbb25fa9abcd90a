package lab_test

import (
	"net/http"
	"testing"

	"registry-module/e2e/lab"
)

// TestMemory pushes images, and counts what a client fetches.
func TestMemory(t *testing.T) {
	up, err := lab.StartMemory(lab.MemoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
	}()
	img, err := lab.Sample(lab.OCIIndex)
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Push(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	if n := up.Counts().Requests; n != 0 {
		t.Errorf("pushing past the gateway counted %d requests", n)
	}
	base := up.URL() + "/v2/" + img.Repo
	if got := body(t, base+"/manifests/"+img.Tag); got != string(img.Root().Bytes) {
		t.Errorf("the manifest is\n%s", got)
	}
	for _, b := range img.Blobs {
		if got := int64(len(body(t, base+"/blobs/"+b.Digest.String()))); got != b.Size {
			t.Errorf("blob %s has %d bytes, want %d", b.Digest, got, b.Size)
		}
	}
	want := lab.Counts{Requests: 1 + len(img.Blobs), ManifestGET: 1, BlobGET: len(img.Blobs),
		ManifestBytes: int64(len(img.Root().Bytes)), BlobBytes: img.Size()}
	if got := up.Counts(); got != want {
		t.Errorf("counted %v\n  want %v\n%v", got, want, &up.Ledger)
	}
	if got := up.Env()["REGISTRY_PROXY_REMOTEURL"]; got != up.URL() {
		t.Errorf("a cache is to ask %s, want %s", got, up.URL())
	}
}

// TestOriginTags asks for lists of tags.
func TestOriginTags(t *testing.T) {
	up, img := origin(t, lab.OriginOptions{}, 1000)
	up.Add(img.In(img.Repo, "2.0"), img.In("c", "1.0"))
	for repo, want := range map[string]string{
		img.Repo: `{"name":"a/b","tags":["1.0","2.0"]}` + "\n",
		"c":      `{"name":"c","tags":["1.0"]}` + "\n",
	} {
		if got := body(t, up.URL()+"/v2/"+repo+"/tags/list"); got != want {
			t.Errorf("%s: %s, want %s", repo, got, want)
		}
	}
	up.Clear()
	resp, err := http.Get(up.URL() + "/v2/c/tags/list")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("a repository that is not there: status %d, want 404", resp.StatusCode)
	}
}
