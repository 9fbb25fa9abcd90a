package upstream_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

func TestResolveWhatIsKnown(t *testing.T) {
	const content = `{"schemaVersion":2}`
	const other = digest.Digest("sha256:" + digestZero)
	now := digest.FromString(content)
	full := cache.Descriptor{MediaType: "application/json", Digest: now, Size: int64(len(content))}
	unchanged := cache.Descriptor{Digest: now, Size: -1}
	head, get, both := []ut.Kind{ut.ManifestHead}, []ut.Kind{ut.ManifestGet}, []ut.Kind{ut.ManifestHead, ut.ManifestGet}
	noDigest := http.Header{"Docker-Content-Digest": nil}
	long := digest.SHA512.FromString(content)
	silent := ut.Fault{Kinds: both, IgnoreIfNoneMatch: true, Header: noDigest, Chunked: true}
	mute := ut.Fault{Kinds: head, IgnoreIfNoneMatch: true, Header: noDigest}
	for name, test := range map[string]struct {
		known      digest.Digest
		faults     []ut.Fault
		want       cache.Descriptor
		kind       error
		says       string
		heads, all int
	}{
		"nothing":                     {"", nil, full, nil, "", 1, 1},
		"nothing, HEAD says nothing":  {"", []ut.Fault{mute}, cache.Descriptor{MediaType: "application/json", Size: full.Size}, nil, "", 1, 1},
		"nothing, no HEAD":            {"", []ut.Fault{{Kinds: head, Status: 405}}, cache.Descriptor{Size: -1}, nil, "", 1, 1},
		"nothing, and not modified":   {"", []ut.Fault{{Kinds: head, Status: 304}}, cache.Descriptor{}, cache.ErrInvalid, "which we did not ask", 1, 1},
		"the same":                    {now, nil, unchanged, nil, "", 1, 1},
		"the same, weakly":            {now, []ut.Fault{{ETag: `W/"` + now.String() + `"`}}, unchanged, nil, "", 1, 1},
		"the same, no digest":         {now, []ut.Fault{{Kinds: head, Header: noDigest}}, unchanged, nil, "", 1, 1},
		"the same, not conditionally": {now, []ut.Fault{{Kinds: head, IgnoreIfNoneMatch: true}}, full, nil, "", 1, 1},
		"another":                     {other, nil, full, nil, "", 1, 1},
		"not modified, and another":   {other, []ut.Fault{{Kinds: head, Status: 304, Header: http.Header{"Docker-Content-Digest": {now.String()}}}}, cache.Descriptor{}, cache.ErrInvalid, "nothing has changed since", 1, 1},
		"HEAD says nothing, same":     {now, []ut.Fault{mute}, unchanged, nil, "", 1, 2},
		"HEAD says nothing, another":  {other, []ut.Fault{mute}, full, nil, "", 1, 2},
		// The digest is that of the bytes.
		"nobody says anything":          {now, []ut.Fault{silent}, full, nil, "", 1, 2},
		"nobody says anything, another": {other, []ut.Fault{silent}, full, nil, "", 1, 2},
		"nobody says anything, SHA-512": {long, []ut.Fault{silent}, cache.Descriptor{MediaType: "application/json", Digest: long, Size: full.Size}, nil, "", 1, 2},
		"nobody says anything, cut":     {now, []ut.Fault{mute, {Kinds: get, IgnoreIfNoneMatch: true, Header: noDigest, Cut: true, CutAt: 5}}, cache.Descriptor{}, cache.ErrUnavailable, "", 1, 2},
		"nobody says anything, no JSON": {now, []ut.Fault{mute, {Kinds: get, IgnoreIfNoneMatch: true, Header: noDigest, Body: []byte("ok")}}, cache.Descriptor{}, cache.ErrInvalid, "not a JSON object", 1, 2},
		"no HEAD, same":                 {now, []ut.Fault{{Kinds: head, Status: 405}}, unchanged, nil, "", 1, 2},
		"no HEAD, another":              {other, []ut.Fault{{Kinds: head, Status: 501}}, full, nil, "", 1, 2},
		"no HEAD, no GET":               {now, []ut.Fault{{Kinds: both, Status: 405}}, cache.Descriptor{}, cache.ErrInvalid, "HTTP status 405", 1, 2},
		"no HEAD, gone":                 {now, []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 404}}, cache.Descriptor{}, cache.ErrNotFound, "scripted fault", 1, 2},
		"no HEAD, too many GETs":        {now, []ut.Fault{{Kinds: head, Status: 405}, {Kinds: get, Status: 429}}, cache.Descriptor{}, cache.ErrRateLimited, "", 1, 2},
		"gone":                          {now, []ut.Fault{{Kinds: head, Status: 404}}, cache.Descriptor{}, cache.ErrNotFound, "", 1, 1},
		"page":                          {now, []ut.Fault{ut.HTMLPage(head...)}, cache.Descriptor{}, cache.ErrInvalid, "login page", 1, 1},
		"no digest":                     {"sha256:abc", nil, cache.Descriptor{}, cache.ErrInvalid, "not a digest", 0, 0},
		"header in it":                  {now + "\"\r\nX: y", nil, cache.Descriptor{}, cache.ErrInvalid, "not a digest", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			reg.AddManifest("a/b", "v1", "application/json", []byte(content))
			for _, f := range test.faults {
				reg.Script(f)
			}
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			d, err := r.Resolve(t.Context(), "a/b", "v1", test.known)
			switch {
			case test.kind == nil && (err != nil || d != test.want):
				t.Errorf("resolves to %+v, %v, want %+v", d, err, test.want)
			case test.kind != nil:
				wantKind(t, err, test.kind)
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %q does not say %q", err, test.says)
				}
			}
			want := map[ut.Kind]int{ut.ManifestHead: test.heads, ut.ManifestGet: test.all - test.heads}
			if test.all > 0 {
				want[ut.Ping] = 1
			}
			wantRequests(t, reg, want)
			var condition []string
			if test.known != "" {
				condition = []string{`"` + test.known.String() + `"`}
			}
			for _, req := range reg.Log() {
				if got := req.Header.Values("If-None-Match"); req.Kind != ut.Ping && strings.Join(got, ",") != strings.Join(condition, ",") {
					t.Errorf("%s asks for If-None-Match %q, want %q", req.Kind, got, condition)
				}
			}
		})
	}
}
