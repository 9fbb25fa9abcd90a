package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"7":                              7 * time.Second,
		" 7 ":                            7 * time.Second,
		"-7":                             0,
		"+7":                             0,
		"7.5":                            0,
		"soon":                           0,
		"86400":                          24 * time.Hour,
		"1795435200":                     24 * time.Hour, // a date in seconds since 1970
		"99999999999999999999":           24 * time.Hour,
		"Mon, 23 Nov 2026 12:01:30 GMT":  90 * time.Second,
		"Monday, 23-Nov-26 12:01:30 GMT": 90 * time.Second,
		"Mon, 23 Nov 2026 11:00:00 GMT":  0,
		"Tue, 23 Nov 2027 12:00:00 GMT":  24 * time.Hour,
	} {
		if got := parseRetryAfter(in, now); got != want {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}

func TestParseContentRange(t *testing.T) {
	for in, want := range map[string]contentRange{
		"bytes 0-0/1":       {0, 0, 1},
		"bytes 100-199/200": {100, 199, 200},
		"Bytes 100-199/*":   {100, 199, -1},
		"bytes  5-6/9":      {5, 6, 9},
		"bytes 9223372036854775806-9223372036854775806/9223372036854775807": {1<<63 - 2, 1<<63 - 2, 1<<63 - 1},
	} {
		if got, ok := parseContentRange(in); !ok || got != want {
			t.Errorf("%q is %+v, %v, want %+v", in, got, ok, want)
		}
	}
	for _, in := range []string{
		"", "bytes", "bytes ", "bytes 0-0", "bytes 0/1", "bytes */1", "items 0-0/1", "bytes=0-0/1",
		"bytes 1-0/2", "bytes 0-1/1", "bytes 0-1/0", "bytes -1/2", "bytes 0-/2", "bytes 0--1/2", "bytes +0-1/2",
		"bytes 0 - 1/2", "bytes 0-1/2 ,", "bytes 0-1/+2", "bytes 0-1/", "bytes 0x0-1/2", "bytes 0-9223372036854775808/*", "bytes 0-9223372036854775807/*",
	} {
		if got, ok := parseContentRange(in); ok {
			t.Errorf("%q is %+v, want none", in, got)
		}
	}
	for in, want := range map[string]int64{"bytes */0": 0, "bytes */1234": 1234, "bytes */*": -1, "bytes 0-0/1": -1, "": -1} {
		got, ok := parseUnsatisfied(in)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("unsatisfied %q is %d, %v, want %d", in, got, ok, want)
		}
	}
}

func TestNextLink(t *testing.T) {
	for _, test := range []struct {
		values []string
		want   string
	}{
		{nil, ""},
		{[]string{`</v2/a/tags/list?n=2&last=b>; rel="next"`}, "/v2/a/tags/list?n=2&last=b"},
		{[]string{`<https://r.example.com/v2/a/tags/list?last=b>;rel=next`}, "https://r.example.com/v2/a/tags/list?last=b"},
		{[]string{`</a>; rel="prev", </b>; rel="next"`}, "/b"},
		{[]string{`</a>; rel="prev"`, `</b>; title="x, y; z"; REL="first Next"`}, "/b"},
		{[]string{`</a,b;c>; rel=next`}, "/a,b;c"},
		{[]string{`</a>; title="\"next\""; rel=prev`}, ""},
		{[]string{`</a>; foo; rel=next`}, "/a"},
		{[]string{`</a>; rel`, `</b>`}, ""},
		{[]string{`/a; rel=next`}, ""},
		{[]string{`</a; rel=next`}, ""},
		{[]string{`<>; rel=next`}, ""},
		{[]string{`</a>; rel="next`}, "/a"},
		{[]string{`,, </a> ; rel = "next"`}, "/a"},
	} {
		if got := nextLink(test.values); got != test.want {
			t.Errorf("%q is %q, want %q", test.values, got, test.want)
		}
	}
}

func TestIsPage(t *testing.T) {
	for contentType, want := range map[string]bool{
		"":                          false,
		"text/html":                 true,
		"Text/HTML; charset=utf-8":  true,
		"text/html; charset":        true,
		"text/html; =":              true,
		"application/xhtml+xml":     true,
		"image/png":                 true,
		"application/json":          false,
		"application/octet-stream":  false,
		"text/plain; charset=utf-8": false,
		"application/vnd.oci.image.manifest.v1+json": false,
	} {
		if got := isPage(contentType); got != want {
			t.Errorf("%q: %v, want %v", contentType, got, want)
		}
	}
}

