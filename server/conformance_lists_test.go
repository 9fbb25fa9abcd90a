package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// TestTagsConform lists tags in all kinds of pages, of a remote that gives at most two
// at a time and of the store ("Listing Tags").
func TestTagsConform(t *testing.T) {
	s := newSite(t)
	all := []string{"10", "9", "B", "a", "v1", "v1.0", "v2"}
	for _, tag := range all {
		s.up.AddManifest("a/b", tag, v1.MediaTypeImageManifest, s.manifest)
	}
	for _, tag := range all { // they are stored
		do(t, http.MethodGet, s.url+"/v2/a/b/manifests/"+tag)
	}
	for _, state := range []string{"the remote's", "the store's"} {
		if state == "the store's" {
			s.up.Fail(cache.ErrUnavailable)
		}
		for _, last := range append([]string{"", "0", "1", "AA", "v1.", "zz"}, all...) {
			after := slices.DeleteFunc(slices.Clone(all), func(tag string) bool { return tag <= last })
			for n := -1; n <= len(all)+1; n++ {
				query := url.Values{}
				want, more := after, false
				if n >= 0 {
					query.Set("n", fmt.Sprint(n))
					want = after[:min(n, len(after))]
					more = n > 0 && n < len(after)
				}
				if last != "" {
					query.Set("last", last)
				}
				what := fmt.Sprintf("%s, ?%s", state, query.Encode())
				r := do(t, http.MethodGet, s.url+"/v2/a/b/tags/list?"+query.Encode())
				r.conforms(t)
				if got := r.header.Get("Content-Type"); r.status != http.StatusOK || got != "application/json" {
					t.Fatalf("%s: status %d of type %q\n%s", what, r.status, got, r.body)
				}
				if body, err := json.Marshal(map[string]any{"name": "a/b", "tags": append([]string{}, want...)}); err != nil || string(bytes.TrimSpace(r.body)) != string(body) {
					t.Errorf("%s: %s, want %s", what, r.body, body)
				}
				if got := r.header.Get("Link"); (got != "") != more || more && !strings.HasSuffix(got, `; rel="next"`) {
					t.Errorf("%s: Link %q, more to come: %v", what, got, more)
				}
			}
		}
		for n := 1; n <= len(all)+1; n++ {
			if got := s.follow(t, fmt.Sprintf("/v2/a/b/tags/list?n=%d", n)); !slices.Equal(got, all) {
				t.Errorf("%s, by links from n=%d: %q, want %q", state, n, got, all)
			}
		}
	}
}

// follow collects the tags of a list by its links (RFC 8288).
func (s *site) follow(t *testing.T, path string) (tags []string) {
	t.Helper()
	at, err := url.Parse(s.url + path)
	must(t, err)
	for range 10 {
		r := do(t, http.MethodGet, at.String())
		var page struct{ Tags []string }
		must(t, json.Unmarshal(r.body, &page))
		tags = append(tags, page.Tags...)
		link := r.header.Get("Link")
		if link == "" {
			return tags
		}
		target, _, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
		at, err = at.Parse(target)
		must(t, err)
	}
	t.Errorf("%s: the pages do not end", path)
	return tags
}

// TestTagsOfNothing lists the tags of repositories without any.
func TestTagsOfNothing(t *testing.T) {
	s := newSite(t)
	s.up.AddManifest("empty", "v1", v1.MediaTypeImageManifest, s.manifest)
	s.up.RemoveTag("empty", "v1")
	r := do(t, http.MethodGet, s.url+"/v2/empty/tags/list")
	if got := strings.TrimSpace(string(r.body)); r.status != http.StatusOK || got != `{"name":"empty","tags":[]}` {
		t.Errorf("a repository without tags: status %d, %s", r.status, got)
	}
	r = do(t, http.MethodGet, s.url+"/v2/unknown/tags/list")
	r.conforms(t)
	if r.status != http.StatusNotFound || r.code(t) != "NAME_UNKNOWN" {
		t.Errorf("an unknown repository: status %d, %s", r.status, r.body)
	}
	for _, n := range []string{"-1", "x", "1.5", "99999999999999999999"} {
		if r := do(t, http.MethodGet, s.url+"/v2/a/b/tags/list?n="+n); r.status != http.StatusBadRequest {
			t.Errorf("n=%s: status %d, want 400", n, r.status)
		} else {
			r.code(t)
		}
	}
}
