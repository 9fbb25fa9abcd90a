package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// referrers is an answer to a request for a list of referrers, with the digests in it.
type referrers struct {
	response
	list map[digest.Digest]map[string]any
}

// referrers asks for those of a digest ("Listing Referrers") and checks what holds for
// each answer.
func (s *site) referrers(t *testing.T, at string) referrers {
	t.Helper()
	r := do(t, http.MethodGet, s.url+at)
	r.conforms(t)
	if got := r.header.Get("Content-Type"); r.status != http.StatusOK || got != v1.MediaTypeImageIndex {
		t.Fatalf("%s: status %d of type %q, want 200, an index\n%s", at, r.status, got, r.body)
	}
	var index struct {
		SchemaVersion int
		MediaType     string
		Manifests     []map[string]any
	}
	if err := json.Unmarshal(r.body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != v1.MediaTypeImageIndex || index.Manifests == nil {
		t.Errorf("%s: %v, no index with a list of manifests: %s", at, err, r.body)
	}
	list := map[digest.Digest]map[string]any{}
	for _, d := range index.Manifests {
		dgst := digest.Digest(fmt.Sprint(d["digest"]))
		if list[dgst] != nil {
			t.Errorf("%s: %s is there twice", at, dgst)
		}
		list[dgst] = d
	}
	return referrers{r, list}
}

// addReferrers adds to a/b three manifests whose subject is the image, one whose subject
// is another, and one whose subject there is not. It returns the descriptors that the
// list of the image is to have, but for what is the same in all.
func (s *site) addReferrers(absent digest.Digest) map[digest.Digest]map[string]any {
	subject := func(dgst digest.Digest) string {
		return fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":%d}`, v1.MediaTypeImageManifest, dgst, len(s.manifest))
	}
	image := func(more, subject string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,%s"config":{"mediaType":"application/vnd.example.config","digest":%q,"size":2},"layers":[],%s}`,
			v1.MediaTypeImageManifest, more, digest.FromString("{}"), subject)
	}
	sbom := image(`"artifactType":"application/vnd.example.sbom.v1+json","annotations":{"org.example.format":"json"},`, subject(s.image))
	plain := image("", subject(s.image))
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"a":"b"},%s}`, v1.MediaTypeImageIndex, subject(s.image))
	want := map[digest.Digest]map[string]any{}
	for _, m := range []struct {
		mediaType, artifactType string
		content                 []byte
		annotations             map[string]any
	}{
		{v1.MediaTypeImageManifest, "application/vnd.example.sbom.v1+json", sbom, map[string]any{"org.example.format": "json"}},
		{v1.MediaTypeImageManifest, "application/vnd.example.config", plain, nil}, // that of its config
		{v1.MediaTypeImageIndex, "", index, map[string]any{"a": "b"}},
	} {
		dgst := s.up.AddManifest("a/b", "", m.mediaType, m.content)
		want[dgst] = map[string]any{"mediaType": m.mediaType, "digest": dgst.String(), "size": float64(len(m.content))}
		if m.artifactType != "" {
			want[dgst]["artifactType"] = m.artifactType
		}
		if m.annotations != nil {
			want[dgst]["annotations"] = m.annotations
		}
	}
	s.up.AddManifest("a/b", "", v1.MediaTypeImageManifest, image("", subject(digest.FromString("another"))))
	s.up.AddManifest("a/b", "", v1.MediaTypeImageManifest, image("", subject(absent)))
	return want
}

