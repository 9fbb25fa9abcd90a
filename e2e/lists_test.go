package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// TestTags compares tags/list, page by page, with upstream's.
func TestTags(t *testing.T) {
	t.Parallel()
	const repo = "lists/tags"
	img := sample(t, "OCI image")
	var images []lab.Image
	for i := range 25 {
		images = append(images, img.In(repo, fmt.Sprintf("v%02d", i)))
	}
	up := upstream(t, lab.UpstreamOptions{}, images...)
	m := module(t, up.Env())

	for _, query := range []string{
		"", "?n=1", "?n=10", "?n=24", "?n=25", "?n=26", "?n=1000", "?n=0",
		"?n=3&last=v05", "?last=v20", "?last=v24", "?last=zzz", "?n=5&last=none-such", "?n=-1", "?n=x",
	} {
		path := "/v2/" + repo + "/tags/list" + query
		got, want := get(t, m.URL()+path), get(t, up.Registry.URL()+path)
		if got.Status != want.Status || names(t, got) != names(t, want) {
			t.Errorf("%s: status %d, %s, upstream's %d, %s", path, got.Status, got.Body, want.Status, want.Body)
		}
		if got.Status == http.StatusOK && got.Header.Get("Content-Type") != want.Header.Get("Content-Type") {
			t.Errorf("%s: Content-Type %q, upstream's %q", path, got.Header.Get("Content-Type"), want.Header.Get("Content-Type"))
		}
		g, w := next(t, got), next(t, want)
		if g != nil && (g.Host != "" || g.Scheme != "") {
			t.Errorf("%s: the Link is absolute, and leads past the proxies in front: %s", path, g)
		}
		if (g == nil) != (w == nil) || g != nil && (g.Path != w.Path || g.Query().Encode() != w.Query().Encode()) {
			t.Errorf("%s: next page %v, upstream's %v", path, g, w)
		}
	}

	// By following the links a client sees each tag once.
	var all []string
	for page := (&url.URL{Path: "/v2/" + repo + "/tags/list", RawQuery: "n=10"}); page != nil; {
		a := get(t, m.URL()+page.String())
		var list struct{ Tags []string }
		if err := json.Unmarshal(a.Body, &list); err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Tags...)
		page = next(t, a)
		if len(all) > 100 {
			t.Fatal("the pages do not end")
		}
	}
	if len(all) != 25 || !slices.IsSorted(all) {
		t.Errorf("by pages: %v", all)
	}

	if a := get(t, m.URL()+"/v2/no/such/tags/list"); a.Status != http.StatusNotFound || a.code(t) != "NAME_UNKNOWN" {
		t.Errorf("tags of an unknown repository: status %d, want 404\n%s", a.Status, a.Body)
	}
	crane := lab.NewClient(tempDir(t), bin.crane)
	if got := strings.Fields(must(crane.CLI(t.Context(), "ls", m.Addr+"/"+repo))(t)); len(got) != 25 {
		t.Errorf("crane ls: %v", got)
	}
}

// names is the JSON value of a list, however it is written.
func names(t *testing.T, a answer) string {
	t.Helper()
	if a.Status != http.StatusOK {
		return a.code(t)
	}
	var v any
	if err := json.Unmarshal(a.Body, &v); err != nil {
		t.Errorf("%v\n%s", err, a.Body)
	}
	return fmt.Sprint(v)
}

// next is the URL of the next page, as RFC 8288 has it in a Link header, nil on
// the last one.
func next(t *testing.T, a answer) *url.URL {
	t.Helper()
	link := a.Header.Get("Link")
	if link == "" {
		return nil
	}
	target, relation, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">; rel=")
	if !ok || relation != `"next"` {
		t.Errorf("Link: %s", link)
		return nil
	}
	return must(url.Parse(target))(t)
}

// TestTagsOffline lists what is known of the tags while upstream is away.
func TestTagsOffline(t *testing.T) {
	t.Parallel()
	img := sample(t, "OCI image")
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	if a := get(t, manifestURL(m, img.Repo, img.Tag)); a.Status != http.StatusOK {
		t.Fatalf("status %d\n%s", a.Status, a.Body)
	}
	if err := up.Down(); err != nil {
		t.Fatal(err)
	}
	a := get(t, m.URL()+"/v2/"+img.Repo+"/tags/list")
	var list struct{ Tags []string }
	if err := json.Unmarshal(a.Body, &list); err != nil || a.Status != http.StatusOK || !slices.Equal(list.Tags, []string{img.Tag}) {
		t.Errorf("status %d, %v, want the tag that is cached\n%s", a.Status, err, a.Body)
	}
	if a := get(t, m.URL()+"/v2/not/cached/tags/list"); a.Status != http.StatusServiceUnavailable || a.code(t) != "UNAVAILABLE" {
		t.Errorf("tags of what is not known: status %d, want 503\n%s", a.Status, a.Body)
	}
}

// TestCatalog lists the repositories of which something is cached, in pages.
func TestCatalog(t *testing.T) {
	t.Parallel()
	img := sample(t, "OCI image")
	repos := []string{"lists/a", "lists/b", "lists/c/d", "one"}
	var images []lab.Image
	for _, r := range append([]string{"lists/not-pulled"}, repos...) {
		images = append(images, img.In(r, "1.0"))
	}
	up := upstream(t, lab.UpstreamOptions{}, images...)
	m := module(t, up.Env())

	catalog := func(query string) (repos []string, a answer) {
		t.Helper()
		a = get(t, m.URL()+"/v2/_catalog"+query)
		var list struct{ Repositories []string }
		if err := json.Unmarshal(a.Body, &list); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%s: status %d, %v\n%s", query, a.Status, err, a.Body)
		}
		return list.Repositories, a
	}
	if got, _ := catalog(""); len(got) != 0 {
		t.Errorf("of an empty cache: %v", got)
	}
	for _, r := range repos {
		if a := get(t, manifestURL(m, r, "1.0")); a.Status != http.StatusOK {
			t.Fatalf("%s: status %d\n%s", r, a.Status, a.Body)
		}
	}
	up.Reset()
	if got, a := catalog(""); !slices.Equal(got, repos) || a.Header.Get("Link") != "" {
		t.Errorf("%v, Link %q, want %v", got, a.Header.Get("Link"), repos)
	}
	first, a := catalog("?n=3")
	if !slices.Equal(first, repos[:3]) {
		t.Errorf("the first page is %v, want %v", first, repos[:3])
	}
	page := next(t, a)
	if page == nil || page.Host != "" {
		t.Fatalf("Link %q, want a relative one", a.Header.Get("Link"))
	}
	if rest, a := catalog("?" + page.RawQuery); !slices.Equal(rest, repos[3:]) || a.Header.Get("Link") != "" {
		t.Errorf("the second page is %v, Link %q, want %v", rest, a.Header.Get("Link"), repos[3:])
	}
	requests(t, up, "catalog", 0)
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := catalog(""); !slices.Equal(got, repos) {
		t.Errorf("after a restart: %v, want %v", got, repos)
	}
}
