package upstream_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// digits are the content of blobs here: ten thousand bytes.
var digits = bytes.Repeat([]byte("0123456789"), 1000)

// answer is an answer of 206 with some of digits that calls itself contentRange.
func answer(contentRange string, content []byte) ut.Fault {
	return ut.Fault{Status: http.StatusPartialContent, Body: content, Header: http.Header{"Content-Range": {contentRange}}}
}

// chunked makes f hide how long the body is.
func chunked(f ut.Fault) ut.Fault {
	f.Chunked = true
	return f
}

func TestBlob(t *testing.T) {
	size := int64(len(digits))
	from100 := cache.BlobPart{Offset: 100}
	for name, test := range map[string]struct {
		fault  ut.Fault
		part   cache.BlobPart
		header string           // the Range that is asked for
		want   cache.BlobStream // without Body
	}{
		"whole":           {want: cache.BlobStream{Length: size, Size: size}},
		"chunked":         {fault: ut.Fault{Chunked: true}, want: cache.BlobStream{Length: -1, Size: -1}},
		"html by name":    {fault: ut.Fault{Header: http.Header{"Content-Type": {"text/html"}}}, want: cache.BlobStream{Length: size, Size: size}},
		"identity":        {fault: ut.Fault{Header: http.Header{"Content-Encoding": {"identity"}}}, want: cache.BlobStream{Length: size, Size: size}},
		"only validator":  {part: cache.BlobPart{Validator: `http://h:80 "x"`}, want: cache.BlobStream{Length: size, Size: size}},
		"rest":            {part: from100, header: "bytes=100-", want: cache.BlobStream{Offset: 100, Length: size - 100, Size: size, Part: true}},
		"last byte":       {part: cache.BlobPart{Offset: 9_999}, header: "bytes=9999-", want: cache.BlobStream{Offset: 9_999, Length: 1, Size: size, Part: true}},
		"first byte":      {part: cache.BlobPart{Length: 1}, header: "bytes=0-0", want: cache.BlobStream{Length: 1, Size: size, Part: true}},
		"all as a part":   {part: cache.BlobPart{Length: size}, header: "bytes=0-9999", want: cache.BlobStream{Length: size, Size: size, Part: true}},
		"middle":          {part: cache.BlobPart{Offset: 100, Length: 50}, header: "bytes=100-149", want: cache.BlobStream{Offset: 100, Length: 50, Size: size, Part: true}},
		"over the end":    {part: cache.BlobPart{Offset: 9_990, Length: 50}, header: "bytes=9990-10039", want: cache.BlobStream{Offset: 9_990, Length: 10, Size: size, Part: true}},
		"greatest":        {part: cache.BlobPart{Offset: 100, Length: math.MaxInt64 - 100}, header: "bytes=100-9223372036854775806", want: cache.BlobStream{Offset: 100, Length: size - 100, Size: size, Part: true}},
		"part, chunked":   {fault: ut.Fault{Chunked: true}, part: from100, header: "bytes=100-", want: cache.BlobStream{Offset: 100, Length: size - 100, Size: size, Part: true}},
		"part, no size":   {fault: answer("bytes 100-9999/*", digits[100:]), part: from100, header: "bytes=100-", want: cache.BlobStream{Offset: 100, Length: size - 100, Size: -1, Part: true}},
		"part, html":      {fault: ut.Fault{Header: http.Header{"Content-Type": {"text/html"}}}, part: from100, header: "bytes=100-", want: cache.BlobStream{Offset: 100, Length: size - 100, Size: size, Part: true}},
		"shorter rest":    {fault: answer("bytes 100-199/10000", digits[100:200]), part: from100, header: "bytes=100-", want: cache.BlobStream{Offset: 100, Length: 100, Size: size, Part: true}},
		"shorter part":    {fault: answer("bytes 100-119/10000", digits[100:120]), part: cache.BlobPart{Offset: 100, Length: 50}, header: "bytes=100-149", want: cache.BlobStream{Offset: 100, Length: 20, Size: size, Part: true}},
		"shorter, hidden": {fault: chunked(answer("bytes 100-119/*", digits[100:120])), part: from100, header: "bytes=100-", want: cache.BlobStream{Offset: 100, Length: 20, Size: -1, Part: true}},
		"range ignored":   {fault: ut.Fault{IgnoreRange: true}, part: cache.BlobPart{Offset: 100, Length: 50}, header: "bytes=100-149", want: cache.BlobStream{Length: size, Size: size}},
		"ignored, hidden": {fault: ut.Fault{IgnoreRange: true, Chunked: true}, part: from100, header: "bytes=100-", want: cache.BlobStream{Length: -1, Size: -1}},
	} {
		for _, redirect := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				reg := ut.New(t)
				dgst := reg.AddBlob("a/b", digits)
				reg.SetRedirect(redirect)
				kind := map[bool]ut.Kind{false: ut.BlobGet, true: ut.CDNGet}[redirect]
				test.fault.Kinds = []ut.Kind{kind}
				reg.Script(test.fault)
				r := newRemote(t, upstream.Options{URL: reg.URL()})
				stream, err := r.Blob(t.Context(), "a/b", dgst, test.part)
				if err != nil {
					t.Fatal(err)
				}
				got, err := readBlob(t, stream)
				if err != nil || !bytes.HasPrefix(digits[stream.Offset:], got) || stream.Length >= 0 && stream.Length != int64(len(got)) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				stream.Body, stream.Validator = nil, ""
				if *stream != test.want {
					t.Errorf("stream is %+v, want %+v", *stream, test.want)
				}
				requests := map[ut.Kind]int{ut.Ping: 1, ut.BlobGet: 1}
				requests[kind] = 1
				wantRequests(t, reg, requests)
				for _, req := range reg.Log() {
					if req.Kind != ut.Ping && (req.Header.Get("Range") != test.header || req.Header.Get("If-Range") != "") {
						t.Errorf("%s with Range %q and If-Range %q", req.Kind, req.Header.Get("Range"), req.Header.Get("If-Range"))
					}
				}
			})
		}
	}
}