// TestReferrersConform lists referrers, with and without a filter, and those of what
// has none (end-12a, end-12b).
func TestReferrersConform(t *testing.T) {
	s := newSite(t)
	absent := digest.FromString("absent")
	all := s.addReferrers(absent)
	of := func(artifactType string) map[digest.Digest]map[string]any {
		some := map[digest.Digest]map[string]any{}
		for dgst, d := range all {
			if d["artifactType"] == artifactType {
				some[dgst] = d
			}
		}
		return some
	}
	sbom := "application/vnd.example.sbom.v1+json"
	path := "/v2/a/b/referrers/" + s.image.String()
	for name, tt := range map[string]struct {
		path, filter string
		want         map[digest.Digest]map[string]any
	}{
		"all":                         {path, "", all},
		"of one type":                 {path, sbom, of(sbom)},
		"of the type of a config":     {path, "application/vnd.example.config", of("application/vnd.example.config")},
		"of a type that none has":     {path, "application/vnd.example.none", nil},
		"of a manifest that has none": {"/v2/a/b/referrers/" + digest.FromString("none").String(), "", nil},
		"of none, of one type":        {"/v2/a/b/referrers/" + digest.FromString("none").String(), sbom, nil},
		"of a sha512 digest":          {"/v2/a/b/referrers/" + digest.SHA512.FromString("none").String(), "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, state := range []string{"first", "again"} {
				at := tt.path
				if tt.filter != "" {
					at += "?artifactType=" + url.QueryEscape(tt.filter)
				}
				r := s.referrers(t, at)
				if len(r.list) != len(tt.want) || len(tt.want) > 0 && !reflect.DeepEqual(r.list, tt.want) {
					t.Errorf("%s: %v, want %v", state, r.list, tt.want)
				}
				want := ""
				if tt.filter != "" {
					want = "artifactType"
				}
				if got := r.header.Get("OCI-Filters-Applied"); got != want {
					t.Errorf("%s: OCI-Filters-Applied %q, want %q", state, got, want)
				}
			}
		})
	}
	t.Run("of a subject that does not exist", func(t *testing.T) {
		if r := s.referrers(t, "/v2/a/b/referrers/"+absent.String()); len(r.list) != 1 {
			t.Errorf("%v, want one", r.list)
		}
	})
	t.Run("with a namespace", func(t *testing.T) {
		r := s.referrers(t, path+"?ns=alias&artifactType="+url.QueryEscape(sbom))
		if got := r.header.Get("OCI-Namespace"); got != "alias" || len(r.list) != 1 {
			t.Errorf("OCI-Namespace %q, %v", got, r.list)
		}
	})
	t.Run("more than one index can have", func(t *testing.T) {
		subject := digest.FromString("popular")
		for i := range 3 {
			s.up.AddManifest("a/b", "", v1.MediaTypeImageIndex, fmt.Appendf(nil,
				`{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"n":"%d","x":%q},"subject":{"mediaType":%q,"digest":%q,"size":1}}`,
				v1.MediaTypeImageIndex, i, strings.Repeat("x", 2<<20), v1.MediaTypeImageManifest, subject))
		}
		found, pages := map[digest.Digest]bool{}, 0
		for at := "/v2/a/b/referrers/" + subject.String(); at != "" && pages < 5; pages++ {
			r := s.referrers(t, at)
			if len(r.body) > cache.MaxManifestSize {
				t.Errorf("%s: an index of %d bytes", at, len(r.body))
			}
			for dgst := range r.list {
				if found[dgst] {
					t.Errorf("%s: %s is there again", at, dgst)
				}
				found[dgst] = true
			}
			link := r.header.Get("Link")
			if link != "" && !strings.HasSuffix(link, `; rel="next"`) {
				t.Errorf("Link %q", link)
			}
			at, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		}
		if len(found) != 3 || pages < 2 {
			t.Errorf("%d referrers on %d pages, want 3 on several", len(found), pages)
		}
	})
}

// TestReferrersErrors asks for lists that cannot be given. It is never 404: clients would
// take that for a registry that has no such lists, and look for a tag.
func TestReferrersErrors(t *testing.T) {
	good := digest.FromString("x").String()
	for name, tt := range map[string]struct {
		err    error // of the remote
		digest string
		status int
		code   string
	}{
		"no digest":            {nil, "latest", 400, "DIGEST_INVALID"},
		"too short":            {nil, "sha256:abc", 400, "DIGEST_INVALID"},
		"an unknown algorithm": {nil, "md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		"the remote is away":   {cache.ErrUnavailable, good, 503, "UNAVAILABLE"},
		"denied":               {cache.ErrDenied, good, 403, "DENIED"},
		"limited":              {cache.ErrRateLimited, good, 429, "TOOMANYREQUESTS"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.Fail(tt.err)
			r := do(t, http.MethodGet, s.url+"/v2/a/b/referrers/"+tt.digest)
			r.conforms(t)
			if r.status != tt.status || r.code(t) != tt.code {
				t.Errorf("status %d, want %d %s\n%s", r.status, tt.status, tt.code, r.body)
			}
		})
	}
}
