package upstream

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "7", "86400", "86401", "99999999999999999999", "-1", " 7 ", "Mon, 23 Nov 2026 12:01:30 GMT", "Mon, 23 Nov 2020 12:01:30 GMT"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		d := parseRetryAfter(s, now)
		if d < 0 || d > maxRetryAfter || d%time.Second != 0 {
			t.Errorf("%q is %v", s, d)
		}
		if again := parseRetryAfter(strconv.Itoa(int(d/time.Second)), now); again != d {
			t.Errorf("%q is %v, and in seconds %v", s, d, again)
		}
		if later := parseRetryAfter(s, now.Add(time.Hour)); later > d {
			t.Errorf("%q is %v, and an hour later %v", s, d, later)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */5", "bytes 0-9/5", "Bytes  1-2/3", "bytes 0-9223372036854775806/*", "bytes 00-01/002"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if cr, ok := parseContentRange(s); ok {
			if cr.first < 0 || cr.last < cr.first || cr.last-cr.first+1 < 1 || cr.size != -1 && cr.size <= cr.last {
				t.Errorf("%q is %+v", s, cr)
			}
			size := "*"
			if cr.size >= 0 {
				size = strconv.FormatInt(cr.size, 10)
			}
			again, ok := parseContentRange(fmt.Sprintf("bytes %d-%d/%s", cr.first, cr.last, size))
			if !ok || again != cr {
				t.Errorf("%q is %+v, and written again %+v, %v", s, cr, again, ok)
			}
			if n, ok := parseUnsatisfied(s); ok {
				t.Errorf("%q is both a range and none, of %d", s, n)
			}
		}
		if n, ok := parseUnsatisfied(s); ok {
			again, ok := parseUnsatisfied(fmt.Sprintf("bytes */%d", n))
			if !ok || again != n || n < 0 {
				t.Errorf("%q is %d, and written again %d, %v", s, n, again, ok)
			}
		}
	})
}

// FuzzPart opens answers to requests for parts, and checks what is said of those
// that are taken.
func FuzzPart(f *testing.F) {
	f.Add(int64(5), int64(0), "", 206, "bytes 5-9/10", `"x"`, int64(5))
	f.Add(int64(5), int64(2), `http://h:80 "x"`, 206, "bytes 5-6/*", `"y"`, int64(-1))
	f.Add(int64(0), int64(math.MaxInt64), "", 206, "bytes 0-9223372036854775806/*", "", int64(-1))
	f.Add(int64(math.MaxInt64), int64(0), "", 206, "bytes 9223372036854775807-9223372036854775807/*", "", int64(1))
	f.Add(int64(5), int64(5), "", 200, "", `W/"x"`, int64(10))
	f.Add(int64(50), int64(0), "", 416, "bytes */10", "", int64(0))
	r := &Remote{base: &url.URL{Scheme: "http", Host: "h"}}
	f.Fuzz(func(t *testing.T, offset, length int64, validator string, status int, contentRange, etag string, contentLength int64) {
		part := cache.BlobPart{Offset: offset, Length: length, Validator: validator}
		q := r.query("testing", http.MethodGet, "a", "/a/blobs/"+digest.FromString("").String())
		if r.setPart(q, part) != nil {
			return
		}
		if status != http.StatusOK && status != http.StatusRequestedRangeNotSatisfiable {
			status = http.StatusPartialContent
		}
		rep := &reply{url: q.url, Response: &http.Response{
			StatusCode: status, Body: http.NoBody, ContentLength: max(contentLength, -1),
			Header: http.Header{"Content-Range": {contentRange}, "Etag": {etag}},
		}}
		s, err := r.openBlob(q, rep, part)
		if err != nil {
			return
		}
		if status == http.StatusOK {
			if s.Part || s.Offset != 0 || s.Length != rep.ContentLength || s.Size != rep.ContentLength {
				t.Errorf("the whole is %+v", s)
			}
			return
		}
		if !s.Part || s.Offset != offset || s.Length < 1 || s.Length > math.MaxInt64-s.Offset ||
			length > 0 && s.Length > length || s.Size != -1 && s.Size < s.Offset+s.Length || contentLength >= 0 && s.Length != contentLength {
			t.Errorf("%+v is %+v", part, s)
		}
		if of := parseValidator(validator); of.of(q.url) && s.Validator != "" && s.Validator != of.String() {
			t.Errorf("%+v is of %s", part, s.Validator)
		}
	})
}

func FuzzValidator(f *testing.F) {
	for _, s := range []string{"", `http://h:80 "x"`, `https://[::1]:443 ""`, `"x"`, ` "x"`, `http://h:80 W/"x"`, "http://h:80 \"\n\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := parseValidator(s)
		if got := v.String(); got != "" && got != s {
			t.Errorf("%q is %q", s, got)
		}
		if v.etag != "" && (strongETag(http.Header{"Etag": {v.etag}}) != v.etag || strings.ContainsAny(v.etag, "\r\n\x00 ")) {
			t.Errorf("%q has the ETag %q", s, v.etag)
		}
		// Whatever an answer calls itself can be taken back.
		own := (&reply{url: &url.URL{Scheme: "https", Host: "h"}, Response: &http.Response{Header: http.Header{"Etag": {s}}}}).validator()
		if parseValidator(own.String()) != own || len(own.etag) > maxETag {
			t.Errorf("ETag %q makes %+v, and read again %+v", s, own, parseValidator(own.String()))
		}
	})
}

