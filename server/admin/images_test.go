package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

func imagesOf(all ...cache.Image) func(context.Context) iter.Seq2[cache.Image, error] {
	return func(context.Context) iter.Seq2[cache.Image, error] {
		return func(yield func(cache.Image, error) bool) {
			for _, i := range all {
				if !yield(i, nil) {
					return
				}
			}
		}
	}
}

func TestImageQueries(t *testing.T) {
	pins := []cache.Pin{{Pattern: "b", Reason: cache.PinnedBySeed}}
	day := func(n int64) time.Time { return time.Unix(n*86400, 0) }
	s := New(Options{
		Images: imagesOf(
			cache.Image{Repository: "a", Name: "a", Remote: "r", Tag: "1", Digest: "sha256:aa", Size: 30, Used: day(3)},
			cache.Image{Repository: "a", Name: "a", Remote: "r", Tag: "Two", Digest: "sha256:bb", Size: 10, Used: day(1)},
			cache.Image{Repository: "b", Name: "b", Remote: "r", Digest: "sha256:cc", Size: 20, Pins: pins},
			cache.Image{Repository: "old/c", Remote: "gone", Tag: "1", Digest: "sha256:dd", Size: 20, Used: day(2)},
		),
		Name: func(p cache.Place) string { return "x/" + p.Repo },
	})
	defer s.Close()
	tests := []struct {
		query string
		total int
		want  []string
	}{
		{"", 4, []string{"old/c:1", "x/a:1", "x/a:Two", "x/b@sha256:cc"}},
		{"?order=desc", 4, []string{"x/b@sha256:cc", "x/a:Two", "x/a:1", "old/c:1"}},
		{"?sort=size", 4, []string{"x/a:1", "old/c:1", "x/b@sha256:cc", "x/a:Two"}},
		{"?sort=size&order=asc", 4, []string{"x/a:Two", "old/c:1", "x/b@sha256:cc", "x/a:1"}},
		{"?sort=used", 4, []string{"x/a:1", "old/c:1", "x/a:Two", "x/b@sha256:cc"}},
		{"?sort=pinned", 4, []string{"x/b@sha256:cc", "old/c:1", "x/a:1", "x/a:Two"}},
		{"?q=two", 1, []string{"x/a:Two"}},
		{"?q=TWO", 1, []string{"x/a:Two"}},
		{"?q=sha256:bb", 1, []string{"x/a:Two"}},
		{"?q=x/a", 2, []string{"x/a:1", "x/a:Two"}},
		{"?q=x/a:t", 1, []string{"x/a:Two"}},
		{"?q=.*", 0, nil},
		{"?q=+", 4, []string{"old/c:1", "x/a:1", "x/a:Two", "x/b@sha256:cc"}},
		{"?limit=2", 4, []string{"old/c:1", "x/a:1"}},
		{"?limit=2&offset=2", 4, []string{"x/a:Two", "x/b@sha256:cc"}},
		{"?offset=4", 4, nil},
		{"?offset=400", 4, nil},
	}
	for _, tt := range tests {
		w := get(t, s, "/images"+tt.query)
		page := decode[ImagePage](t, w.Body.Bytes())
		var got []string
		for _, i := range page.Images {
			got = append(got, i.Asked)
			if i.Pinned != (i.Repository == "b") {
				t.Errorf("%+v", i)
			}
		}
		if w.Code != http.StatusOK || page.Total != tt.total || page.All != 4 || !slices.Equal(got, tt.want) {
			t.Errorf("%s: status %d, %d of %d, %q", tt.query, w.Code, page.Total, page.All, got)
		}
	}
	for _, bad := range []string{"sort=x", "order=up", "offset=-1", "offset=x", "limit=501", "limit=-1", "limit=9999999999999999999", "q=" + strings.Repeat("a", 257), "q=%ff"} {
		w := get(t, s, "/images?"+bad)
		if a := decode[answer](t, w.Body.Bytes()); w.Code != http.StatusBadRequest || !strings.Contains(a.Error, "write ") {
			t.Errorf("%s: status %d, %+v", bad, w.Code, a)
		}
	}
}

