package metrics_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/metrics"
)

// source gives the same stats each time.
type source struct {
	stats cache.Stats
	err   error
}

func (s *source) Stats(context.Context) (cache.Stats, error) { return s.stats, s.err }

// full are stats of which everything is known.
func full() cache.Stats {
	return cache.Stats{
		Remotes: []cache.RemoteStats{{
			Host: "docker.io", Filling: 2, Waiting: 1, Started: 12, Resumed: 3, Retried: 4, Joined: 5,
			Stored: cache.Count{Times: 6, Bytes: 600}, Passed: cache.Count{Times: 1, Bytes: 100},
			Failed: map[string]int64{"not_found": 0, "unavailable": 3},
		}, {Host: "quay.io", Failed: map[string]int64{"not_found": 0, "unavailable": 0}}},
		Space: cache.SpaceStats{
			Used: 1000, Limit: 2000, Free: 3000, MinFree: 400, Total: 5000, Pinned: 60, Known: true,
			Room: cache.Room{Short: true, Reason: "it is full"},
		},
		Evictions: map[cache.EvictionCause]cache.Count{cache.EvictedForRoom: {Times: 7, Bytes: 700}, cache.EvictedByHand: {}},
		Kept:      cache.Count{Times: 8, Bytes: 800},
		Health:    cache.Health{Scrubbed: 9, Damaged: 10, Healed: 11, Repaired: 12, Passed: time.Unix(1234567890, 0)},
		Blobs:     13,
	}
}

