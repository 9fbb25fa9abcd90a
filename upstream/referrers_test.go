package upstream_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// referred makes a registry with an image and n artifacts that refer to it, and returns
// their descriptors in the order in which they are listed.
func referred(t *testing.T, n int) (reg *ut.Registry, subject digest.Digest, list []v1.Descriptor) {
	t.Helper()
	reg, img := sample(t)
	of := v1.Descriptor{MediaType: img.MediaType, Digest: img.Digest, Size: int64(len(img.Manifest))}
	for i := range n {
		desc := reg.AddReferrer("a/b", of, "application/vnd.example.signature", map[string]string{"number": fmt.Sprint(i)})
		list = append(list, desc)
	}
	slices.SortFunc(list, func(a, b v1.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return reg, img.Digest, list
}

func index(t *testing.T, descs ...any) []byte {
	t.Helper()
	if descs == nil {
		descs = []any{}
	}
	content, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": v1.MediaTypeImageIndex, "manifests": descs})
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestReferrers(t *testing.T) {
	const notFound = "404 page not found\n"
	api, tag := []ut.Kind{ut.Referrers}, []ut.Kind{ut.ManifestGet}
	link := func(to string) http.Header { return http.Header{"Link": {"<" + to + `>; rel="next"`}} }
	as := func(mediaType string) http.Header { return http.Header{"Content-Type": {mediaType}} }
	big := append(index(t), []byte(strings.Repeat(" ", cache.MaxManifestSize-len(index(t))))...)
	self := func(header http.Header) func(ut.Request) bool { // has each page lead to itself
		return func(req ut.Request) bool { header.Set("Link", "<"+req.Path+`>; rel="next"`); return true }
	}
	endless, endlessBig := make(http.Header), make(http.Header)
	for name, test := range map[string]struct {
		n           int
		off, tagged bool // the registry has no API; its clients have made the tag
		page        int
		faults      []ut.Fault
		kind        error // nil: all n
		says        string
		intercepted bool
		vague       bool
		apis, tags  int // requests
	}{
		"none":         {apis: 1},
		"some":         {n: 3, apis: 1},
		"pages":        {n: 5, page: 2, apis: 3},
		"single pages": {n: 3, page: 1, apis: 3},

		"last page again and again": {n: 2, faults: []ut.Fault{{Kinds: api, Header: endless, Match: self(endless)}}, kind: cache.ErrInvalid, says: "more than 100 pages", apis: 100},
		"large pages":               {n: 2, faults: []ut.Fault{{Kinds: api, Body: big, Header: endlessBig, Match: self(endlessBig)}}, kind: cache.ErrInvalid, says: "larger than 16777216 bytes", apis: 5},
		"too large a page":          {n: 2, faults: []ut.Fault{{Kinds: api, Body: append(big, ' '), Chunked: true}}, kind: cache.ErrInvalid, says: "larger than 4194304 bytes", apis: 1},
		"page at another host":      {n: 2, page: 1, faults: []ut.Fault{{Kinds: api, Header: link("http://127.0.0.1:1/v2/a/b/referrers/x")}}, kind: cache.ErrInvalid, says: "do not follow", apis: 1},
		"page at another path":      {n: 2, page: 1, faults: []ut.Fault{{Kinds: api, Header: link("/v2/private/tags/list?secret")}}, kind: cache.ErrInvalid, says: "do not follow", apis: 1},
		"page at no URL":            {n: 2, page: 1, faults: []ut.Fault{{Kinds: api, Header: link("http://a b/secret")}}, kind: cache.ErrInvalid, says: "do not follow", apis: 1},
		"page is not there":         {n: 2, page: 1, faults: []ut.Fault{{Kinds: api, Skip: 1, Status: 404}}, kind: cache.ErrInvalid, says: "breaks off after 1 pages", apis: 2},
		"page is cut":               {n: 2, page: 1, faults: []ut.Fault{{Kinds: api, Skip: 1, Cut: true, CutAt: 10}}, kind: cache.ErrUnavailable, apis: 2},
		"page fails":                {n: 2, page: 1, faults: []ut.Fault{{Kinds: api, Skip: 1, Status: 503}}, kind: cache.ErrUnavailable, apis: 2},

		"called JSON":        {n: 2, faults: []ut.Fault{{Kinds: api, Header: as("application/json; charset=utf-8")}}, apis: 1},
		"called nothing":     {n: 2, faults: []ut.Fault{{Kinds: api, Header: as("")}}, apis: 1},
		"null":               {faults: []ut.Fault{{Kinds: api, Body: []byte(`{"manifests":null}`)}}, apis: 1},
		"other JSON":         {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte(`{"message":"x"}`)}}, kind: cache.ErrInvalid, says: "no image index", apis: 1},
		"no array":           {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte(`{"manifests":{}}`)}}, kind: cache.ErrInvalid, says: "no image index", apis: 1},
		"a text":             {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte(`{"manifests":"none"}`)}}, kind: cache.ErrInvalid, says: "no image index", apis: 1},
		"another type":       {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte(`{"manifests":[]}`), Header: as("application/vnd.docker.distribution.manifest.list.v2+json")}}, kind: cache.ErrInvalid, says: "no image index", apis: 1},
		"another type in it": {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte(`{"mediaType":"application/json","manifests":[]}`)}}, kind: cache.ErrInvalid, says: "no image index", apis: 1},
		"array":              {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte(`[]`)}}, kind: cache.ErrInvalid, says: "not a JSON object", apis: 1},
		"empty":              {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte{}}}, kind: cache.ErrInvalid, says: "empty", apis: 1},
		"packed":             {n: 2, faults: []ut.Fault{{Kinds: api, Header: http.Header{"Content-Encoding": {"gzip"}}}}, kind: cache.ErrInvalid, says: "encoded", apis: 1},
		"portal":             {n: 2, faults: []ut.Fault{ut.HTMLPage(api...)}, kind: cache.ErrInvalid, says: "login page", intercepted: true, apis: 1},
		"portal called JSON": {n: 2, faults: []ut.Fault{{Kinds: api, Body: []byte("<html>")}}, kind: cache.ErrInvalid, says: "but a page", intercepted: true, apis: 1},
		"401":                {n: 2, faults: []ut.Fault{{Kinds: api, Status: 401}}, kind: cache.ErrDenied, apis: 1},
		"403":                {n: 2, faults: []ut.Fault{{Kinds: api, Status: 403}}, kind: cache.ErrDenied, apis: 1},
		"429":                {n: 2, faults: []ut.Fault{{Kinds: api, Status: 429}}, kind: cache.ErrRateLimited, apis: 1},
		"500":                {n: 2, faults: []ut.Fault{{Kinds: api, Status: 500}}, kind: cache.ErrUnavailable, apis: 1},
		"406":                {n: 2, faults: []ut.Fault{{Kinds: api, Status: 406}}, kind: cache.ErrInvalid, apis: 1},

		"no API, no tag":         {off: true, apis: 1, tags: 1},
		"no API":                 {n: 3, off: true, tagged: true, apis: 1, tags: 1},
		"no API: 400":            {n: 3, tagged: true, faults: []ut.Fault{{Kinds: api, Status: 400}}, apis: 1, tags: 1},
		"no API: 404":            {n: 3, tagged: true, faults: []ut.Fault{{Kinds: api, Status: 404}}, apis: 1, tags: 1},
		"no API: 405":            {n: 3, tagged: true, faults: []ut.Fault{{Kinds: api, Status: 405}}, apis: 1, tags: 1},
		"no API: 501":            {n: 3, tagged: true, faults: []ut.Fault{{Kinds: api, Status: 501}}, apis: 1, tags: 1},
		"nobody there":           {off: true, faults: []ut.Fault{{Kinds: tag, Status: 404, Body: []byte(notFound)}}, kind: cache.ErrNotFound, vague: true, apis: 1, tags: 1},
		"tag is another's":       {off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Status: 403}}, kind: cache.ErrDenied, apis: 1, tags: 1},
		"tag fails":              {off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Status: 502}}, kind: cache.ErrUnavailable, apis: 1, tags: 1},
		"tag, too many requests": {off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Status: 429}}, kind: cache.ErrRateLimited, apis: 1, tags: 1},
		"tag is no index":        {off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Header: as(v1.MediaTypeImageManifest), Body: []byte(`{"manifests":[]}`)}}, kind: cache.ErrInvalid, says: "no image index", apis: 1, tags: 1},
		"tag has another digest": {off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Body: index(t)}}, kind: cache.ErrInvalid, says: "has not the digest", apis: 1, tags: 1},
		"tag of unknown digest":  {n: 2, off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Header: http.Header{"Docker-Content-Digest": nil}}}, apis: 1, tags: 1},
		"tag is too large":       {off: true, tagged: true, faults: []ut.Fault{{Kinds: tag, Body: append(big, ' ')}}, kind: cache.ErrInvalid, says: "larger than 4194304 bytes", apis: 1, tags: 1},
		"tag is a page":          {off: true, tagged: true, faults: []ut.Fault{ut.HTMLPage(tag...)}, kind: cache.ErrInvalid, says: "login page", intercepted: true, apis: 1, tags: 1},
	} {
		t.Run(name, func(t *testing.T) {
			reg, subject, want := referred(t, test.n)
			if test.tagged {
				reg.TagReferrers("a/b", subject)
			}
			reg.SetReferrers(!test.off)
			reg.SetReferrersPage(test.page)
			for _, f := range test.faults {
				reg.Script(f)
			}
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			list, err := r.Referrers(t.Context(), "a/b", subject)
			if test.kind != nil {
				e := wantKind(t, err, test.kind)
				if !strings.Contains(err.Error(), test.says) || errors.Is(err, cache.ErrIntercepted) != test.intercepted || e.Vague != test.vague || list != nil {
					t.Errorf("%d referrers, error %q: does not say %q, or is not as it is to be", len(list), err, test.says)
				}
			} else if err != nil || list == nil || len(list) != len(want) || len(want) > 0 && !reflect.DeepEqual(list, want) {
				t.Errorf("referrers are %+v, %v, want %+v", list, err, want)
			}
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Referrers: test.apis, ut.ManifestGet: test.tags})
			for _, req := range reg.Log() {
				if req.Kind == ut.Referrers && (req.Header.Get("Accept") != v1.MediaTypeImageIndex || req.Ref != subject.String()) {
					t.Errorf("asked for %s, accepting %q", req.Path, req.Header.Get("Accept"))
				}
				if req.Kind == ut.ManifestGet && req.Ref != strings.Replace(subject.String(), ":", "-", 1) {
					t.Errorf("asked for the tag %s", req.Ref)
				}
			}
		})
	}
}

