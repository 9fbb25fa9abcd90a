package upstream_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// TestAbsence has a remote say 404 in the ways of registries and of others.
func TestAbsence(t *testing.T) {
	const oci = `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}`
	for name, test := range map[string]struct {
		fault ut.Fault
		vague bool
	}{
		"registry":               {ut.Fault{Body: []byte(oci)}, false},
		"registry, no message":   {ut.Fault{Body: []byte(`{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)}, false},
		"registry, own code":     {ut.Fault{Body: []byte(`{"errors":[{"code":"NOT_FOUND","message":"unknown"}]}`)}, false},
		"registry, plain text":   {ut.Fault{Body: []byte(oci), Header: http.Header{"Content-Type": {"text/plain"}}}, false},
		"nothing":                {ut.Fault{Body: []byte{}}, true},
		"load balancer":          {ut.Fault{Body: []byte("404 page not found\n")}, true},
		"page":                   {ut.Fault{Body: []byte("<html>Not Found</html>"), Header: http.Header{"Content-Type": {"text/html"}}}, true},
		"other JSON":             {ut.Fault{Body: []byte(`{"message":"no such route"}`)}, true},
		"no errors":              {ut.Fault{Body: []byte(`{"errors":[]}`)}, true},
		"errors of another API":  {ut.Fault{Body: []byte(`{"errors":[{"status":"404","title":"Not Found","message":"x"}]}`)}, true},
		"errors that are a text": {ut.Fault{Body: []byte(`{"errors":"MANIFEST_UNKNOWN"}`)}, true},
		"its header only":        {ut.Fault{Body: []byte("no"), Header: http.Header{"Docker-Distribution-Api-Version": {"registry/2.0"}}}, true},
		"cut":                    {ut.Fault{Body: []byte(oci), Cut: true, CutAt: 10}, true},
		"huge":                   {ut.Fault{Body: append(make([]byte, 1<<20), oci...)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stocked(t)
			test.fault.Kinds, test.fault.Status = []ut.Kind{ut.ManifestGet, ut.ManifestHead, ut.BlobGet, ut.BlobHead}, 404
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			for question, vague := range map[string]bool{"Manifest": test.vague, "Resolve": true, "Blob": true, "StatBlob": true} {
				if e := wantKind(t, questions[question](t.Context(), r), cache.ErrNotFound); e.Vague != vague || e.Status != 404 {
					t.Errorf("%s: vague is %v, want %v: %v", question, e.Vague, vague, e)
				}
			}
			// Nobody is asked twice to find that out.
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1, ut.ManifestHead: 1, ut.BlobGet: 1, ut.BlobHead: 1})
		})
	}
}

// TestAbsenceElsewhere has another registry say that it has nothing, to which the remote
// has redirected.
func TestAbsenceElsewhere(t *testing.T) {
	reg, other := stocked(t), ut.New(t)
	for _, kind := range []ut.Kind{ut.ManifestGet, ut.ManifestHead, ut.BlobGet, ut.BlobHead, ut.Tags} {
		reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, Status: 307, Header: http.Header{"Location": {other.URL() + map[ut.Kind]string{
			ut.ManifestGet: "/v2/x/manifests/v1", ut.ManifestHead: "/v2/x/manifests/v1", ut.Tags: "/v2/x/tags/list",
			ut.BlobGet: "/v2/x/blobs/" + digest.FromString("x").String(), ut.BlobHead: "/v2/x/blobs/" + digest.FromString("x").String(),
		}[kind]}}})
	}
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	for _, name := range []string{"Manifest", "Resolve", "Blob", "StatBlob"} {
		if e := wantKind(t, questions[name](t.Context(), r), cache.ErrNotFound); !e.Vague {
			t.Errorf("%s: not vague: %v", name, e)
		}
	}
	wantKind(t, questions["Tags"](t.Context(), r), cache.ErrInvalid)
}

// TestOnlyAbsenceIsVague asks in all ways for what is refused.
func TestOnlyAbsenceIsVague(t *testing.T) {
	for _, status := range []int{400, 401, 403, 410, 429, 500, 503, 508} {
		reg := stocked(t)
		reg.Script(ut.Fault{Kinds: contentKinds, Status: status, Body: []byte("no")})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		for name, ask := range questions {
			if e, ok := errors.AsType[*cache.UpstreamError](ask(t.Context(), r)); !ok || e.Status != status || e.Vague {
				t.Errorf("%s, %d: %+v", name, status, e)
			}
		}
	}
}
