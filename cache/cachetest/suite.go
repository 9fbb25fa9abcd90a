package cachetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// TestIndex checks that what fresh returns keeps the contract of cache.Index.
func TestIndex(t *testing.T, fresh func(t *testing.T) cache.Index) {
	set := func(k, v string) cache.Change { return cache.Change{Key: []byte(k), Value: []byte(v)} }

	t.Run("get", func(t *testing.T) {
		x := fresh(t)
		if _, err := x.Get(t.Context(), []byte("absent")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("absent key: error %v, want fs.ErrNotExist", err)
		}
		must(t, x.Apply(t.Context(), set("k", "1"), set("empty", "")))
		must(t, x.Apply(t.Context(), set("k", "2")))
		if got, err := x.Get(t.Context(), []byte("k")); err != nil || string(got) != "2" {
			t.Errorf("k = %q, %v, want 2", got, err)
		}
		if got, err := x.Get(t.Context(), []byte("empty")); err != nil || len(got) != 0 {
			t.Errorf("empty = %q, %v, want an empty value", got, err)
		}
		must(t, x.Apply(t.Context(), cache.Change{Key: []byte("k"), Delete: true}, cache.Change{Key: []byte("absent"), Delete: true}))
		if _, err := x.Get(t.Context(), []byte("k")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("deleted key: error %v, want fs.ErrNotExist", err)
		}
	})

	t.Run("scan", func(t *testing.T) {
		x := fresh(t)
		must(t, x.Apply(t.Context(), set("a", "0"), set("b/3", "3"), set("b/1", "1"), set("b/2", "2"), set("c", "4")))
		for _, tt := range []struct {
			prefix, from string
			want         []string
		}{
			{"b/", "", []string{"b/1=1", "b/2=2", "b/3=3"}},
			{"b/", "b/2", []string{"b/2=2", "b/3=3"}},
			{"b/", "b/2\x00", []string{"b/3=3"}},
			{"b/", "c", nil},
			{"", "", []string{"a=0", "b/1=1", "b/2=2", "b/3=3", "c=4"}},
			{"absent", "", nil},
		} {
			var got []string
			for e, err := range x.Scan(t.Context(), []byte(tt.prefix), []byte(tt.from)) {
				must(t, err)
				got = append(got, fmt.Sprintf("%s=%s", e.Key, e.Value))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("scan of %q from %q: %q, want %q", tt.prefix, tt.from, got, tt.want)
			}
		}
		for range x.Scan(t.Context(), nil, nil) {
			break // an early end is fine
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range x.Scan(ctx, nil, nil) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("scan with a cancelled context: error %v", err)
			}
		}
	})
}

// TestBlobs checks that what fresh returns keeps the contract of cache.Blobs.
func TestBlobs(t *testing.T, fresh func(t *testing.T) cache.Blobs) {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run("commit "+string(alg), func(t *testing.T) {
			s := fresh(t)
			content := "growing content"
			dgst := alg.FromString(content)
			if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("before: error %v, want fs.ErrNotExist", err)
			}
			d := create(t, s, dgst)
			early, err := d.Open(t.Context())
			must(t, err)
			defer func() { must(t, early.Close()) }()
			wantRead(t, early, "")
			write(t, d, "growing ")
			wantRead(t, early, "growing ")
			if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("draft: error %v, want fs.ErrNotExist", err)
			}
			writeAt(t, d, int64(len("growing ")), "content")
			must(t, d.Commit(t.Context()))
			must(t, d.Discard()) // nothing left to discard
			wantRead(t, early, "content")
			late, err := d.Open(t.Context())
			must(t, err)
			wantRead(t, late, content)
			must(t, late.Close())
			wantBlob(t, s, dgst, content)

			again := create(t, s, dgst) // content may arrive twice
			write(t, again, content)
			must(t, again.Commit(t.Context()))
			wantBlob(t, s, dgst, content)
		})
	}

	t.Run("empty", func(t *testing.T) {
		s := fresh(t)
		dgst := digest.FromString("")
		must(t, create(t, s, dgst).Commit(t.Context()))
		wantBlob(t, s, dgst, "")
	})

	t.Run("discard", func(t *testing.T) {
		s := fresh(t)
		dgst := digest.FromString("x")
		d := create(t, s, dgst)
		write(t, d, "x")
		r, err := d.Open(t.Context())
		must(t, err)
		must(t, d.Discard())
		must(t, d.Discard())
		wantRead(t, r, "x")
		must(t, r.Close())
		if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
	})

	t.Run("remove", func(t *testing.T) {
		s := fresh(t)
		dgst := digest.FromString("x")
		must(t, s.Remove(t.Context(), dgst))
		d := create(t, s, dgst)
		write(t, d, "x")
		must(t, d.Commit(t.Context()))
		b, err := s.Open(t.Context(), dgst)
		must(t, err)
		must(t, s.Remove(t.Context(), dgst))
		wantRead(t, b, "x")
		must(t, b.Close())
		if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
	})

	t.Run("all", func(t *testing.T) {
		s := fresh(t)
		for e, err := range s.All(t.Context()) {
			t.Errorf("an empty store lists %v, %v", e, err)
		}
		want := make(map[digest.Digest]int64)
		for _, content := range []string{"", "a", "content", "removed"} {
			for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				d := create(t, s, alg.FromString(content))
				write(t, d, content)
				must(t, d.Commit(t.Context()))
				want[alg.FromString(content)] = int64(len(content))
			}
		}
		must(t, s.Remove(t.Context(), digest.FromString("removed")))
		delete(want, digest.FromString("removed"))
		draft := create(t, s, digest.FromString("draft"))
		write(t, draft, "draft")

		got := make(map[digest.Digest]int64)
		for e, err := range s.All(t.Context()) {
			must(t, err)
			if _, ok := got[e.Digest]; ok {
				t.Errorf("%s is listed twice", e.Digest)
			}
			got[e.Digest] = e.Size
		}
		if !maps.Equal(got, want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		must(t, draft.Discard())
		for range s.All(t.Context()) {
			break // an early end is fine
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n := 0
		for _, err := range s.All(ctx) {
			n++
			if !errors.Is(err, context.Canceled) {
				t.Errorf("with a cancelled context: error %v", err)
			}
		}
		if n != 1 {
			t.Errorf("%d entries with a cancelled context, want the error alone", n)
		}
	})

	t.Run("free", func(t *testing.T) {
		free, total, err := fresh(t).Free(t.Context())
		must(t, err)
		if free < 0 || total <= 0 || free > total {
			t.Errorf("free %d of %d", free, total)
		}
	})
}