func TestReferrersOfNothing(t *testing.T) {
	for _, on := range []bool{true, false} {
		reg := ut.New(t)
		reg.SetReferrers(on)
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		subject := digest.SHA512.FromString("")
		if list, err := r.Referrers(t.Context(), "a/b", subject); err != nil || list == nil || len(list) != 0 {
			t.Errorf("referrers are %+v, %v", list, err)
		}
		if on {
			continue
		}
		// A tag has 128 characters at most: the digest is cut.
		if last := reg.Log()[2]; last.Ref != "sha512-"+subject.Encoded()[:64] {
			t.Errorf("asked for the tag %s", last.Ref)
		}
	}
}

func TestReferrersAreFiltered(t *testing.T) {
	reg, subject, _ := referred(t, 0)
	good, other := digest.FromString("good"), digest.SHA512.FromString("other")
	type m = map[string]any
	body := index(t,
		m{"digest": good, "size": 7, "mediaType": "x/y", "artifactType": "z", "annotations": m{"a": "b"}},
		m{"digest": good, "size": 7, "mediaType": "twice"},
		m{"digest": "sha256:abc", "size": 7},
		m{"digest": "md5:d41d8cd98f00b204e9800998ecf8427e", "size": 7},
		m{"size": 7}, m{"digest": 7}, m{"digest": digest.FromString("1"), "size": -1}, m{"digest": digest.FromString("2"), "size": "7"},
		m{"digest": digest.FromString("3"), "annotations": m{"a": 1}}, m{"digest": digest.FromString("4"), "data": "*"},
		nil, 1, "x", []int{}, m{},
		m{"digest": other, "size": 0},
	)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Referrers}, Body: body})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	list, err := r.Referrers(t.Context(), "a/b", subject)
	want := []v1.Descriptor{
		{MediaType: "x/y", Digest: good, Size: 7, ArtifactType: "z", Annotations: map[string]string{"a": "b"}},
		{Digest: other},
	}
	if err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("referrers are %+v, %v", list, err)
	}
}