func TestBadBlobs(t *testing.T) {
	gzip := http.Header{"Content-Encoding": {"gzip"}}
	multipart := ut.Fault{Status: 206, Body: []byte("--x\r\n"), Header: http.Header{
		"Content-Type": {"Multipart/ByteRanges; boundary=x"}, "Content-Range": {"bytes 100-104/10000"}}}
	from100, some := cache.BlobPart{Offset: 100}, cache.BlobPart{Offset: 100, Length: 50}
	for name, test := range map[string]struct {
		fault ut.Fault
		part  cache.BlobPart
		says  string
	}{
		"no content":           {ut.Fault{Status: 204}, cache.BlobPart{}, "HTTP status 204"},
		"gzip":                 {ut.Fault{Header: gzip}, cache.BlobPart{}, `"gzip"`},
		"gzip part":            {ut.Fault{Header: gzip}, from100, `"gzip"`},
		"part unasked":         {answer("bytes 0-9999/10000", digits), cache.BlobPart{}, "the whole was asked for"},
		"starts before":        {answer("bytes 99-9998/10000", digits[99:9999]), from100, "begins at byte 99"},
		"starts behind":        {answer("bytes 101-9999/10000", digits[101:]), from100, "begins at byte 101"},
		"starts at 0":          {answer("bytes 0-49/10000", digits[:50]), some, "begins at byte 0"},
		"ends behind":          {answer("bytes 100-150/10000", digits[100:151]), some, "ends at byte 150"},
		"no range":             {answer("", digits[100:]), from100, "Content-Range"},
		"bad range":            {answer("bytes 100-/10000", digits[100:]), from100, "Content-Range"},
		"other unit":           {answer("items 100-9999/10000", digits[100:]), from100, "Content-Range"},
		"unsatisfied":          {answer("bytes */10000", digits[100:]), from100, "Content-Range"},
		"size within":          {answer("bytes 100-9999/9999", digits[100:]), from100, "Content-Range"},
		"size of the part":     {answer("bytes 100-149/50", digits[100:150]), some, "Content-Range"},
		"longer than it says":  {answer("bytes 100-9998/10000", digits[100:]), from100, "9900 bytes long"},
		"shorter than it says": {answer("bytes 100-10099/10100", digits[100:]), from100, "9900 bytes long"},
		"multipart":            {multipart, from100, "several parts"},
		"offset too great":     {ut.Fault{}, cache.BlobPart{Offset: 10_000}, "HTTP status 416): no such part: byte 10000 was asked for, and the remote says that the blob has 10000 bytes"},
		"offset far too great": {ut.Fault{}, cache.BlobPart{Offset: math.MaxInt64}, "has 10000 bytes"},
		"416, no size":         {ut.Fault{Status: 416}, from100, "HTTP status 416): no such part: byte 100 was asked for, and the remote says that there is none"},
		"416 unasked":          {ut.Fault{Status: 416}, cache.BlobPart{}, "HTTP status 416"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			dgst := reg.AddBlob("a/b", digits)
			test.fault.Kinds = []ut.Kind{ut.BlobGet}
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			_, err := r.Blob(t.Context(), "a/b", dgst, test.part)
			wantKind(t, err, cache.ErrInvalid)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %q", err, test.says)
			}
			if no := test.part != (cache.BlobPart{}) && test.says != `"gzip"`; errors.Is(err, cache.ErrNoPart) != no {
				t.Errorf("error %v: is cache.ErrNoPart: %v, want %v", err, !no, no)
			}
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.BlobGet: 1})
		})
	}
}

