package upstreamtest_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"registry-module/upstream/upstreamtest"
)

// get asks for path with a client of its own that keeps no connections.
func get(t *testing.T, reg *upstreamtest.Registry, path string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	return getURL(t, reg.URL()+path, header...)
}

func getURL(t *testing.T, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestServesImages(t *testing.T) {
	for _, auth := range []upstreamtest.Auth{
		{},
		{Scheme: "Bearer"},
	} {
		for _, redirect := range []bool{false, true} {
			reg := upstreamtest.New(t)
			if auth.Scheme != "" {
				auth.Realm = reg.URL() + "/token" // this client wants no other port
			}
			reg.SetAuth(auth)
			reg.SetRedirect(redirect)
			img := reg.AddRandomImage("a/b", "v1", 3, 1000)
			dgst, children := reg.AddRandomIndex("a/b", "multi", 1, 100, "linux/amd64", "linux/arm/v7")

			ref, err := name.ParseReference(reg.Host()+"/a/b:v1", name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			got, err := remote.Image(ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Image(got); err != nil {
				t.Error(err)
			}
			// The validation reads layers more than once.
			fromCDN := reg.Requests(upstreamtest.CDNGet)
			if blobs := reg.Requests(upstreamtest.BlobGet); redirect && fromCDN != blobs || !redirect && fromCDN != 0 || blobs < 4 {
				t.Errorf("%d requests of the blob host, %d of blobs", fromCDN, blobs)
			}
			if n := reg.BlobBytes(img.Config); n != int64(len(must(got.RawConfigFile()))) {
				t.Errorf("%d bytes of the config", n)
			}

			idx, err := remote.Index(ref.Context().Tag("multi"))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(idx); err != nil {
				t.Error(err)
			}
			if h, err := idx.Digest(); err != nil || h.String() != dgst.String() {
				t.Errorf("index digest = %v, %v, want %s", h, err, dgst)
			}
			if len(children) != 2 {
				t.Errorf("%d images, want 2", len(children))
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestCounts(t *testing.T) {
	reg := upstreamtest.New(t)
	one := reg.AddBlob("a", []byte("0123456789"))
	two := reg.AddBlobAs(digest.SHA512, "a", []byte("abc"))
	for _, path := range []string{"/v2/", "/v2/a/blobs/" + one.String(), "/v2/a/blobs/" + two.String(), "/v2/a/tags/list"} {
		if _, _, err := get(t, reg, path); err != nil {
			t.Fatal(err)
		}
	}
	if _, body, err := get(t, reg, "/v2/a/blobs/"+one.String(), "Range", "bytes=4-", "Authorization", "x"); err != nil || string(body) != "456789" {
		t.Errorf("range gave %q, %v", body, err)
	}
	if n := reg.Requests(); n != 5 {
		t.Errorf("requests = %d, want 5", n)
	}
	if n := reg.BlobRequests(one); n != 2 {
		t.Errorf("requests of one blob = %d, want 2", n)
	}
	if n := reg.BlobBytes(one); n != 16 {
		t.Errorf("bytes of one blob = %d, want 16", n)
	}
	if n := reg.BlobBytes(); n != 19 {
		t.Errorf("bytes of all blobs = %d, want 19", n)
	}
	if seen := reg.Authorizations(); len(seen) != 1 || seen[0] != "x" {
		t.Errorf("Authorization headers = %q", seen)
	}
	reg.ResetCounts()
	if reg.Requests() != 0 || reg.BlobBytes() != 0 || len(reg.Log()) != 0 {
		t.Error("counters not reset")
	}
}

func TestFaults(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, test := range []struct {
		name  string
		fault upstreamtest.Fault
		check func(t *testing.T, resp *http.Response, body []byte, err error)
	}{
		{"status", upstreamtest.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}},
			func(t *testing.T, resp *http.Response, body []byte, _ error) {
				if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" || !strings.Contains(string(body), "FAULT") {
					t.Errorf("%v %q", resp, body)
				}
			}},
		{"cut", upstreamtest.Fault{Cut: true, CutAt: 50_001},
			func(t *testing.T, _ *http.Response, body []byte, err error) {
				if !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 50_001 {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			}},
		{"corrupt", upstreamtest.Fault{Corrupt: true, CorruptAt: 40_000},
			func(t *testing.T, _ *http.Response, body []byte, err error) {
				want := bytes.Clone(content)
				want[40_000] ^= 0xff
				if err != nil || !bytes.Equal(body, want) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			}},
		{"chunked", upstreamtest.Fault{Chunked: true, Header: http.Header{"Docker-Content-Digest": nil}},
			func(t *testing.T, resp *http.Response, body []byte, _ error) {
				if resp.ContentLength != -1 || resp.Header.Get("Docker-Content-Digest") != "" || !bytes.Equal(body, content) {
					t.Errorf("%v, %d bytes", resp, len(body))
				}
			}},
		{"other body", upstreamtest.Fault{Body: []byte{}},
			func(t *testing.T, resp *http.Response, body []byte, err error) {
				if resp.StatusCode != 200 || len(body) != 0 || err != nil || resp.Header.Get("Docker-Content-Digest") == "" {
					t.Errorf("%v %q, %v", resp, body, err)
				}
			}},
		{"page", upstreamtest.HTMLPage(),
			func(t *testing.T, resp *http.Response, body []byte, _ error) {
				if resp.StatusCode != 200 || !strings.HasPrefix(string(body), "<!DOCTYPE html>") {
					t.Errorf("%v %q", resp, body)
				}
			}},
		{"drop", upstreamtest.Fault{Drop: true},
			func(t *testing.T, _ *http.Response, _ []byte, err error) {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			reg := upstreamtest.New(t)
			dgst := reg.AddBlob("a", content)
			test.fault.Kinds, test.fault.Skip, test.fault.Times = []upstreamtest.Kind{upstreamtest.BlobGet}, 1, 1
			reg.Script(test.fault)
			for i := range 3 {
				resp, body, err := get(t, reg, "/v2/a/blobs/"+dgst.String())
				if i == 1 {
					test.check(t, resp, body, err)
				} else if err != nil || !bytes.Equal(body, content) {
					t.Errorf("request %d was not left alone: %v", i, err)
				}
			}
		})
	}
}

func TestGate(t *testing.T) {
	reg := upstreamtest.New(t)
	dgst := reg.AddBlob("a", make([]byte, 100_000))
	gate := upstreamtest.NewGate()
	reg.Script(upstreamtest.Fault{Gate: gate, GateAt: 70_000})
	done := make(chan error, 1)
	go func() {
		_, body, err := get(t, reg, "/v2/a/blobs/"+dgst.String())
		if err == nil && len(body) != 100_000 {
			err = io.ErrShortBuffer
		}
		done <- err
	}()
	<-gate.Reached()
	if n := reg.BlobBytes(); n != 70_000 {
		t.Errorf("%d bytes before the gate, want 70000", n)
	}
	gate.Open()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCloseReleases(t *testing.T) {
	reg := upstreamtest.New(t)
	reg.Script(upstreamtest.Fault{Kinds: []upstreamtest.Kind{upstreamtest.Ping}, Hang: true})
	gate := upstreamtest.NewGate()
	reg.Script(upstreamtest.Fault{Kinds: []upstreamtest.Kind{upstreamtest.Tags}, Gate: gate})
	done := make(chan error, 2)
	for _, path := range []string{"/v2/", "/v2/a/tags/list"} {
		go func() {
			_, _, err := get(t, reg, path)
			done <- err
		}()
	}
	<-gate.Reached()
	reg.Close()
	for range 2 {
		if err := <-done; err == nil {
			t.Error("an answer after Close")
		}
	}
}

func TestOffline(t *testing.T) {
	reg := upstreamtest.New(t)
	host := reg.Host()
	reg.Offline()
	if _, _, err := get(t, reg, "/v2/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("offline: %v", err)
	}
	reg.Online()
	if _, _, err := get(t, reg, "/v2/"); err != nil || reg.Host() != host {
		t.Errorf("online again: %v, host %s, was %s", err, reg.Host(), host)
	}
}

func TestRate(t *testing.T) {
	reg := upstreamtest.New(t)
	dgst := reg.AddBlob("a", make([]byte, 300_000))
	reg.SetRate(1_000_000)
	start := time.Now()
	if _, _, err := get(t, reg, "/v2/a/blobs/"+dgst.String()); err != nil {
		t.Fatal(err)
	}
	// The last chunk is sent when its time has come, not when it is over.
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("300 kB at 1 MB/s in %v", d)
	}
}

func TestHandler(t *testing.T) {
	reg := upstreamtest.NewHandler()
	defer reg.Close()
	reg.SetRedirect(true)
	reg.SetAuth(upstreamtest.Auth{Scheme: "Bearer", Username: "u", Password: "p"})
	img := reg.AddRandomImage("a/b", "v1", 1, 1000)
	srv := httptest.NewServer(reg)
	defer srv.Close()

	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://")+"/a/b:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "u", Password: "p"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if n := reg.BlobBytes(); n < img.Size {
		t.Errorf("blob bytes = %d, want %d at least", n, img.Size)
	}
	if n := reg.Requests(upstreamtest.Token); n != 1 {
		t.Errorf("token requests = %d, want 1", n)
	}
}

func TestIfNoneMatch(t *testing.T) {
	reg := upstreamtest.New(t)
	dgst := reg.AddManifest("a", "v1", "application/json", []byte("{}"))
	for value, status := range map[string]int{
		`"` + dgst.String() + `"`:         304,
		`"x", W/"` + dgst.String() + `"`:  304,
		"*":                               304,
		`"x"`:                             200,
		dgst.String():                     200,
		`"` + dgst.String()[:20] + `"`:    200,
		`"` + dgst.String() + `", "other`: 304,
	} {
		resp, body, err := get(t, reg, "/v2/a/manifests/v1", "If-None-Match", value)
		if err != nil || resp.StatusCode != status || (status == 304) != (len(body) == 0) || resp.Header.Get("ETag") != `"`+dgst.String()+`"` {
			t.Errorf("%s: %v, %q, %v", value, resp, body, err)
		}
	}
}
