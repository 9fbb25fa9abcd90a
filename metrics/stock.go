package metrics

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/server"
)

// stock counts what the stock registry counts, under its names, labels and buckets
// (distribution v3: registry/handlers/app.go by docker/go-metrics, and
// registry/proxy/proxymetrics.go).
type stock struct {
	// handlers are by the stock registry's names of endpoints.
	handlers map[string]*stockHandler
	proxied  map[string]*stockProxied // by type
	// proxies are what proxied are made of.
	proxies []prometheus.Collector
}

// stockHandler is registry_http_* of an endpoint.
type stockHandler struct {
	inFlight                  prometheus.Gauge
	requests                  *prometheus.CounterVec
	duration                  *prometheus.HistogramVec
	requestSize, responseSize prometheus.Histogram

	mu    sync.Mutex // makes series
	known atomic.Pointer[map[stockLabels]*stockSeries]
}

// stockLabels are what the series of an endpoint have.
type stockLabels struct {
	method string
	status int
}

// stockSeries are those of an endpoint, a method and a status.
type stockSeries struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// stockProxied is registry_proxy_* of a type.
type stockProxied struct {
	requests, hits, misses, pulled, pushed prometheus.Counter
}

func newStock() *stock {
	s := &stock{handlers: make(map[string]*stockHandler), proxied: make(map[string]*stockProxied)}
	for _, name := range []string{"base", "manifest", "tags", "blob", "blob_upload", "blob_upload_chunk", "catalog"} {
		s.handlers[name] = newStockHandler(name)
	}
	vec := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "registry_proxy_" + name + "_total", Help: help}, []string{"type"})
		s.proxies = append(s.proxies, c)
		return c
	}
	requests := vec("requests", "The number of total incoming proxy request received")
	hits := vec("hits", "The number of total proxy request hits")
	misses := vec("misses", "The number of total proxy request misses")
	pulled := vec("pulled_bytes", "The size of total bytes pulled from the upstream")
	pushed := vec("pushed_bytes", "The size of total bytes pushed to the client")
	for _, kind := range []string{server.BlobContent, server.ManifestContent} {
		s.proxied[kind] = &stockProxied{
			requests.WithLabelValues(kind), hits.WithLabelValues(kind), misses.WithLabelValues(kind),
			pulled.WithLabelValues(kind), pushed.WithLabelValues(kind),
		}
	}
	return s
}

func newStockHandler(name string) *stockHandler {
	labels := prometheus.Labels{"handler": name}
	sizes := prometheus.ExponentialBuckets(1024, 2, 22) // 1 KiB to 2 GiB
	h := &stockHandler{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "registry_http_in_flight_requests", Help: "The in-flight HTTP requests", ConstLabels: labels,
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_http_requests_total", Help: "Total number of HTTP requests made.", ConstLabels: labels,
		}, []string{"code", "method"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_request_duration_seconds", Help: "The HTTP request latencies in seconds.", ConstLabels: labels,
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60},
		}, []string{"method"}),
		requestSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "registry_http_request_size_bytes", Help: "The HTTP request sizes in bytes.", ConstLabels: labels, Buckets: sizes,
		}),
		responseSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "registry_http_response_size_bytes", Help: "The HTTP response sizes in bytes.", ConstLabels: labels, Buckets: sizes,
		}),
	}
	h.known.Store(new(map[stockLabels]*stockSeries))
	return h
}

// began counts a request that is under way.
func (s *stock) began(x server.Answer) {
	if h := s.handlers[x.Route]; h != nil {
		h.inFlight.Inc()
	}
}

// answered counts a request that is over.
func (s *stock) answered(x server.Answer) {
	h := s.handlers[x.Route]
	if h == nil {
		return
	}
	h.inFlight.Dec()
	series := h.of(x)
	series.requests.Inc()
	series.duration.Observe(x.Took.Seconds())
	h.requestSize.Observe(float64(x.RequestSize))
	h.responseSize.Observe(float64(x.Bytes))
	p := s.proxied[x.Kind]
	if p == nil || x.Status >= 400 || x.Status == 0 || x.Result == server.Refused {
		return
	}
	p.requests.Inc()
	p.pushed.Add(float64(x.Bytes))
	switch {
	case x.Result == server.Hit || x.Result == server.Stale || x.Result == server.Revalidated || x.Joined:
		p.hits.Inc()
	case x.Result == server.Miss || x.Fetched:
		p.misses.Inc()
		p.pulled.Add(float64(x.Bytes))
	}
}

// of returns the series for an answer. They are few, and most requests find theirs without
// waiting for others.
func (h *stockHandler) of(x server.Answer) *stockSeries {
	labels := stockLabels{methodLabel(x.Method), x.Status}
	if s := (*h.known.Load())[labels]; s != nil {
		return s
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	known := *h.known.Load()
	if s := known[labels]; s != nil {
		return s
	}
	code := x.Status
	if code == 0 {
		code = 500 // the stock registry does not count what has no status
	}
	s := &stockSeries{
		requests: h.requests.WithLabelValues(strconv.Itoa(code), labels.method),
		duration: h.duration.WithLabelValues(labels.method),
	}
	more := maps.Clone(known)
	if more == nil {
		more = make(map[stockLabels]*stockSeries)
	}
	more[labels] = s
	h.known.Store(&more)
	return s
}

// methodLabel is a method as the stock registry writes it: there are few of them.
func methodLabel(method string) string {
	switch method {
	case "GET":
		return "get"
	case "HEAD":
		return "head"
	case "PUT":
		return "put"
	case "POST":
		return "post"
	case "DELETE":
		return "delete"
	case "CONNECT":
		return "connect"
	case "OPTIONS":
		return "options"
	case "NOTIFY":
		return "notify"
	case "TRACE":
		return "trace"
	case "PATCH":
		return "patch"
	}
	return "unknown"
}

func (s *stock) all() []prometheus.Collector {
	all := slices.Clone(s.proxies)
	for _, h := range s.handlers {
		all = append(all, h.inFlight, h.requests, h.duration, h.requestSize, h.responseSize)
	}
	return all
}
