package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Spans wait to be sent in a queue of at most spanQueue, which takes some MB; where they
// come faster than the collector takes them, or it is away, those that do not fit are
// dropped.
const (
	spanQueue = 2048
	spanBatch = 512
)

// batching is how spans are sent. All is said, since what is not is taken from OTEL_BSP_*,
// where a delay of 0 would have a core busy for ever.
func batching() []sdktrace.BatchSpanProcessorOption {
	return []sdktrace.BatchSpanProcessorOption{
		sdktrace.WithMaxQueueSize(spanQueue), sdktrace.WithMaxExportBatchSize(spanBatch),
		sdktrace.WithExportTimeout(30 * time.Second), sdktrace.WithBatchTimeout(5 * time.Second),
	}
}

// spanLimits bound the memory of a span, whatever OTEL_SPAN_* and OTEL_EVENT_* say.
func spanLimits() sdktrace.SpanLimits {
	return sdktrace.SpanLimits{
		AttributeValueLengthLimit:   1024,
		AttributeCountLimit:         sdktrace.DefaultAttributeCountLimit,
		EventCountLimit:             sdktrace.DefaultEventCountLimit,
		LinkCountLimit:              sdktrace.DefaultLinkCountLimit,
		AttributePerEventCountLimit: sdktrace.DefaultAttributePerEventCountLimit,
		AttributePerLinkCountLimit:  sdktrace.DefaultAttributePerLinkCountLimit,
	}
}

// flushTimeout is how long the end of the program waits for the collector to take what is
// there.
const flushTimeout = time.Second

// setupTracing prepares what the variables of OpenTelemetry say: see docs/tracing.md. The
// provider is nil where nothing is to be traced, which is the default. Shutdown sends what
// there is, for at most as long as patience, and is never nil. What is wrong with the variables is an
// error; a collector that is away is none, now or later.
//
// What the package otel keeps for a whole process is not touched.
func setupTracing(ctx context.Context, getenv func(string) string, patience time.Duration, log logrus.FieldLogger) (_ trace.TracerProvider, shutdown func() error, err error) {
	off := func() error { return nil }
	s, err := readTracing(getenv)
	if err != nil || s.endpoint == nil {
		return nil, off, err
	}
	if log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		log = discard
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: s.tls,
		TLSHandshakeTimeout: s.timeout, IdleConnTimeout: 90 * time.Second, MaxIdleConns: 1,
	}
	opts := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(s.endpoint.String()),
		otlptracehttp.WithHeaders(s.headers),
		otlptracehttp.WithHTTPClient(&http.Client{
			Transport: transport, Timeout: s.timeout,
			// The headers are for the collector, and for nobody whom it names.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
		otlptracehttp.WithTimeout(s.timeout),
		otlptracehttp.WithCompression(otlptracehttp.NoCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: 15 * time.Second,
		}),
	}
	if s.gzip {
		opts = append(opts, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	exporter, err := otlptracehttp.New(ctx, opts...)
	if err != nil {
		return nil, off, fmt.Errorf("tracing (OTEL_EXPORTER_OTLP_ENDPOINT): %w", err)
	}
	quiet := &quietExporter{SpanExporter: exporter, log: log, secrets: s.headers, now: time.Now}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(s.sampler),
		sdktrace.WithResource(resource.NewSchemaless(s.resource...)),
		sdktrace.WithRawSpanLimits(spanLimits()),
		sdktrace.WithBatcher(quiet, batching()...),
	)
	log.Infof("requests are traced; spans go to %s", s.endpoint.Redacted())
	return provider, func() error {
		// Not of ctx, which has ended by then.
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if err := provider.Shutdown(limit); err != nil {
			quiet.tell(fmt.Errorf("at the end of the program, within %v: %w", patience, err), 0)
		}
		_ = exporter.Shutdown(limit) // ends what is under way, if that was not enough
		transport.CloseIdleConnections()
		return nil
	}, nil
}

// quietExporter sends spans, and tells the log, once a minute at most, where that fails:
// that is no reason to disturb anybody, nor to fill the log.
type quietExporter struct {
	sdktrace.SpanExporter
	log     logrus.FieldLogger
	secrets map[string]string // headers, which a collector may repeat
	now     func() time.Time

	mu   sync.Mutex
	told time.Time
	lost int // spans, since then
}

// tellEvery is how often the log is told at most.
const tellEvery = time.Minute

// ExportSpans implements sdktrace.SpanExporter. It does not fail.
func (q *quietExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := q.SpanExporter.ExportSpans(ctx, spans); err != nil {
		q.tell(err, len(spans))
	}
	return nil
}

func (q *quietExporter) tell(err error, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += lost
	now := q.now()
	if !q.told.IsZero() && now.Sub(q.told) < tellEvery {
		return
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, secret := range q.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "REDACTED")
		}
	}
	lostText := ""
	if q.lost > 0 {
		lostText = fmt.Sprintf("%d spans are lost, ", q.lost)
	}
	q.log.Warnf("traces cannot be sent: %spulls are not affected: %.300s", lostText, strings.ToValidUTF8(text, "\ufffd"))
	q.told, q.lost = now, 0
}
