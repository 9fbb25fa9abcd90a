package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
)

// CacheSource tells what a cache does. After an error, what is not known is left out of
// what it returns; see [cache.Cache.Stats].
type CacheSource interface {
	Stats(ctx context.Context) (cache.Stats, error)
}

// statsPatience is how long a scrape waits for a [CacheSource]: the storage may hang, and
// Prometheus gives up after 10 seconds by default.
const statsPatience = 2 * time.Second

// NewCache exports what a cache does as registry_module_*, see docs/metrics.md. A scrape
// never fails: what is not known is not there, and is counted in
// registry_module_scrape_errors_total.
func NewCache(source CacheSource) prometheus.Collector {
	return &cacheCollector{source: source, descs: newCacheDescs()}
}

type cacheCollector struct {
	source CacheSource
	errors atomic.Int64
	descs  cacheDescs
}

type cacheDescs struct {
	filling, waiting, started, resumed, retried, ended, bytes, joined *prometheus.Desc

	evictions, evictedBytes *prometheus.Desc

	used, limit, free, size, reserve, pinned, short *prometheus.Desc

	partials, partialBytes, contents *prometheus.Desc

	scrubbed, damaged, healed, repaired, passed *prometheus.Desc

	errors *prometheus.Desc
}

func newCacheDescs() cacheDescs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("registry_module_"+name, help, labels, nil)
	}
	return cacheDescs{
		filling: desc("downloads", "Downloads of blobs that are under way.", "remote"),
		waiting: desc("downloads_waiting", "Those of them that wait for a connection to the remote.", "remote"),
		started: desc("downloads_started_total", "Downloads of blobs that have begun.", "remote"),
		resumed: desc("downloads_resumed_total", "Downloads that went on with what an earlier one had left.", "remote"),
		retried: desc("download_retries_total", "How often a download was broken off and went on.", "remote"),
		ended:   desc("downloads_total", "Downloads of blobs that have ended, by result.", "remote", "result"),
		bytes:   desc("downloaded_bytes_total", "Bytes of the blobs that were downloaded and verified, by what became of them.", "remote", "result"),
		joined:  desc("downloads_joined_total", "Clients that had a download which somebody else had begun.", "remote"),

		evictions:    desc("evictions_total", "Images, and contents that no image used, that were removed, by cause.", "cause"),
		evictedBytes: desc("evicted_bytes_total", "Bytes of storage that these have given back.", "cause"),

		used:    desc("storage_used_bytes", "Bytes of storage that the cache takes."),
		limit:   desc("storage_limit_bytes", "Bytes of storage that the cache may take (REGISTRY_CACHE_MAXSIZE); 0 is no limit."),
		free:    desc("storage_free_bytes", "Bytes that can still be written to the storage."),
		size:    desc("storage_size_bytes", "Bytes that the storage has in all."),
		reserve: desc("storage_reserve_bytes", "Bytes of the storage that are left free (REGISTRY_CACHE_MINFREE)."),
		pinned:  desc("storage_pinned_bytes", "Bytes that are pinned, when room was last made."),
		short:   desc("storage_short", "1 while there is no room for what is to be stored, so that it is passed through."),

		partials:     desc("partial_downloads", "Unfinished downloads that are kept to go on from."),
		partialBytes: desc("partial_bytes", "Bytes of these."),
		contents:     desc("contents", "Manifests and blobs that are stored."),

		scrubbed: desc("scrubbed_bytes_total", "Bytes of stored content that were compared with their digests in the background."),
		damaged:  desc("damaged_contents_total", "Stored contents that were found damaged."),
		healed:   desc("healed_contents_total", "Damaged contents that were fetched again for a client."),
		repaired: desc("repaired_contents_total", "Damaged contents that were fetched again in the background."),
		passed:   desc("scrub_last_pass_timestamp_seconds", "When all that is stored had last been compared."),

		errors: desc("scrape_errors_total", "Scrapes for which not all was known of the cache."),
	}
}

// all are all descriptions.
func (d *cacheDescs) all() []*prometheus.Desc {
	return []*prometheus.Desc{
		d.filling, d.waiting, d.started, d.resumed, d.retried, d.ended, d.bytes, d.joined,
		d.evictions, d.evictedBytes,
		d.used, d.limit, d.free, d.size, d.reserve, d.pinned, d.short,
		d.partials, d.partialBytes, d.contents,
		d.scrubbed, d.damaged, d.healed, d.repaired, d.passed,
		d.errors,
	}
}

