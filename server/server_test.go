package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	stockauth "github.com/distribution/distribution/v3/registry/auth"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/disk"
	"registry-module/server"
	"registry-module/upstream/router"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // the app's
	goleak.VerifyTestMain(m,
		// Of the app's notifications, which cannot be stopped.
		goleak.IgnoreAnyFunction("github.com/distribution/distribution/v3/notifications.(*eventQueue).run"),
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

// site is a server over a cache on disk and a remote in memory.
type site struct {
	url   string
	cache *cache.Cache
	up    *cachetest.Upstream
	up2   *cachetest.Upstream // of a second remote, which has nothing

	image           digest.Digest // of a/b:v1
	manifest, layer []byte
	layerDigest     digest.Digest
}

func newSite(t testing.TB, adjust ...func(*server.Options)) *site {
	t.Helper()
	s := &site{up: new(cachetest.Upstream), up2: &cachetest.Upstream{Name: "second.test:5000"}}
	s.layer = bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	s.layerDigest = s.up.AddBlob("a/b", s.layer)
	config := s.up.AddBlob("a/b", []byte("{}"))
	s.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":%d}]}`,
		v1.MediaTypeImageManifest, config, s.layerDigest, len(s.layer))
	s.image = s.up.AddManifest("a/b", "v1", v1.MediaTypeImageManifest, s.manifest)

	store, err := disk.Open(t.TempDir(), disk.Options{})
	must(t, err)
	s.cache, err = cache.New(t.Context(), cache.Options{
		Blobs: store, Partials: store.Partials(), Refs: store.Refs(), Index: new(cachetest.Index),
		Remotes: []cache.Remote{s.remote(), s.second()},
	})
	must(t, err)
	t.Cleanup(func() {
		must(t, s.cache.Close())
		must(t, store.Close())
	})
	s.url = s.serve(t, adjust...)
	return s
}

// remote is the site's first remote.
func (s *site) remote() cache.Remote {
	return cache.Remote{
		Host: s.up.Host(), Upstream: s.up, TagTTL: time.Minute,
		Naming:   cache.Naming{Others: []string{s.up2.Host() + "/"}, Aside: "@" + s.up.Host() + "/"},
		RetryFor: -1, // what breaks is to be heard of at once
	}
}

// second is the site's second remote.
func (s *site) second() cache.Remote {
	return cache.Remote{
		Host: s.up2.Host(), Upstream: s.up2, TagTTL: time.Minute, RetryFor: -1,
		Naming: cache.Naming{Prefix: s.up2.Host() + "/"},
	}
}

// stored waits until a blob of a/b, which was sent to its end, is stored.
func (s *site) stored(t testing.TB, dgst digest.Digest) {
	t.Helper()
	repo, _ := s.cache.Repository(cache.Place{Host: s.up.Host(), Repo: "a/b"})
	for {
		b, err := repo.CachedBlob(t.Context(), dgst)
		if err == nil {
			must(t, b.Close())
			return
		}
		must(t, t.Context().Err())
		runtime.Gosched()
	}
}

