package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	stockauth "github.com/distribution/distribution/v3/registry/auth"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"registry-module/cache"
	"registry-module/server"
)

// errAway is why the remote of these tests is not asked.
var errAway = errors.New("it has not \"answered\"\r\nX-Injected: \\ since ö")

// Clients are told how old an answer is that can change, and that it is stale.
func TestFreshness(t *testing.T) {
	metrics := prometheus.NewRegistry()
	s := newSite(t, func(o *server.Options) { o.Metrics = metrics })
	tag, tags := s.url+"/v2/a/b/manifests/v1", s.url+"/v2/a/b/tags/list"
	referrers := s.url + "/v2/a/b/referrers/" + s.image.String()
	insist := []string{"Cache-Control", "max-stale=1, No-Cache"}

	for _, path := range []string{tag, tags, referrers} {
		for range 2 {
			r := do(t, http.MethodGet, path)
			if r.status != 200 || r.header.Get("Age") != "0" || r.header.Values("Warning") != nil {
				t.Errorf("%s: status %d, Age %q, Warning %q", path, r.status, r.header.Get("Age"), r.header.Values("Warning"))
			}
		}
	}
	for _, path := range []string{s.url + "/v2/a/b/manifests/" + s.image.String(), s.url + "/v2/a/b/blobs/" + s.layerDigest.String()} {
		if r := do(t, http.MethodGet, path); r.status != 200 || r.header.Get("Age") != "" {
			t.Errorf("%s: status %d, Age %q", path, r.status, r.header.Get("Age"))
		}
	}
	calls := s.up.Calls("")
	if do(t, http.MethodGet, tag, insist...); s.up.Calls("") != calls+1 {
		t.Errorf("%d requests for a client that insists", s.up.Calls("")-calls)
	}

	s.up.SetAway(errAway, false)
	want := map[string]string{
		tag: `110 - "Response is Stale"|299 - "stale answer, last confirmed at `, referrers: `110 - "Response is Stale"|299 - "stale answer, last confirmed at `,
		tags: `110 - "Response is Stale"|299 - "stale answer: it has`, // of what is stored, each at its time
	}
	for _, path := range []string{tag, tags, referrers} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if method == http.MethodHead && path == tags {
				continue
			}
			r := do(t, method, path, insist...)
			got := strings.Join(r.header.Values("Warning"), "|")
			if r.status != 200 || !strings.HasPrefix(got, want[path]) || !strings.HasSuffix(got, `: it has not 'answered'  X-Injected:   since  "`) {
				t.Errorf("%s %s: status %d, Warning %q", method, path, r.status, got)
			}
		}
	}
	if r := do(t, http.MethodGet, tag, "If-None-Match", `"`+s.image.String()+`"`, "Cache-Control", "max-age=0"); r.status != 304 || r.header.Get("Warning") == "" {
		t.Errorf("not modified: status %d, %q", r.status, r.header)
	}
	s.up.Fail(cache.ErrUnavailable)
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v2"); r.status != 503 || r.header.Get("Age")+r.header.Get("Warning") != "" {
		t.Errorf("what is not stored: status %d, %q", r.status, r.header)
	}
	expected := `
# HELP registry_module_answers_total Answers that can change at the remote registry, by kind (tag, tags, referrers) and freshness (fresh, revalidating, stale).
# TYPE registry_module_answers_total counter
registry_module_answers_total{freshness="fresh",kind="referrers"} 2
registry_module_answers_total{freshness="fresh",kind="tag"} 3
registry_module_answers_total{freshness="fresh",kind="tags"} 2
registry_module_answers_total{freshness="stale",kind="referrers"} 2
registry_module_answers_total{freshness="stale",kind="tag"} 3
registry_module_answers_total{freshness="stale",kind="tags"} 1
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(expected), "registry_module_answers_total"); err != nil {
		t.Error(err)
	}
}

// A tag whose manifest cannot be had is an error like any other.
func TestFreshnessOfError(t *testing.T) {
	s := newSite(t)
	url := s.url + "/v2/a/b/manifests/v1"
	s.up.SetManifest("a/b", "v1", cache.Manifest{Descriptor: cache.Descriptor{MediaType: "text/html"}, Bytes: []byte("<html>")})
	if r := do(t, http.MethodGet, url); r.status != 502 || r.header.Get("Age") != "" {
		t.Errorf("status %d, Age %q", r.status, r.header.Get("Age"))
	}
}

// attach makes the remote have things that refer to the image.
func (s *site) attach(types ...string) (all []digest.Digest) {
	config := s.up.AddBlob("a/b", []byte("{}"))
	for _, artifactType := range types {
		all = append(all, s.up.AddManifest("a/b", "", v1.MediaTypeImageManifest, fmt.Appendf(nil,
			`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"digest":%q,"size":1}}`,
			v1.MediaTypeImageManifest, artifactType, config, s.image)))
	}
	return all
}

// index reads a list of referrers.
func (r response) index(t *testing.T) v1.Index {
	t.Helper()
	var index v1.Index
	if err := json.Unmarshal(r.body, &index); err != nil || index.Manifests == nil || index.SchemaVersion != 2 || index.MediaType != v1.MediaTypeImageIndex {
		t.Errorf("no index: %s, %v", r.body, err)
	}
	if r.status != 200 || r.header.Get("Content-Type") != v1.MediaTypeImageIndex {
		t.Errorf("status %d, type %s", r.status, r.header.Get("Content-Type"))
	}
	return index
}

func TestReferrers(t *testing.T) {
	s := newSite(t)
	attached := s.attach("test/sbom", "test/signature")
	path := "/v2/a/b/referrers/" + s.image.String()
	of := func(index v1.Index) (types []string) {
		for _, d := range index.Manifests {
			types = append(types, d.ArtifactType)
		}
		slices.Sort(types)
		return types
	}
	for _, way := range []string{path, strings.Replace(path, "a/b", "alias/a/b", 1), path + "?ns=upstream.test"} {
		r := do(t, http.MethodGet, s.url+way)
		if got := of(r.index(t)); !slices.Equal(got, []string{"test/sbom", "test/signature"}) || r.header.Get("OCI-Filters-Applied") != "" || r.header.Get("Link") != "" {
			t.Errorf("%s: %q, %q", way, got, r.header)
		}
	}
	r := do(t, http.MethodGet, s.url+path+"?artifactType="+url.QueryEscape("test/sbom"))
	if got := r.index(t); len(got.Manifests) != 1 || got.Manifests[0].Digest != attached[0] || r.header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %+v, %q", got, r.header)
	}
	for _, nothing := range []string{path + "?artifactType=test/none", "/v2/a/b/referrers/" + digest.FromString("unknown").String(), "/v2/nobody/referrers/" + s.image.String()} {
		if got := do(t, http.MethodGet, s.url+nothing).index(t); len(got.Manifests) != 0 {
			t.Errorf("%s: %+v", nothing, got)
		}
	}
	for method, want := range map[string]int{http.MethodPut: 405, http.MethodDelete: 405, http.MethodPost: 405} {
		if r := do(t, method, s.url+path); r.status != want || r.code(t) != "UNSUPPORTED" || r.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: status %d, %s", method, r.status, r.body)
		}
	}
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/referrers/v1"); r.status != 400 || r.code(t) != "DIGEST_INVALID" {
		t.Errorf("of a tag: status %d, %s", r.status, r.body)
	}
	if r := do(t, http.MethodGet, s.url+path+"?ns=unknown.test"); r.status != 404 {
		t.Errorf("of a registry that is not configured: status %d", r.status)
	}
	s.up.Fail(&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: s.up.Host(), Op: "asking"})
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/referrers/"+digest.FromString("other").String()); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("away: status %d, %q", r.status, r.header)
	}
}

// A long list comes in pages, each of which says how to get the next one.
func TestReferrersInPages(t *testing.T) {
	s := newSite(t)
	var types []string
	for i := range 7 {
		types = append(types, fmt.Sprintf("test/%d", i/4)) // four of one, three of another
	}
	for i := range types {
		config := s.up.AddBlob("a/b", []byte("{}"))
		s.up.AddManifest("a/b", "", v1.MediaTypeImageManifest, fmt.Appendf(nil,
			`{"schemaVersion":2,"artifactType":%q,"config":{"digest":%q,"size":2},"layers":[],"subject":{"digest":%q,"size":1},"annotations":{"n":"%d"}}`,
			types[i], config, s.image, i))
	}
	for filter, want := range map[string]int{"": 7, "test/0": 4, "test/1": 3} {
		seen := map[digest.Digest]bool{}
		next, pages := "/v2/a/b/referrers/"+s.image.String()+"?ns=upstream.test&n=2", 0
		if filter != "" {
			next += "&artifactType=" + filter
		}
		for ; next != "" && pages < 10; pages++ {
			r := do(t, http.MethodGet, s.url+next)
			for _, d := range r.index(t).Manifests {
				if seen[d.Digest] || filter != "" && d.ArtifactType != filter {
					t.Errorf("%s: %s, %s", next, d.Digest, d.ArtifactType)
				}
				seen[d.Digest] = true
			}
			link, _, _ := strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
			if link != "" && (!strings.HasPrefix(link, "/v2/a/b/referrers/") || !strings.Contains(link, "ns=upstream.test") || !strings.HasSuffix(r.header.Get("Link"), `>; rel="next"`)) {
				t.Errorf("link %q", r.header.Get("Link"))
			}
			next = link
		}
		if len(seen) != want || pages != (want+1)/2 {
			t.Errorf("%q: %d in %d pages, want %d", filter, len(seen), pages, want)
		}
	}
	if got := do(t, http.MethodGet, s.url+"/v2/a/b/referrers/"+s.image.String()+"?last="+digest.FromString("gone").String()).index(t); len(got.Manifests) != 7 {
		t.Errorf("behind what is gone: %d", len(got.Manifests))
	}
}

// Who may not pull a repository is not told what refers to its images.
func TestReferrersWithAccess(t *testing.T) {
	s := newSite(t)
	s.attach("test/signature")
	closed := s.serve(t, func(o *server.Options) { o.Access = controlled{refusing{}} })
	r := do(t, http.MethodGet, closed+"/v2/a/b/referrers/"+s.image.String())
	if r.status != 401 || r.code(t) != "UNAUTHORIZED" || r.header.Get("WWW-Authenticate") != "test" || strings.Contains(string(r.body), "signature") {
		t.Errorf("status %d, %q, %s", r.status, r.header, r.body)
	}
	if r := do(t, http.MethodGet, closed+"/v2/two/secret/a/referrers/"+s.image.String()); r.status != 401 {
		t.Errorf("what is denied, to who is not let in: status %d", r.status)
	}
}

// refusing lets nobody in.
type refusing struct{}

func (refusing) Authorized(*http.Request, ...stockauth.Access) (*stockauth.Grant, error) {
	return nil, refusing{}
}

func (refusing) Error() string { return "refused" }

func (refusing) SetHeaders(_ *http.Request, w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "test")
}
