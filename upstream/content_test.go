package upstream_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

func TestManifestAsItIs(t *testing.T) {
	large := []byte(`{"annotations":{"x":"` + strings.Repeat("x", cache.MaxManifestSize-24) + `"}}`)
	if len(large) != cache.MaxManifestSize {
		t.Fatal(len(large))
	}
	for name, test := range map[string]struct {
		alg       digest.Algorithm
		mediaType string
		content   string
	}{
		"OCI":           {digest.SHA256, "application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2}`},
		"parameters":    {digest.SHA256, `Application/JSON;  charset="utf-8"`, " \n{ }\n"},
		"no type":       {digest.SHA256, "", `{}`},
		"unknown type":  {digest.SHA256, "application/vnd.example+json", `{}`},
		"sha512":        {digest.SHA512, "application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[]}`},
		"largest":       {digest.SHA256, "application/vnd.oci.image.manifest.v1+json", string(large)},
		"plain as type": {digest.SHA256, "text/plain", `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			dgst := reg.AddManifestAs(test.alg, "a/b", "v1", test.mediaType, []byte(test.content))
			if test.mediaType == "" {
				reg.Script(ut.Fault{Header: http.Header{"Content-Type": {""}}})
			}
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			for _, ref := range []string{"v1", dgst.String()} {
				m, err := r.Manifest(t.Context(), "a/b", ref)
				if err != nil {
					t.Fatal(err)
				}
				want := cache.Descriptor{MediaType: test.mediaType, Digest: dgst, Size: int64(len(test.content))}
				if m.Descriptor != want || string(m.Bytes) != test.content {
					t.Errorf("%s is %+v, want %+v", ref, m.Descriptor, want)
				}
				if d, err := r.Resolve(t.Context(), "a/b", ref, ""); err != nil || d != want {
					t.Errorf("%s resolves to %+v, %v, want %+v", ref, d, err, want)
				}
			}
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2, ut.ManifestHead: 2})
			for _, req := range reg.Log() {
				accept := req.Header.Get("Accept")
				for _, mediaType := range []string{
					"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
					"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
					"application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.oci.artifact.manifest.v1+json", "*/*;q=0.1",
				} {
					if req.Kind != ut.Ping && !strings.Contains(accept, mediaType) {
						t.Errorf("%s does not accept %s", req.Kind, mediaType)
					}
				}
			}
		})
	}
}

func TestManifestWithoutHeaders(t *testing.T) {
	reg, img := sample(t)
	reg.Script(ut.Fault{Chunked: true, Header: http.Header{"Docker-Content-Digest": nil}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	m, err := r.Manifest(t.Context(), "a/b", "v1")
	if err != nil || m.Digest != "" || m.Size != int64(len(img.Manifest)) || !bytes.Equal(m.Bytes, img.Manifest) {
		t.Errorf("manifest is %+v, %v", m.Descriptor, err)
	}
	d, err := r.Resolve(t.Context(), "a/b", "v1", "")
	if want := (cache.Descriptor{MediaType: img.MediaType, Size: -1}); err != nil || d != want {
		t.Errorf("resolves to %+v, %v", d, err)
	}
}

func TestBadManifests(t *testing.T) {
	for name, test := range map[string]struct {
		fault ut.Fault
		kind  error
		says  string
	}{
		"page":              {ut.HTMLPage(), cache.ErrInvalid, "login page"},
		"page called JSON":  {ut.Fault{Body: []byte("<html>secret</html>")}, cache.ErrInvalid, "not a JSON object"},
		"array":             {ut.Fault{Body: []byte("[1]")}, cache.ErrInvalid, "not a JSON object"},
		"half an object":    {ut.Fault{Body: []byte(`{"schemaVersion":`)}, cache.ErrInvalid, "not a JSON object"},
		"empty":             {ut.Fault{Body: []byte{}}, cache.ErrInvalid, "empty"},
		"empty, chunked":    {ut.Fault{Body: []byte{}, Chunked: true}, cache.ErrInvalid, "empty"},
		"truncated":         {ut.Fault{Cut: true, CutAt: 10}, cache.ErrUnavailable, "unexpected EOF"},
		"truncated chunks":  {ut.Fault{Cut: true, CutAt: 10, Chunked: true}, cache.ErrUnavailable, "unexpected EOF"},
		"too large":         {ut.Fault{Body: make([]byte, cache.MaxManifestSize+1)}, cache.ErrInvalid, "larger than 4194304 bytes"},
		"too large, hidden": {ut.Fault{Body: make([]byte, cache.MaxManifestSize+1), Chunked: true}, cache.ErrInvalid, "larger than 4194304 bytes"},
		"digest":            {ut.Fault{Header: http.Header{"Docker-Content-Digest": {"sha256:\"abc"}}}, cache.ErrInvalid, "Docker-Content-Digest"},
		"digest algorithm":  {ut.Fault{Header: http.Header{"Docker-Content-Digest": {"md5:d41d8cd98f00b204e9800998ecf8427e"}}}, cache.ErrInvalid, "Docker-Content-Digest"},
		"gzip":              {ut.Fault{Header: http.Header{"Content-Encoding": {"gzip"}}}, cache.ErrInvalid, `"gzip"`},
		"no content":        {ut.Fault{Status: 204}, cache.ErrInvalid, "HTTP status 204"},
		"part":              {ut.Fault{Status: 206, Body: []byte("{}")}, cache.ErrInvalid, "HTTP status 206"},
		"not modified":      {ut.Fault{Status: 304}, cache.ErrInvalid, "HTTP status 304"},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			test.fault.Kinds = []ut.Kind{ut.ManifestGet, ut.ManifestHead}
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, test.kind)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %q", err, test.says)
			}
			if name == "page" || name == "digest" {
				_, err := r.Resolve(t.Context(), "a/b", "v1", "")
				wantKind(t, err, test.kind)
			}
			if n := reg.Requests(ut.ManifestGet); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestResolveWithoutHead(t *testing.T) {
	for _, status := range []int{405, 501} {
		reg, _ := sample(t)
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: status})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		d, err := r.Resolve(t.Context(), "a/b", "v1", "")
		if want := (cache.Descriptor{Size: -1}); err != nil || d != want {
			t.Errorf("%d: %+v, %v", status, d, err)
		}
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestHead: 1})
	}
}

func TestEmptyAndSHA512Blob(t *testing.T) {
	reg := ut.New(t)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	for _, dgst := range []digest.Digest{
		reg.AddBlob("a", nil),
		reg.AddBlobAs(digest.SHA512, "a", []byte("content")),
	} {
		stream, err := r.Blob(t.Context(), "a", dgst, cache.BlobPart{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := readBlob(t, stream)
		if err != nil || dgst.Algorithm().FromBytes(got) != dgst || stream.Size != int64(len(got)) {
			t.Errorf("%s: %d bytes of %d, %v", dgst, len(got), stream.Size, err)
		}
		if size, err := r.StatBlob(t.Context(), "a", dgst); err != nil || size != int64(len(got)) {
			t.Errorf("%s: size %d, %v", dgst, size, err)
		}
	}
}

func TestStatBlob(t *testing.T) {
	content := make([]byte, 100_000)
	head, get := []ut.Kind{ut.BlobHead}, []ut.Kind{ut.BlobGet, ut.CDNGet}
	for name, test := range map[string]struct {
		redirect bool
		faults   []ut.Fault
		empty    bool
		want     int64
		kind     error
		gets     int
	}{
		"plain":            {want: 100_000},
		"redirected":       {redirect: true, want: 100_000},
		"no length":        {faults: []ut.Fault{{Kinds: head, Chunked: true}}, want: -1},
		"no length, but 0": {faults: []ut.Fault{{Kinds: head, Header: http.Header{"Content-Length": {"0"}}}}, want: -1},
		"405":              {faults: []ut.Fault{{Kinds: head, Status: 405}}, want: 100_000, gets: 1},
		"405, no ranges":   {faults: []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, IgnoreRange: true}}, want: 100_000, gets: 1},
		"405, empty":       {faults: []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 416, Header: http.Header{"Content-Range": {"bytes */0"}}}}, empty: true, want: 0, gets: 1},
		"405, 416":         {faults: []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 416}}, want: -1, gets: 1},
		"405, no size":     {faults: []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 206, Body: []byte("x"), Header: http.Header{"Content-Range": {"bytes 0-0/*"}}}}, want: -1, gets: 1},
		"405, wrong part":  {faults: []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 206, Body: []byte("x"), Header: http.Header{"Content-Range": {"bytes 1-1/5"}}}}, kind: cache.ErrInvalid, gets: 1},
		"405, 404":         {faults: []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 404}}, kind: cache.ErrNotFound, gets: 1},
		"signed for GET":   {redirect: true, faults: []ut.Fault{{Kinds: []ut.Kind{ut.CDNHead}, Status: 403}}, want: 100_000, gets: 2},
		"403":              {faults: []ut.Fault{{Kinds: head, Status: 403}}, kind: cache.ErrDenied},
		"404":              {faults: []ut.Fault{{Kinds: head, Status: 404}}, kind: cache.ErrNotFound},
		"503":              {faults: []ut.Fault{{Kinds: head, Status: 503}}, kind: cache.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			dgst := reg.AddBlob("a/b", content)
			if test.empty {
				dgst = reg.AddBlob("a/b", nil)
			}
			reg.SetRedirect(test.redirect)
			for _, f := range test.faults {
				reg.Script(f)
			}
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			size, err := r.StatBlob(t.Context(), "a/b", dgst)
			if test.kind != nil {
				wantKind(t, err, test.kind)
			} else if err != nil || size != test.want {
				t.Errorf("size is %d, %v, want %d", size, err, test.want)
			}
			if n := reg.Requests(get...); n != test.gets {
				t.Errorf("%d GETs, want %d", n, test.gets)
			}
		})
	}
}

func TestNamesAreChecked(t *testing.T) {
	reg := ut.New(t)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	good := digest.FromString("")
	for _, repo := range []string{"", "..", "a/../b", "A", "a b", "a?x=y", "a:b", "a%2Fb", "/a", "a/", "a//b", strings.Repeat("a", 256)} {
		_, err := r.Manifest(t.Context(), repo, "v1")
		wantKind(t, err, cache.ErrInvalid)
		_, err = r.Resolve(t.Context(), repo, "v1", "")
		wantKind(t, err, cache.ErrInvalid)
		_, err = r.Blob(t.Context(), repo, good, cache.BlobPart{})
		wantKind(t, err, cache.ErrInvalid)
		_, err = r.StatBlob(t.Context(), repo, good)
		wantKind(t, err, cache.ErrInvalid)
		_, _, err = r.Tags(t.Context(), repo, 0, "")
		wantKind(t, err, cache.ErrInvalid)
		_, err = r.Referrers(t.Context(), repo, good)
		wantKind(t, err, cache.ErrInvalid)
	}
	for _, ref := range []string{"", "..", "a/b", "a b", "a\n", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", strings.Repeat("a", 129)} {
		_, err := r.Manifest(t.Context(), "a", ref)
		wantKind(t, err, cache.ErrInvalid)
		_, err = r.Blob(t.Context(), "a", digest.Digest(ref), cache.BlobPart{})
		wantKind(t, err, cache.ErrInvalid)
		_, err = r.Referrers(t.Context(), "a", digest.Digest(ref))
		wantKind(t, err, cache.ErrInvalid)
	}
	wantRequests(t, reg, nil)
}

func TestLongestName(t *testing.T) {
	reg := ut.New(t)
	repo := strings.Repeat("a/", 127) + "b"
	if len(repo) != 255 {
		t.Fatal(len(repo))
	}
	reg.AddManifest(repo, "v1", "application/json", []byte("{}"))
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	get(t, r, repo, "v1")
}

// tagged makes a repository with so many tags, t000 and on.
func tagged(reg *ut.Registry, n int) []string {
	var tags []string
	for i := range n {
		tags = append(tags, fmt.Sprintf("t%03d", i))
		reg.Tag("a/b", tags[i], "")
	}
	return tags
}

func TestTags(t *testing.T) {
	reg := ut.New(t)
	all := tagged(reg, 25)
	r := newRemote(t, upstream.Options{URL: reg.URL()})

	tags, more, err := r.Tags(t.Context(), "a/b", 0, "")
	if err != nil || more || !slices.Equal(tags, all) {
		t.Errorf("all: %q, %v, %v", tags, more, err)
	}
	tags, more, err = r.Tags(t.Context(), "a/b", -1, "t020")
	if err != nil || more || !slices.Equal(tags, all[21:]) {
		t.Errorf("after: %q, %v, %v", tags, more, err)
	}
	tags, more, err = r.Tags(t.Context(), "a/b", 10, "t024")
	if err != nil || more || len(tags) != 0 {
		t.Errorf("after the last: %q, %v, %v", tags, more, err)
	}
	reg.ResetCounts()
	if got := allTags(t, r, 10); !slices.Equal(got, all) {
		t.Errorf("by tens: %q", got)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Tags: 3})

	_, _, err = r.Tags(t.Context(), "other", 0, "")
	wantKind(t, err, cache.ErrNotFound)
}

// allTags lists a/b with n tags at a time.
func allTags(t *testing.T, r *upstream.Remote, n int) []string {
	t.Helper()
	var all []string
	last := ""
	for range 100 {
		tags, more, err := r.Tags(t.Context(), "a/b", n, last)
		if err != nil || len(tags) > n {
			t.Fatalf("%d tags after %q, %v", len(tags), last, err)
		}
		all = append(all, tags...)
		if !more {
			return all
		}
		last = tags[len(tags)-1]
	}
	t.Fatal("no end of tags")
	return nil
}

func TestTagsOfOtherRegistries(t *testing.T) {
	list := func(tags []string) []byte {
		b, err := json.Marshal(map[string]any{"name": "a/b", "tags": tags})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, script := range map[string]func(reg *ut.Registry, all []string){
		"ignores n and last": func(reg *ut.Registry, all []string) {
			reg.Script(ut.Fault{Body: list(all), Header: http.Header{"Link": nil}})
		},
		"absolute link": func(reg *ut.Registry, _ []string) {
			reg.Script(ut.Fault{Times: 1, Header: http.Header{"Link": {"<" + reg.URL() + `/v2/a/b/tags/list?n=10&last=t009>; rel="next"`}}})
		},
		"foreign link": func(reg *ut.Registry, _ []string) {
			reg.Script(ut.Fault{Times: 1, Header: http.Header{"Link": {`<http://127.0.0.1:1/v2/a/b/tags/list?n=10&last=t009>; rel="next"`}}})
		},
		"link to another path": func(reg *ut.Registry, _ []string) {
			reg.Script(ut.Fault{Times: 1, Header: http.Header{"Link": {`</v2/c/tags/list?n=10&last=t009>; rel="next"`}}})
		},
		"cursors": func(reg *ut.Registry, all []string) {
			for i, token := range []string{"", "x", "y"} {
				header := http.Header{"Link": nil}
				if i < 2 {
					header.Set("Link", fmt.Sprintf(`<?n=10&next=%s>; rel="next"`, string("xy"[i])))
				}
				reg.Script(ut.Fault{
					Match: func(req ut.Request) bool {
						_, cursor, _ := strings.Cut(req.Query, "next=")
						return cursor == token && !strings.Contains(req.Query, "last")
					},
					Body: list(all[10*i : min(10*i+10, len(all))]), Header: header,
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			all := tagged(reg, 25)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			get(t, r, addManifest(reg), "v1") // so that a fault of all kinds is for tags
			script(reg, all)
			if got := allTags(t, r, 10); !slices.Equal(got, all) {
				t.Errorf("tags are %q", got)
			}
			if n := reg.Requests(ut.Tags); n != 3 {
				t.Errorf("%d requests, want 3", n)
			}
			for _, req := range reg.Log() {
				if req.Repo == "c" || req.Host != reg.Host() {
					t.Errorf("asked %s for %s", req.Host, req.Path)
				}
			}
		})
	}
}

func addManifest(reg *ut.Registry) string {
	reg.AddManifest("m", "v1", "application/json", []byte("{}"))
	return "m"
}

func TestBadTags(t *testing.T) {
	for name, test := range map[string]struct {
		fault ut.Fault
		kind  error
	}{
		"page":      {ut.HTMLPage(), cache.ErrInvalid},
		"empty":     {ut.Fault{Body: []byte{}}, cache.ErrInvalid},
		"array":     {ut.Fault{Body: []byte(`["a"]`)}, cache.ErrInvalid},
		"numbers":   {ut.Fault{Body: []byte(`{"tags":[1]}`)}, cache.ErrInvalid},
		"gzip":      {ut.Fault{Header: http.Header{"Content-Encoding": {"gzip"}}}, cache.ErrInvalid},
		"huge":      {ut.Fault{Body: []byte(`{"tags":["` + strings.Repeat("a", 9<<20) + `"]}`), Chunked: true}, cache.ErrInvalid},
		"truncated": {ut.Fault{Cut: true, CutAt: 5}, cache.ErrUnavailable},
		"403":       {ut.Fault{Status: 403}, cache.ErrDenied},
		// That there is no such repository has to be said by a registry.
		"404":                    {ut.Fault{Status: 404}, cache.ErrNotFound},
		"404, OCI body":          {ut.Fault{Status: 404, Header: http.Header{"Docker-Distribution-Api-Version": nil}}, cache.ErrNotFound},
		"404, only its header":   {ut.Fault{Status: 404, Body: []byte("not found"), Header: http.Header{"Docker-Distribution-Api-Version": {"registry/2.0"}}}, cache.ErrInvalid},
		"404 of a load balancer": {ut.Fault{Status: 404, Body: []byte("404 page not found"), Header: http.Header{"Docker-Distribution-Api-Version": nil}}, cache.ErrInvalid},
		"404, no code":           {ut.Fault{Status: 404, Body: []byte(`{"errors":[{"message":"no such route"}]}`)}, cache.ErrInvalid},
		"404 in other JSON":      {ut.Fault{Status: 404, Body: []byte(`{"message":"no such route"}`), Header: http.Header{"Docker-Distribution-Api-Version": nil}}, cache.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			tagged(reg, 3)
			test.fault.Kinds = []ut.Kind{ut.Tags}
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			_, _, err := r.Tags(t.Context(), "a/b", 0, "")
			wantKind(t, err, test.kind)
		})
	}
	reg := ut.New(t)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Tags}, Status: 200, Body: []byte(`{"name":"a","tags":null}`)})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	if tags, more, err := r.Tags(t.Context(), "a", 5, ""); err != nil || more || len(tags) != 0 {
		t.Errorf("null: %q, %v, %v", tags, more, err)
	}
}