func FuzzLink(f *testing.F) {
	for _, s := range []string{`</v2/a/tags/list?n=2&last=b>; rel="next"`, `</a>; title="x, y"; rel="prev next", <b>`, `<`, `<>;rel`, `</a>; rel="next`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		link := nextLink([]string{s})
		if !strings.Contains(s, link) || strings.Contains(link, ">") {
			t.Errorf("%q is %q", s, link)
		}
		if link == "" {
			return
		}
		if !strings.Contains(strings.ToLower(s), "rel") {
			t.Errorf("%q is %q and has no relation", s, link)
		}
		if again := nextLink([]string{"<" + link + ">; rel=next"}); again != link {
			t.Errorf("%q is %q, and written again %q", s, link, again)
		}
	})
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a/t",service="s",scope="x"`, `Basic realm="r"`)
	f.Add("Negotiate", "")
	f.Add(" ", "Basic\tx")
	f.Add(`Bearer realm="a\"b", service=s`, "bearer")
	f.Fuzz(func(t *testing.T, one, two string) {
		resp := &http.Response{Header: http.Header{"Www-Authenticate": {one, two}}}
		c, ok := readChallenge(resp)
		if !ok {
			return
		}
		if c.Scheme == "" || strings.ContainsAny(c.Scheme, " \t\r\n\x00") {
			t.Errorf("%q, %q has the scheme %q", one, two, c.Scheme)
		}
		if again, ok := readChallenge(resp); !ok || !sameChallenge(c, again) {
			t.Errorf("%q, %q is %+v and then %+v", one, two, c, again)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("see https://me:secret@h/p?sig=secret now\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if len(got) > maxText+3 || strings.ContainsAny(got, "\r\n\t\x00\x1b\x7f") {
			t.Errorf("%q is %q", s, got)
		}
		for _, u := range slices.Collect(strings.FieldsSeq(got)) {
			if _, rest, ok := strings.Cut(u, "https://"); ok && strings.HasPrefix(u, "https://") && strings.Contains(rest, "?") && anyURL.FindString(u) == u {
				t.Errorf("%q is %q, which has a query", s, got)
			}
		}
	})
}

// FuzzReferrers reads image indexes, and checks that what is taken can be written and
// read again.
func FuzzReferrers(f *testing.F) {
	const one = `{"mediaType":"a/b","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"annotations":{"secret":"x"}}`
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+one+`,`+one+`]}`), v1.MediaTypeImageIndex)
	f.Add([]byte(`{"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[1,null,{"size":-1},{"digest":"x"},[{}]]}`), "")
	f.Add([]byte(`{"manifests":null,"Manifests":[`+one+`]}`), "application/json; charset=utf-8")
	f.Add([]byte(`{"manifests":{}}`), "text/html")
	f.Add([]byte(`[`), "")
	r := &Remote{}
	r.secrets.Add("secret-password")
	f.Fuzz(func(t *testing.T, content []byte, contentType string) {
		l := r.newReferrers()
		ok := l.add(content, contentType)
		if ok && !isJSONObject(content) {
			t.Errorf("%q is an index", content)
		}
		if l.list == nil || len(l.list) != len(l.seen) {
			t.Errorf("%q has the descriptors %+v, of which different: %d", content, l.list, len(l.seen))
		}
		for _, desc := range l.list {
			if desc.Size < 0 || desc.Digest.Validate() != nil || r.repeatsSecretIn(&desc) {
				t.Errorf("%q has the descriptor %+v", content, desc)
			}
			if tag := cache.ReferrersTag(desc.Digest); !reference.TagRegexp.MatchString(tag) {
				t.Errorf("%s has the tag %s", desc.Digest, tag)
			}
		}
		written, err := json.Marshal(v1.Index{Manifests: l.list})
		if err != nil {
			t.Fatal(err)
		}
		again := r.newReferrers()
		if !again.add(written, v1.MediaTypeImageIndex) || len(again.list) != len(l.list) {
			t.Errorf("%q is %+v, and written again %+v", content, l.list, again.list)
		}
	})
}

func FuzzAge(f *testing.F) {
	for _, seed := range [][2]string{{"7", `110 - "Response is Stale"`}, {"1, 2", `299 - "a, \"110", 110 x "" "Mon, 23 Nov 2026 12:01:30 GMT"`}, {"99999999999999999999", `"`}, {"-1", `\`}, {"", ","}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, age, warning string) {
		got, stale := ageOf(http.Header{"Age": {age}, "Warning": {warning}})
		if got < 0 || got > maxAge || got%time.Second != 0 {
			t.Errorf("age %q is %v", age, got)
		}
		if stale && !strings.Contains(warning, "110") {
			t.Errorf("%q says that it is stale", warning)
		}
	})
}
