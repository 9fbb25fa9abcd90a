package cache_test

import (
	"context"
	"testing"
	"time"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/disk"
	"registry-module/cache/index"
)

// BenchmarkCachedTag looks up a tag whose lifetime is not over, with the index that is used
// on a disk.
func BenchmarkCachedTag(b *testing.B) {
	store, err := disk.Open(b.TempDir(), disk.Options{})
	if err != nil {
		b.Fatal(err)
	}
	entries, err := index.Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	up := new(cachetest.Upstream)
	up.AddManifest("a", "1", "application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`))
	c, err := cache.New(context.Background(), cache.Options{
		Blobs: store, Partials: store.Partials(), Refs: store.Refs(), Index: entries,
		Remotes: []cache.Remote{{Host: up.Host(), Upstream: up, TagTTL: time.Hour}},
	})
	if err != nil {
		b.Fatal(err)
	}
	r, _ := c.Repository(cache.Place{Host: up.Host(), Repo: "a"})
	if _, err := r.Tag(context.Background(), "1"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.CachedTag(context.Background(), "1"); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	for _, stop := range []func() error{c.Close, entries.Close, store.Close} {
		if err := stop(); err != nil {
			b.Fatal(err)
		}
	}
}
