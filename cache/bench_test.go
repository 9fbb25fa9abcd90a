package cache_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/disk"
)

// BenchmarkStored sends a stored blob, which is in the page cache, over loopback: for the
// second time, for the first time in a process, with the sums of its parts or without.
func BenchmarkStored(b *testing.B) {
	const size = 256 << 20
	content := bytes.Repeat(randomBytes(1<<20), size>>20)
	store, err := disk.Open(b.TempDir(), disk.Options{})
	if err != nil {
		b.Fatal(err)
	}
	up := new(cachetest.Upstream)
	dgst := up.AddBlob("a", content)
	client, server := loopback(b)
	go func() { _, _ = io.Copy(io.Discard, client) }() // until the end
	index := new(cachetest.Index)
	open := func() *cache.Cache {
		c, err := cache.New(context.Background(), cache.Options{
			Blobs: store, Partials: store.Partials(), Refs: store.Refs(), Index: index,
			Remotes: []cache.Remote{{Host: up.Host(), Upstream: up}},
		})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	c := open()
	send(b, c, dgst, io.Discard)
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name  string
		begin func() // before each time
	}{
		{"sendfile", func() {}},
		{"first, by sums", func() { c = open() }},
		{"first, by digest", func() { index = new(cachetest.Index); c = open() }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c = open()
			send(b, c, dgst, server)
			b.SetBytes(size)
			for range b.N {
				b.StopTimer()
				if bb.name != "sendfile" {
					if err := c.Close(); err != nil {
						b.Fatal(err)
					}
				}
				bb.begin()
				b.StartTimer()
				send(b, c, dgst, server)
			}
			b.StopTimer()
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
}

func loopback(b *testing.B) (client, server net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func send(b *testing.B, c *cache.Cache, dgst digest.Digest, w io.Writer) {
	r, _ := c.Repository(cache.Place{Host: new(cachetest.Upstream).Host(), Repo: "a"})
	blob, err := r.OpenBlob(context.Background(), dgst)
	if err != nil {
		b.Fatal(err)
	}
	if blob.Passing() {
		_, err = io.Copy(w, blob)
	} else {
		_, err = blob.CopyN(w, 256<<20)
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := blob.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStats is what a dashboard asks for each second, while 16 downloads are under way
// and 1000 unfinished ones are kept.
func BenchmarkStats(b *testing.B) {
	feed := cachetest.NewFeed() // which gives nothing until the end
	up := &cachetest.Upstream{Body: func(digest.Digest, []byte) io.ReadCloser { return feed }}
	blobs := new(cachetest.Blobs)
	partials := &cachetest.Partials{Blobs: blobs}
	for range 1000 {
		content := randomBytes(cache.PartSize)
		p, err := partials.Resume(b.Context(), digest.FromBytes(content))
		if err == nil {
			err = p.Keep([]byte(`{"size":1000000}`))
		}
		if err == nil {
			_, err = p.WriteAt(content, 0)
		}
		if err == nil {
			_, err = p.Suspend()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	c, err := cache.New(context.Background(), cache.Options{
		Blobs: blobs, Partials: partials, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
		Remotes: []cache.Remote{{Host: up.Host(), Upstream: up, RetryFor: -1}},
	})
	if err != nil {
		b.Fatal(err)
	}
	r, _ := c.Repository(cache.Place{Host: up.Host(), Repo: "a"})
	for range 16 {
		reader, err := r.OpenBlob(b.Context(), up.AddBlob("a", randomBytes(200_000)))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = reader.Close() }()
	}
	for b.Loop() {
		s, err := c.Stats(b.Context())
		if err != nil || len(s.Fills) != 16 || s.Kept.Times != 1000 {
			b.Fatal(len(s.Fills), s.Kept, err)
		}
	}
	feed.End(errReset)
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}
