package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"registry-module/internal/tracing"
)

func recording(t *testing.T, opts ...sdktrace.TracerProviderOption) (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	t.Helper()
	rec := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(rec))...)
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return p, rec
}

// otherKey is that of something else in a context.
type otherKey struct{}

// TestOff shows that nothing is made, allocated or sent where nothing is traced.
func TestOff(t *testing.T) {
	ctx := context.WithValue(t.Context(), otherKey{}, "something")
	h := make(http.Header)
	if n := testing.AllocsPerRun(100, func() {
		ctx, span := tracing.Start(ctx, "step", tracing.String("a", "b"), tracing.Int("n", 1))
		span.Set(tracing.Bool("c", true))
		span.Event("happened", tracing.String("why", "no reason"))
		tracing.Inject(tracing.Carry(ctx, ctx), h)
		tracing.Join(ctx, ctx, "joined")
		_, client := tracing.StartClient(ctx, "GET")
		client.End(nil)
		span.Fail(context.DeadlineExceeded)
		span.End(nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(h) != 0 {
		t.Errorf("sent %v", h)
	}
}

func TestTrace(t *testing.T) {
	p, rec := recording(t)
	ctx, root := tracing.StartServer(t.Context(), p, nil, "GET", tracing.String("url.path", "/v2/"))
	root.Rename("GET blob")
	stepCtx, step := tracing.Start(ctx, "fill", tracing.String("bad", "\xff"+strings.Repeat("x", 10_000)))
	root.End(nil)
	// What outlives the request is part of it all the same.
	later, cancel := context.WithCancel(tracing.Carry(t.Context(), stepCtx))
	defer cancel()
	step.End(nil)
	clientCtx, client := tracing.StartClient(later, "GET blob")
	h := make(http.Header)
	tracing.Inject(clientCtx, h)
	client.Fail(fmt.Errorf("reading: %w", context.Canceled))
	client.End(errors.New("broken"))
	_, other := tracing.StartServer(t.Context(), p, h, "GET blob")
	other.End(nil)

	spans := rec.Ended()
	names := make([]string, len(spans))
	for i, s := range spans {
		names[i] = s.Name()
		if s.SpanContext().TraceID() != spans[0].SpanContext().TraceID() {
			t.Errorf("%s is of another trace", s.Name())
		}
		for _, a := range s.Attributes() {
			if v := a.Value.String(); len(v) > 600 || !utf8.ValidString(v) {
				t.Errorf("%s is %d bytes long, or no text", a.Key, len(v))
			}
		}
	}
	if want := []string{"GET blob", "fill", "GET blob", "GET blob"}; !slices.Equal(names, want) {
		t.Fatalf("spans %q, want %q", names, want)
	}
	for child, parent := range map[int]int{1: 0, 2: 1, 3: 2} {
		if spans[child].Parent().SpanID() != spans[parent].SpanContext().SpanID() {
			t.Errorf("span %d is not below span %d", child, parent)
		}
	}
	if !spans[3].Parent().IsRemote() {
		t.Error("the other server does not know that its parent is elsewhere")
	}
	if got := spans[2].Status(); got.Code != codes.Error || got.Description != "broken" {
		t.Errorf("status %v", got)
	}
}

func TestJoin(t *testing.T) {
	p, rec := recording(t)
	first, a := tracing.StartServer(t.Context(), p, nil, "first")
	second, b := tracing.StartServer(t.Context(), p, nil, "second")
	tracing.Join(second, first, "joined fill")
	tracing.Join(second, t.Context(), "joined what nobody traces")
	a.End(nil)
	b.End(nil)
	got := rec.Ended()[1]
	if links := got.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != rec.Ended()[0].SpanContext().SpanID() {
		t.Errorf("links %v", links)
	}
	if events := got.Events(); len(events) != 2 || events[0].Name != "joined fill" {
		t.Errorf("events %v", events)
	}
}

// TestNotSampled shows that a trace that is not kept costs nothing below, and that those
// who are asked hear that it is not.
func TestNotSampled(t *testing.T) {
	p, rec := recording(t, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	ctx, root := tracing.StartServer(t.Context(), p, nil, "GET")
	if root.On() {
		t.Error("there is a span")
	}
	if n := testing.AllocsPerRun(100, func() {
		_, s := tracing.Start(ctx, "step", tracing.String("a", "b"))
		s.End(nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	h := make(http.Header)
	tracing.Inject(tracing.Carry(t.Context(), ctx), h)
	if got := h.Get("Traceparent"); !strings.HasSuffix(got, "-00") {
		t.Errorf("traceparent %q", got)
	}
	if n := len(rec.Ended()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

func FuzzStartServer(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b,c=d", "/v2/")
	p := sdktrace.NewTracerProvider()
	f.Fuzz(func(t *testing.T, parent, state, path string) {
		h := http.Header{"Traceparent": {parent}, "Tracestate": {state}}
		ctx, span := tracing.StartServer(context.Background(), p, h, "GET", tracing.String("url.path", path))
		defer span.End(nil)
		out := make(http.Header)
		tracing.Inject(ctx, out)
		for name, values := range out {
			if len(values) != 1 || strings.ContainsAny(values[0], "\r\n\x00") {
				t.Errorf("%s: %q", name, values)
			}
		}
	})
}

func BenchmarkOff(b *testing.B) {
	ctx := context.WithValue(context.WithValue(b.Context(), otherKey{}, 1), otherKey{}, 2)
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracing.Start(ctx, "lookup", tracing.String("oci.repository", "library/alpine"), tracing.Int("n", 3))
		span.End(nil)
	}
}

func BenchmarkOn(b *testing.B) {
	p := sdktrace.NewTracerProvider()
	ctx, root := tracing.StartServer(b.Context(), p, nil, "GET manifest")
	defer root.End(nil)
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracing.Start(ctx, "lookup", tracing.String("oci.repository", "library/alpine"), tracing.Int("n", 3))
		span.End(nil)
	}
}
