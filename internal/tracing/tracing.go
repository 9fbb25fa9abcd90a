// Package tracing tells what is done for a request, step by step, to OpenTelemetry.
//
// A span is begun below the one that a context carries, by whoever has made that: there is
// no tracer that would have to be set up or handed around, and where a context carries no
// span, or one that is not sampled, nothing is made and nothing allocated. The first span
// of a request is made by [StartServer] from the provider that it is given.
//
// It promises that texts are valid UTF-8 and bounded, since one that is not would take
// with it all that is sent together with it. It knows nothing of secrets: who calls it
// gives it none, no headers, and no URLs with queries. It imports nothing of this module.
package tracing

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope is what spans are of (the instrumentation scope).
const scope = "registry-module"

// maxText is how long a text can be in bytes.
const maxText = 512

// Attr is a fact about a span or an event.
type Attr = attribute.KeyValue

// String is a text.
func String(key, value string) Attr { return attribute.String(key, value) }

// Int is a number.
func Int[N int | int64](key string, value N) Attr { return attribute.Int64(key, int64(value)) }

// Bool is whether something is so.
func Bool(key string, value bool) Attr { return attribute.Bool(key, value) }

// Span is a step. The zero value is none, and all methods do nothing then. It is safe
// for use by several goroutines.
type Span struct{ span trace.Span }

// Start begins a step of what ctx is about. The context is for what is part of it; the
// span has to be ended.
func Start(ctx context.Context, name string, attrs ...Attr) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !isSampled(parent) {
		return ctx, Span{}
	}
	return start(ctx, parent.TracerProvider(), trace.SpanKindInternal, name, cleaned(attrs))
}

// StartClient is Start for a request to somebody else.
func StartClient(ctx context.Context, name string, attrs ...Attr) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !isSampled(parent) {
		return ctx, Span{}
	}
	return start(ctx, parent.TracerProvider(), trace.SpanKindClient, name, cleaned(attrs))
}

// StartServer begins the first span of a request with the header h: below the one that
// the client has told in it (W3C Trace Context), if it has. Nothing else is taken from
// the header. The sampler of the provider decides whether the client's word on that
// counts.
func StartServer(ctx context.Context, from trace.TracerProvider, h http.Header, name string, attrs ...Attr) (context.Context, Span) {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(h))
	return start(ctx, from, trace.SpanKindServer, name, cleaned(attrs))
}

func start(ctx context.Context, from trace.TracerProvider, kind trace.SpanKind, name string, attrs []Attr) (context.Context, Span) {
	ctx, span := from.Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attrs...))
	if !span.SpanContext().IsSampled() {
		return ctx, Span{} // ctx tells those who are asked that it is not
	}
	return ctx, Span{span}
}

// isSampled tells whether a span is kept. One that has ended still is.
func isSampled(s trace.Span) bool { return s.SpanContext().IsSampled() }

// cleaned is a copy of attrs, so that those of who calls need no memory of their own
// where nothing is made of them.
func cleaned(attrs []Attr) []Attr {
	clean := make([]Attr, len(attrs))
	for i, a := range attrs {
		if a.Value.Type() == attribute.STRING {
			a.Value = attribute.StringValue(text(a.Value.AsString()))
		}
		clean[i] = a
	}
	return clean
}

func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// On tells whether there is a span, for who would have to prepare what it tells.
func (s Span) On() bool { return s.span != nil }

// Rename gives it another name.
func (s Span) Rename(name string) {
	if s.span != nil {
		s.span.SetName(name)
	}
}

// Set adds facts, in place of those with the same key.
func (s Span) Set(attrs ...Attr) {
	if s.span != nil {
		s.span.SetAttributes(cleaned(attrs)...)
	}
}

// Event tells that something has happened.
func (s Span) Event(name string, attrs ...Attr) {
	if s.span != nil {
		s.span.AddEvent(name, trace.WithAttributes(cleaned(attrs)...))
	}
}

// Fail tells why the step has failed, unless err is nil. That it was given up by who
// wanted it is no failure.
func (s Span) Fail(err error) {
	switch {
	case s.span == nil || err == nil:
	case errors.Is(err, context.Canceled):
		s.span.AddEvent("canceled")
	default:
		message := text(err.Error())
		s.span.SetStatus(codes.Error, message)
		// By the semantic conventions for exceptions, without the type, which is of Go.
		s.span.AddEvent("exception", trace.WithAttributes(attribute.String("exception.message", message)))
	}
}

// End tells that it is over, and, unless err is nil, that it has failed.
func (s Span) End(err error) {
	if s.span != nil {
		s.Fail(err)
		s.span.End()
	}
}

// In returns the span that ctx carries.
func In(ctx context.Context) Span {
	span := trace.SpanFromContext(ctx)
	if !isSampled(span) {
		return Span{}
	}
	return Span{span}
}

// Join tells, in the span of ctx, that what was wanted is being done for others already,
// in the span of other.
func Join(ctx, other context.Context, name string) {
	s := In(ctx)
	if s.span == nil {
		return
	}
	s.span.AddEvent(name)
	if to := trace.SpanContextFromContext(other); to.IsValid() && !to.Equal(s.span.SpanContext()) {
		s.span.AddLink(trace.Link{SpanContext: to})
	}
}

// Carry returns to with the span of from: for work that is done on behalf of a request
// and outlives it.
func Carry(to, from context.Context) context.Context {
	span := trace.SpanFromContext(from)
	if !span.SpanContext().IsValid() {
		return to
	}
	return trace.ContextWithSpan(to, span)
}

// Inject sets the fields of W3C Trace Context in the header h of a request to somebody
// who is to go on with the trace. Without a span it sets nothing.
func Inject(ctx context.Context, h http.Header) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	}
}