// The list is read once for all who look, and again when something has changed, but not all
// the time; it is dropped when nobody looks.
func TestImageListIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		rec := NewRecorder(RecorderOptions{})
		s := New(Options{Images: images(2000, &reads), Recorder: rec})
		defer s.Close()
		state := s.State(t.Context())
		if state.Images != -1 || reads.Load() != 0 {
			t.Errorf("%d images, %d reads", state.Images, reads.Load())
		}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				page, err := s.Images(t.Context(), ImageQuery{Offset: i * 20, Limit: 20})
				if err != nil || len(page.Images) != 20 || page.Generation != state.Generation {
					t.Errorf("%+v, %v", page, err)
				}
			})
		}
		all.Wait()
		first := get(t, s, "/images")
		again := get(t, s, "/images", "If-None-Match", first.Header().Get("ETag"))
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 || reads.Load() != 1 {
			t.Errorf("status %d, %d reads", again.Code, reads.Load())
		}
		// Something changes ten times a second.
		for range 300 {
			rec.ImagesChanged()
			time.Sleep(100 * time.Millisecond)
			get(t, s, "/images")
		}
		if n := reads.Load(); n < 4 || n > 7 {
			t.Errorf("%d reads in 30 seconds", n)
		}
		// Who reads again when the generation is another one sees the last change.
		for range 10 {
			time.Sleep(time.Second)
			state = s.State(t.Context())
		}
		page, err := s.Images(t.Context(), ImageQuery{})
		if err != nil || page.Generation != state.Generation || state.Generation>>53 != 0 {
			t.Errorf("generation %d, of the list %d, %v", state.Generation, page.Generation, err)
		}
		time.Sleep(time.Second)
		if got := s.State(t.Context()).Images; got != 2000 {
			t.Errorf("%d images", got)
		}
		time.Sleep(listLife)
		synctest.Wait()
		if s.lister.list.Load() != nil {
			t.Error("the list is still there")
		}
		before := reads.Load()
		get(t, s, "/images")
		if reads.Load() != before+1 {
			t.Error("it was not read")
		}
	})
}

// What cannot be listed is an error, and tried again; what went meanwhile is left out.
func TestImageListFails(t *testing.T) {
	var err error
	s := New(Options{Images: func(context.Context) iter.Seq2[cache.Image, error] {
		return func(yield func(cache.Image, error) bool) {
			if yield(cache.Image{Repository: "a", Tag: "1"}, nil) && yield(cache.Image{}, err) {
				yield(cache.Image{Repository: "b", Tag: "1"}, nil)
			}
		}
	}})
	defer s.Close()
	err = errors.New("the index is damaged")
	if w := get(t, s, "/images"); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "the index is damaged") {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
	err = cache.ErrClosed
	if w := get(t, s, "/images"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
	err = cache.ErrNotFound
	if page := decode[ImagePage](t, get(t, s, "/images").Body.Bytes()); page.Total != 2 {
		t.Errorf("%+v", page)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.lister.forget()
	s.lister.turn <- struct{}{} // somebody reads it
	if _, err := s.Images(ctx, ImageQuery{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-s.lister.turn
}

// A list that is longer than is kept says so, and what is kept is small.
func TestImageListIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	const most = 20_000
	s := New(Options{Images: images(most+10, nil)})
	defer s.Close()
	s.lister.most = most
	runtime.GC()
	runtime.ReadMemStats(&before)
	page, err := s.Images(t.Context(), ImageQuery{Limit: MaxLimit})
	if err != nil || !page.Truncated || page.All != most || len(page.Images) != MaxLimit {
		t.Fatalf("%d, %v, %v", page.All, page.Truncated, err)
	}
	page = ImagePage{}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := int64(after.HeapAlloc-before.HeapAlloc) / most
	t.Logf("%d bytes for each image", each)
	if each > 400 {
		t.Errorf("an image takes %d bytes", each)
	}
	runtime.KeepAlive(s)
}

func BenchmarkImages(b *testing.B) {
	for _, n := range []int{1000, 10_000, MaxImages} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := New(Options{Images: images(n, nil)})
			defer s.Close()
			for _, q := range []ImageQuery{{}, {Text: "app-01", Sort: SortSize, Descending: true}} {
				b.Run("q="+q.Text, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := s.Images(b.Context(), q); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
