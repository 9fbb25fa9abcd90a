package metrics

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/server"
)

// AnswersOptions are what [NewAnswers] needs. The zero value works.
type AnswersOptions struct {
	// Remotes are the hosts of the remotes that are configured. Others are counted as
	// none, so that nobody can make new series. See [Answers.AddRemotes] for later ones.
	Remotes []string

	// Stock is whether registry_http_* and registry_proxy_* of the stock registry are
	// there, too, under its names.
	Stock bool
}

// Answers counts the requests that a [server.Server] answers. It is a [server.Observer]
// and [server.Beginner], and is registered as a collector.
type Answers struct {
	requests *prometheus.CounterVec
	served   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	wait     *prometheus.HistogramVec
	tagAge   prometheus.Histogram
	inFlight prometheus.Gauge

	mu sync.Mutex // makes series
	// series are those of each kind and result, and by remotes those of each remote, the
	// last of which is none. Looking one up costs no hashing of labels.
	series  [kinds * results]atomic.Pointer[timing]
	remotes atomic.Pointer[map[string]*byRemote]
	unknown *byRemote

	stock *stock // nil for none
}

// byRemote are the series of a remote.
type byRemote struct {
	host   string
	series [kinds * results]atomic.Pointer[traffic]
}

// traffic is what is counted of a remote, a kind and a result.
type traffic struct {
	requests     prometheus.Counter
	cache, wires prometheus.Counter // bytes
}

// timing is what is measured of a kind and a result.
type timing struct{ duration, wait prometheus.Observer }

// The numbers of values of labels, those that are not known included.
const (
	kinds   = 7
	results = 9
)

// kindOf is the place of a kind in the tables.
func kindOf(kind string) int {
	switch kind {
	case server.ManifestContent:
		return 0
	case server.BlobContent:
		return 1
	case server.TagsContent:
		return 2
	case server.ReferrersContent:
		return 3
	case server.CatalogContent:
		return 4
	case server.OtherContent:
		return 5
	}
	return 6
}

func resultOf(result server.Result) int {
	switch result {
	case server.Hit:
		return 0
	case server.Miss:
		return 1
	case server.Revalidated:
		return 2
	case server.Stale:
		return 3
	case server.Absent:
		return 4
	case server.Refused:
		return 5
	case server.Failed:
		return 6
	case server.Left:
		return 7
	}
	return 8
}

// durations are the buckets of times in seconds: a stored manifest takes a millisecond, and
// a layer over a thin link an hour.
func durations() []float64 {
	return []float64{.001, .005, .025, .1, .5, 1, 5, 30, 60, 300, 900, 3600}
}

// tagAges are the buckets of the ages of tags in seconds: the lifetimes that are usual, and
// how long a site is cut off.
func tagAges() []float64 {
	return []float64{1, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600}
}

var (
	_ server.Observer      = (*Answers)(nil)
	_ server.Beginner      = (*Answers)(nil)
	_ prometheus.Collector = (*Answers)(nil)
)

// NewAnswers returns counters that stand at 0.
func NewAnswers(opts AnswersOptions) *Answers {
	a := &Answers{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_module_requests_total",
			Help: "Requests of clients, by remote (empty where none is meant or known), kind of content, and result.",
		}, []string{"remote", "kind", "result"}),
		served: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_module_served_bytes_total",
			Help: "Bytes of content that went to clients, by remote, kind, and source: cache, or remote for what was fetched for the request or one under way.",
		}, []string{"remote", "kind", "source"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "registry_module_request_duration_seconds",
			Help:    "Time until a request was answered to its end, by kind and result.",
			Buckets: durations(),
		}, []string{"kind", "result"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "registry_module_request_wait_seconds",
			Help:    "Time until the answer to a request began, by kind and result.",
			Buckets: durations(),
		}, []string{"kind", "result"}),
		tagAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "registry_module_tag_age_seconds",
			Help:    "How long ago the remote had confirmed the tags that were answered.",
			Buckets: tagAges(),
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "registry_module_requests_in_flight",
			Help: "Requests of clients that are being answered.",
		}),
		unknown: new(byRemote),
	}
	a.AddRemotes(opts.Remotes...)
	if opts.Stock {
		a.stock = newStock()
	}
	return a
}

// AddRemotes has the requests for more remotes told apart, by their hosts, from now on. They
// are to be those of a configuration, since they stay: there are series of them.
func (a *Answers) AddRemotes(hosts ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[string]*byRemote)
	if known := a.remotes.Load(); known != nil {
		maps.Copy(all, *known)
	}
	for _, host := range hosts {
		if all[host] == nil {
			all[host] = &byRemote{host: host}
		}
	}
	a.remotes.Store(&all)
}

// Began implements [server.Beginner].
func (a *Answers) Began(x server.Answer) {
	a.inFlight.Inc()
	if a.stock != nil {
		a.stock.began(x)
	}
}

// Answered implements [server.Observer].
func (a *Answers) Answered(x server.Answer) {
	a.inFlight.Dec()
	kind, result := kindOf(x.Kind), resultOf(x.Result)
	at := kind*results + result

	times := a.series[at].Load()
	if times == nil {
		times = a.newTiming(at, x)
	}
	times.duration.Observe(x.Took.Seconds())
	times.wait.Observe(x.Waited.Seconds())

	remote := a.unknown
	if r, ok := (*a.remotes.Load())[x.Place.Host]; ok {
		remote = r
	}
	counts := remote.series[at].Load()
	if counts == nil {
		counts = a.newTraffic(remote, at, x)
	}
	counts.requests.Inc()
	switch {
	case x.Bytes == 0 || x.Status >= 400: // the text of an error is no content
	case x.Fetched:
		counts.wires.Add(float64(x.Bytes))
	default:
		counts.cache.Add(float64(x.Bytes))
	}
	if x.Age >= 0 && x.Kind == server.ManifestContent && x.Status < 400 {
		a.tagAge.Observe(x.Age.Seconds())
	}
	if a.stock != nil {
		a.stock.answered(x)
	}
}

func (a *Answers) newTiming(at int, x server.Answer) *timing {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind, result := labelsOf(at, x)
	s := &timing{a.duration.WithLabelValues(kind, result), a.wait.WithLabelValues(kind, result)}
	a.series[at].Store(s)
	return s
}

func (a *Answers) newTraffic(r *byRemote, at int, x server.Answer) *traffic {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind, result := labelsOf(at, x)
	s := &traffic{
		requests: a.requests.WithLabelValues(r.host, kind, result),
		cache:    a.served.WithLabelValues(r.host, kind, "cache"),
		wires:    a.served.WithLabelValues(r.host, kind, "remote"),
	}
	r.series[at].Store(s)
	return s
}

// labelsOf are the labels for what is at a place in the tables. What is not known there is
// other and failed, whatever it is called.
func labelsOf(at int, x server.Answer) (kind, result string) {
	kind, result = x.Kind, string(x.Result)
	if at/results == kinds-1 {
		kind = server.OtherContent
	}
	if at%results == results-1 {
		result = string(server.Failed)
	}
	return kind, result
}

// Describe implements prometheus.Collector.
func (a *Answers) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range a.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (a *Answers) Collect(ch chan<- prometheus.Metric) {
	for _, c := range a.all() {
		c.Collect(ch)
	}
}

func (a *Answers) all() []prometheus.Collector {
	all := []prometheus.Collector{a.requests, a.served, a.duration, a.wait, a.tagAge, a.inFlight}
	if a.stock != nil {
		all = append(all, a.stock.all()...)
	}
	return all
}