func TestPartsThatCannotBe(t *testing.T) {
	reg := ut.New(t)
	dgst := reg.AddBlob("a/b", digits)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	for _, part := range []cache.BlobPart{
		{Offset: -1}, {Length: -1}, {Offset: math.MinInt64, Length: math.MinInt64}, {Offset: 5, Length: -1},
		{Offset: 1, Length: math.MaxInt64}, {Offset: math.MaxInt64, Length: 1}, {Offset: math.MaxInt64, Length: math.MaxInt64},
	} {
		_, err := r.Blob(t.Context(), "a/b", dgst, part)
		wantKind(t, err, cache.ErrInvalid)
	}
	wantRequests(t, reg, nil)
}

func TestPartOfOtherLength(t *testing.T) {
	// The length of the body is hidden, and another than Content-Range says.
	for name, test := range map[string]struct {
		fault ut.Fault
		kind  error
		bytes int
	}{
		"longer":  {chunked(answer("bytes 100-149/10000", digits[100:151])), cache.ErrInvalid, 50},
		"shorter": {chunked(answer("bytes 100-149/10000", digits[100:149])), cache.ErrUnavailable, 49},
		"empty":   {chunked(answer("bytes 100-149/10000", nil)), cache.ErrUnavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			dgst := reg.AddBlob("a/b", digits)
			test.fault.Kinds = []ut.Kind{ut.BlobGet}
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{Offset: 100, Length: 50})
			if err != nil {
				t.Fatal(err)
			}
			got, err := readBlob(t, stream)
			wantKind(t, err, test.kind)
			if len(got) != test.bytes || !bytes.HasPrefix(digits[100:], got) || stream.Length != 50 {
				t.Errorf("%d bytes of %d, %v", len(got), stream.Length, err)
			}
			if errors.Is(err, io.ErrUnexpectedEOF) != (test.kind == cache.ErrUnavailable) {
				t.Errorf("error is %v", err)
			}
			// An error is for good.
			if n, again := stream.Body.Read(make([]byte, 1)); n != 0 || again != err {
				t.Errorf("after the error: %d bytes, %v", n, again)
			}
		})
	}
}

