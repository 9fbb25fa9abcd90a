package cache_test

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

// That there is no room is told once, and that there is again when as much has room.
func TestRoomEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := watched(t, limited(2), func(o *cache.Options) { o.Pins = []string{"a"} })
		for _, tag := range []string{"1", "2"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		s.push("b", "1", "other")
		s.pull(t, "b", "1")
		s.pull(t, "b", "1")
		if len(w.rooms()) != 1 || !w.rooms()[0].Short {
			t.Fatalf("room %+v", w.rooms())
		}
		for _, part := range []string{"REGISTRY_CACHE_MAXSIZE", "pinned"} {
			if !strings.Contains(w.rooms()[0].Reason, part) {
				t.Errorf("reason %q does not tell of %s", w.rooms()[0].Reason, part)
			}
		}
		got := s.stats(t)
		if got.Space.Room != w.rooms()[0] || got.Space.Pinned < 400*kib || got.Space.Limit != s.opts.MaxSize || !got.Space.Known {
			t.Errorf("space %+v", got.Space)
		}
		// Something small has room, which is no change.
		small := s.up.AddBlob("c", []byte("small"))
		readAll(t, s.openBlob(t, "c", small))
		s.rest()
		if len(w.rooms()) != 1 {
			t.Errorf("room %+v after something small", w.rooms())
		}
		s.opts.Pins = nil
		s.reopen(t)
		s.pull(t, "b", "1") // nothing is pinned any more: a:1 goes for it
		if len(w.rooms()) != 1 || s.stats(t).Space.Room.Short {
			t.Errorf("after a restart without pins: room %+v", w.rooms())
		}
		s.wantServed(t, "b", "1")
	})
}

// There is room again when something large was removed, or after a while of calm.
func TestRoomAgain(t *testing.T) {
	for name, relax := range map[string]func(t *testing.T, s *site){
		"an image is removed": func(t *testing.T, s *site) {
			_, err := s.UnpinImages(t.Context(), "a:1", cache.PinnedByOperator)
			must(t, err)
			_, err = s.RemoveImage(t.Context(), "a", "1")
			must(t, err)
		},
		"nothing has had no room for long": func(t *testing.T, s *site) {
			time.Sleep(11 * time.Minute)
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := watched(t, realClock, limited(2))
				for _, tag := range []string{"1", "2"} {
					s.push("a", tag, tag)
					s.pull(t, "a", tag)
					time.Sleep(time.Minute)
					_, err := s.PinImages(t.Context(), cache.Pin{Pattern: "a:" + tag, Reason: cache.PinnedByOperator})
					must(t, err)
				}
				if n := s.stats(t).Space.Pinned; n != -1 {
					t.Errorf("%d bytes are pinned, before that was looked for", n)
				}
				s.push("b", "1", "other")
				s.pull(t, "b", "1")
				if len(w.rooms()) != 1 {
					t.Fatalf("room %+v", w.rooms())
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				if len(w.rooms()) != 1 {
					t.Fatalf("room %+v while nothing has changed", w.rooms())
				}
				relax(t, s)
				if len(w.rooms()) != 2 || w.rooms()[1] != (cache.Room{}) || s.stats(t).Space.Room.Short {
					t.Errorf("room %+v", w.rooms())
				}
			})
		})
	}
}

// The reason says which limit it is.
func TestRoomReasons(t *testing.T) {
	refuse := func(err error) func(*site) {
		return func(s *site) {
			s.blobs.Fail = func(op string) error {
				if op == "write" {
					return err
				}
				return nil
			}
		}
	}
	for name, tt := range map[string]struct {
		adjust  func(*cache.Options)
		arrange func(*site)
		want    string
	}{
		"limit":      {adjust: func(o *cache.Options) { o.MaxSize = 50 * kib }, want: "REGISTRY_CACHE_MAXSIZE"},
		"reserve":    {adjust: func(o *cache.Options) { o.MinFree = func(int64) int64 { return 950 * kib } }, want: "REGISTRY_CACHE_MINFREE"},
		"full":       {arrange: func(s *site) { s.blobs.Room = 60 * kib }, want: "the storage is full"},
		"quota":      {arrange: refuse(syscall.EDQUOT), want: "the quota"},
		"read-only":  {arrange: refuse(syscall.EROFS), want: "read-only"},
		"no promise": {arrange: refuse(syscall.ENOSPC), want: "though it has told"},
		"broken":     {arrange: refuse(syscall.EIO), want: "cannot be written to"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				adjust := func(*cache.Options) {}
				if tt.adjust != nil {
					adjust = tt.adjust
				}
				s, w := watched(t, adjust)
				synctest.Wait()
				s.blobs.Room = 1000 * kib
				if tt.arrange != nil {
					tt.arrange(s)
				}
				content := randomBytes(100 * kib)
				dgst := s.up.AddBlob("a", content)
				if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
					t.Error("other content")
				}
				s.rest()
				if len(w.rooms()) != 1 || !strings.Contains(w.rooms()[0].Reason, tt.want) {
					t.Errorf("room %+v, want %q", w.rooms(), tt.want)
				}
			})
		})
	}
}
