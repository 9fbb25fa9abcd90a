package server_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// A client that asks for a platform that was not seeded gets a 404 that says so, while the
// remote is away.
func TestMissingPlatform(t *testing.T) {
	s := newSite(t)
	other := s.up.AddManifest("a/b", "", v1.MediaTypeImageManifest, append([]byte(" "), s.manifest...))
	s.up.AddManifest("a/b", "multi", v1.MediaTypeImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[
		{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}},
		{"mediaType":%q,"digest":%q,"size":1,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`,
		v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, s.image, len(s.manifest), v1.MediaTypeImageManifest, other))
	r, _ := s.cache.Repository(cache.Place{Host: s.up.Host(), Repo: "a/b"})
	_, err := r.Tag(t.Context(), "multi")
	must(t, err)
	s.up.Fail(&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: s.up.Host(), Op: "asking"})
	get := func(method string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.url+"/v2/a/b/manifests/"+other.String(), nil)
		must(t, err)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
		return resp.StatusCode, string(body)
	}
	if status, body := get(http.MethodGet); status != http.StatusServiceUnavailable {
		t.Errorf("status %d before it is pinned: %s", status, body)
	}
	_, err = s.cache.PinImages(t.Context(), cache.Pin{Pattern: r.Key() + ":multi", Reason: cache.PinnedBySeed})
	must(t, err)
	status, body := get(http.MethodGet)
	if status != http.StatusNotFound || !strings.Contains(body, "MANIFEST_UNKNOWN") || !strings.Contains(body, "platform linux/arm/v7 of "+s.up.Host()+"/a/b:multi") {
		t.Errorf("status %d: %s", status, body)
	}
	if status, _ := get(http.MethodHead); status != http.StatusNotFound {
		t.Errorf("status %d to a HEAD", status)
	}
}