func TestReferrersRepeatNoSecrets(t *testing.T) {
	const secret = "secret-password"
	long := strings.Repeat("x", 16<<10)
	type m = map[string]any
	for name, test := range map[string]struct {
		fields m
		keep   bool
	}{
		"nothing":           {m{"annotations": m{"a": "b"}}, true},
		"type":              {m{"mediaType": "application/" + secret}, false},
		"artifact type":     {m{"artifactType": "application/x; was=" + secret}, false},
		"annotation":        {m{"annotations": m{"a": "b", "c": "Basic " + secret}}, false},
		"name of one":       {m{"annotations": m{secret: "b"}}, false},
		"escaped":           {m{"annotations": json.RawMessage(`{"a":"\u0073ecret-p\u0061ssword"}`)}, false},
		"URL":               {m{"urls": []string{"https://me:" + secret + "@example.com/"}}, false},
		"data":              {m{"data": []byte("a " + secret)}, false},
		"platform":          {m{"platform": m{"os": "linux", "architecture": "amd64", "os.features": []string{secret}}}, false},
		"behind long text":  {m{"annotations": m{"a": long + long + secret}}, false},
		"across the border": {m{"annotations": m{"a": long[:len(long)-8] + secret + long}}, false},
		"long text":         {m{"annotations": m{"a": long + long}}, true},
		// What types are made of is no secret, even where it was chosen as one.
		"image manifest": {m{"mediaType": v1.MediaTypeImageManifest}, true},
	} {
		t.Run(name, func(t *testing.T) {
			reg, subject, _ := referred(t, 0)
			reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: secret})
			test.fields["digest"], test.fields["size"] = digest.FromString(name), 1
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Referrers}, Body: index(t, test.fields)})
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("me", secret)})
			list, err := r.Referrers(t.Context(), "a/b", subject)
			if err != nil || (len(list) == 1) != test.keep {
				t.Errorf("referrers are %+v, %v", list, err)
			}
		})
	}
}

