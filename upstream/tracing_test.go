package upstream_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"registry-module/cache"
	"registry-module/internal/tracing"
	"registry-module/upstream"
	"registry-module/upstream/upstreamtest"
)

// traced returns a context of a request that is traced.
func traced(t *testing.T) (context.Context, *tracetest.SpanRecorder) {
	t.Helper()
	rec := tracetest.NewSpanRecorder()
	ctx, span := tracing.StartServer(t.Context(), sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec)), nil, "request")
	t.Cleanup(func() { span.End(nil) })
	return ctx, rec
}

// told is all that spans tell, one a line.
func told(rec *tracetest.SpanRecorder) string {
	var b strings.Builder
	for _, s := range rec.Ended() {
		fmt.Fprintf(&b, "span %q", s.Name())
		for _, a := range s.Attributes() {
			fmt.Fprintf(&b, " %s=%s", a.Key, a.Value.String())
		}
		fmt.Fprintf(&b, " %s", s.Status().Description)
		for _, e := range s.Events() {
			fmt.Fprintf(&b, " %s %v", e.Name, e.Attributes)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestTraced shows the span of each request, and who is told of the trace.
func TestTraced(t *testing.T) {
	a := newAround(t, script{
		realm: "http://auth.example.com/token", blob: "http://cdn.example.net/blob?sig=" + canarySignature,
		services: []string{token},
	})
	r := newRemote(t, upstream.Options{
		URL: "http://registry.example.com", DialContext: dialNames(a.addrs, nil),
		Credentials: authn.FromConfig(authn.AuthConfig{Username: "me", Password: canaryPassword}),
	})
	ctx, rec := traced(t)
	stream, err := r.Blob(ctx, "a/b", theDigest, cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(t, stream); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		`span "GET api" http.request.method=GET server.address=registry.example.com server.port=80 url.path=/v2/ http.response.status_code=401 error.type=401`,
		`span "GET token" http.request.method=GET server.address=auth.example.com server.port=80 http.response.status_code=200 `,
		`span "GET blob" http.request.method=GET server.address=registry.example.com server.port=80 url.path=/v2/a/b/blobs/` + theDigest.String() + ` http.response.status_code=307 `,
		`span "GET blob" http.request.method=GET server.address=cdn.example.net server.port=80 http.request.resend_count=1 http.response.status_code=200 http.response.body.size=4`,
	} {
		lines := strings.Split(told(rec), "\n")
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("span %d of\n%s\nis to be %s", i, told(rec), want)
		}
	}
	var sent []string
	for host, seen := range a.seen {
		if strings.Contains(seen, "Traceparent: 00-"+rec.Started()[0].SpanContext().TraceID().String()) {
			sent = append(sent, host)
		}
	}
	if !slices.Equal(sent, []string{home}) {
		t.Errorf("told of the trace: %q", sent)
	}
	// Nobody is told of anything without a trace.
	if _, err := r.Manifest(t.Context(), "a/b", "v1"); err != nil {
		t.Fatal(err)
	}
	if n := len(rec.Ended()); n != 4 || strings.Count(a.seen[home], "Traceparent") != 2 {
		t.Errorf("%d spans\n%s", n, a.seen[home])
	}
}

// TestTracedBreaks shows an answer that ends early, and one that never begins.
func TestTracedBreaks(t *testing.T) {
	reg := upstreamtest.New(t)
	dgst := reg.AddBlob("a/b", []byte(strings.Repeat("x", 1000)))
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	ctx, rec := traced(t)
	reg.Script(upstreamtest.Fault{Kinds: []upstreamtest.Kind{upstreamtest.BlobGet}, Cut: true, CutAt: 100})
	stream, err := r.Blob(ctx, "a/b", dgst, cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(t, stream); err == nil {
		t.Fatal("it did not break")
	}
	reg.Offline()
	if _, err := r.StatBlob(ctx, "a/b", dgst); err == nil {
		t.Fatal("it is not offline")
	}
	lines := strings.Split(told(rec), "\n")
	if len(lines) < 3 || !strings.Contains(lines[1], "http.response.body.size=100 ") || !strings.Contains(lines[1], "unexpected EOF") {
		t.Errorf("spans\n%s", told(rec))
	}
	if !strings.Contains(lines[2], `"HEAD blob"`) || !strings.Contains(lines[2], "error.type=unavailable") || !strings.Contains(lines[2], "refused") {
		t.Errorf("spans\n%s", told(rec))
	}
}
