package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otlp "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"registry-module/config"
)

// env is an environment.
type env map[string]string

func (e env) get(name string) string { return e[name] }

func TestReadTracing(t *testing.T) {
	for name, tt := range map[string]struct {
		env  env
		want string // the endpoint
	}{
		"nothing":               {nil, ""},
		"exporter":              {env{"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"},
		"exporter none":         {env{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ""},
		"disabled":              {env{"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ""},
		"endpoint":              {env{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"},
		"endpoint with path":    {env{"OTEL_EXPORTER_OTLP_ENDPOINT": " https://c/otlp/ "}, "https://c/otlp/v1/traces"},
		"endpoint of traces":    {env{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/in"}, "https://t/in"},
		"set, but empty":        {env{"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_TRACES_SAMPLER": ""}, ""},
		"of no effect, off":     {env{"OTEL_TRACES_SAMPLER": "sometimes", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""},
		"of no effect, none":    {env{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, ""},
		"sampler without share": {env{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "always_off", "OTEL_TRACES_SAMPLER_ARG": "x"}, "http://localhost:4318/v1/traces"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := readTracing(tt.env.get)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if s.endpoint != nil {
				got = s.endpoint.String()
			}
			if got != tt.want {
				t.Errorf("endpoint %q, want %q", got, tt.want)
			}
		})
	}
	s, err := readTracing(env{
		"OTEL_TRACES_EXPORTER":       "otlp",
		"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=y,", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "250", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25",
		"OTEL_SERVICE_NAME": "ship", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,site=7",
	}.get)
	if err != nil {
		t.Fatal(err)
	}
	if s.headers["api-key"] != "a b" || s.headers["x"] != "y" || s.timeout != 250*time.Millisecond || !s.gzip {
		t.Errorf("got %+v", s)
	}
	if d := s.sampler.Description(); !strings.Contains(d, "TraceIDRatioBased{0.25}") {
		t.Errorf("sampler %s", d)
	}
	got := map[string]string{}
	for _, a := range s.resource {
		got[string(a.Key)] = a.Value.AsString()
	}
	if got["service.name"] != "ship" || got["site"] != "7" || got["service.version"] != version {
		t.Errorf("resource %v", got)
	}
}

func TestReadTracingErrors(t *testing.T) {
	const secret = "s3cret"
	nowhere := filepath.Join(t.TempDir(), "none.pem")
	for variable, tt := range map[string]struct{ value, want string }{
		"OTEL_EXPORTER_OTLP_ENDPOINT":                  {"collector:4318", "not the URL of a collector"},
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT":           {"http://me:" + secret + "@c", "OTEL_EXPORTER_OTLP_HEADERS"},
		"OTEL_EXPORTER_OTLP_HEADERS":                   {"a=b,api-key " + secret, "element 2"},
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS":            {"api-key=%zz" + secret, "percent sign"},
		"OTEL_EXPORTER_OTLP_PROTOCOL":                  {"grpc", "write http/protobuf"},
		"OTEL_EXPORTER_OTLP_TIMEOUT":                   {"10s", "milliseconds"},
		"OTEL_EXPORTER_OTLP_COMPRESSION":               {"zstd", "gzip or none"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE":               {nowhere, "no such file"},
		"OTEL_EXPORTER_OTLP_CLIENT_KEY":                {nowhere, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not"},
		"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE": {nowhere, "OTEL_EXPORTER_OTLP_CLIENT_KEY is not"},
		"OTEL_TRACES_EXPORTER":                         {"jaeger", "otlp or none"},
		"OTEL_TRACES_SAMPLER":                          {"sometimes", "traceidratio"},
		"OTEL_SDK_DISABLED":                            {"maybe", "true or false"},
		"OTEL_RESOURCE_ATTRIBUTES":                     {"site", "element 1"},
	} {
		e := env{"OTEL_TRACES_EXPORTER": "otlp"}
		e[variable] = tt.value
		_, err := readTracing(e.get)
		if err == nil || !strings.Contains(err.Error(), variable+": ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s=%s: %v", variable, tt.value, err)
		}
	}
	// All at once, with what else is wrong.
	bad := env{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}
	other := &config.Errors{Problems: []*config.Problem{{Text: "REGISTRY_X: is wrong"}}}
	err := withTracing(other, bad.get)
	if errs, ok := errors.AsType[*config.Errors](err); !ok || len(errs.Problems) != 3 {
		t.Errorf("got %v", err)
	}
	if err := withTracing(nil, bad.get); err == nil || !strings.Contains(err.Error(), "2 errors") {
		t.Errorf("got %v", err)
	}
	if err := withTracing(nil, env{}.get); err != nil {
		t.Error(err)
	}
}

func FuzzReadTracing(f *testing.F) {
	f.Add("http://c:4318", "a=b", "0.5", "k=v")
	f.Fuzz(func(t *testing.T, endpoint, headers, arg, attributes string) {
		s, err := readTracing(env{
			"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": headers,
			"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": arg, "OTEL_RESOURCE_ATTRIBUTES": attributes,
		}.get)
		if err == nil && strings.TrimSpace(endpoint) != "" && (s.sampler == nil || s.endpoint == nil) {
			t.Errorf("%v, %v", s, err)
		}
	})
}

// spanReceiver is a collector, which answers with status.
type spanReceiver struct {
	status int
	hang   chan struct{} // nil: it does not

	mu     sync.Mutex
	names  []string
	key    string
	posted int
}

func (c *spanReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req otlp.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &req) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.posted++
	c.key = r.Header.Get("Api-Key")
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.names = append(c.names, s.Name)
			}
		}
	}
	c.mu.Unlock()
	if c.hang != nil {
		select {
		case <-c.hang:
		case <-r.Context().Done():
		}
	}
	w.WriteHeader(c.status)
	_, _ = io.WriteString(w, "you have said "+r.Header.Get("Api-Key"))
}

func TestSetupTracing(t *testing.T) {
	log := logrus.New()
	var out bytes.Buffer
	log.SetOutput(&out)
	if p, shutdown, err := setupTracing(t.Context(), env{}.get, 0, log); p != nil || err != nil || shutdown() != nil || out.Len() > 0 {
		t.Fatalf("off: %v, %v, %s", p, err, out.String())
	}
	hang := make(chan struct{})
	for name, c := range map[string]*spanReceiver{
		"takes them": {status: http.StatusOK},
		"refuses":    {status: http.StatusForbidden},
		"hangs":      {status: http.StatusOK, hang: hang},
	} {
		out.Reset()
		srv := httptest.NewServer(c)
		ctx, cancel := context.WithCancel(t.Context())
		patience := time.Minute
		if c.hang != nil {
			patience = 100 * time.Millisecond
		}
		p, shutdown, err := setupTracing(ctx, env{"OTEL_EXPORTER_OTLP_ENDPOINT": srv.URL, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret"}.get, patience, log)
		if err != nil {
			t.Fatal(err)
		}
		_, span := p.Tracer("x").Start(ctx, "step")
		span.End()
		cancel() // as at the end of the program
		if err := shutdown(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		srv.CloseClientConnections()
		if name == "hangs" {
			close(hang)
		}
		srv.Close()
		// What hangs may not even have got as far as that.
		if c.hang == nil && (len(c.names) != 1 || c.names[0] != "step" || c.key != "s3cret") {
			t.Errorf("%s: got %q with key %q", name, c.names, c.key)
		}
		if failed := strings.Contains(out.String(), "cannot be sent"); failed != (name != "takes them") {
			t.Errorf("%s: the log says %s", name, out.String())
		}
		if strings.Contains(out.String(), "s3cret") {
			t.Errorf("%s: the log tells a secret: %s", name, out.String())
		}
	}
}

// brokenExporter is that of a collector that is away.
type brokenExporter struct{ sdktrace.SpanExporter }

func (brokenExporter) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	return errors.New("connection refused")
}

// TestCollectorAway shows that the log is told once a minute.
func TestCollectorAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := logrus.New()
		log.SetOutput(&out)
		q := &quietExporter{SpanExporter: brokenExporter{}, log: log, now: time.Now}
		spans := tracetest.SpanStubs{{Name: "a"}, {Name: "b"}}.Snapshots()
		for range 100 {
			if err := q.ExportSpans(t.Context(), spans); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := strings.Count(out.String(), "cannot be sent"); n != 2 || !strings.Contains(out.String(), " 120 spans are lost") {
			t.Errorf("told %d times:\n%s", n, out.String())
		}
	})
}

// What bounds memory and work is not taken from variables that nobody has checked.
func TestTracingIsBounded(t *testing.T) {
	var batch sdktrace.BatchSpanProcessorOptions
	for _, set := range batching() {
		set(&batch)
	}
	if batch.MaxQueueSize <= 0 || batch.MaxExportBatchSize <= 0 || batch.ExportTimeout <= 0 || batch.BatchTimeout <= 0 {
		t.Errorf("left to the environment: %+v", batch)
	}
	t.Setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1")
	t.Setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1")
	if l := spanLimits(); l.EventCountLimit <= 0 || l.AttributeCountLimit <= 0 || l.LinkCountLimit <= 0 ||
		l.AttributeValueLengthLimit <= 0 || l.AttributePerEventCountLimit <= 0 || l.AttributePerLinkCountLimit <= 0 {
		t.Errorf("without a limit: %+v", l)
	}
}