// lookups are looked up and counted.
type lookups struct {
	*testing.T
	reg *ut.Registry
	r   *upstream.Remote
}

// ask wants so many referrers, by so many requests by the API and for the tag.
func (l lookups) ask(repo string, dgst digest.Digest, n, apis, tags int) {
	l.Helper()
	l.reg.ResetCounts()
	list, err := l.r.Referrers(l.Context(), repo, dgst)
	if err != nil || list == nil || len(list) != n {
		l.Errorf("referrers in %s are %+v, %v, want %d", repo, list, err, n)
	}
	if got, gotTags := l.reg.Requests(ut.Referrers), l.reg.Requests(ut.ManifestGet); got != apis || gotTags != tags {
		l.Errorf("asked %d times by the API and %d times for the tag, want %d and %d", got, gotTags, apis, tags)
	}
}

// TestReferrersAPIIsLacking looks referrers up again and again.
func TestReferrersAPIIsLacking(t *testing.T) {
	reg, subject, want := referred(t, 2)
	other := reg.AddRandomImage("other", "v1", 1, 10).Digest
	reg.SetReferrers(false)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	var c clock
	r.SetNow(c.now)
	l := lookups{t, reg, r}
	// That there is no tag proves nothing.
	l.ask("a/b", subject, 0, 1, 1)
	l.ask("a/b", subject, 0, 1, 1)
	reg.TagReferrers("a/b", subject)
	l.ask("a/b", subject, len(want), 1, 1)
	l.ask("a/b", subject, len(want), 0, 1)
	// What somebody has pushed to a repository shows nothing of others.
	l.ask("other", other, 0, 1, 1)
	c.advance(59 * time.Minute)
	l.ask("a/b", subject, len(want), 0, 1)
	c.advance(2 * time.Minute)
	l.ask("a/b", subject, len(want), 1, 1)
	l.ask("a/b", subject, len(want), 0, 1)
	// Whoever gets an answer by the API knows better.
	reg.SetReferrers(true)
	l.ask("other", other, 0, 1, 0)
	l.ask("a/b", subject, len(want), 1, 0)
	// A repository that the registry says it does not know.
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Referrers}, Repo: "gone", Status: 404})
	l.ask("gone", subject, 0, 1, 1)
	l.ask("a/b", subject, len(want), 1, 0)
}