func TestPartLeavesConnectionUsable(t *testing.T) {
	for name, hidden := range map[string]bool{"length": false, "chunked": true} {
		reg := ut.New(t)
		dgst := reg.AddBlob("a/b", digits)
		reg.Script(ut.Fault{Chunked: hidden, RangeMax: 1000})
		var dials atomic.Int32
		r := newRemote(t, upstream.Options{URL: reg.URL(), DialContext: dialNames(nil, &dials)})
		for offset := int64(0); offset < 10_000; offset += 1000 {
			stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{Offset: offset, Length: 5000})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := readBlob(t, stream); err != nil || stream.Offset != offset || len(got) != 1000 {
				t.Errorf("%s: %d bytes from %d, %v", name, len(got), stream.Offset, err)
			}
		}
		if n := dials.Load(); n != 1 {
			t.Errorf("%s: %d connections for parts one after the other, want 1", name, n)
		}
		if n := reg.BlobBytes(dgst); n != 10_000 {
			t.Errorf("%s: %d bytes, want 10000", name, n)
		}
	}
}

// open opens a part of digits, reads it, and fails the test where that does not
// give what digits have there.
func open(t *testing.T, r *upstream.Remote, part cache.BlobPart) *cache.BlobStream {
	t.Helper()
	stream, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), part)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readBlob(t, stream)
	if err != nil || !bytes.Equal(got, digits[stream.Offset:stream.Offset+stream.Length]) {
		t.Errorf("%d bytes from %d of %d, %v", len(got), stream.Offset, stream.Length, err)
	}
	return stream
}

// wantIfRange fails unless If-Range was sent with requests of one kind, and with
// none of any other.
func wantIfRange(t *testing.T, reg *ut.Registry, kind ut.Kind, want string) {
	t.Helper()
	for _, req := range reg.Log() {
		if got := req.Header.Get("If-Range"); req.Kind == kind && got != want || req.Kind != kind && got != "" {
			t.Errorf("%s with If-Range %q", req.Kind, got)
		}
	}
}

func TestValidator(t *testing.T) {
	etag := `"` + digest.FromBytes(digits).String() + `"`
	for _, redirect := range []bool{false, true} {
		reg := ut.New(t)
		reg.AddBlob("a/b", digits)
		reg.SetRedirect(redirect)
		reg.SetAuth(ut.Auth{Scheme: "Bearer"})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		kind, host := ut.BlobGet, reg.Host()
		if redirect {
			kind, host = ut.CDNGet, reg.CDNHost()
			// What the redirect itself is called says nothing about the blob.
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Header: http.Header{"Etag": {`"redirect"`}}})
		}
		whole := open(t, r, cache.BlobPart{})
		if want := "http://" + host + " " + etag; whole.Validator != want {
			t.Errorf("validator is %q, want %q", whole.Validator, want)
		}
		wantIfRange(t, reg, kind, "")

		// The host that gave it is shown it, no other.
		part := cache.BlobPart{Offset: 100, Length: 50, Validator: whole.Validator}
		reg.ResetCounts()
		if stream := open(t, r, part); !stream.Part || stream.Validator != whole.Validator {
			t.Errorf("the same content: %+v", stream)
		}
		wantIfRange(t, reg, kind, etag)
		requests := map[ut.Kind]int{ut.BlobGet: 1}
		requests[kind] = 1
		wantRequests(t, reg, requests)

		// For the whole there is no If-Range.
		reg.ResetCounts()
		open(t, r, cache.BlobPart{Validator: whole.Validator})
		wantIfRange(t, reg, kind, "")

		// Other content: the whole.
		end := reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, ETag: `"other"`})
		if stream := open(t, r, part); stream.Part || stream.Offset != 0 || stream.Validator != "http://"+host+` "other"` {
			t.Errorf("other content: %+v", stream)
		}
		end()

		// A part of other content.
		end = reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, ETag: `"other"`, IgnoreIfRange: true})
		_, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), part)
		wantKind(t, err, cache.ErrInvalid)
		if !strings.Contains(err.Error(), "has other content by now") {
			t.Errorf("error is %v", err)
		}
		// Who has not said what it has does not hear about it.
		if stream := open(t, r, cache.BlobPart{Offset: 100, Length: 50}); !stream.Part {
			t.Errorf("asked without a validator: %+v", stream)
		}
		end()

		// A part that does not say what it is of.
		for _, values := range [][]string{nil, {`W/"other"`}} {
			end = reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, Header: http.Header{"Etag": values}})
			if stream := open(t, r, part); !stream.Part || stream.Validator != "" {
				t.Errorf("ETag %q: %+v", values, stream)
			}
			end()
		}
	}
}

