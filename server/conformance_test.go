package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// What follows is about the OCI distribution specification 1.1; docs/conformance.md
// says which of its rules which test covers.

// errorCodes are those of the specification, "Error Codes".
func errorCodes() []string {
	return []string{
		"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
		"MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED",
		"DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
	}
}

// warning is the one form of a Warning header that is allowed ("Warnings"), and that of a
// cache whose answer is stale (RFC 7234, section 5.5.1).
var warning = regexp.MustCompile(`^(299 - "([^"\\]|\\.)*"|110 - "Response is Stale")$`)

// conforms checks what holds for all answers.
func (r response) conforms(t *testing.T) {
	t.Helper()
	all := 0
	for _, w := range r.header.Values("Warning") {
		if all += len(w); !warning.MatchString(w) {
			t.Errorf("Warning: %s", w)
		}
	}
	if all > 4096 {
		t.Errorf("warnings of %d bytes", all)
	}
	for _, name := range []string{"OCI-Subject", "OCI-Tag"} { // of accepted pushes
		if v := r.header.Values(name); v != nil {
			t.Errorf("%s: %q", name, v)
		}
	}
	if r.status < 400 || r.status >= 500 || len(r.body) == 0 || !strings.Contains(r.header.Get("Content-Type"), "json") {
		return
	}
	var body struct {
		Errors []struct {
			Code    *string `json:"code"`
			Message string  `json:"message"`
			Detail  any     `json:"detail"`
		} `json:"errors"`
	}
	dec := json.NewDecoder(bytes.NewReader(r.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil || len(body.Errors) == 0 {
		t.Errorf("status %d: %v, body %s", r.status, err, r.body)
	}
	for _, e := range body.Errors {
		if e.Code == nil || !slices.Contains(errorCodes(), *e.Code) {
			t.Errorf("status %d: no code of the specification in %s", r.status, r.body)
		}
	}
}

// addSHA512 adds content whose digests are sha512: a manifest, which tag points to,
// and a blob.
func (s *site) addSHA512(repo, tag string) (manifest, blob []byte) {
	blob = []byte("content under a sha512 digest")
	s.up.Replace(repo, digest.SHA512.FromBytes(blob), blob)
	manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":%d}]}`,
		v1.MediaTypeImageManifest, s.up.AddBlob(repo, []byte("{}")), digest.SHA512.FromBytes(blob), len(blob))
	m := cache.Manifest{
		Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.SHA512.FromBytes(manifest), Size: int64(len(manifest))},
		Bytes:      manifest,
	}
	s.up.SetManifest(repo, m.Digest.String(), m)
	s.up.SetManifest(repo, tag, m)
	return manifest, blob
}

