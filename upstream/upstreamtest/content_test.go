package upstreamtest_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/upstream/upstreamtest"
)

func TestGenerated(t *testing.T) {
	const size = 100_003
	whole, err := io.ReadAll(upstreamtest.Generated(size, 1))
	if err != nil || len(whole) != size {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	for _, span := range [][2]int64{{0, 1}, {1, 8}, {7, 9}, {8, 16}, {13, 50_000}, {size - 3, size}} {
		part := make([]byte, span[1]-span[0])
		if _, err := upstreamtest.Generated(size, 1).ReadAt(part, span[0]); err != nil || !bytes.Equal(part, whole[span[0]:span[1]]) {
			t.Errorf("from %d to %d: other bytes than in the whole, %v", span[0], span[1], err)
		}
	}
	other, err := io.ReadAll(upstreamtest.Generated(size, 2))
	if err != nil || bytes.Contains(other, whole[:16]) || bytes.Contains(whole, other[:16]) {
		t.Errorf("another seed has the same bytes, %v", err)
	}
	huge, buf := upstreamtest.Generated(1<<50, 1), make([]byte, 4096)
	if allocs := testing.AllocsPerRun(10, func() {
		if _, err := huge.ReadAt(buf, 1<<50-4096); err != nil {
			t.Error(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations for a piece of a huge one", allocs)
	}

	reg := upstreamtest.New(t)
	dgst := reg.AddGenerated("a", size, 1)
	if want := digest.FromBytes(whole); dgst != want {
		t.Errorf("digest is %s, want %s", dgst, want)
	}
	resp, body, err := get(t, reg, "/v2/a/blobs/"+dgst.String(), "Range", "bytes=50000-")
	if err != nil || resp.StatusCode != 206 || !bytes.Equal(body, whole[50_000:]) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

func TestETagsAndRanges(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10)
	dgst := digest.FromBytes(content)
	etag := `"` + dgst.String() + `"`
	for name, test := range map[string]struct {
		fault        upstreamtest.Fault
		rng, ifRange string
		status       int
		etag         string
		contentRange string
		body         []byte
	}{
		"whole":             {status: 200, etag: etag, body: content},
		"part":              {rng: "bytes=10-19", status: 206, etag: etag, contentRange: "bytes 10-19/100", body: content[10:20]},
		"suffix":            {rng: "bytes=-5", status: 206, etag: etag, contentRange: "bytes 95-99/100", body: content[95:]},
		"too far":           {rng: "bytes=100-", status: 416, etag: "", contentRange: "bytes */100", body: []byte("invalid range: failed to overlap\n")},
		"same":              {rng: "bytes=10-", ifRange: etag, status: 206, etag: etag, contentRange: "bytes 10-99/100", body: content[10:]},
		"other":             {rng: "bytes=10-", ifRange: `"x"`, status: 200, etag: etag, body: content},
		"new ETag":          {fault: upstreamtest.Fault{ETag: `"x"`}, rng: "bytes=10-", ifRange: etag, status: 200, etag: `"x"`, body: content},
		"weak ETag":         {fault: upstreamtest.Fault{ETag: `W/"x"`}, rng: "bytes=10-", ifRange: `W/"x"`, status: 200, etag: `W/"x"`, body: content},
		"If-Range ignored":  {fault: upstreamtest.Fault{ETag: `"x"`, IgnoreIfRange: true}, rng: "bytes=10-", ifRange: etag, status: 206, etag: `"x"`, contentRange: "bytes 10-99/100", body: content[10:]},
		"shown ETag":        {fault: upstreamtest.Fault{Header: http.Header{"Etag": {`"x"`}}}, rng: "bytes=10-", ifRange: etag, status: 206, etag: `"x"`, contentRange: "bytes 10-99/100", body: content[10:]},
		"no ETag":           {fault: upstreamtest.Fault{Header: http.Header{"Etag": nil}}, rng: "bytes=10-", status: 206, contentRange: "bytes 10-99/100", body: content[10:]},
		"range ignored":     {fault: upstreamtest.Fault{IgnoreRange: true, RangeShift: 5}, rng: "bytes=10-19", status: 200, etag: etag, body: content},
		"shifted":           {fault: upstreamtest.Fault{RangeShift: 7}, rng: "bytes=10-19", status: 206, etag: etag, contentRange: "bytes 17-26/100", body: content[17:27]},
		"shifted back":      {fault: upstreamtest.Fault{RangeShift: -11}, rng: "bytes=10-19", status: 206, etag: etag, contentRange: "bytes 0-8/100", body: content[:9]},
		"shifted, open":     {fault: upstreamtest.Fault{RangeShift: 7}, rng: "bytes=10-", status: 206, etag: etag, contentRange: "bytes 17-99/100", body: content[17:]},
		"shortened":         {fault: upstreamtest.Fault{RangeMax: 7}, rng: "bytes=10-19", status: 206, etag: etag, contentRange: "bytes 10-16/100", body: content[10:17]},
		"shortened, open":   {fault: upstreamtest.Fault{RangeMax: 7}, rng: "bytes=10-", status: 206, etag: etag, contentRange: "bytes 10-16/100", body: content[10:17]},
		"not shortened":     {fault: upstreamtest.Fault{RangeMax: 7}, rng: "bytes=10-11", status: 206, etag: etag, contentRange: "bytes 10-11/100", body: content[10:12]},
		"shortened, whole":  {fault: upstreamtest.Fault{RangeMax: 7}, status: 200, etag: etag, body: content},
		"other size":        {fault: upstreamtest.Fault{RangeSize: 200}, rng: "bytes=10-", status: 206, etag: etag, contentRange: "bytes 10-99/200", body: content[10:]},
		"other size, whole": {fault: upstreamtest.Fault{RangeSize: 200}, status: 200, etag: etag, body: content},
	} {
		for _, redirect := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				reg := upstreamtest.New(t)
				reg.AddBlob("a", content)
				reg.SetRedirect(redirect)
				reg.Script(test.fault)
				var header []string
				if test.rng != "" {
					header = append(header, "Range", test.rng)
				}
				if test.ifRange != "" {
					header = append(header, "If-Range", test.ifRange)
				}
				resp, body, err := get(t, reg, "/v2/a/blobs/"+dgst.String(), header...)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != test.status || resp.Header.Get("ETag") != test.etag || resp.Header.Get("Content-Range") != test.contentRange {
					t.Errorf("%s with ETag %q and Content-Range %q", resp.Status, resp.Header.Get("ETag"), resp.Header.Get("Content-Range"))
				}
				sent := int64(len(test.body))
				if test.status == 416 {
					sent = 0 // it is not of the blob
				}
				if !bytes.Equal(body, test.body) || reg.BlobBytes(dgst) != sent {
					t.Errorf("body is %q, and %d bytes are counted", body, reg.BlobBytes(dgst))
				}
			})
		}
	}
}

// cuts asks for a blob n times, over connections that are kept where they can
// be, and returns how many bytes came each time.
func cuts(t *testing.T, reg *upstreamtest.Registry, dgst digest.Digest, n int) []int {
	t.Helper()
	tr := new(http.Transport)
	defer tr.CloseIdleConnections()
	var got []int
	for range n {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, reg.URL()+"/v2/a/blobs/"+dgst.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if (err == nil) != (int64(len(body)) == resp.ContentLength) {
			t.Errorf("%d bytes of %d, %v", len(body), resp.ContentLength, err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		got = append(got, len(body))
	}
	return got
}

func TestConnectionsBreak(t *testing.T) {
	script := func(fault upstreamtest.Fault, size int) []int {
		reg := upstreamtest.New(t)
		dgst := reg.AddBlob("a", make([]byte, size))
		reg.Script(fault)
		return cuts(t, reg, dgst, 12)
	}
	fault := upstreamtest.Fault{CutMin: 20_000, CutMax: 90_000, CutSeed: 1}
	first := script(fault, 100_000)
	for _, n := range first {
		if n < 20_000 || n > 90_000 {
			t.Errorf("cut after %d bytes", n)
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(first)))) < 6 {
		t.Errorf("cut after %d bytes: that is not random", first)
	}
	if again := script(fault, 100_000); !slices.Equal(again, first) {
		t.Errorf("cut after %d bytes and, with the same seed, %d", first, again)
	}
	fault.CutSeed = 2
	if other := script(fault, 100_000); slices.Equal(other, first) {
		t.Errorf("cut after %d bytes with another seed too", other)
	}
	// What counts is what the connection has carried, and not a single answer.
	if small, want := script(upstreamtest.Fault{CutMin: 250, CutMax: 250}, 100), slices.Repeat([]int{100, 100, 50}, 4); !slices.Equal(small, want) {
		t.Errorf("small answers have %d bytes, want %d", small, want)
	}
}

func TestURLsExpire(t *testing.T) {
	reg := upstreamtest.New(t)
	dgst := reg.AddBlob("a", []byte("0123456789"))
	reg.SetRedirect(true)
	path := "/v2/a/blobs/" + dgst.String()
	// query asks for a URL and returns what signs it.
	query := func() string {
		t.Helper()
		reg.ResetCounts()
		if _, _, err := get(t, reg, path); err != nil {
			t.Fatal(err)
		}
		for _, req := range reg.Log() {
			if req.Kind == upstreamtest.CDNGet {
				return req.Query
			}
		}
		t.Fatal("the blob host was not asked")
		return ""
	}
	ask := func(query string) (int, string, string) {
		t.Helper()
		resp, body, err := getURL(t, "http://"+reg.CDNHost()+"/cdn/"+dgst.String()+"?"+query)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
	}
	for name, step := range map[string]struct {
		before, after func()
		code          string
	}{
		"for ever": {func() {}, func() {}, ""},
		"an hour":  {func() { reg.SetURLLifetime(time.Hour) }, func() {}, ""},
		"kept":     {func() {}, func() { reg.SetURLLifetime(time.Nanosecond) }, ""},
		"expired":  {func() { reg.SetURLLifetime(time.Nanosecond) }, func() {}, "AccessDenied"},
		"revoked":  {func() {}, reg.RevokeURLs, "SignatureDoesNotMatch"},
	} {
		reg.SetURLLifetime(0)
		step.before()
		q := query()
		step.after()
		status, mediaType, body := ask(q)
		if step.code == "" && (status != 200 || body != "0123456789") ||
			step.code != "" && (status != 403 || mediaType != "application/xml" || !strings.Contains(body, "<Code>"+step.code+"</Code>")) {
			t.Errorf("%s: %d, %s, %q", name, status, mediaType, body)
		}
		if !strings.Contains(q, "secret") {
			t.Errorf("%s: the signature %q is not to be told from what may be shown", name, q)
		}
	}
	later := fmt.Sprintf("expires=%d&", time.Now().Add(time.Hour).UnixNano())
	reg.SetURLLifetime(time.Minute)
	if status, _, _ := ask(later + query()); status != 403 {
		t.Error("the lifetime is not signed")
	}
}

func TestTokensExpire(t *testing.T) {
	reg := upstreamtest.New(t)
	for lifetime, want := range map[time.Duration]int{0: 200, time.Hour: 200, time.Nanosecond: 401} {
		reg.SetAuth(upstreamtest.Auth{Scheme: "Bearer", Lifetime: lifetime})
		_, body, err := get(t, reg, "/token?service=upstreamtest")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(body), `"token":"`)
		value, _, _ := strings.Cut(rest, `"`)
		if resp, _, err := get(t, reg, "/v2/", "Authorization", "Bearer "+value); err != nil || resp.StatusCode != want {
			t.Errorf("lifetime %v: %v, %v, want %d", lifetime, resp.Status, err, want)
		}
	}
}

func TestConnectionRate(t *testing.T) {
	reg := upstreamtest.New(t)
	dgst := reg.AddBlob("a", make([]byte, 3_000))
	reg.SetConnectionRate(10_000)
	start := time.Now()
	done := make(chan error, 64)
	for range cap(done) {
		go func() {
			_, _, err := get(t, reg, "/v2/a/blobs/"+dgst.String())
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	// Each alone takes 0.3 s, all over one link would take 19 s.
	if d := time.Since(start); d < 250*time.Millisecond || d > 15*time.Second {
		t.Errorf("64 times 3 kB at 10 kB/s each in %v", d)
	}
}
