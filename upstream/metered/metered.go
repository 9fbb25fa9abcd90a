// Package metered counts what is asked of a remote registry, as a decorator of
// any [cache.Upstream].
//
// It promises to change nothing about what passes, and that the counters of a remote go
// on where it is decorated anew. Labels have few values: no repository, tag or digest. It
// imports, of this module, only cache.
package metered

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
)

// Counters are those of all remotes of a process.
type Counters struct {
	requests, bytes *prometheus.CounterVec
	durations       *prometheus.HistogramVec
	totals          sync.Map // of host to *totals
}

// totals are the counters of a remote for who shows them.
type totals struct{ requests, bytes atomic.Int64 }

// Of returns how many requests a remote was sent, and how many bytes have come of it.
func (c *Counters) Of(host string) (requests, bytes int64) {
	if t, ok := c.totals.Load(host); ok {
		t := t.(*totals)
		return t.requests.Load(), t.bytes.Load()
	}
	return 0, 0
}

// Fetched returns how many bytes have come from all remotes.
func (c *Counters) Fetched() (bytes int64) {
	for _, t := range c.totals.Range {
		bytes += t.(*totals).bytes.Load()
	}
	return bytes
}

// NewCounters returns counters that are registered in reg:
//   - registry_module_upstream_requests_total by remote, op (manifest, resolve,
//     blob, stat, tags, referrers) and result (ok, not_found, denied, rate_limited,
//     unavailable, invalid, loop, canceled, error);
//   - registry_module_upstream_bytes_total by remote: bytes of manifests and
//     blobs that were received, whether or not they were of use;
//   - registry_module_upstream_request_duration_seconds by remote and op: until the
//     answer was there, of a blob until it began.
func NewCounters(reg prometheus.Registerer) (*Counters, error) {
	c := &Counters{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_module_upstream_requests_total",
			Help: "Requests to the remote registry by operation and result.",
		}, []string{"remote", "op", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_module_upstream_bytes_total",
			Help: "Bytes of manifests and blobs received from the remote registry.",
		}, []string{"remote"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "registry_module_upstream_request_duration_seconds",
			Help:    "How long the remote registry took to answer, by operation; of a blob until it began.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 15, 60},
		}, []string{"remote", "op"}),
	}
	return c, errors.Join(reg.Register(c.requests), reg.Register(c.bytes), reg.Register(c.durations))
}

// Upstream is a remote registry that counts.
type Upstream struct {
	up        cache.Upstream
	requests  *prometheus.CounterVec // of this remote
	durations prometheus.ObserverVec
	bytes     prometheus.Counter
	totals    *totals
}

var _ cache.Upstream = (*Upstream)(nil)

// New returns up, which counts in those of c that have its host as their remote.
func New(up cache.Upstream, c *Counters) *Upstream {
	of := prometheus.Labels{"remote": up.Host()}
	// So that the first refusal is an increase, for which there is an alert.
	for _, op := range []string{"manifest", "resolve", "blob"} {
		c.requests.WithLabelValues(up.Host(), op, "denied")
	}
	t, _ := c.totals.LoadOrStore(up.Host(), new(totals))
	return &Upstream{
		up:        up,
		requests:  c.requests.MustCurryWith(of),
		durations: c.durations.MustCurryWith(of),
		bytes:     c.bytes.With(of),
		totals:    t.(*totals),
	}
}

// count notes the outcome of op, which has begun then.
func (m *Upstream) count(op string, begun time.Time, err error) {
	m.totals.requests.Add(1)
	m.requests.WithLabelValues(op, result(err)).Inc()
	m.durations.WithLabelValues(op).Observe(time.Since(begun).Seconds())
}

// received notes that so many bytes of content have come.
func (m *Upstream) received(n int) {
	m.totals.bytes.Add(int64(n))
	m.bytes.Add(float64(n))
}

func result(err error) string {
	for _, r := range []struct {
		kind error
		name string
	}{
		{nil, "ok"},
		{cache.ErrNotFound, "not_found"},
		{cache.ErrDenied, "denied"},
		{cache.ErrRateLimited, "rate_limited"},
		{cache.ErrUnavailable, "unavailable"},
		{cache.ErrInvalid, "invalid"},
		{cache.ErrLoop, "loop"},
		{context.Canceled, "canceled"},
	} {
		if errors.Is(err, r.kind) {
			return r.name
		}
	}
	return "error"
}

// Host implements cache.Upstream.
func (m *Upstream) Host() string { return m.up.Host() }

// Manifest implements cache.Upstream.
func (m *Upstream) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	begun := time.Now()
	got, err := m.up.Manifest(ctx, repo, ref)
	m.count("manifest", begun, err)
	m.received(len(got.Bytes))
	return got, err
}

// Resolve implements cache.Upstream.
func (m *Upstream) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	begun := time.Now()
	d, err := m.up.Resolve(ctx, repo, ref, known)
	m.count("resolve", begun, err)
	return d, err
}

// Blob implements cache.Upstream.
func (m *Upstream) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	begun := time.Now()
	s, err := m.up.Blob(ctx, repo, dgst, part)
	m.count("blob", begun, err)
	if err != nil {
		return nil, err
	}
	counted := *s
	counted.Body = countedBody{s.Body, m.received}
	return &counted, nil
}

// StatBlob implements cache.Upstream.
func (m *Upstream) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	begun := time.Now()
	size, err := m.up.StatBlob(ctx, repo, dgst)
	m.count("stat", begun, err)
	return size, err
}

// Tags implements cache.Upstream.
func (m *Upstream) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	begun := time.Now()
	tags, more, err := m.up.Tags(ctx, repo, n, last)
	m.count("tags", begun, err)
	return tags, more, err
}

// Referrers implements cache.Upstream.
func (m *Upstream) Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	begun := time.Now()
	all, err := m.up.Referrers(ctx, repo, dgst)
	m.count("referrers", begun, err)
	return all, err
}

// countedBody counts as it is read, so that a download that goes on for an hour
// shows.
type countedBody struct {
	io.ReadCloser
	received func(n int)
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.received(n)
	return n, err
}