// TestReferrersTagIsPlanted has somebody make a tag that hides what refers to a manifest.
func TestReferrersTagIsPlanted(t *testing.T) {
	api := []ut.Kind{ut.Referrers}
	says := func(code string) []byte { return []byte(`{"errors":[{"code":"` + code + `"}]}`) }
	const asked, remembered = 1, 0 // by the API, the next time
	for name, tt := range map[string]struct {
		seen  bool // an answer by the API before
		fault ut.Fault
		apis  int
	}{
		"page":             {false, ut.Fault{Status: 404, Body: []byte("404 page not found")}, remembered},
		"unsupported":      {false, ut.Fault{Status: 404, Body: says("UNSUPPORTED")}, remembered},
		"repository":       {false, ut.Fault{Status: 404, Body: says("NAME_UNKNOWN")}, asked},
		"manifest":         {false, ut.Fault{Status: 404, Body: says("MANIFEST_UNKNOWN")}, asked},
		"manifest, by 400": {false, ut.Fault{Status: 400, Body: says("MANIFEST_UNKNOWN")}, asked},
		"page, seen":       {true, ut.Fault{Status: 404, Body: []byte("404 page not found")}, asked},
		"405, seen":        {true, ut.Fault{Status: 405}, asked},
	} {
		t.Run(name, func(t *testing.T) {
			reg, subject, want := referred(t, 2)
			reg.TagReferrers("a/b", subject)
			l := lookups{t, reg, newRemote(t, upstream.Options{URL: reg.URL()})}
			if tt.seen {
				l.ask("other", subject, 0, 1, 0)
			}
			tt.fault.Kinds = api
			heal := reg.Script(tt.fault)
			l.ask("a/b", subject, len(want), 1, 1)
			heal()
			l.ask("a/b", subject, len(want), tt.apis, 1-tt.apis)
		})
	}
}

// TestReferrersMemoryIsBounded has more repositories lack the API than are remembered.
func TestReferrersMemoryIsBounded(t *testing.T) {
	reg, subject, want := referred(t, 1)
	reg.SetReferrers(false)
	index := index(t, want[0])
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	var c clock
	r.SetNow(c.now)
	l := lookups{t, reg, r}
	repo := func(i int) string { return fmt.Sprintf("r/%d", i) }
	for i := range 129 {
		reg.AddManifest(repo(i), strings.Replace(subject.String(), ":", "-", 1), v1.MediaTypeImageIndex, index)
		l.ask(repo(i), subject, 1, 1, 1)
		c.advance(time.Second)
	}
	l.ask(repo(128), subject, 1, 0, 1)
	l.ask(repo(1), subject, 1, 0, 1)
	l.ask(repo(0), subject, 1, 1, 1)
	l.ask(repo(1), subject, 1, 1, 1)
}

// TestReferrersElsewhere has the remote redirect, and another host answer or fail.
func TestReferrersElsewhere(t *testing.T) {
	other, subject, want := referred(t, 2)
	reg := ut.New(t)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Referrers}, Status: 307, Header: http.Header{"Location": {other.URL() + "/v2/a/b/referrers/" + subject.String()}}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	if list, err := r.Referrers(t.Context(), "a/b", subject); err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("referrers are %+v, %v", list, err)
	}
	other.SetReferrersPage(1)
	_, err := r.Referrers(t.Context(), "a/b", subject)
	if e := wantKind(t, err, cache.ErrInvalid); !e.Elsewhere {
		t.Errorf("error is %+v", e)
	}
	other.Script(ut.Fault{Kinds: []ut.Kind{ut.Referrers}, Status: 500})
	_, err = r.Referrers(t.Context(), "a/b", subject)
	if e := wantKind(t, err, cache.ErrUnavailable); !e.Elsewhere {
		t.Errorf("error is %+v", e)
	}
}
