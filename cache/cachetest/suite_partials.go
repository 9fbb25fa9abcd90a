package cachetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/extents"
)

// part is short for the many places below.
const part = cache.PartSize

// TestPartials checks that what fresh returns keeps the contract of
// cache.Partials. Restart ends the process as a kill does, without a word to
// what it is working on, and returns the stores of the next one.
func TestPartials(t *testing.T, fresh func(t *testing.T) (cache.Blobs, cache.Partials, func() (cache.Blobs, cache.Partials))) {
	t.Run("not kept", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, 2*part)
		d := resume(t, ps, dgst)
		wantNew(t, d)
		writeAll(t, d, content, 0)
		must(t, d.Sync(t.Context()))
		if kept, err := d.Suspend(); kept != 0 || err != nil {
			t.Errorf("suspending: %d, %v, want nothing kept", kept, err)
		}
		wantEntries(t, ps)
		d = resume(t, ps, dgst)
		wantNew(t, d)
		writeAll(t, d, content, 0)
		_, ps = restart()
		wantEntries(t, ps)
		d = resume(t, ps, dgst)
		wantNew(t, d)
		must(t, d.Discard())
	})

	t.Run("kept without bytes", func(t *testing.T) {
		_, ps, _ := fresh(t)
		dgst, content := sample(digest.SHA256, 2*part)
		d := resume(t, ps, dgst)
		must(t, d.Keep([]byte("note")))
		writeAll(t, d, content[100:200], 100) // nothing that can be found again
		if kept, err := d.Suspend(); kept != 0 || err != nil {
			t.Errorf("suspending: %d, %v, want nothing kept", kept, err)
		}
		wantEntries(t, ps)
		d = resume(t, ps, dgst)
		wantNew(t, d)
		must(t, d.Discard())
	})

	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run("suspend and commit "+string(alg), func(t *testing.T) {
			blobs, ps, restart := fresh(t)
			dgst, content := sample(alg, 3*part+7)
			d := resume(t, ps, dgst)
			must(t, d.Keep([]byte("first")))
			writeAll(t, d, content[:2*part+100], 0)
			must(t, d.Keep([]byte("second\n\x00\xff")))
			wantKept(t, d, 2*part+100)
			must(t, d.Discard()) // does nothing

			_, ps = restart()
			d = resume(t, ps, dgst)
			wantHeld(t, d, content, extents.Span{Start: 0, End: 2*part + 100})
			if note := d.Note(); string(note) != "second\n\x00\xff" {
				t.Errorf("note %q", note)
			}
			if _, err := blobs.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("before the commit: error %v, want fs.ErrNotExist", err)
			}
			writeAll(t, d, content, 2*part+100)
			must(t, d.Commit(t.Context()))
			must(t, d.Discard()) // nothing left to discard
			blobs, ps = restart()
			wantBlob(t, blobs, dgst, string(content))
			wantEntries(t, ps)

			d = resume(t, ps, dgst) // content may arrive twice
			wantNew(t, d)
			writeAll(t, d, content, 0)
			must(t, d.Commit(t.Context()))
			wantBlob(t, blobs, dgst, string(content))
		})
	}

	t.Run("kill", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, 3*part)
		d := resume(t, ps, dgst)
		writeAll(t, d, content[:part], 0)
		must(t, d.Keep([]byte("a")))
		must(t, d.Keep([]byte("b")))
		writeAll(t, d, content[:2*part+part/2], part)
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantAtLeast(t, d, content, extents.Span{Start: part, End: 2 * part})
		if note := d.Note(); string(note) != "b" {
			t.Errorf("note %q, want b", note)
		}
		// It is kept from now on without another Keep.
		writeAll(t, d, content, 2*part)
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantAtLeast(t, d, content, extents.Span{Start: part, End: 3 * part})
		must(t, d.Discard())
	})

	t.Run("note alone", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, part)
		d := resume(t, ps, dgst)
		must(t, d.Keep([]byte("a")))
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantHeld(t, d, content)
		if note := d.Note(); string(note) != "a" {
			t.Errorf("note %q, want a", note)
		}
		must(t, d.Discard())
	})

	t.Run("out of order", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, 6*part)
		d := resume(t, ps, dgst)
		must(t, d.Keep(nil))
		for _, i := range []int64{3, 1, 4} {
			writeAll(t, d, content[:(i+1)*part], i*part)
		}
		wantKept(t, d, 3*part)
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantHeld(t, d, content, extents.Span{Start: part, End: 2 * part}, extents.Span{Start: 3 * part, End: 5 * part})

		// Within a part no more is promised than that nothing wrong is held.
		writeAll(t, d, content[:part], part/2)
		writeAll(t, d, content[:part/2], 0)
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantAtLeast(t, d, content, extents.Span{Start: part, End: 2 * part}, extents.Span{Start: 3 * part, End: 5 * part})
		must(t, d.Discard())
	})

	// A part is written by one who fails, then by another, then by another
	// process.
	t.Run("continue in mid-part", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, 2*part)
		d := resume(t, ps, dgst)
		must(t, d.Keep(nil))
		writeAll(t, d, content[:part+100], part)
		var wg sync.WaitGroup
		wg.Go(func() { writeAll(t, d, content[:part+1000], part+100) })
		wg.Wait()
		wantKept(t, d, 1000)
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantHeld(t, d, content, extents.Span{Start: part, End: part + 1000})
		writeAll(t, d, content[:part+2000], part+1000)
		wantKept(t, d, 2000)
		d = resume(t, ps, dgst)
		wantHeld(t, d, content, extents.Span{Start: part, End: part + 2000})
		writeAll(t, d, content, part) // what is there may come again
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantHeld(t, d, content, extents.Span{Start: part, End: 2 * part})
		writeAll(t, d, content[:part+100], part)
		wantKept(t, d, part)
	})

	t.Run("discard", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, 2*part)
		d := resume(t, ps, dgst)
		must(t, d.Keep([]byte("a")))
		writeAll(t, d, content, 0)
		must(t, d.Sync(t.Context()))
		must(t, d.Discard())
		must(t, d.Discard())
		wantEntries(t, ps)
		blobs, ps := restart()
		wantEntries(t, ps)
		d = resume(t, ps, dgst)
		wantNew(t, d)
		must(t, d.Discard())
		if _, err := blobs.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
	})

	t.Run("remove", func(t *testing.T) {
		_, ps, restart := fresh(t)
		dgst, content := sample(digest.SHA256, part)
		must(t, ps.Remove(t.Context(), dgst))
		d := resume(t, ps, dgst)
		must(t, d.Keep(nil))
		writeAll(t, d, content, 0)
		if err := ps.Remove(t.Context(), dgst); err == nil {
			t.Error("one that is in use is removed")
		}
		wantKept(t, d, part)
		must(t, ps.Remove(t.Context(), dgst))
		wantEntries(t, ps)
		_, ps = restart()
		d = resume(t, ps, dgst)
		wantNew(t, d)
		must(t, d.Discard())
	})

	t.Run("all", func(t *testing.T) {
		_, ps, restart := fresh(t)
		began := time.Now().Add(-time.Minute) // clocks of file systems are coarse
		var want []cache.PartialEntry
		for i, note := range []string{"", "a", "b"} {
			dgst, content := sample(digest.SHA256, 3*part+i)
			d := resume(t, ps, dgst)
			must(t, d.Keep([]byte(note)))
			writeAll(t, d, content[:i*part+5], 0)
			wantKept(t, d, int64(i*part+5))
			want = append(want, cache.PartialEntry{Digest: dgst, Size: int64(i*part + 5), Note: []byte(note)})
		}
		for e := range ps.All(t.Context()) {
			if e.Used.Before(began) || e.Used.After(time.Now().Add(time.Minute)) {
				t.Errorf("%s was used %v", e.Digest, e.Used)
			}
		}
		wantEntries(t, ps, want...)
		_, ps = restart()
		wantEntries(t, ps, want...)
		d := resume(t, ps, want[0].Digest)
		wantEntries(t, ps, want[1:]...)
		wantKept(t, d, want[0].Size)
		wantEntries(t, ps, want...)
		for range ps.All(t.Context()) {
			break // an early end is fine
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n := 0
		for _, err := range ps.All(ctx) {
			n++
			if !errors.Is(err, context.Canceled) {
				t.Errorf("with a cancelled context: error %v", err)
			}
		}
		if n != 1 {
			t.Errorf("%d entries with a cancelled context, want the error alone", n)
		}
	})

	for name, end := range map[string]func(cache.Partial) error{
		"suspend": func(d cache.Partial) error { _, err := d.Suspend(); return err },
		"commit":  func(d cache.Partial) error { return d.Commit(context.Background()) },
		"discard": cache.Partial.Discard,
	} {
		t.Run("readers stay over "+name, func(t *testing.T) {
			_, ps, restart := fresh(t)
			dgst, content := sample(digest.SHA256, part+5)
			d := resume(t, ps, dgst)
			must(t, d.Keep(nil))
			early, err := d.Open(t.Context())
			must(t, err)
			wantRead(t, early, "")
			writeAll(t, d, content, 0)
			must(t, end(d))
			wantRead(t, early, string(content))
			if pos, err := early.Seek(part, io.SeekStart); pos != part || err != nil {
				t.Errorf("seek: %d, %v", pos, err)
			}
			restart()
			wantRead(t, early, string(content[part:]))
			must(t, early.Close())
		})
	}

	t.Run("beside a draft of Create", func(t *testing.T) {
		blobs, ps, _ := fresh(t)
		dgst, content := sample(digest.SHA256, part)
		plain := create(t, blobs, dgst)
		d := resume(t, ps, dgst)
		must(t, d.Keep(nil))
		writeAll(t, d, content[:100], 0)
		writeAll(t, plain, content, 0)
		must(t, plain.Commit(t.Context()))
		wantKept(t, d, 100)
		wantBlob(t, blobs, dgst, string(content))
		d = resume(t, ps, dgst)
		wantHeld(t, d, content, extents.Span{Start: 0, End: 100})
		must(t, d.Discard())
		wantBlob(t, blobs, dgst, string(content))
	})

	// Several write, each from a place of its own and in odd pieces, while others
	// read and sync.
	t.Run("concurrent", func(t *testing.T) {
		blobs, ps, _ := fresh(t)
		const writers = 4
		dgst, content := sample(digest.SHA256, writers*2*part)
		d := resume(t, ps, dgst)
		must(t, d.Keep(nil))
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() { writeAll(t, d, content[:(i+1)*2*part], int64(i*2*part)) })
			wg.Go(func() {
				if err := d.Sync(t.Context()); err != nil {
					t.Error(err)
				}
				r, err := d.Open(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Error(err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		wantKept(t, d, int64(len(content)))
		d = resume(t, ps, dgst)
		wantHeld(t, d, content, extents.Span{Start: 0, End: int64(len(content))})
		must(t, d.Commit(t.Context()))
		wantBlob(t, blobs, dgst, string(content))
	})
}

// sample is content of size bytes, and its digest.
func sample(alg digest.Algorithm, size int) (digest.Digest, []byte) {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content) // never fails
	return alg.FromBytes(content), content
}

func resume(t *testing.T, ps cache.Partials, dgst digest.Digest) cache.Partial {
	t.Helper()
	d, err := ps.Resume(t.Context(), dgst)
	must(t, err)
	return d
}

// writeAll writes content from off on, in pieces that end anywhere.
func writeAll(t *testing.T, d cache.Draft, content []byte, off int64) {
	t.Helper()
	for piece := int64(1); off < int64(len(content)); piece = piece*3 + 1 {
		end := min(off+piece%(part+part/2), int64(len(content)))
		if n, err := d.WriteAt(content[off:end], off); err != nil || int64(n) != end-off {
			t.Errorf("write: %d, %v", n, err)
			return
		}
		off = end
	}
}

// wantNew checks that nothing was kept.
func wantNew(t *testing.T, d cache.Partial) {
	t.Helper()
	if len(d.Held()) != 0 || d.Note() != nil {
		t.Errorf("held %v, note %q, want nothing", d.Held(), d.Note())
	}
}

// wantKept suspends d, which has to keep as many bytes.
func wantKept(t *testing.T, d cache.Partial, want int64) {
	t.Helper()
	if kept, err := d.Suspend(); kept != want || err != nil {
		t.Errorf("suspending: %d bytes, %v, want %d", kept, err, want)
	}
}

// wantHeld checks that d holds what is wanted and nothing else.
func wantHeld(t *testing.T, d cache.Partial, content []byte, want ...extents.Span) {
	t.Helper()
	wantAtLeast(t, d, content, want...)
	if held := d.Held(); !slices.Equal(held, want) {
		t.Errorf("held %v, want %v", held, want)
	}
}

// wantAtLeast checks that d holds what is wanted, and that all it holds is as in
// content.
func wantAtLeast(t *testing.T, d cache.Partial, content []byte, want ...extents.Span) {
	t.Helper()
	r, err := d.Open(t.Context())
	must(t, err)
	defer func() { must(t, r.Close()) }()
	held := extents.Set(d.Held())
	last := int64(-1)
	for _, span := range held {
		if span.Start <= last || span.Len() == 0 || span.End > int64(len(content)) {
			t.Fatalf("held %v, which is not in order, or too much", held)
		}
		last = span.End
		got := make([]byte, span.Len())
		_, err := r.Seek(span.Start, io.SeekStart)
		must(t, err)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, content[span.Start:span.End]) {
			t.Errorf("what is held at %v is wrong, or cannot be read: %v", span, err)
		}
	}
	for _, span := range want {
		if held.EndAt(span.Start) < span.End {
			t.Errorf("held %v, want %v", held, span)
		}
	}
}

// wantEntries checks what is listed, but for times.
func wantEntries(t *testing.T, ps cache.Partials, want ...cache.PartialEntry) {
	t.Helper()
	left := make(map[digest.Digest]cache.PartialEntry)
	for _, e := range want {
		left[e.Digest] = e
	}
	for e, err := range ps.All(t.Context()) {
		must(t, err)
		w, ok := left[e.Digest]
		if !ok || e.Size != w.Size || !bytes.Equal(e.Note, w.Note) {
			t.Errorf("listed %v, want %v", e, w)
		}
		delete(left, e.Digest)
	}
	if len(left) != 0 {
		t.Errorf("not listed: %v", left)
	}
}
