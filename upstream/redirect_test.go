package upstream_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

func TestRedirectNeverSeesAuthorization(t *testing.T) {
	for _, a := range []ut.Auth{
		{},
		{Scheme: "Basic", Username: "me", Password: "secret"},
		{Scheme: "Bearer", Username: "me", Password: "secret"},
	} {
		t.Run(a.Scheme, func(t *testing.T) {
			reg, img := sample(t)
			reg.SetAuth(a)
			reg.SetRedirect(true)
			// Cookies are not kept either.
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet, ut.Ping, ut.ManifestGet}, Header: http.Header{"Set-Cookie": {"session=secret; Path=/"}}})
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", "secret"), UserAgent: "tester/1"})
			get(t, r, "a/b", "v1")
			stream, err := r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{})
			if err != nil {
				t.Fatal(err)
			}
			content, err := readBlob(t, stream)
			if err != nil || img.Layers[0].Algorithm().FromBytes(content) != img.Layers[0] {
				t.Errorf("%d bytes, %v", len(content), err)
			}
			if stream, err = r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{Offset: 100}); err != nil {
				t.Fatal(err)
			}
			rest, err := readBlob(t, stream)
			if err != nil || stream.Offset != 100 || stream.Size != int64(len(content)) || string(rest) != string(content[100:]) {
				t.Errorf("%d bytes from %d of %d, %v", len(rest), stream.Offset, stream.Size, err)
			}
			if size, err := r.StatBlob(t.Context(), "a/b", img.Layers[0]); err != nil || size != int64(len(content)) {
				t.Errorf("size %d, %v", size, err)
			}
			for _, req := range reg.Log() {
				if req.Kind == ut.CDNGet || req.Kind == ut.CDNHead {
					names := slices.Sorted(func(yield func(string) bool) {
						for name := range req.Header {
							if !yield(name) {
								return
							}
						}
					})
					if got := strings.Join(names, " "); got != "Accept-Encoding User-Agent" && got != "Accept-Encoding Range User-Agent" {
						t.Errorf("the blob host has seen the headers %s", got)
					}
				} else if req.Header.Get("Cookie") != "" {
					t.Errorf("%s with a cookie", req.Kind)
				}
				if req.Header.Get("User-Agent") != "tester/1" || req.Kind != ut.Token && req.Header.Get("Accept-Encoding") != "identity" {
					t.Errorf("%s with %v", req.Kind, req.Header)
				}
			}
			if got, want := reg.Requests(ut.CDNGet, ut.CDNHead), reg.Requests(ut.BlobGet, ut.BlobHead); got != 3 || want != 3 {
				t.Errorf("%d requests of the blob host, %d of blobs, want 3 and 3", got, want)
			}
		})
	}
}

func TestRedirectWithinTheRemote(t *testing.T) {
	reg, img := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	for _, location := range []string{
		reg.URL() + "/v2/a/b/blobs/" + img.Layers[0].String(),
		"/v2/a/b/blobs/" + img.Layers[0].String(),
		"./" + img.Layers[0].String() + "#here",
		"http://me:secret@" + reg.Host() + "/v2/a/b/blobs/" + img.Layers[0].String(),
	} {
		reg.ResetCounts()
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Ref: img.Config.String(), Status: 307, Header: http.Header{"Location": {location}}})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		stream, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{})
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		if _, err := readBlob(t, stream); err != nil {
			t.Error(err)
		}
		if seen := reg.Authorizations(ut.BlobGet); len(seen) != 2 || seen[0] != seen[1] {
			t.Errorf("%s: the registry has seen %q", location, seen)
		}
		reg.Heal()
	}
}

func TestRedirectsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		status   int
		location func(reg *ut.Registry) string
		requests int
		says     string
	}{
		"loop":         {307, func(reg *ut.Registry) string { return reg.URL() + "/v2/a/b/blobs/sha256:" + strings.Repeat("0", 64) }, 11, "more than 10 redirects"},
		"no target":    {302, func(*ut.Registry) string { return "" }, 1, "where to"},
		"no URL":       {301, func(*ut.Registry) string { return "http://a b/secret" }, 1, "not a URL"},
		"no host":      {303, func(*ut.Registry) string { return "http:///secret" }, 1, "not a URL"},
		"other scheme": {308, func(*ut.Registry) string { return "file:///etc/secret" }, 1, ""},
		"opaque":       {308, func(*ut.Registry) string { return "mailto:secret@example.com" }, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Status: test.status, Header: http.Header{"Location": {test.location(reg)}}})
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			_, err := r.Blob(t.Context(), "a/b", "sha256:"+digestZero, cache.BlobPart{})
			wantKind(t, err, cache.ErrInvalid)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %q", err, test.says)
			}
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.BlobGet: test.requests})
		})
	}
}

const digestZero = "0000000000000000000000000000000000000000000000000000000000000000"

