package server_test

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/server"
)

// structured is a list of one member by RFC 9651, as it is in Cache-Status: a token with
// parameters that are flags, tokens, integers and strings.
var structured = regexp.MustCompile(`^registry-module(; [a-z-]+(=([a-z][a-z-]*|-?[0-9]{1,15}|"([ !#-\[\]-~]|\\["\\])*"))?)*$`)

// status is the Cache-Status of an answer, with each lifetime as its sign.
func (r response) cacheStatus(t *testing.T) string {
	t.Helper()
	all := r.header.Values("Cache-Status")
	if len(all) == 0 {
		return ""
	}
	if len(all) > 1 || !structured.MatchString(all[0]) {
		t.Errorf("Cache-Status %q", all)
	}
	text := regexp.MustCompile(`ttl=-\d+`).ReplaceAllString(all[0], "ttl=-N")
	return regexp.MustCompile(`ttl=\d+`).ReplaceAllString(text, "ttl=N")
}

// Answers from the store say so, by whichever way they come, and for how long they hold.
func TestCacheStatusOfStored(t *testing.T) {
	hook := newWebhook(t)
	for _, way := range []func(*server.Options){func(*server.Options) {}, hook.configure(nil)} {
		s := newSite(t, way)
		tag, layer := s.url+"/v2/a/b/manifests/v1", s.url+"/v2/a/b/blobs/"+s.layerDigest.String()
		do(t, http.MethodGet, tag)
		do(t, http.MethodGet, layer)
		s.stored(t, s.layerDigest)
		want := map[string]string{
			tag: "registry-module; hit; ttl=N", s.url + "/v2/a/b/manifests/" + s.image.String(): "registry-module; hit",
			layer: "registry-module; hit",
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for url, want := range want {
				if got := do(t, method, url).cacheStatus(t); got != want {
					t.Errorf("%s %s: %q, want %q", method, url, got, want)
				}
			}
		}
		for _, why := range []struct {
			err    error
			detail string
		}{
			{fmt.Errorf("%w: %w: %w", cache.ErrUnavailable, cache.ErrNotAsked, cache.ErrOffline), "offline"},
			{fmt.Errorf("%w: %w", cache.ErrUnavailable, cache.ErrNotAsked), "remote away"},
			{fmt.Errorf("%w: %w", cache.ErrRateLimited, cache.ErrNotAsked), "rate limited"},
			{fmt.Errorf("%w: %w", cache.ErrDenied, cache.ErrNotAsked), "denied"},
			{errAway, "not confirmed"},
		} {
			s.up.SetAway(why.err, false)
			want := fmt.Sprintf(`registry-module; hit; detail="%s"`, why.detail)
			// It is fresh, so that it has a lifetime that is not over: it is not told.
			if got := do(t, http.MethodGet, tag, "Cache-Control", "no-cache").cacheStatus(t); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
}

// Who is refused, or asks for what is none, is told nothing of the cache.
func TestNoCacheStatus(t *testing.T) {
	s := newSite(t)
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	for _, path := range []string{"/", "/v2/", "/v2/_catalog", "/v2/A/manifests/v1", "/v2/two/secret/a/manifests/v1", "/v2/a/b/manifests/v1?ns=elsewhere.test", "/v2/a/b/manifests/v1?ns=a&ns=b"} {
		if r := do(t, http.MethodGet, s.url+path); r.header.Get("Cache-Status") != "" {
			t.Errorf("%s: %q", path, r.header.Get("Cache-Status"))
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPost} {
		if r := do(t, method, s.url+"/v2/a/b/manifests/v1"); r.header.Get("Cache-Status") != "" {
			t.Errorf("%s: status %d, %q", method, r.status, r.header.Get("Cache-Status"))
		}
	}
	for _, err := range []error{server.ErrForbidden, server.ErrUndecided, errors.New("a file")} {
		closed := s.serve(t, func(o *server.Options) {
			o.Access = &asking{answer: func(server.Asked) (server.Caller, error) { return nil, err }}
		})
		if r := do(t, http.MethodGet, closed+"/v2/a/b/manifests/v1"); r.status < 400 || r.header.Get("Cache-Status") != "" {
			t.Errorf("%v: status %d, %q", err, r.status, r.header.Get("Cache-Status"))
		}
	}
}

// What the remote does not give is told in few words, and never more than the body has.
func TestCacheStatusOfFailures(t *testing.T) {
	s := newSite(t)
	unknown := digest.FromString("unknown").String()
	for i, tt := range []struct {
		err    error
		status int
		want   string
	}{
		{&cache.UpstreamError{Kind: cache.ErrNotFound, Remote: "x", Op: "asking", Status: 404}, 404, `registry-module; fwd=uri-miss; fwd-status=404; detail="not found"`},
		{&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "x", Op: "asking", Status: 500}, 503, `registry-module; fwd=uri-miss; fwd-status=500; detail="remote away"`},
		{&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "x", Op: "asking"}, 503, `registry-module; fwd=uri-miss; detail="remote away"`},
		{&cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "x", Op: "asking", Err: fmt.Errorf("%w: %w", cache.ErrNotAsked, cache.ErrOffline)}, 503, `registry-module; detail="offline"`},
		{&cache.UpstreamError{Kind: cache.ErrRateLimited, Remote: "x", Op: "asking", Status: 429}, 429, `registry-module; fwd=uri-miss; fwd-status=429; detail="rate limited"`},
		{&cache.UpstreamError{Kind: cache.ErrDenied, Remote: "x", Op: "asking", Status: 403}, 403, `registry-module; fwd=uri-miss; fwd-status=403; detail="denied"`},
		{&cache.UpstreamError{Kind: cache.ErrInvalid, Remote: "x", Op: "asking", Status: 200, Err: cache.ErrIntercepted}, 502, `registry-module; fwd=uri-miss; fwd-status=200; detail="intercepted"`},
		{&cache.UpstreamError{Kind: cache.ErrLoop, Remote: "x", Op: "asking", Status: 508}, 508, `registry-module; fwd=uri-miss; fwd-status=508; detail="loop"`},
		{errors.New("a disk"), 500, ""},
	} {
		s.up.Fail(tt.err)
		for _, path := range []string{fmt.Sprintf("/v2/a/b/manifests/t%d", i), "/v2/a/b/blobs/" + digest.FromString(fmt.Sprint(i)).String()} {
			if r := do(t, http.MethodGet, s.url+path); r.status != tt.status || r.cacheStatus(t) != tt.want {
				t.Errorf("%v, %s: status %d, %q, want %q", tt.err, path, r.status, r.cacheStatus(t), tt.want)
			}
		}
		if tt.status == 503 {
			want := strings.Replace(tt.want, "uri-miss", "request", 1)
			if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/"+unknown, "Cache-Control", "no-cache"); r.cacheStatus(t) != want {
				t.Errorf("%v, for who insists: %q, want %q", tt.err, r.cacheStatus(t), want)
			}
		}
	}
}

// What an operator has every answer say is not in the way.
func TestCacheStatusBesideHeaders(t *testing.T) {
	s := newSite(t, func(o *server.Options) {
		o.Config = &configuration.Configuration{HTTP: configuration.HTTP{Headers: http.Header{"Cache-Status": {"other; hit"}}}}
	})
	if got := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1").header.Values("Cache-Status"); len(got) != 1 || !strings.HasPrefix(got[0], "registry-module; ") {
		t.Errorf("%q", got)
	}
}
