package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// All metrics of the program are in docs/metrics.md, with their labels, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	s := newReloadSite(t, "}\nproxy: {remoteurl: 'http://127.0.0.1:1'}\n", reloading{})
	if n, err := testutil.GatherAndCount(s.metrics); err != nil || n == 0 {
		t.Fatalf("%d metrics, error %v", n, err)
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		s.metrics.Describe(descs)
	}()
	described := regexp.MustCompile(`fqName: "(registry_module_[a-z_]+)".*variableLabels: \{([a-z,]*)\}`)
	exported := make(map[string]string) // the labels of each
	for d := range descs {
		if m := described.FindStringSubmatch(d.String()); m != nil {
			exported[m[1]] = sorted(strings.Split(m[2], ","))
		}
	}
	exported["registry_module_build_info"] = "goversion,version" // of which it is made

	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(registry_module_[a-z_]+)` \\| (?:counter|gauge|histogram) \\| ([a-z_`, ]*)\\|")
	documented := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = sorted(strings.Split(strings.NewReplacer("`", "", " ", "").Replace(m[2]), ","))
	}
	for name, labels := range exported {
		if said, ok := documented[name]; !ok || said != labels {
			t.Errorf("%s{%s} is documented as {%s} (%v)", name, labels, said, ok)
		}
	}
	for name := range documented {
		if _, ok := exported[name]; !ok {
			t.Errorf("%s is documented, and not exported", name)
		}
	}
}

func sorted(labels []string) string { return strings.Join(slices.Sorted(slices.Values(labels)), ",") }
