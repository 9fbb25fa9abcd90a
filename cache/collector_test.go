package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// slowIndex takes its time to look at all.
type slowIndex struct{ cache.Index }

func (x slowIndex) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	time.Sleep(time.Millisecond)
	return x.Index.Scan(ctx, prefix, from)
}

// Many downloads that need room at the same time all get it, if there can be enough.
func TestManyNeedRoomAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, size = 60, 500 * kib
		s := newSite(t, limited(many*5/2+5), func(o *cache.Options) { o.Index = slowIndex{o.Index} })
		for i := range many * 5 / 2 {
			tag := fmt.Sprint(i)
			s.push("a", tag, tag)
			must(t, s.tryPull(t.Context(), t, "a", tag))
		}
		s.rest()
		var layers []digest.Digest
		for i := range many {
			tag := fmt.Sprint("new", i)
			layers = append(layers, s.up.AddBlob("a", randomBytes(size)))
			s.up.AddManifest("a", tag, v1.MediaTypeImageManifest, image(size, layers[i]))
			_, err := s.Repository("a").Tag(t.Context(), tag)
			must(t, err)
		}
		synctest.Wait()
		var pulls sync.WaitGroup
		for _, layer := range layers {
			pulls.Go(func() {
				b, err := s.Repository("a").OpenBlob(t.Context(), layer)
				if err != nil {
					t.Error(err)
					return
				}
				if b.Passing() {
					t.Errorf("%s is not stored", layer)
				}
				_, err = io.Copy(io.Discard, b)
				if err := errors.Join(err, b.Close()); err != nil {
					t.Error(err)
				}
			})
		}
		pulls.Wait()
	})
}

// A limit that is smaller than before holds without anybody asking for anything.
func TestSmallerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, tag := range []string{"1", "2", "3"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		s.reopen(t, limited(2))
		synctest.Wait()
		if taken := s.blobs.Len(); taken > 6 {
			t.Errorf("%d blobs are stored", taken)
		}
	})
}

// sharedBlobs are on a storage that others fill.
type sharedBlobs struct {
	cache.Blobs
	free atomic.Int64
}

func (b *sharedBlobs) Free(context.Context) (free, total int64, err error) {
	return b.free.Load(), 1 << 40, nil
}

// When others fill the storage, room is made for them.
func TestOthersFillTheStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := new(sharedBlobs)
		shared.free.Store(1 << 39)
		s := newSite(t, func(o *cache.Options) {
			shared.Blobs, o.Blobs = o.Blobs, shared
			o.MinFree = func(int64) int64 { return 100 * kib }
		})
		for _, tag := range []string{"1", "2", "3"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		shared.free.Store(90 * kib)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := s.blobs.Len(); n > 6 {
			t.Errorf("%d blobs are stored, as before", n)
		}
	})
}

// heldRefs list nothing before held is closed.
type heldRefs struct {
	cache.Refs
	held chan struct{}
}

func (r heldRefs) All(ctx context.Context) iter.Seq2[cache.RefEntry, error] {
	return func(yield func(cache.RefEntry, error) bool) {
		select {
		case <-r.held:
		case <-ctx.Done():
			return
		}
		r.Refs.All(ctx)(yield)
	}
}

// Who needs room while the index is being rebuilt gets the blob without it being stored.
func TestRoomWhileRebuilding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limited(1))
		s.push("a", "1", "1")
		s.pull(t, "a", "1")
		s.close(t, s.Cache)
		s.loseIndex()
		s.opts.Refs = heldRefs{s.refs, make(chan struct{})}
		c, err := cache.New(t.Context(), s.opts)
		must(t, err)
		defer func() { s.close(t, c) }()
		s.Cache = c
		dgst := s.up.AddBlob("a", randomBytes(100*kib))
		start := time.Now()
		b := s.openBlob(t, "a", dgst)
		readAll(t, b)
		if !b.Passing() || time.Since(start) > time.Minute {
			t.Errorf("it took %v, and is stored: %v", time.Since(start), !b.Passing())
		}
	})
}

// Where the index cannot be written at the start, what is stored is counted later.
func TestCountedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.push("a", "1", "1")
		s.pull(t, "a", "1")
		s.close(t, s.Cache)
		s.loseIndex()
		// The first change of all is made before New returns.
		full := &fullIndex{Index: s.index}
		s.opts.Index = full
		held := heldRefs{s.refs, make(chan struct{})}
		s.opts.Refs = held
		c, err := cache.New(t.Context(), s.opts)
		must(t, err)
		defer func() { s.close(t, c) }()
		s.Cache = c
		full.full.Store(true)
		close(held.held)
		time.Sleep(30 * time.Second)
		full.full.Store(false)
		start := time.Now()
		must(t, c.Ready(t.Context()))
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		s.wantImages(t, "a:1")
	})
}