func TestEncoded(t *testing.T) {
	for _, test := range []struct {
		values []string
		want   bool
	}{
		{nil, false}, {[]string{""}, false}, {[]string{"identity"}, false}, {[]string{"Identity, identity"}, false},
		{[]string{"gzip"}, true}, {[]string{"identity", "br"}, true}, {[]string{"identity,zstd"}, true},
	} {
		if got := encoded(http.Header{"Content-Encoding": test.values}); got != test.want {
			t.Errorf("%q: %v, want %v", test.values, got, test.want)
		}
	}
}

func TestReadChallenge(t *testing.T) {
	for _, test := range []struct {
		values []string
		scheme string // empty: none
		realm  string
	}{
		{nil, "", ""},
		{[]string{""}, "", ""},
		{[]string{`Basic realm="r"`}, "basic", "r"},
		{[]string{`Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"`}, "bearer", "https://a/t"},
		{[]string{`Negotiate`, `bearer realm="https://a/t"`}, "bearer", "https://a/t"},
		{[]string{`Negotiate`}, "negotiate", ""},
	} {
		c, ok := readChallenge(&http.Response{Header: http.Header{"Www-Authenticate": test.values}})
		if ok != (test.scheme != "") {
			t.Errorf("%q: found = %v", test.values, ok)
		}
		if ok && (!strings.EqualFold(c.Scheme, test.scheme) || c.Parameters["realm"] != test.realm) {
			t.Errorf("%q is %+v", test.values, c)
		}
	}
}

func TestTokenLife(t *testing.T) {
	for seconds, want := range map[int]time.Duration{
		-1: 50 * time.Second, 0: 50 * time.Second, 300: 290 * time.Second,
		4: 3 * time.Second, 1: 750 * time.Millisecond, 1<<31 - 1: 24*time.Hour - 10*time.Second,
	} {
		if got := tokenLife(seconds); got != want {
			t.Errorf("%d is %v, want %v", seconds, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"plain":                  "plain",
		"two\nlines\r\x1b[31m\t": "two lines [31m",
		"bad \xff utf-8":         "bad utf-8",
		"right\u202eto left":     "right to left",
		"see https://me:secret@h/p?sig=secret#secret now": "see https://h/p now",
		`Get "https://h/p?sig=secret": EOF`:               `Get "https://h/p": EOF`,
		"https://h?secret":                                "https://h",
		"https://a@b@h/p":                                 "https://h/p",
		strings.Repeat("x", 5000):                         strings.Repeat("x", maxText) + "...",
		strings.Repeat("\u00e9", 5000):                    strings.Repeat("\u00e9", maxText/2) + "...",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestTokensAreBounded(t *testing.T) {
	now := time.Now()
	a := &authorizer{now: func() time.Time { return now }, tokens: make(map[string]token)}
	for i := range 3 * maxTokens {
		a.keep(strings.Repeat("x", i%7)+time.Duration(i).String(), token{value: "t", expires: now.Add(time.Minute)})
	}
	if len(a.tokens) != maxTokens {
		t.Errorf("%d tokens are kept, want %d", len(a.tokens), maxTokens)
	}
	now = now.Add(time.Hour)
	a.keep("one", token{value: "t", expires: now.Add(time.Minute)})
	if _, ok := a.kept("one"); len(a.tokens) != 1 || !ok {
		t.Errorf("%d tokens are kept after all but one have run out", len(a.tokens))
	}
}

func TestCursorsAreBounded(t *testing.T) {
	r := &Remote{cursors: make(map[cursorKey]*url.URL)}
	for i := range 3 * maxCursors {
		r.keepCursor(cursorKey{repo: "a", n: i}, &url.URL{})
	}
	if len(r.cursors) != maxCursors {
		t.Errorf("%d cursors are kept, want %d", len(r.cursors), maxCursors)
	}
	last := cursorKey{repo: "a", n: 3*maxCursors - 1}
	if r.takeCursor(last) == nil || r.takeCursor(last) != nil {
		t.Error("the newest cursor is not kept, or not for one use")
	}
}
