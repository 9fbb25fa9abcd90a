package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"registry-module/e2e/lab"
)

// TestStockMetrics asks the stock registry, as a proxy, and a module for the same things, and
// compares their metrics of the names of the stock registry: those that it has are there,
// with the same types, labels and buckets.
func TestStockMetrics(t *testing.T) {
	up := origin(t, lab.OriginOptions{})
	img := noise(t, "metrics/image", 100<<10, 1000)
	up.Add(img)
	admin := must(lab.FreeAddr())(t)
	enabled := lab.Env{"REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED": "true"}
	stock := must(lab.StartStock(t.Context(), bin.registry, tempDir(t), merge(up.Env(), enabled, lab.Env{"REGISTRY_HTTP_DEBUG_ADDR": admin})))(t)
	end(t, stock)
	stock.Admin = admin
	want := stockFamilies(t, stock, img)
	// By the storage driver of the stock registry, in which nothing of ours is stored.
	delete(want, "registry_storage_action_seconds")
	got := stockFamilies(t, moduleFrom(t, bin.module, up.Env(), enabled), img)
	if len(want) < 10 {
		t.Fatalf("the stock registry has only %d metrics", len(want))
	}
	for name, said := range want {
		if got[name] != said {
			t.Errorf("%s:\n%s\nwant\n%s", name, got[name], said)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s is not one of the stock registry", name)
		}
	}
}

// stockFamilies asks a registry for all there is, and returns its metrics under the stock
// names: type, labels and buckets of each.
func stockFamilies(t *testing.T, s *lab.Server, img lab.Image) map[string]string {
	t.Helper()
	for range 2 { // not stored, and stored
		if err := pull(t.Context(), s, img); err != nil {
			t.Fatal(err)
		}
	}
	for _, request := range [][2]string{
		{"HEAD", "/v2/" + img.Repo + "/manifests/" + img.Tag}, {"GET", "/v2/"}, {"GET", "/v2/_catalog"}, {"GET", "/v2/" + img.Repo + "/tags/list"},
		{"GET", "/v2/" + img.Repo + "/manifests/none"}, {"POST", "/v2/" + img.Repo + "/blobs/uploads/"}, {"DELETE", "/v2/" + img.Repo + "/blobs/uploads/none"},
	} {
		r := must(http.NewRequestWithContext(t.Context(), request[0], s.URL()+request[1], nil))(t)
		resp := must(http.DefaultClient.Do(r))(t)
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families := must(parser.TextToMetricFamilies(strings.NewReader(must(s.Metrics(t.Context()))(t))))(t)
	all := make(map[string]string)
	for name, f := range families {
		if strings.HasPrefix(name, "registry_") && !strings.HasPrefix(name, "registry_module_") {
			all[name] = familyText(f)
		}
	}
	return all
}

// familyText is what a family consists of, whatever its values.
func familyText(f *dto.MetricFamily) string {
	var series []string
	for _, m := range f.GetMetric() {
		var labels, buckets []string
		for _, l := range m.GetLabel() {
			value := l.GetValue()
			if l.GetName() == "code" { // not all answers are alike
				value = "*"
			}
			labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), value))
		}
		for _, b := range m.GetHistogram().GetBucket() {
			buckets = append(buckets, fmt.Sprint(b.GetUpperBound()))
		}
		series = append(series, fmt.Sprintf("{%s} %s", strings.Join(labels, ","), strings.Join(buckets, " ")))
	}
	slices.Sort(series)
	return f.GetType().String() + "\n" + strings.Join(slices.Compact(series), "\n")
}