func TestValidatorOfAnotherHost(t *testing.T) {
	reg := ut.New(t)
	reg.AddBlob("a/b", digits)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	own := open(t, r, cache.BlobPart{}).Validator
	reg.SetRedirect(true)
	foreign := open(t, r, cache.BlobPart{}).Validator
	if own == foreign {
		t.Fatalf("both are %q", own)
	}
	// The registry's own, shown to the registry, which redirects us: not to the
	// blob host. That one may have another ETag for the same content.
	reg.ResetCounts()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, ETag: `"other"`})
	if stream := open(t, r, cache.BlobPart{Offset: 100, Validator: own}); !stream.Part || stream.Validator == own {
		t.Errorf("redirected: %+v", stream)
	}
	_, etag, _ := strings.Cut(own, " ")
	wantIfRange(t, reg, ut.BlobGet, etag)
	reg.Heal()
	// The other way round, and those of nobody.
	reg.SetRedirect(false)
	reg.ResetCounts()
	reg.Script(ut.Fault{ETag: `"other"`})
	for _, validator := range []string{
		foreign, strings.Replace(own, "http://", "https://", 1),
		"", " ", etag, " " + etag, "http://" + reg.Host() + ` W/"x"`, "http://" + reg.Host() + ` "a"b"`,
		"http://" + reg.Host() + " \"\r\nX: secret\"", "http://" + reg.Host() + ` "` + strings.Repeat("x", 1000) + `"`, own + " ", own + "\n",
	} {
		if stream := open(t, r, cache.BlobPart{Offset: 100, Validator: validator}); !stream.Part || stream.Offset != 100 {
			t.Errorf("%q: %+v", validator, stream)
		}
	}
	wantIfRange(t, reg, ut.BlobGet, "")
}

func TestStrongETags(t *testing.T) {
	for value, strong := range map[string]bool{
		`"x"`: true, `""`: true, `"a,b;c'/\d"`: true, `"` + strings.Repeat("x", 254) + `"`: true,
		`"` + strings.Repeat("x", 255) + `"`: false, `W/"x"`: false, `x`: false, `"x`: false, `x"`: false, `"`: false,
		`"a b"`: false, `"a"b"`: false, "\"\xc3\xa4\"": false,
	} {
		reg := ut.New(t)
		reg.AddBlob("a/b", digits)
		reg.Script(ut.Fault{Header: http.Header{"Etag": {value}}})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		want := ""
		if strong {
			want = "http://" + reg.Host() + " " + value
		}
		if got := open(t, r, cache.BlobPart{}).Validator; got != want {
			t.Errorf("ETag %q makes the validator %q, want %q", value, got, want)
		}
	}
	reg := ut.New(t)
	reg.AddBlob("a/b", digits)
	reg.Script(ut.Fault{Header: http.Header{"Etag": {`"x"`, `"y"`}}})
	if got := open(t, newRemote(t, upstream.Options{URL: reg.URL()}), cache.BlobPart{}).Validator; got != "" {
		t.Errorf("two ETags make the validator %q", got)
	}
}