func TestNotThereAndBack(t *testing.T) {
	// A host that was redirected to sends us back: it is not to choose what is
	// asked for in our name.
	reg, img := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	reg.SetRedirect(true)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, Status: 302, Header: http.Header{"Location": {reg.URL() + "/v2/private/tags/list"}}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	_, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{})
	e := wantKind(t, err, cache.ErrDenied)
	if e.Status != 401 || !strings.Contains(err.Error(), "has redirected us") {
		t.Errorf("error is %v", err)
	}
	if seen := reg.Authorizations(ut.Tags); len(seen) != 0 {
		t.Errorf("the registry has seen %q on the way back", seen)
	}
	// A refusal of another host is not believed the first time.
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.BlobGet: 2, ut.CDNGet: 2, ut.Tags: 2})
}

func TestRedirectedHostFails(t *testing.T) {
	for status, test := range map[int]struct {
		kind  error
		asked int
	}{
		400: {cache.ErrInvalid, 2}, 401: {cache.ErrDenied, 2}, 403: {cache.ErrDenied, 2}, 404: {cache.ErrNotFound, 2}, 410: {cache.ErrInvalid, 2},
		405: {cache.ErrInvalid, 1}, 416: {cache.ErrInvalid, 1}, 429: {cache.ErrRateLimited, 1}, 500: {cache.ErrUnavailable, 1}, 503: {cache.ErrUnavailable, 1},
	} {
		reg, img := sample(t)
		reg.SetRedirect(true)
		reg.SetAuth(ut.Auth{Scheme: "Bearer"})
		end := reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, Status: status, Body: []byte("<Error><StringToSign>secret</StringToSign></Error>")})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		_, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{})
		if e := wantKind(t, err, test.kind); e.Status != status || !strings.Contains(err.Error(), reg.CDNHost()) {
			t.Errorf("%d is %v", status, err)
		}
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.BlobGet: test.asked, ut.CDNGet: test.asked})

		// The same once: what the remote says when it is asked again counts.
		end()
		reg.ResetCounts()
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, Status: status, Times: 1})
		stream, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{Offset: 10})
		if test.asked == 1 {
			wantKind(t, err, test.kind)
			continue
		}
		if err != nil {
			t.Errorf("%d, once: %v", status, err)
			continue
		}
		if _, err := readBlob(t, stream); err != nil || stream.Offset != 10 {
			t.Errorf("%d, once: from %d, %v", status, stream.Offset, err)
		}
		wantRequests(t, reg, map[ut.Kind]int{ut.BlobGet: 2, ut.CDNGet: 2})
	}
}

func TestRemoteRefusesAtOnce(t *testing.T) {
	// What the remote says itself is believed, also after another host refused.
	for _, status := range []int{400, 403, 404, 410} {
		reg, img := sample(t)
		reg.SetRedirect(true)
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Status: status})
		if _, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{}); err == nil {
			t.Errorf("%d is no error", status)
		}
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.BlobGet: 1})

		reg.Heal()
		reg.ResetCounts()
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, Status: 403})
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Status: status, Skip: 1})
		_, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{})
		if err == nil || strings.Contains(err.Error(), reg.CDNHost()) {
			t.Errorf("%d after a refusal is %v", status, err)
		}
		wantRequests(t, reg, map[ut.Kind]int{ut.BlobGet: 2, ut.CDNGet: 1})
	}
}

func TestPingIsRedirected(t *testing.T) {
	// What another host says to a ping is not the remote's word.
	reg, _ := sample(t)
	other := ut.New(t)
	for _, a := range []ut.Auth{{}, {Scheme: "Bearer"}} {
		other.SetAuth(a)
		reg.ResetCounts()
		end := reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 307, Header: http.Header{"Location": {other.URL() + "/v2/"}}})
		r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", "secret")})
		get(t, r, "a/b", "v1")
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1})
		if seen := append(reg.Authorizations(), other.Authorizations()...); len(seen) != 0 {
			t.Errorf("credentials were sent: %q", seen)
		}
		end()
	}
}

func TestManifestIsRedirected(t *testing.T) {
	reg, img := sample(t)
	other := ut.New(t)
	other.AddManifest("x", "v1", img.MediaType, img.Manifest)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Status: 307, Header: http.Header{"Location": {other.URL() + "/v2/x/manifests/v1"}}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	m, err := r.Manifest(t.Context(), "a/b", "v1")
	if err != nil || m.Digest != img.Digest {
		t.Errorf("manifest is %+v, %v", m.Descriptor, err)
	}
	if seen := other.Authorizations(); len(seen) != 0 {
		t.Errorf("the other host has seen %q", seen)
	}
	for _, req := range other.Log() {
		if !strings.Contains(req.Header.Get("Accept"), img.MediaType) {
			t.Errorf("the other host was not told what is accepted: %v", req.Header)
		}
	}
	if got := fmt.Sprint(m.Size); got != fmt.Sprint(len(img.Manifest)) {
		t.Errorf("size is %s", got)
	}
}
