package cache_test

import (
	"context"
	"io/fs"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"registry-module/cache"
)

// lateEntry is an index that has one entry a moment later than the store has what it is of.
type lateEntry struct {
	cache.Index
	key  string
	late *atomic.Bool // that it is asked for next
}

func (x lateEntry) Get(ctx context.Context, k []byte) ([]byte, error) {
	if string(k) == x.key && x.late.CompareAndSwap(true, false) {
		return nil, fs.ErrNotExist
	}
	return x.Index.Get(ctx, k)
}

// lateList is a store for which late is set when it is listed.
type lateList struct {
	cache.Blobs
	late *atomic.Bool
}

func (b lateList) All(ctx context.Context) iter.Seq2[cache.BlobEntry, error] {
	b.late.Store(true)
	return b.Blobs.All(ctx)
}

// What comes into the index while it is compared is right.
func TestVerifyMeetsWhatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t)
		order, _ := w.stock(t, 3, 1000)
		var late atomic.Bool
		w.reopen(t, func(o *cache.Options) {
			o.Index = lateEntry{o.Index, "b\x00" + order[1].String(), &late}
			o.Blobs = lateList{o.Blobs, &late}
		})
		must(t, w.Ready(t.Context()))
		late.Store(false)
		r, err := w.Verify(t.Context(), cache.VerifyOptions{})
		must(t, err)
		if len(r.Problems) != 0 || r.Blobs != 3 || late.Load() {
			t.Errorf("%+v, and the entry was not asked for: %v", r, late.Load())
		}
	})
}
