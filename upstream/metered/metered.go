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

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
)

// Counters are those of all remotes of a process.
type Counters struct {
	requests, bytes *prometheus.CounterVec
}

// NewCounters returns counters that are registered in reg:
//   - registry_module_upstream_requests_total by remote, op (manifest, resolve,
//     blob, stat, tags, referrers) and result (ok, not_found, denied, rate_limited,
//     unavailable, invalid, loop, canceled, error);
//   - registry_module_upstream_bytes_total by remote: bytes of manifests and
//     blobs that were received, whether or not they were of use.
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
	}
	return c, errors.Join(reg.Register(c.requests), reg.Register(c.bytes))
}

// Upstream is a remote registry that counts.
type Upstream struct {
	up       cache.Upstream
	requests *prometheus.CounterVec // of this remote
	bytes    prometheus.Counter
}

var _ cache.Upstream = (*Upstream)(nil)

// New returns up, which counts in those of c that have its host as their remote.
func New(up cache.Upstream, c *Counters) *Upstream {
	return &Upstream{
		up:       up,
		requests: c.requests.MustCurryWith(prometheus.Labels{"remote": up.Host()}),
		bytes:    c.bytes.WithLabelValues(up.Host()),
	}
}

// count notes the outcome of op.
func (m *Upstream) count(op string, err error) {
	m.requests.WithLabelValues(op, result(err)).Inc()
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
	got, err := m.up.Manifest(ctx, repo, ref)
	m.count("manifest", err)
	m.bytes.Add(float64(len(got.Bytes)))
	return got, err
}

// Resolve implements cache.Upstream.
func (m *Upstream) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	d, err := m.up.Resolve(ctx, repo, ref, known)
	m.count("resolve", err)
	return d, err
}

// Blob implements cache.Upstream.
func (m *Upstream) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	s, err := m.up.Blob(ctx, repo, dgst, part)
	m.count("blob", err)
	if err != nil {
		return nil, err
	}
	counted := *s
	counted.Body = countedBody{s.Body, m.bytes}
	return &counted, nil
}

// StatBlob implements cache.Upstream.
func (m *Upstream) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	size, err := m.up.StatBlob(ctx, repo, dgst)
	m.count("stat", err)
	return size, err
}

// Tags implements cache.Upstream.
func (m *Upstream) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	tags, more, err := m.up.Tags(ctx, repo, n, last)
	m.count("tags", err)
	return tags, more, err
}

// Referrers implements cache.Upstream.
func (m *Upstream) Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	all, err := m.up.Referrers(ctx, repo, dgst)
	m.count("referrers", err)
	return all, err
}

// countedBody counts as it is read, so that a download that goes on for an hour
// shows.
type countedBody struct {
	io.ReadCloser
	bytes prometheus.Counter
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(float64(n))
	return n, err
}
