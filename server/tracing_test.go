package server_test

import (
	"bytes"
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream"
	"registry-module/upstream/router"
)

// spans records spans, and tells when one has ended.
type spans struct {
	*tracetest.SpanRecorder
	news chan struct{}
}

func newSpans() (spans, func(*server.Options)) {
	rec := spans{tracetest.NewSpanRecorder(), make(chan struct{}, 1)}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec))
	return rec, func(o *server.Options) { o.Tracing = provider }
}

// OnEnd implements sdktrace.SpanProcessor.
func (s spans) OnEnd(span sdktrace.ReadOnlySpan) {
	s.SpanRecorder.OnEnd(span)
	select {
	case s.news <- struct{}{}:
	default: // it knows that there is something new
	}
}

// wait waits until a span of that name has ended, and returns the first one.
func (s spans) wait(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	for {
		for _, span := range s.Ended() {
			if span.Name() == name {
				return span
			}
		}
		select {
		case <-s.news:
		case <-time.After(time.Minute):
			t.Fatalf("there is no span %q", name)
		}
	}
}

func attr(s sdktrace.ReadOnlySpan, key string) string {
	for _, a := range s.Attributes() {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

// TestTracedRequests has the names and the attributes of what clients ask for.
func TestTracedRequests(t *testing.T) {
	rec, on := newSpans()
	s := newSite(t, on)
	for _, tt := range []struct {
		method, path, name string
		attrs              map[string]string
	}{
		{"GET", "/v2/a/b/manifests/v1", "GET manifest", map[string]string{
			"http.request.method": "GET", "url.path": "/v2/a/b/manifests/v1", "http.route": "/v2/{name}/manifests/{reference}",
			"http.response.status_code": "200", "oci.repository": "a/b", "oci.reference": "v1", "cache.result": "hit",
		}},
		{"GET", "/v2/a/b/manifests/v1?ns=upstream.test&key=canary", "GET manifest", map[string]string{
			"url.path": "/v2/a/b/manifests/v1", "cache.result": "hit", "oci.namespace": "upstream.test",
		}},
		{"HEAD", "/v2/a/b/blobs/" + s.layerDigest.String(), "HEAD blob", map[string]string{"http.response.status_code": "200"}},
		{"GET", "/v2/a/b/blobs/" + s.layerDigest.String(), "GET blob", map[string]string{
			"http.response.body.size": "1048576", "cache.result": "miss", "oci.reference": s.layerDigest.String(),
		}},
		{"GET", "/v2/a/b/tags/list", "GET tags", map[string]string{"http.response.status_code": "200", "cache.result": "miss"}},
		{"GET", "/v2/a/b/referrers/" + s.image.String(), "GET referrers", map[string]string{"http.response.status_code": "200"}},
		{"GET", "/v2/a/b/manifests/none", "GET manifest", map[string]string{"http.response.status_code": "404", "cache.result": "absent"}},
		{"BREW", "/v2/%63%ff/x", "_OTHER", map[string]string{"http.response.status_code": "400", "http.request.method": "_OTHER"}},
		{"GET", "/v2/", "GET api", map[string]string{"http.response.status_code": "200"}},
	} {
		if tt.attrs["cache.result"] == "hit" && len(rec.Ended()) == 0 {
			res, err := http.Get(s.url + "/v2/a/b/manifests/v1") // so that it is stored
			must(t, err)
			must(t, res.Body.Close())
			rec.wait(t, "GET manifest")
		}
		rec.Reset()
		req, err := http.NewRequestWithContext(t.Context(), tt.method, s.url+tt.path, nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer canary")
		req.Header.Set("X-Key", "canary")
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		must(t, err)
		must(t, res.Body.Close())
		span := rec.wait(t, tt.name)
		for key, want := range tt.attrs {
			if got := attr(span, key); got != want {
				t.Errorf("%s %s: %s is %q, want %q", tt.method, tt.path, key, got, want)
			}
		}
		if span.Status().Code == codes.Error {
			t.Errorf("%s %s: status %v", tt.method, tt.path, span.Status())
		}
		for _, span := range rec.Ended() {
			for _, a := range span.Attributes() {
				if strings.Contains(a.Value.String(), "canary") {
					t.Errorf("%s %s: %s tells a secret: %s", tt.method, tt.path, a.Key, a.Value.String())
				}
			}
		}
	}
	rec.Reset()
	s.up.Fail(io.ErrUnexpectedEOF)
	res, err := http.Get(s.url + "/v2/a/other/manifests/v1")
	must(t, err)
	must(t, res.Body.Close())
	if span := rec.wait(t, "GET manifest"); span.Status().Code != codes.Error || attr(span, "error.type") == "" || attr(span, "cache.result") != "failed" {
		t.Errorf("status %v, attributes %v", span.Status(), span.Attributes())
	}
}

// TestTracedChain shows that a request that goes through two servers is one trace.
func TestTracedChain(t *testing.T) {
	above, on := newSpans()
	s := newSite(t, on)
	remote, err := upstream.New(upstream.Options{URL: s.url})
	must(t, err)
	defer func() { must(t, remote.Close()) }()
	blobs := new(cachetest.Blobs)
	c, err := cache.New(t.Context(), cache.Options{
		Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
		Remotes: []cache.Remote{{Host: remote.Host(), Upstream: remote}},
	})
	must(t, err)
	defer func() { must(t, c.Close()) }()
	below, on := newSpans()
	opts := server.Options{Cache: c, Router: routes(t, router.Remote{Host: remote.Host(), Default: true})}
	on(&opts)
	h, err := server.New(context.Background(), opts)
	must(t, err)
	defer func() { must(t, h.Close()) }()
	site := httptest.NewServer(h)
	defer site.Close()

	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.URL+"/v2/a/b/blobs/"+s.layerDigest.String(), nil)
	must(t, err)
	req.Header.Set("Traceparent", "00-"+trace+"-"+parent+"-01")
	req.Header.Set("Tracestate", "vendor=value")
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	body, err := io.ReadAll(res.Body)
	must(t, err)
	must(t, res.Body.Close())
	if !bytes.Equal(body, s.layer) || digest.FromBytes(body) != s.layerDigest {
		t.Fatal("another blob")
	}
	below.wait(t, "fill")
	above.wait(t, "fill")
	second := above.wait(t, "GET blob")
	var names []string
	for _, span := range slices.Concat(below.Ended(), above.Ended()) {
		names = append(names, span.Name())
		if got := span.SpanContext().TraceID().String(); got != trace {
			t.Errorf("span %q is of trace %s", span.Name(), got)
		}
	}
	t.Logf("spans %q", names)
	requested := false
	for _, span := range below.Ended() {
		requested = requested || span.SpanContext().SpanID() == second.Parent().SpanID()
		if p := span.Parent(); span.Name() == "GET blob" && p.IsRemote() && p.SpanID().String() != parent {
			t.Errorf("the parent is %s", p.SpanID())
		}
	}
	if !requested || !second.Parent().IsRemote() || second.SpanContext().TraceState().String() != "vendor=value" {
		t.Error("the second server's span is not below a request of the first one")
	}
}

// TestUntraced shows that nobody is told of anything where that is off, and that a
// request that is answered from the store costs no memory for it.
func TestUntraced(t *testing.T) {
	s := newSite(t)
	h := s.newHandler(t)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/a/b/manifests/v1", nil)
	h.ServeHTTP(httptest.NewRecorder(), req)
	// The least counts: others may allocate meanwhile, and pools that are shared may be empty.
	least := func(enough float64) float64 {
		n := math.Inf(1)
		for i := 0; i < 1000 && n > enough; i++ {
			n = min(n, testing.AllocsPerRun(1, func() { h.ServeHTTP(httptest.NewRecorder(), req) }))
		}
		return n
	}
	plain := least(0)
	req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if got := least(plain); got > plain {
		t.Errorf("%v allocations, want %v", got, plain)
	}
}

func BenchmarkManifest(b *testing.B) {
	for name, adjust := range map[string]func(*server.Options){
		"untraced": func(*server.Options) {},
		"traced":   func(o *server.Options) { o.Tracing = sdktrace.NewTracerProvider() },
	} {
		b.Run(name, func(b *testing.B) {
			up := new(cachetest.Upstream)
			up.AddManifest("a/b", "v1", "application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"manifests":[]}`))
			blobs := new(cachetest.Blobs)
			c, err := cache.New(b.Context(), cache.Options{
				Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
				Remotes: []cache.Remote{{Host: up.Host(), Upstream: up, TagTTL: time.Hour}},
			})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			opts := server.Options{Cache: c, Router: routes(b, router.Remote{Host: up.Host(), Default: true})}
			adjust(&opts)
			h, err := server.New(context.Background(), opts)
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v2/a/b/manifests/v1", nil)
			h.ServeHTTP(httptest.NewRecorder(), req)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(httptest.NewRecorder(), req)
			}
		})
	}
}
