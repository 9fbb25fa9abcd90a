package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"registry-module/e2e/lab"
)

// traceReceiver is a collector: it takes spans by OTLP over HTTP.
type traceReceiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans map[string]map[string]*otlp.Span // by service and ID
}

func startTraceReceiver(t *testing.T) *traceReceiver {
	t.Helper()
	r := &traceReceiver{spans: make(map[string]map[string]*otlp.Span)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var got collector.ExportTraceServiceRequest
		if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(body, &got) != nil {
			t.Errorf("%s: %d bytes, %v", req.URL.Path, len(body), err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.take(got.ResourceSpans)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *traceReceiver) take(all []*otlp.ResourceSpans) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range all {
		service := ""
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		if r.spans[service] == nil {
			r.spans[service] = make(map[string]*otlp.Span)
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				r.spans[service][string(s.SpanId)] = s
			}
		}
	}
}

// count is how many spans of a service are called name.
func (r *traceReceiver) count(service, name string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans[service] {
		if s.Name == name {
			n++
		}
	}
	return n
}

// whole tells whether the parents of all spans have come, too: they end later, and may be sent
// seconds later.
func (r *traceReceiver) whole() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, spans := range r.spans {
		for _, s := range spans {
			known := len(s.ParentSpanId) == 0
			for _, others := range r.spans {
				known = known || others[string(s.ParentSpanId)] != nil
			}
			if !known {
				return false
			}
		}
	}
	return true
}

func tracedTo(url, service string) lab.Env {
	return lab.Env{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": service}
}

// TestTracing pulls through two modules, and finds each request of the client in one
// trace over both.
func TestTracing(t *testing.T) {
	t.Parallel()
	to := startTraceReceiver(t)
	img := noise(t, "traced/app", 8<<20, 100<<10)
	up := origin(t, lab.OriginOptions{}, img)
	top := module(t, remoteURL(up), tracedTo(to.URL, "top"))
	bottom := module(t, remoteURL(top), tracedTo(to.URL, "bottom"))
	crane := lab.CraneClient{Client: lab.NewClient(tempDir(t), bin.crane)}
	must(crane.Pull(t.Context(), img.ByTag(bottom.Addr), ""))(t)

	eventually(t, "each blob was traced in both", func() bool {
		return to.count("top", "fill") == len(img.Blobs) && to.count("bottom", "fill") == len(img.Blobs) &&
			to.count("top", "GET manifest") > 0 && to.count("bottom", "GET manifest") > 0 && to.whole()
	})
	to.mu.Lock()
	defer to.mu.Unlock()
	requests := 0
	for _, s := range to.spans["top"] {
		for _, a := range s.Attributes {
			if text := a.Value.GetStringValue(); strings.Contains(text, "?") || strings.Contains(text, "Bearer") {
				t.Errorf("%s: %s is %q", s.Name, a.Key, text)
			}
		}
		if s.Kind != otlp.Span_SPAN_KIND_SERVER || s.Name == "GET api" {
			continue
		}
		requests++
		asked := to.spans["bottom"][string(s.ParentSpanId)]
		if asked == nil || string(asked.TraceId) != string(s.TraceId) || asked.Kind != otlp.Span_SPAN_KIND_CLIENT {
			t.Errorf("the request %q of the module above is not below one of the module in front of the client", s.Name)
			continue
		}
		// Up to the client's request.
		for len(asked.ParentSpanId) > 0 && to.spans["bottom"][string(asked.ParentSpanId)] != nil {
			asked = to.spans["bottom"][string(asked.ParentSpanId)]
		}
		if asked.Kind != otlp.Span_SPAN_KIND_SERVER {
			t.Errorf("the trace of %q begins with %q", s.Name, asked.Name)
		}
	}
	t.Logf("%d requests of the module above are parts of traces", requests)
	if requests < len(img.Blobs)+1 {
		t.Errorf("%d requests, want at least one for each content", requests)
	}
}

// TestTracingInVain pulls where the collector does not answer, or is away.
func TestTracingInVain(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() {
		close(hang)
		hanging.Close()
	})
	img := noise(t, "traced/away", 1<<20)
	up := origin(t, lab.OriginOptions{}, img)
	for name, url := range map[string]string{"hangs": hanging.URL, "refuses": "http://127.0.0.1:9"} {
		m := module(t, remoteURL(up), tracedTo(url, name))
		crane := lab.CraneClient{Client: lab.NewClient(tempDir(t), bin.crane)}
		for range 2 {
			must(crane.Pull(t.Context(), img.ByTag(m.Addr), ""))(t)
		}
		if !allStored(m, img) {
			t.Errorf("the collector %s, and not all is stored", name)
		}
		if err := m.Stop(); err != nil {
			t.Errorf("the collector %s, and the module does not end as it should: %v", name, err)
		}
		if n := strings.Count(m.Tail(1000), "traces cannot be sent"); n != 1 {
			t.Errorf("the collector %s, and the log says so %d times", name, n)
		}
	}
}

// TestTracingSettings shows that what is wrong is told at once, together with all else.
func TestTracingSettings(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), bin.module, "serve")
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=sometimes", "OTEL_EXPORTER_OTLP_HEADERS=key s3cret", "REGISTRY_PROXY_TAGTTL=often"}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "3 errors") || strings.Contains(string(out), "s3cret") {
		t.Errorf("got %v\n%s", err, out)
	}
}
