package metrics_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sirupsen/logrus"

	"registry-module/metrics"
	"registry-module/server"
)

// What the stock registry counts is counted under the same names, with the same labels,
// buckets and types.
func TestStockMetrics(t *testing.T) {
	logrus.SetOutput(io.Discard) // the app's
	config := &configuration.Configuration{Storage: configuration.Storage{"inmemory": configuration.Parameters{}}}
	config.HTTP.Debug.Prometheus.Enabled = true
	config.Catalog.MaxEntries = 10
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	app := handlers.NewApp(ctx, config)

	ours := prometheus.NewPedanticRegistry()
	a := metrics.NewAnswers(metrics.AnswersOptions{Stock: true})
	ours.MustRegister(a)
	id := digest.FromString("x").String()
	for _, rq := range []struct{ method, path, route, kind string }{
		{"GET", "/v2/", "base", server.OtherContent},
		{"GET", "/v2/_catalog", "catalog", server.CatalogContent},
		{"GET", "/v2/a/manifests/v1", "manifest", server.ManifestContent},
		{"HEAD", "/v2/a/manifests/v1", "manifest", server.ManifestContent},
		{"GET", "/v2/a/tags/list", "tags", server.TagsContent},
		{"GET", "/v2/a/blobs/" + id, "blob", server.BlobContent},
		{"POST", "/v2/a/blobs/uploads/", "blob_upload", server.OtherContent},
		{"PATCH", "/v2/a/blobs/uploads/11111111-1111-1111-1111-111111111111", "blob_upload_chunk", server.OtherContent},
		{"BREW", "/v2/", "base", server.OtherContent},
	} {
		w := httptest.NewRecorder()
		app.ServeHTTP(w, httptest.NewRequestWithContext(ctx, rq.method, rq.path, http.NoBody))
		tell(a, server.Answer{Method: rq.method, Route: rq.route, Kind: rq.kind, Status: w.Code, Took: time.Millisecond, Bytes: int64(w.Body.Len())})
	}
	stock, own := shapes(t, prometheus.DefaultGatherer), shapes(t, ours)
	if len(stock) < 40 {
		t.Errorf("the stock registry has %d series: is it being counted?", len(stock))
	}
	for _, s := range slices.Sorted(maps.Keys(stock)) {
		if own[s] == 0 {
			t.Errorf("missing: %s", s)
		} else if stock[s] != own[s] {
			t.Errorf("%d samples, the stock registry has %d: %s", own[s], stock[s], s)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(own)) {
		if stock[s] == 0 {
			t.Errorf("not of the stock registry: %s", s)
		}
	}
}

// shapes are the stock metrics that are gathered, with all but their values, and how many
// samples histograms and counters of requests have.
func shapes(t *testing.T, from prometheus.Gatherer) map[string]uint64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]uint64)
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "registry_http_") && !strings.HasPrefix(f.GetName(), "registry_proxy_") {
			continue
		}
		for _, m := range f.GetMetric() {
			shape := fmt.Sprintf("%s %s %q %v", f.GetName(), f.GetType(), f.GetHelp(), m.GetLabel())
			samples := uint64(1)
			if f.GetType() == dto.MetricType_HISTOGRAM {
				for _, b := range m.GetHistogram().GetBucket() {
					shape += fmt.Sprintf(" %g", b.GetUpperBound())
				}
				samples += m.GetHistogram().GetSampleCount()
			}
			if f.GetName() == "registry_http_requests_total" {
				samples += uint64(m.GetCounter().GetValue())
			}
			all[shape] = samples
		}
	}
	return all
}

// What a proxy has fetched is a miss, and the rest are hits.
func TestStockProxyMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	a := metrics.NewAnswers(metrics.AnswersOptions{Stock: true})
	r.MustRegister(a)
	blob := server.Answer{Method: "GET", Route: "blob", Kind: server.BlobContent, Status: 200, Bytes: 1000}
	miss, joined, hit, absent := blob, blob, blob, blob
	miss.Result, miss.Fetched = server.Miss, true
	joined.Result, joined.Fetched, joined.Joined = server.Miss, true, true
	hit.Result = server.Hit
	absent.Result, absent.Status, absent.Bytes = server.Absent, 404, 100
	for _, x := range []server.Answer{miss, joined, hit, absent} {
		tell(a, x)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if name, ok := strings.CutPrefix(f.GetName(), "registry_proxy_"); ok && m.GetLabel()[0].GetValue() == "blob" {
				got[name] = m.GetCounter().GetValue()
			}
		}
	}
	want := map[string]float64{"requests_total": 3, "hits_total": 2, "misses_total": 1, "pulled_bytes_total": 1000, "pushed_bytes_total": 3000}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
