package breaker_test

import (
	"strings"
	"testing"
	"testing/synctest"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"registry-module/cache"
	"registry-module/internal/tracing"
	"registry-module/upstream/breaker"
)

// TestTracedRefusal shows that what was not asked is told in the span that wanted it.
func TestTracedRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGated()
		b := breaker.New(g, breaker.Options{})
		go func() { g.answers <- silence() }()
		if _, err := b.Resolve(t.Context(), "a", "v1", ""); err == nil {
			t.Fatal("it has answered")
		}
		rec := tracetest.NewSpanRecorder()
		ctx, span := tracing.StartServer(t.Context(), sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec)), nil, "request")
		_, err := b.Resolve(ctx, "a", "v1", "")
		notAsked(t, err, cache.ErrUnavailable)
		span.End(nil)
		events := rec.Ended()[0].Events()
		if len(events) != 1 || events[0].Name != "not asked" || !strings.Contains(events[0].Attributes[1].Value.AsString(), "connection refused") {
			t.Errorf("events %v", events)
		}
	})
}