// TestRefs checks that what fresh returns keeps the contract of cache.Refs.
func TestRefs(t *testing.T, fresh func(t *testing.T) cache.Refs) {
	one, two := digest.FromString("1"), digest.SHA512.FromString("2")
	all := []cache.RefEntry{
		{Ref: cache.Ref{Repo: "root", Kind: cache.RefTag, Name: "v1"}, Digest: one},
		{Ref: cache.Ref{Repo: "root", Kind: cache.RefTag, Name: "v2"}, Digest: two},
		{Ref: cache.Ref{Repo: "root", Kind: cache.RefManifest, Name: one.String()}, Digest: one},
		{Ref: cache.Ref{Repo: "root", Kind: cache.RefManifest, Name: two.String()}, Digest: two},
		{Ref: cache.Ref{Repo: "root", Kind: cache.RefLayer, Name: one.String()}, Digest: one},
		{Ref: cache.Ref{Repo: "root/below/it", Kind: cache.RefLayer, Name: one.String()}, Digest: one},
	}
	r := fresh(t)
	for _, e := range all {
		if _, err := r.Get(t.Context(), e.Ref); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v before: error %v, want fs.ErrNotExist", e.Ref, err)
		}
		must(t, r.Remove(t.Context(), e.Ref))
		must(t, r.Put(t.Context(), e.Ref, two))
		must(t, r.Put(t.Context(), e.Ref, e.Digest))
		if got, err := r.Get(t.Context(), e.Ref); err != nil || got != e.Digest {
			t.Errorf("%v: %s, %v", e.Ref, got, err)
		}
	}
	seen := make(map[cache.Ref]digest.Digest)
	for e, err := range r.All(t.Context()) {
		must(t, err)
		seen[e.Ref] = e.Digest
	}
	for _, e := range all {
		if seen[e.Ref] != e.Digest {
			t.Errorf("%v is listed as %q, want %s", e.Ref, seen[e.Ref], e.Digest)
		}
	}
	if len(seen) != len(all) {
		t.Errorf("%d references listed, want %d", len(seen), len(all))
	}
	for range r.All(t.Context()) {
		break // an early end is fine
	}
	must(t, r.Remove(t.Context(), all[0].Ref))
	if _, err := r.Get(t.Context(), all[0].Ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: error %v, want fs.ErrNotExist", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, s cache.Blobs, dgst digest.Digest) cache.Draft {
	t.Helper()
	d, err := s.Create(t.Context(), dgst)
	must(t, err)
	return d
}

func write(t *testing.T, d cache.Draft, s string) { t.Helper(); writeAt(t, d, 0, s) }

func writeAt(t *testing.T, d cache.Draft, off int64, s string) {
	t.Helper()
	n, err := d.WriteAt([]byte(s), off)
	if err != nil || n != len(s) {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Errorf("read %q, %v, want %q", got, err, want)
	}
}

func wantBlob(t *testing.T, s cache.Blobs, dgst digest.Digest, want string) {
	t.Helper()
	b, err := s.Open(t.Context(), dgst)
	must(t, err)
	if b.Size() != int64(len(want)) {
		t.Errorf("size %d, want %d", b.Size(), len(want))
	}
	wantRead(t, b, want)
	if pos, err := b.Seek(0, io.SeekStart); pos != 0 || err != nil {
		t.Errorf("seek: %d, %v", pos, err)
	}
	wantRead(t, b, want)
	must(t, b.Close())
}