// samples are what a collector exports, as name{label="value"} of all but histograms.
func samples(t *testing.T, c ...prometheus.Collector) map[string]float64 {
	t.Helper()
	all := make(map[string]float64)
	for _, f := range gather(t, c...) {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(f.GetName(), "registry_module_")
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return all
}

func gather(t *testing.T, c ...prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func wantSamples(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for name, value := range want {
		if v, ok := got[name]; !ok || v != value {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, value)
		}
	}
}

func TestCache(t *testing.T) {
	got := samples(t, metrics.NewCache(&source{stats: full()}))
	wantSamples(t, got, map[string]float64{
		"downloads{remote=docker.io}":                            2,
		"downloads_waiting{remote=docker.io}":                    1,
		"downloads_started_total{remote=docker.io}":              12,
		"downloads_resumed_total{remote=docker.io}":              3,
		"download_retries_total{remote=docker.io}":               4,
		"downloads_joined_total{remote=docker.io}":               5,
		"downloads_total{remote=docker.io,result=stored}":        6,
		"downloads_total{remote=docker.io,result=passed}":        1,
		"downloads_total{remote=docker.io,result=not_found}":     0,
		"downloads_total{remote=docker.io,result=unavailable}":   3,
		"downloads_total{remote=quay.io,result=unavailable}":     0,
		"downloaded_bytes_total{remote=docker.io,result=stored}": 600,
		"downloaded_bytes_total{remote=docker.io,result=passed}": 100,
		"evictions_total{cause=room}":                            7,
		"evicted_bytes_total{cause=room}":                        700,
		"evictions_total{cause=removed}":                         0,
		"storage_used_bytes":                                     1000,
		"storage_limit_bytes":                                    2000,
		"storage_free_bytes":                                     3000,
		"storage_reserve_bytes":                                  400,
		"storage_size_bytes":                                     5000,
		"storage_pinned_bytes":                                   60,
		"storage_short":                                          1,
		"partial_downloads":                                      8,
		"partial_bytes":                                          800,
		"scrubbed_bytes_total":                                   9,
		"damaged_contents_total":                                 10,
		"healed_contents_total":                                  11,
		"repaired_contents_total":                                12,
		"scrub_last_pass_timestamp_seconds":                      1234567890,
		"contents":                                               13,
		"scrape_errors_total":                                    0,
	})
}

// What is not known is not there, and no scrape fails for it.
func TestCacheLeavesOutWhatIsNotKnown(t *testing.T) {
	s := &source{stats: full(), err: errors.New("the storage hangs")}
	s.stats.Space = cache.SpaceStats{Limit: 2000, Pinned: -1}
	s.stats.Kept, s.stats.Blobs, s.stats.Health.Passed = cache.Count{}, -1, time.Time{}
	c := metrics.NewCache(s)
	got := samples(t, c)
	for _, name := range []string{
		"downloads{remote=docker.io}", "downloads_waiting{remote=docker.io}", "storage_used_bytes", "storage_free_bytes",
		"storage_size_bytes", "storage_reserve_bytes", "storage_pinned_bytes", "partial_downloads", "partial_bytes",
		"contents", "scrub_last_pass_timestamp_seconds",
	} {
		if v, ok := got[name]; ok {
			t.Errorf("%s is %v, and is not known", name, v)
		}
	}
	wantSamples(t, got, map[string]float64{
		"downloads_started_total{remote=docker.io}": 12, "storage_limit_bytes": 2000, "storage_short": 0, "scrape_errors_total": 1,
	})
	wantSamples(t, samples(t, c), map[string]float64{"scrape_errors_total": 2})
}

// Of those who have not failed is measured how long they took.
func TestDownloads(t *testing.T) {
	d := metrics.NewDownloads("docker.io", "quay.io")
	place := cache.Place{Host: "docker.io", Repo: "a"}
	d.FillEnded(cache.FillEnd{Place: place, Took: 2 * time.Second})
	d.FillEnded(cache.FillEnd{Place: place, Took: time.Minute, Unstored: cache.ErrNoSpace})
	d.FillEnded(cache.FillEnd{Place: place, Took: time.Hour, Err: cache.ErrUnavailable})
	d.Evicted(cache.Eviction{})
	d.RoomChanged(cache.Room{})
	counts := make(map[string]uint64)
	for _, f := range gather(t, d) {
		for _, m := range f.GetMetric() {
			counts[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			if sum := m.GetHistogram().GetSampleSum(); sum != 62 && sum != 0 {
				t.Errorf("sum %v", sum)
			}
		}
	}
	if len(counts) != 2 || counts["docker.io"] != 2 || counts["quay.io"] != 0 {
		t.Errorf("counted %v", counts)
	}
}

func TestBuild(t *testing.T) {
	families := gather(t, metrics.NewBuild("1.2.3"))
	if len(families) != 1 || len(families[0].GetMetric()) != 1 {
		t.Fatalf("exported are %v", families)
	}
	m := families[0].GetMetric()[0]
	labels := make(map[string]string)
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	if m.GetGauge().GetValue() != 1 || labels["version"] != "1.2.3" || !strings.HasPrefix(labels["goversion"], "go") && labels["goversion"] == "" {
		t.Errorf("exported is %v", m)
	}
}

// collectors are those of this package for a cache.
func collectors() []prometheus.Collector {
	return []prometheus.Collector{metrics.NewCache(&source{stats: full()}), metrics.NewDownloads("docker.io"), metrics.NewBuild("1.2.3")}
}

func TestLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(collectors()...)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Each metric is in the documentation, with its type and labels.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(registry_module_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|")
	documented := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2] + " " + strings.ReplaceAll(strings.TrimSpace(m[3]), "`", "")
	}
	families := gather(t, collectors()...)
	if len(families) < 28 {
		t.Errorf("only %d metrics are exported", len(families))
	}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		want := strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, ", ")
		if got := documented[f.GetName()]; got != want {
			t.Errorf("%s is documented as %q, and is %q", f.GetName(), got, want)
		}
	}
}

// A real cache fills in all that there is, from the start.
func TestRealCache(t *testing.T) {
	up, blobs := new(cachetest.Upstream), new(cachetest.Blobs)
	downloads := metrics.NewDownloads(up.Host())
	c, err := cache.New(t.Context(), cache.Options{
		Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
		Remotes: []cache.Remote{{Host: up.Host(), Upstream: up}}, Observer: downloads,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := samples(t, metrics.NewCache(c))
	results := 0
	for name, v := range got {
		if strings.HasPrefix(name, "downloads_total{") {
			results++
			if v != 0 {
				t.Errorf("%s is %v at the start", name, v)
			}
		}
	}
	if results != 11 {
		t.Errorf("%d results of downloads are exported, want 11", results)
	}
	wantSamples(t, got, map[string]float64{"contents": 0, "storage_pinned_bytes": 0, "evictions_total{cause=expired}": 0, "scrape_errors_total": 0})
}