// TestPullConforms pulls and checks for existence, by all that content can be asked
// for by ("Pulling manifests", "Pulling blobs", "Checking if content exists in the
// registry").
func TestPullConforms(t *testing.T) {
	s := newSite(t)
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, s.image, len(s.manifest))
	indexDigest := s.up.AddManifest("a/b", "index", v1.MediaTypeImageIndex, index)
	longest := strings.Repeat("A", 128)
	for _, tag := range []string{"_", "0", "a.b_c-D", longest} {
		s.up.AddManifest("a/b", tag, v1.MediaTypeImageManifest, s.manifest)
	}
	manifest512, blob512 := s.addSHA512("a/b", "sha512")
	empty := s.up.AddBlob("a/b", nil)

	const octets = "application/octet-stream"
	for name, tt := range map[string]struct {
		path, mediaType string
		content         []byte
	}{
		"manifest by tag":                {"manifests/v1", v1.MediaTypeImageManifest, s.manifest},
		"manifest by digest":             {"manifests/" + s.image.String(), v1.MediaTypeImageManifest, s.manifest},
		"manifest by sha512 digest":      {"manifests/" + digest.SHA512.FromBytes(manifest512).String(), v1.MediaTypeImageManifest, manifest512},
		"manifest of that, by tag":       {"manifests/sha512", v1.MediaTypeImageManifest, manifest512},
		"index by tag":                   {"manifests/index", v1.MediaTypeImageIndex, index},
		"index by digest":                {"manifests/" + indexDigest.String(), v1.MediaTypeImageIndex, index},
		"tag of one character":           {"manifests/_", v1.MediaTypeImageManifest, s.manifest},
		"tag that is a number":           {"manifests/0", v1.MediaTypeImageManifest, s.manifest},
		"tag of all kinds of characters": {"manifests/a.b_c-D", v1.MediaTypeImageManifest, s.manifest},
		"tag of 128 characters":          {"manifests/" + longest, v1.MediaTypeImageManifest, s.manifest},
		"blob":                           {"blobs/" + s.layerDigest.String(), octets, s.layer},
		"blob by sha512 digest":          {"blobs/" + digest.SHA512.FromBytes(blob512).String(), octets, blob512},
		"blob of no bytes":               {"blobs/" + empty.String(), octets, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, state := range []string{"cold", "warm"} {
				for _, method := range []string{http.MethodHead, http.MethodGet} {
					r := do(t, method, s.url+"/v2/a/b/"+tt.path)
					r.conforms(t)
					if r.status != http.StatusOK || r.err != nil {
						t.Fatalf("%s %s: status %d, %v\n%s", state, method, r.status, r.err, r.body)
					}
					if got := digest.Digest(r.header.Get("Docker-Content-Digest")); got.Validate() != nil || got != got.Algorithm().FromBytes(tt.content) {
						t.Errorf("%s %s: Docker-Content-Digest %q is not that of the content", state, method, got)
					}
					if _, ref, _ := strings.Cut(tt.path, "/"); strings.Contains(ref, ":") && r.header.Get("Docker-Content-Digest") != ref {
						t.Errorf("%s %s: Docker-Content-Digest %q, asked for %q", state, method, r.header.Get("Docker-Content-Digest"), ref)
					}
					if got := r.header.Get("Content-Length"); got != fmt.Sprint(len(tt.content)) {
						t.Errorf("%s %s: Content-Length %q, want %d", state, method, got, len(tt.content))
					}
					if got := r.header.Get("Content-Type"); got != tt.mediaType {
						t.Errorf("%s %s: Content-Type %q, want %q", state, method, got, tt.mediaType)
					}
					if method == http.MethodGet && !bytes.Equal(r.body, tt.content) {
						t.Errorf("%s: %d bytes that are not the content", state, len(r.body))
					}
				}
			}
		})
	}
}

// TestResumeConforms goes on with a pull that has ended early ("Resumable Pull").
func TestResumeConforms(t *testing.T) {
	for _, state := range []string{"cold", "warm"} {
		t.Run(state, func(t *testing.T) {
			s := newSite(t)
			layer := s.url + "/v2/a/b/blobs/" + s.layerDigest.String()
			if state == "warm" {
				do(t, http.MethodGet, layer)
			}
			have := 12345
			r := do(t, http.MethodGet, layer, "Range", fmt.Sprintf("bytes=%d-", have))
			r.conforms(t)
			if r.status != http.StatusPartialContent || !bytes.Equal(r.body, s.layer[have:]) {
				t.Errorf("status %d, %d bytes", r.status, len(r.body))
			}
			if got, want := r.header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", have, len(s.layer)-1, len(s.layer)); got != want {
				t.Errorf("Content-Range %q, want %q", got, want)
			}
			if got := r.header.Get("Docker-Content-Digest"); got != s.layerDigest.String() {
				t.Errorf("Docker-Content-Digest %q, want the blob's", got)
			}
			r = do(t, http.MethodGet, layer, "Range", fmt.Sprintf("bytes=%d-", len(s.layer)))
			if got := r.header.Get("Content-Range"); r.status != http.StatusRequestedRangeNotSatisfiable || got != fmt.Sprintf("bytes */%d", len(s.layer)) {
				t.Errorf("from the end on: status %d, Content-Range %q", r.status, got)
			}
		})
	}
}