// Describe implements prometheus.Collector.
func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs.all() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statsPatience)
	defer cancel()
	s, err := c.source.Stats(ctx)
	if err != nil {
		c.errors.Add(1)
	}
	out := sink{ch}
	d := &c.descs
	out.count(d.errors, c.errors.Load())
	for _, r := range s.Remotes {
		c.collectRemote(out, r, err == nil)
	}
	for cause, n := range s.Evictions {
		out.count(d.evictions, n.Times, string(cause))
		out.count(d.evictedBytes, n.Bytes, string(cause))
	}
	c.collectSpace(out, s.Space, err == nil)
	if err == nil {
		out.gauge(d.partials, s.Kept.Times)
		out.gauge(d.partialBytes, s.Kept.Bytes)
	}
	if s.Blobs >= 0 {
		out.gauge(d.contents, s.Blobs)
	}
	out.count(d.scrubbed, s.Health.Scrubbed)
	out.count(d.damaged, s.Health.Damaged)
	out.count(d.healed, s.Health.Healed)
	out.count(d.repaired, s.Health.Repaired)
	if !s.Health.Passed.IsZero() {
		out.gauge(d.passed, s.Health.Passed.Unix())
	}
}

// collectRemote exports what concerns one remote. Known tells that what is under way is.
func (c *cacheCollector) collectRemote(out sink, r cache.RemoteStats, known bool) {
	d := &c.descs
	if known {
		out.gauge(d.filling, int64(r.Filling), r.Host)
		out.gauge(d.waiting, int64(r.Waiting), r.Host)
	}
	out.count(d.started, r.Started, r.Host)
	out.count(d.resumed, r.Resumed, r.Host)
	out.count(d.retried, r.Retried, r.Host)
	out.count(d.joined, r.Joined, r.Host)
	for result, n := range map[string]cache.Count{resultStored: r.Stored, resultPassed: r.Passed} {
		out.count(d.ended, n.Times, r.Host, result)
		out.count(d.bytes, n.Bytes, r.Host, result)
	}
	for cause, n := range r.Failed {
		out.count(d.ended, n, r.Host, cause)
	}
}

// The results of a download that has not failed.
const (
	resultStored = "stored"
	resultPassed = "passed"
)

// collectSpace exports what concerns the storage. Known tells that it was asked.
func (c *cacheCollector) collectSpace(out sink, s cache.SpaceStats, known bool) {
	d := &c.descs
	out.gauge(d.limit, s.Limit)
	if s.Known {
		out.gauge(d.used, s.Used)
	}
	if known {
		out.gauge(d.free, s.Free)
		out.gauge(d.size, s.Total)
		out.gauge(d.reserve, s.MinFree)
	}
	if s.Pinned >= 0 {
		out.gauge(d.pinned, s.Pinned)
	}
	short := int64(0)
	if s.Room.Short {
		short = 1
	}
	out.gauge(d.short, short)
}

// sink takes metrics.
type sink struct{ ch chan<- prometheus.Metric }

func (s sink) count(d *prometheus.Desc, n int64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (s sink) gauge(d *prometheus.Desc, n int64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
}

// Downloads measures how long downloads take, as registry_module_download_duration_seconds.
// It is a [cache.Observer], which a cache is given when it is opened.
type Downloads struct {
	cache.Observer // tells of the others: nobody
	took           *prometheus.HistogramVec
}

var (
	_ cache.Observer       = (*Downloads)(nil)
	_ prometheus.Collector = (*Downloads)(nil)
)

// NewDownloads returns a Downloads that has measured none, of which those of the given
// remotes are exported from the start.
func NewDownloads(remotes ...string) *Downloads {
	d := &Downloads{
		Observer: cache.Observers(nil),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_module_download_duration_seconds",
			Help: "How long downloads of blobs that were verified have taken, with what they have waited for their turn.",
			// A small blob over a fast link, and a large one over a thin link.
			Buckets: []float64{.1, .5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600},
		}, []string{"remote"}),
	}
	d.AddRemotes(remotes...)
	return d
}

// AddRemotes has those of more remotes be exported before there are any.
func (d *Downloads) AddRemotes(hosts ...string) {
	for _, host := range hosts {
		d.took.WithLabelValues(host)
	}
}

// FillEnded implements cache.Observer.
func (d *Downloads) FillEnded(e cache.FillEnd) {
	if e.Err == nil {
		d.took.WithLabelValues(e.Place.Host).Observe(e.Took.Seconds())
	}
}

// Describe implements prometheus.Collector.
func (d *Downloads) Describe(ch chan<- *prometheus.Desc) { d.took.Describe(ch) }

// Collect implements prometheus.Collector.
func (d *Downloads) Collect(ch chan<- prometheus.Metric) { d.took.Collect(ch) }