// routes is a router for remotes.
func routes(tb testing.TB, remotes ...router.Remote) server.Router {
	tb.Helper()
	r, err := router.New(remotes)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// serve starts one more server over the same cache.
func (s *site) serve(t testing.TB, adjust ...func(*server.Options)) string {
	t.Helper()
	ts := httptest.NewServer(s.newHandler(t, adjust...))
	t.Cleanup(ts.Close)
	return ts.URL
}

// newHandler is serve without a network.
func (s *site) newHandler(t testing.TB, adjust ...func(*server.Options)) http.Handler {
	t.Helper()
	opts := server.Options{Cache: s.cache, Name: "registry-module-this", Router: routes(t,
		router.Remote{Host: s.up.Host(), Alias: "alias", Default: true},
		router.Remote{Host: s.up2.Host(), Alias: "two", Deny: []string{"secret/**"}},
	)}
	for _, a := range adjust {
		a(&opts)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h, err := server.New(ctx, opts)
	must(t, err)
	t.Cleanup(func() {
		must(t, h.Close())
		cancel()
	})
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// response is what came back, read to its end.
type response struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

func do(t *testing.T, method, url string, header ...string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, body, err}
}

// code is the code of the first error of an error body.
func (r response) code(t *testing.T) string {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(r.body, &body); err != nil || len(body.Errors) == 0 || body.Errors[0].Message == "" {
		t.Errorf("body %q is not in the form of the distribution specification", r.body)
		return ""
	}
	if ct := r.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("error with Content-Type %q", ct)
	}
	return body.Errors[0].Code
}

// seconds is a lifetime in Cache-Status.
var seconds = regexp.MustCompile(`ttl=\d+`)

// The short way for stored content gives the answers of the app, to the letter.
func TestShortcutAnswersAsTheApp(t *testing.T) {
	headers := http.Header{"X-Content-Type-Options": {"nosniff"}}
	s := newSite(t, func(o *server.Options) {
		o.Config = &configuration.Configuration{HTTP: configuration.HTTP{Headers: headers}}
	})
	hook := newWebhook(t)
	app := s.serve(t, hook.configure(headers))

	layer := "/v2/a/b/blobs/" + s.layerDigest.String()
	do(t, http.MethodGet, s.url+layer) // warm
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	s.stored(t, s.layerDigest)
	requests := []struct {
		name, path string
		header     []string
	}{
		{"tag", "/v2/a/b/manifests/v1", nil},
		{"digest", "/v2/a/b/manifests/" + s.image.String(), nil},
		{"namespace", "/v2/a/b/manifests/v1?ns=upstream.test", nil},
		{"tag not modified", "/v2/a/b/manifests/v1", []string{"If-None-Match", `"` + s.image.String() + `"`}},
		{"tag modified", "/v2/a/b/manifests/v1", []string{"If-None-Match", `"sha256:x"`}},
		{"accept", "/v2/a/b/manifests/v1", []string{"Accept", v1.MediaTypeImageManifest}},
		{"blob", layer, nil},
		{"blob not modified", layer, []string{"If-None-Match", `"` + s.layerDigest.String() + `"`}},
		{"range", layer, []string{"Range", "bytes=10-19"}},
		{"range to the end", layer, []string{"Range", "bytes=1048570-"}},
		{"range of the end", layer, []string{"Range", "bytes=-5"}},
		{"range beyond", layer, []string{"Range", "bytes=1048576-"}},
		{"malformed range", layer, []string{"Range", "bytes=x"}},
		{"range of another unit", layer, []string{"Range", "lines=1-2"}},
		{"range if", layer, []string{"Range", "bytes=0-0", "If-Range", `"` + s.layerDigest.String() + `"`}},
		{"range if changed", layer, []string{"Range", "bytes=0-0", "If-Range", `"sha256:x"`}},
	}
	calls := s.up.Calls("")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, rq := range requests {
			t.Run(method+" "+rq.name, func(t *testing.T) {
				short, long := do(t, method, s.url+rq.path, rq.header...), do(t, method, app+rq.path, rq.header...)
				must(t, short.err)
				must(t, long.err)
				short.header.Del("Date")
				long.header.Del("Date")
				if short.status != long.status || !bytes.Equal(short.body, long.body) {
					t.Errorf("status %d and %d bytes, the app: %d and %d", short.status, len(short.body), long.status, len(long.body))
				}
				if got := short.header.Get("Cache-Status"); (got == "") != (short.status == 416) || got != "" && !strings.HasPrefix(got, "registry-module; hit") {
					t.Errorf("status %d, Cache-Status %q", short.status, got)
				}
				// A second may have begun in between.
				for _, h := range []http.Header{short.header, long.header} {
					h.Set("Cache-Status", seconds.ReplaceAllString(h.Get("Cache-Status"), "ttl=N"))
					h.Set("Age", "N")
				}
				if a, b := fmt.Sprint(short.header), fmt.Sprint(long.header); a != b {
					t.Errorf("headers\n%s, the app:\n%s", a, b)
				}
			})
		}
	}
	if s.up.Calls("") > calls {
		t.Errorf("%d requests to the remote", s.up.Calls("")-calls)
	}
	hook.want(t, "pull")
}

// webhook receives the stock notifications.
type webhook struct {
	url     string
	mu      sync.Mutex
	actions []string
	sizes   []int64 // of what they are about
	arrived chan struct{}
}