// TestAbsentConforms asks for what is not in the repository, though it may be in
// another one.
func TestAbsentConforms(t *testing.T) {
	s := newSite(t)
	absent := digest.FromString("absent").String()
	for _, path := range []string{"manifests/v1", "blobs/" + s.layerDigest.String()} {
		do(t, http.MethodGet, s.url+"/v2/a/b/"+path) // it is stored
	}
	s.up.AddManifest("a/c", "v1", v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
	for name, tt := range map[string]struct {
		path  string
		codes []string
	}{
		"tag":                                {"a/b/manifests/v9", []string{"MANIFEST_UNKNOWN"}},
		"manifest":                           {"a/b/manifests/" + absent, []string{"MANIFEST_UNKNOWN"}},
		"blob":                               {"a/b/blobs/" + absent, []string{"BLOB_UNKNOWN"}},
		"tag of another repository":          {"a/c/manifests/index", []string{"MANIFEST_UNKNOWN"}},
		"manifest of another repository":     {"a/c/manifests/" + s.image.String(), []string{"MANIFEST_UNKNOWN"}},
		"blob of another repository":         {"a/c/blobs/" + s.layerDigest.String(), []string{"BLOB_UNKNOWN"}},
		"tag in an unknown repository":       {"x/y/manifests/v1", []string{"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}},
		"manifest in an unknown repository":  {"x/y/manifests/" + s.image.String(), []string{"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}},
		"blob in an unknown repository":      {"x/y/blobs/" + s.layerDigest.String(), []string{"BLOB_UNKNOWN", "NAME_UNKNOWN"}},
		"tag of more than 128 characters":    {"a/b/manifests/" + strings.Repeat("v", 129), []string{"MANIFEST_UNKNOWN"}},
		"tag that begins as tags must not":   {"a/b/manifests/.v1", []string{"MANIFEST_UNKNOWN"}},
		"neither tag nor digest":             {"a/b/manifests/v1+2", []string{"MANIFEST_UNKNOWN"}},
		"an endpoint that is not in the API": {"a/b/layers/" + absent, []string{"UNSUPPORTED"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				r := do(t, method, s.url+"/v2/"+tt.path)
				r.conforms(t)
				if r.status != http.StatusNotFound {
					t.Errorf("%s: status %d, want 404\n%s", method, r.status, r.body)
				}
				if method == http.MethodGet {
					if code := r.code(t); !slices.Contains(tt.codes, code) {
						t.Errorf("code %s, want %s", code, tt.codes)
					}
				}
			}
		})
	}
}

// TestNamespaceConforms looks for the namespace that a request has given in all kinds
// of answers ("Registry Proxying").
func TestNamespaceConforms(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"manifests/v1", "manifests/" + s.image.String(), "manifests/v9", "blobs/" + s.layerDigest.String(),
		"blobs/" + digest.FromString("absent").String(), "tags/list", "tags/list?n=1"} {
		for _, ns := range []string{"", "upstream.test", "alias"} {
			for _, state := range []string{"cold", "warm"} {
				for _, method := range []string{http.MethodHead, http.MethodGet} {
					target := s.url + "/v2/a/b/" + path
					if ns != "" {
						u, err := url.Parse(target)
						must(t, err)
						q := u.Query()
						q.Set("ns", ns)
						u.RawQuery = q.Encode()
						target = u.String()
					}
					r := do(t, method, target)
					r.conforms(t)
					if got := r.header.Get("OCI-Namespace"); got != ns {
						t.Errorf("%s %s, ns=%s, %s: OCI-Namespace %q", method, path, ns, state, got)
					}
				}
			}
		}
	}
}

// TestWritesConform tries each endpoint that would change something ("Push", "Content
// Management"): the remote is not asked, and clients are told that it is not to be.
func TestWritesConform(t *testing.T) {
	s := newSite(t)
	blob := s.layerDigest.String()
	do(t, http.MethodGet, s.url+"/v2/a/b/blobs/"+blob)
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	calls := s.up.Calls("")
	const upload = "/v2/a/b/blobs/uploads/9b2f9b54-3d0c-4b5f-8d62-0123456789ab"
	artifact := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		v1.MediaTypeImageManifest, digest.FromString("{}"), v1.MediaTypeImageManifest, s.image, len(s.manifest))
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
	}{
		"end-4a, begin an upload":                 {http.MethodPost, "/v2/a/b/blobs/uploads/", "", 405},
		"end-4b, upload in one request":           {http.MethodPost, "/v2/a/b/blobs/uploads/?digest=" + blob, "x", 405},
		"end-5, upload a chunk":                   {http.MethodPatch, upload, "x", 404},
		"end-6, end an upload":                    {http.MethodPut, upload + "?digest=" + blob, "x", 404},
		"end-7, push a manifest by tag":           {http.MethodPut, "/v2/a/b/manifests/v1", artifact, 405},
		"end-7, push a manifest by digest":        {http.MethodPut, "/v2/a/b/manifests/" + digest.FromString(artifact).String(), artifact, 405},
		"end-7, push what is no manifest":         {http.MethodPut, "/v2/a/b/manifests/v1", "x", 400},
		"end-9, delete a tag":                     {http.MethodDelete, "/v2/a/b/manifests/v1", "", 405},
		"end-9, delete a manifest":                {http.MethodDelete, "/v2/a/b/manifests/" + s.image.String(), "", 405},
		"end-10, delete a blob":                   {http.MethodDelete, "/v2/a/b/blobs/" + blob, "", 405},
		"end-11, mount a blob":                    {http.MethodPost, "/v2/a/b/blobs/uploads/?mount=" + blob + "&from=c", "", 405},
		"end-11, mount a blob of any repository":  {http.MethodPost, "/v2/a/b/blobs/uploads/?mount=" + blob, "", 405},
		"delete an upload":                        {http.MethodDelete, upload, "", 404},
		"put a blob, which is not in the API":     {http.MethodPut, "/v2/a/b/blobs/" + blob, "x", 405},
		"change the tags, which is not in either": {http.MethodPut, "/v2/a/b/tags/list", "x", 405},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, s.url+tt.path, strings.NewReader(tt.body))
			must(t, err)
			req.Header.Set("Content-Type", v1.MediaTypeImageManifest)
			resp, err := http.DefaultTransport.RoundTrip(req)
			must(t, err)
			var body bytes.Buffer
			_, err = body.ReadFrom(resp.Body)
			must(t, err)
			must(t, resp.Body.Close())
			response{resp.StatusCode, resp.Header, body.Bytes(), nil}.conforms(t)
			if resp.StatusCode != tt.status || resp.Header.Get("Location") != "" {
				t.Errorf("status %d, Location %q, want %d without one\n%s", resp.StatusCode, resp.Header.Get("Location"), tt.status, &body)
			}
		})
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if n := s.up.Calls("") - calls; n != 0 {
		t.Errorf("%d requests to the remote, want none", n)
	}
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1"); !bytes.Equal(r.body, s.manifest) {
		t.Errorf("the tag now points to: %d %s", r.status, r.body)
	}
}

