package cache_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// pausedRefs have who writes a tag wait.
type pausedRefs struct {
	cache.Refs
	writing atomic.Pointer[func()] // called first; nil for nothing
	written chan struct{}          // closed after that
}

func (r *pausedRefs) Put(ctx context.Context, ref cache.Ref, dgst digest.Digest) error {
	if ref.Kind != cache.RefTag {
		return r.Refs.Put(ctx, ref, dgst)
	}
	if first := r.writing.Swap(nil); first != nil {
		(*first)()
		defer close(r.written)
	}
	return r.Refs.Put(ctx, ref, dgst)
}

// scannedIndex counts how often all tags were read.
type scannedIndex struct {
	cache.Index
	scans   atomic.Int32
	scanned chan struct{} // one for each
}

func (x *scannedIndex) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	return func(yield func(cache.Entry, error) bool) {
		for e, err := range x.Index.Scan(ctx, prefix, from) {
			if !yield(e, err) {
				return
			}
		}
		if bytes.Equal(prefix, []byte("t\x00")) {
			x.scans.Add(1)
			x.scanned <- struct{}{}
		}
	}
}

// A tag that is being written when a collection begins, which so looks for the names of what
// it stands for too early to find that one, does not lose it.
func TestTagBeforeCollection(t *testing.T) {
	refs, index := new(pausedRefs), &scannedIndex{scanned: make(chan struct{}, 1000)}
	var later atomic.Int64 // how far ahead the clock of the cache is
	s := newSite(t, func(o *cache.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
		refs.Refs, index.Index = o.Refs, o.Index
		o.Refs, o.Index = refs, index
	})
	dgst := s.push("a", "1", "layer")
	if _, err := s.Repository("a").Manifest(t.Context(), dgst); err != nil {
		t.Fatal(err)
	}
	later.Store(int64(time.Hour)) // it is not being pulled any more
	all := cache.CollectOptions{Free: 1 << 30}
	dry := all
	dry.DryRun = true
	before := index.scans.Load()
	if c, err := s.Collect(t.Context(), dry); err != nil || len(c.Victims) != 1 {
		t.Fatalf("%+v, error %v: the manifest should go", c, err)
	}
	looks := index.scans.Load() - before // of which the last is for the names of what goes
	for len(index.scanned) > 0 {
		<-index.scanned
	}

	// The client leaves, so that it is not known by its use that the image is wanted.
	ctx, leave := context.WithCancel(t.Context())
	var collected sync.WaitGroup
	writing := func() {
		leave()
		collected.Go(func() {
			if _, err := s.Collect(t.Context(), all); err != nil {
				t.Error(err)
			}
		})
		for range looks {
			<-index.scanned
		}
	}
	refs.writing.Store(&writing)
	written := make(chan struct{})
	refs.written = written
	if _, err := s.Repository("a").Tag(ctx, "1"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	<-written
	collected.Wait()
	for ref, err := range s.refs.All(t.Context()) {
		must(t, err)
		b, err := s.blobs.Open(t.Context(), ref.Digest)
		if err != nil {
			t.Errorf("link %+v leads to nothing", ref.Ref)
			continue
		}
		must(t, b.Close())
	}
}