func newWebhook(t *testing.T) *webhook {
	h := &webhook{arrived: make(chan struct{}, 1000)}
	ts := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var env struct {
			Events []struct {
				Action string
				Target struct{ Size int64 }
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&env); err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, e := range env.Events {
			h.actions = append(h.actions, e.Action)
			h.sizes = append(h.sizes, e.Target.Size)
		}
		h.arrived <- struct{}{}
	}))
	t.Cleanup(ts.Close)
	h.url = ts.URL
	return h
}

func (h *webhook) configure(headers http.Header) func(*server.Options) {
	return func(o *server.Options) {
		o.Config = &configuration.Configuration{
			HTTP: configuration.HTTP{Headers: headers},
			Notifications: configuration.Notifications{Endpoints: []configuration.Endpoint{
				{Name: "test", URL: h.url, Timeout: time.Second, Threshold: 1, Backoff: time.Second},
			}},
		}
	}
}

func (h *webhook) want(t *testing.T, action string) {
	t.Helper()
	<-h.arrived
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.actions, action) {
		t.Errorf("notifications %q, want %q", h.actions, action)
	}
}

func TestColdPull(t *testing.T) {
	s := newSite(t)
	if r := do(t, http.MethodGet, s.url+"/v2/"); r.status != 200 || s.up.Calls("") != 0 {
		t.Errorf("GET /v2/: status %d, %d requests to the remote", r.status, s.up.Calls(""))
	}
	r := do(t, http.MethodHead, s.url+"/v2/a/b/manifests/v1")
	if r.status != 200 || r.header.Get("Docker-Content-Digest") != s.image.String() || r.header.Get("Content-Type") != v1.MediaTypeImageManifest {
		t.Errorf("HEAD of the tag: %d %v", r.status, r.header)
	}
	r = do(t, http.MethodGet, s.url+"/v2/a/b/manifests/"+s.image.String())
	if r.status != 200 || !bytes.Equal(r.body, s.manifest) {
		t.Errorf("manifest: %d %q", r.status, r.body)
	}
	layer := s.url + "/v2/a/b/blobs/" + s.layerDigest.String()
	if r := do(t, http.MethodHead, layer); r.status != 200 || r.header.Get("Content-Length") != fmt.Sprint(len(s.layer)) {
		t.Errorf("HEAD of the layer: %d %v", r.status, r.header)
	}
	if n := s.up.Calls(""); n != 1 {
		t.Errorf("%d requests to the remote so far, want 1", n)
	}
	if r := do(t, http.MethodGet, layer, "Range", "bytes=100-199"); r.status != 206 || !bytes.Equal(r.body, s.layer[100:200]) {
		t.Errorf("cold range: %d, %d bytes", r.status, len(r.body))
	}
	if r := do(t, http.MethodGet, layer); r.status != 200 || !bytes.Equal(r.body, s.layer) || r.err != nil {
		t.Errorf("layer: %d, %d bytes, %v", r.status, len(r.body), r.err)
	}
	if n := s.up.Calls(""); n != 2 {
		t.Errorf("%d requests to the remote, want 2", n)
	}
}

// A body that turns out wrong never ends as a whole response.
func TestWrongBlobEndsConnection(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		s := newSite(t)
		s.up.HideSize = hidden
		s.up.Body = func(_ digest.Digest, content []byte) io.ReadCloser {
			p := bytes.Clone(content)
			p[len(p)-1] ^= 1
			return io.NopCloser(bytes.NewReader(p))
		}
		r := do(t, http.MethodGet, s.url+"/v2/a/b/blobs/"+s.layerDigest.String())
		if r.status == http.StatusBadGateway { // it was faster than the first reader
			r.code(t)
			continue
		}
		if r.err == nil || len(r.body) >= len(s.layer) {
			t.Errorf("hidden %v: status %d, %d bytes, error %v", hidden, r.status, len(r.body), r.err)
		}
	}
}