// TestErrorsConform collects errors from all parts of the server ("Error Codes").
func TestErrorsConform(t *testing.T) {
	limited := &cache.UpstreamError{Kind: cache.ErrRateLimited, Remote: "upstream.test", Op: "fetching", Status: 429}
	absent := digest.FromString("absent").String()
	for name, tt := range map[string]struct {
		err    error // of the remote
		path   string
		header []string
		status int
		code   string
	}{
		"bad name":          {nil, "A/manifests/v1", nil, 400, "NAME_INVALID"},
		"bad digest":        {nil, "a/b/blobs/sha256:x", nil, 400, "DIGEST_INVALID"},
		"bad namespace":     {nil, "a/b/manifests/v1?ns=", nil, 400, "NAME_INVALID"},
		"unknown namespace": {nil, "a/b/manifests/v1?ns=elsewhere.test", nil, 404, "NAME_UNKNOWN"},
		"ruled out":         {nil, "secret/x/manifests/v1?ns=two", nil, 403, "DENIED"},
		"denied, manifest":  {cache.ErrDenied, "a/b/manifests/v1", nil, 403, "DENIED"},
		"denied, blob":      {cache.ErrDenied, "a/b/blobs/" + absent, nil, 403, "DENIED"},
		"denied, tags":      {cache.ErrDenied, "a/b/tags/list", nil, 403, "DENIED"},
		"limited, manifest": {limited, "a/b/manifests/v1", nil, 429, "TOOMANYREQUESTS"},
		"limited, blob":     {limited, "a/b/blobs/" + absent, nil, 429, "TOOMANYREQUESTS"},
		"limited, tags":     {limited, "a/b/tags/list", nil, 429, "TOOMANYREQUESTS"},
		"long header":       {nil, "a/b/manifests/v1", []string{"X-Long", strings.Repeat("x", 9<<10)}, 431, "UNSUPPORTED"},
		"no endpoint":       {nil, "a/b/c", nil, 404, "UNSUPPORTED"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.Fail(tt.err)
			r := do(t, http.MethodGet, s.url+"/v2/"+tt.path, tt.header...)
			r.conforms(t)
			if r.status != tt.status || r.code(t) != tt.code {
				t.Errorf("status %d, want %d %s\n%s", r.status, tt.status, tt.code, r.body)
			}
			if r.status == http.StatusTooManyRequests && r.header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
		})
	}
}
