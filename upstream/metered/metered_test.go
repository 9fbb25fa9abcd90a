package metered_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/upstream/metered"
)

func TestCounts(t *testing.T) {
	remote := new(cachetest.Upstream)
	blob := remote.AddBlob("a", []byte("0123456789"))
	remote.AddManifest("a", "v1", "application/json", []byte("{}"))
	reg := prometheus.NewRegistry()
	counters, err := metered.NewCounters(reg)
	if err != nil {
		t.Fatal(err)
	}
	m := metered.New(remote, counters)
	ctx := t.Context()

	if got, err := m.Manifest(ctx, "a", "v1"); err != nil || string(got.Bytes) != "{}" {
		t.Errorf("%q, %v", got.Bytes, err)
	}
	if d, err := m.Resolve(ctx, "a", "v1", ""); err != nil || d.Size != 2 {
		t.Errorf("%+v, %v", d, err)
	}
	s, err := m.Blob(ctx, "a", blob, cache.BlobPart{Offset: 4, Length: 6})
	if err != nil || s.Offset != 4 || s.Length != 6 || s.Size != 10 || !s.Part {
		t.Fatalf("%+v, %v", s, err)
	}
	if got, err := io.ReadAll(s.Body); err != nil || string(got) != "456789" {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Body.Close(); err != nil {
		t.Error(err)
	}
	if n, err := m.StatBlob(ctx, "a", blob); err != nil || n != 10 {
		t.Errorf("%d, %v", n, err)
	}
	m = metered.New(remote, counters) // what was counted stays
	if tags, more, err := m.Tags(ctx, "a", -1, ""); err != nil || more || len(tags) != 1 {
		t.Errorf("%q, %v, %v", tags, more, err)
	}
	for _, failure := range []error{
		cache.ErrNotFound, cache.ErrDenied, cache.ErrRateLimited, cache.ErrUnavailable, cache.ErrInvalid, cache.ErrLoop,
		context.Canceled, io.ErrNoProgress,
	} {
		remote.Fail(fmt.Errorf("wrapped: %w", failure))
		if _, err := m.Blob(ctx, "a", digest.FromString("x"), cache.BlobPart{}); err == nil {
			t.Error("no error")
		}
	}

	const op = `registry_module_upstream_requests_total{op=%q,remote="upstream.test",result=%q} 1` + "\n"
	want := "# HELP registry_module_upstream_bytes_total Bytes of manifests and blobs received from the remote registry.\n" +
		"# TYPE registry_module_upstream_bytes_total counter\n" +
		`registry_module_upstream_bytes_total{remote="upstream.test"} 8` + "\n" +
		"# HELP registry_module_upstream_requests_total Requests to the remote registry by operation and result.\n" +
		"# TYPE registry_module_upstream_requests_total counter\n"
	for _, r := range []string{"ok", "not_found", "denied", "rate_limited", "unavailable", "invalid", "loop", "canceled", "error"} {
		want += fmt.Sprintf(op, "blob", r)
	}
	for _, o := range []string{"manifest", "resolve", "stat", "tags"} {
		if o == "manifest" || o == "resolve" { // there from the start
			want += strings.Replace(fmt.Sprintf(op, o, "denied"), "} 1", "} 0", 1)
		}
		want += fmt.Sprintf(op, o, "ok")
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "registry_module_upstream_requests_total", "registry_module_upstream_bytes_total"); err != nil {
		t.Error(err)
	}
}