func TestErrors(t *testing.T) {
	limited := &cache.UpstreamError{Kind: cache.ErrRateLimited, Remote: "upstream.test", Op: "fetching", Status: 429, RetryAfter: 90 * time.Second}
	dgst := digest.FromString("absent").String()
	for name, tt := range map[string]struct {
		err        error
		path       string
		status     int
		code       string
		retryAfter string
	}{
		"unknown tag":      {nil, "a/b/manifests/v2", 404, "MANIFEST_UNKNOWN", ""},
		"unknown manifest": {nil, "a/b/manifests/" + dgst, 404, "MANIFEST_UNKNOWN", ""},
		"unknown blob":     {nil, "a/b/blobs/" + dgst, 404, "BLOB_UNKNOWN", ""},
		"unknown name":     {nil, "x/tags/list", 404, "NAME_UNKNOWN", ""},
		"tag, away":        {cache.ErrUnavailable, "a/b/manifests/v2", 503, "UNAVAILABLE", "10"},
		"blob, away":       {cache.ErrUnavailable, "a/b/blobs/" + dgst, 503, "UNAVAILABLE", "10"},
		"tags, away":       {cache.ErrUnavailable, "x/tags/list", 503, "UNAVAILABLE", "10"},
		"tag, limited":     {limited, "a/b/manifests/v2", 429, "TOOMANYREQUESTS", "90"},
		"blob, limited":    {limited, "a/b/blobs/" + dgst, 429, "TOOMANYREQUESTS", "90"},
		"tag, denied":      {cache.ErrDenied, "a/b/manifests/v2", 403, "DENIED", ""},
		"blob, denied":     {cache.ErrDenied, "a/b/blobs/" + dgst, 403, "DENIED", ""},
		"tag, invalid":     {cache.ErrInvalid, "a/b/manifests/v2", 502, "UNAVAILABLE", ""},
		"blob, invalid":    {cache.ErrInvalid, "a/b/blobs/" + dgst, 502, "UNAVAILABLE", ""},
		"anything else":    {io.ErrClosedPipe, "a/b/manifests/v2", 500, "UNKNOWN", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.Fail(tt.err)
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				r := do(t, method, s.url+"/v2/"+tt.path)
				if method == http.MethodHead && strings.HasSuffix(tt.path, "list") {
					continue // there is no HEAD of lists
				}
				if r.status != tt.status || r.header.Get("Retry-After") != tt.retryAfter || r.header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s: status %d, Retry-After %q, want %d, %q", method, r.status, r.header.Get("Retry-After"), tt.status, tt.retryAfter)
				}
				want := ""
				if tt.status == 429 || tt.status == 502 || tt.status == 503 {
					want = "1.1 registry-module-this" // the remote has failed, and not this one
				}
				if got := r.header.Get("Via"); got != want {
					t.Errorf("%s: Via %q, want %q", method, got, want)
				}
				if method == http.MethodGet {
					if code := r.code(t); code != tt.code {
						t.Errorf("code %s, want %s", code, tt.code)
					}
				}
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	s := newSite(t)
	good := s.layerDigest.String()
	for _, tt := range []struct {
		path   string
		status int
		code   string
	}{
		{"/v2/../etc/passwd/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a/../b/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a%2Fb/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a/%2e%2e/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a//b/manifests/v1", 400, "NAME_INVALID"},
		{"/v2//manifests/v1", 400, "NAME_INVALID"},
		{"/v2/Upper/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/Upper/a/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/localhost:5000/a/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/[::1]:5000/a/blobs/" + good, 400, "NAME_INVALID"},
		{"/v2/a.test/B/tags/list", 400, "NAME_INVALID"},
		{"/v2/a..b/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a___b/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a/b-/manifests/v1", 400, "NAME_INVALID"},
		{"/%76%32/a/b/manifests/v1", 400, "NAME_INVALID"},
		{"/%76%32/a/b/manifests/v1?ns=elsewhere.test", 400, "NAME_INVALID"},
		{"/v2%2Fa/b/manifests/v1", 400, "NAME_INVALID"},
		{"/x/%2e%2e/v2/a/b/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a_/blobs/" + good, 400, "NAME_INVALID"},
		{"/v2/_a/tags/list", 400, "NAME_INVALID"},
		{"/v2/" + strings.Repeat("a", 256) + "/manifests/v1", 400, "NAME_INVALID"},
		{"/v2/a/manifests/-v1", 404, "MANIFEST_UNKNOWN"},
		{"/v2/a/manifests/" + strings.Repeat("v", 129), 404, "MANIFEST_UNKNOWN"},
		{"/v2/a/manifests/sha256:abc", 400, "DIGEST_INVALID"},
		{"/v2/a/manifests/blake3:" + strings.Repeat("a", 64), 400, "DIGEST_INVALID"},
		{"/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"/v2/a/blobs/sha256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID"},
		{"/v2/a/blobs/latest", 400, "DIGEST_INVALID"},
		{"/v2/a/referrers/latest", 400, "DIGEST_INVALID"},
		{"/v2/a", 404, "UNSUPPORTED"},
		{"/v2/a/b/c/d", 404, "UNSUPPORTED"},
		{"/v2/a/b/manifests/v1?ns=elsewhere.test", 404, "NAME_UNKNOWN"},
		{"/v2/a/b/blobs/" + good + "?ns=elsewhere.test", 404, "NAME_UNKNOWN"},
	} {
		r := do(t, http.MethodGet, s.url+tt.path)
		if r.status != tt.status {
			t.Errorf("%s: status %d, want %d", tt.path, r.status, tt.status)
			continue
		}
		if code := r.code(t); code != tt.code {
			t.Errorf("%s: code %s, want %s", tt.path, code, tt.code)
		}
	}
	if r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1", "X-Long", strings.Repeat("x", 9<<10)); r.status != 431 {
		t.Errorf("header of 9 KiB: status %d, want 431", r.status)
	} else {
		r.code(t)
	}
	if n := s.up.Calls(""); n != 0 {
		t.Errorf("%d requests to the remote, want none", n)
	}
	for i, name := range []string{strings.Repeat("a", 255), "a", "0", "a.test/b", "a/b/c/d", "a---b", "a__b", "a_b.c-d/0"} {
		if r := do(t, http.MethodGet, s.url+"/v2/"+name+"/manifests/v1"); r.status != 404 || s.up.Calls("") != i+1 {
			t.Errorf("%s: status %d, want the remote's 404", name, r.status)
		}
	}
}

func TestNamespace(t *testing.T) {
	s := newSite(t)
	for _, ns := range []string{"upstream.test", "alias"} {
		for range 2 { // cold, stored
			r := do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1?ns="+ns)
			if r.status != 200 || r.header.Get("OCI-Namespace") != ns {
				t.Errorf("ns=%s: status %d, OCI-Namespace %q", ns, r.status, r.header.Get("OCI-Namespace"))
			}
		}
	}
}

func TestPushesAreUnsupported(t *testing.T) {
	s := newSite(t)
	for _, tt := range []struct{ method, path string }{
		{http.MethodPost, "/v2/a/b/blobs/uploads/"},
		{http.MethodPost, "/v2/a/b/blobs/uploads/?mount=" + s.layerDigest.String() + "&from=x"},
		{http.MethodDelete, "/v2/a/b/manifests/v1"},
		{http.MethodDelete, "/v2/a/b/manifests/" + s.image.String()},
		{http.MethodDelete, "/v2/a/b/blobs/" + s.layerDigest.String()},
	} {
		r := do(t, tt.method, s.url+tt.path)
		if r.status != http.StatusMethodNotAllowed || r.code(t) != "UNSUPPORTED" {
			t.Errorf("%s %s: status %d %s", tt.method, tt.path, r.status, r.body)
		}
	}
}

func TestLists(t *testing.T) {
	s := newSite(t)
	for _, tag := range []string{"v2", "v3"} {
		s.up.AddManifest("a/b", tag, v1.MediaTypeImageManifest, s.manifest)
	}
	r := do(t, http.MethodGet, s.url+"/v2/a/b/tags/list?n=2")
	if got := strings.TrimSpace(string(r.body)); got != `{"name":"a/b","tags":["v1","v2"]}` {
		t.Errorf("first page: %s", got)
	}
	if got := r.header.Get("Link"); got != `</v2/a/b/tags/list?last=v2&n=2>; rel="next"` {
		t.Errorf("Link: %s", got)
	}
	r = do(t, http.MethodGet, s.url+"/v2/a/b/tags/list?n=2&last=v2")
	if got := strings.TrimSpace(string(r.body)); got != `{"name":"a/b","tags":["v3"]}` || r.header.Get("Link") != "" {
		t.Errorf("second page: %s, Link %q", got, r.header.Get("Link"))
	}
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1")
	r = do(t, http.MethodGet, s.url+"/v2/_catalog")
	if got := strings.TrimSpace(string(r.body)); got != `{"repositories":["a/b"]}` {
		t.Errorf("catalog: %s", got)
	}
}

// The stock access controllers stand before stored content, too.
func TestAccess(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	must(t, err)
	file := filepath.Join(t.TempDir(), "htpasswd")
	must(t, os.WriteFile(file, append([]byte("user:"), hash...), 0o600))
	params := configuration.Parameters{"realm": "test", "path": file}
	access, err := stockauth.GetAccessController("htpasswd", params)
	must(t, err)
	s := newSite(t, func(o *server.Options) {
		o.Access = controlled{access}
	})
	for _, path := range []string{"/v2/", "/v2/a/b/manifests/v1", "/v2/a/b/blobs/" + s.layerDigest.String(), "/v2/a/b/tags/list", "/v2/_catalog"} {
		for range 2 { // cold, stored
			r := do(t, http.MethodGet, s.url+path)
			if r.status != 401 || r.header.Get("WWW-Authenticate") != `Basic realm="test"` || r.code(t) != "UNAUTHORIZED" {
				t.Errorf("%s without credentials: status %d, challenge %q", path, r.status, r.header.Get("WWW-Authenticate"))
			}
			if r := do(t, http.MethodGet, s.url+path, "Authorization", "Basic dXNlcjp3cm9uZw=="); r.status != 401 {
				t.Errorf("%s with a wrong password: status %d", path, r.status)
			}
			if r := do(t, http.MethodGet, s.url+path, "Authorization", "Basic dXNlcjpzZWNyZXQ="); r.status != 200 {
				t.Errorf("%s with credentials: status %d", path, r.status)
			}
		}
	}
}

// Docker goes on trying where the message says no more than the specification's table.
func TestPushIsExplained(t *testing.T) {
	s := newSite(t)
	r := do(t, http.MethodPost, s.url+"/v2/a/b/blobs/uploads/")
	if r.status != http.StatusMethodNotAllowed || r.code(t) != "UNSUPPORTED" || !strings.Contains(string(r.body), "push to the registry that it fetches from") {
		t.Errorf("status %d\n%s", r.status, r.body)
	}
}

// What is outside of the API is refused as it is, and not redirected to what it might mean.
func TestPathsAreNotNormalised(t *testing.T) {
	s := newSite(t)
	for path, want := range map[string]int{
		"/metrics/../v2/": 400, "/./v2/": 400, "//v2/": 400, "/v2/../metrics": 400, "/x/": 404, "/x": 404, "/": 200, "/v2/": 200,
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		must(t, err)
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: registry:8000\r\nConnection: close\r\n\r\n", path)
		must(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(t, err)
		if resp.StatusCode != want || resp.Header.Get("Location") != "" {
			t.Errorf("%s: status %d, Location %q, want %d without one", path, resp.StatusCode, resp.Header.Get("Location"), want)
		}
		must(t, conn.Close())
	}
}

func TestAccessLogHasNoSecrets(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	s := newSite(t, func(o *server.Options) { o.Log = log })
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v1?token=hush", "Authorization", "Bearer hush")
	do(t, http.MethodGet, s.url+"/v2/a/b/manifests/v2?token=hush", "Authorization", "Bearer hush")
	if got := out.String(); strings.Contains(got, "hush") || strings.Count(got, "msg=request") != 2 || !strings.Contains(got, "status=404") {
		t.Errorf("log:\n%s", got)
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/v2/a/b/manifests/v1")
	f.Add("/v2/a/../b/blobs/sha256:x?ns=x")
	f.Add("/v2/%2e%2e/manifests/a")
	blobs := new(cachetest.Blobs)
	c, err := cache.New(context.Background(), cache.Options{
		Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
		Remotes: []cache.Remote{{Host: "x"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Close() })
	h, err := server.New(context.Background(), server.Options{Cache: c, Router: routes(f, router.Remote{Host: "x", Default: true})})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = h.Close() })
	f.Fuzz(func(t *testing.T, path string) {
		req, err := http.NewRequest(http.MethodGet, "http://localhost"+path, nil)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	})
}
