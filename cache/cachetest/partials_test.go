package cachetest_test

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

func fakes() (*cachetest.Blobs, *cachetest.Partials) {
	blobs := new(cachetest.Blobs)
	return blobs, &cachetest.Partials{Blobs: blobs}
}

func resume(t *testing.T, ps *cachetest.Partials, dgst digest.Digest) cache.Partial {
	t.Helper()
	d, err := ps.Resume(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func write(t *testing.T, d cache.Draft, s string, off int64) {
	t.Helper()
	if n, err := d.WriteAt([]byte(s), off); n != len(s) || err != nil {
		t.Fatalf("writing: %d, %v", n, err)
	}
}

// What no correct cache does is not passed over.
func TestFakesPanic(t *testing.T) {
	dgst := digest.FromString("right")
	for name, do := range map[string]func(t *testing.T, blobs *cachetest.Blobs, ps *cachetest.Partials){
		"wrong content": func(t *testing.T, _ *cachetest.Blobs, ps *cachetest.Partials) {
			d := resume(t, ps, dgst)
			write(t, d, "wrong", 0)
			_ = d.Commit(t.Context())
		},
		"two at a time": func(t *testing.T, _ *cachetest.Blobs, ps *cachetest.Partials) {
			resume(t, ps, dgst)
			resume(t, ps, dgst)
		},
		"other bytes": func(t *testing.T, _ *cachetest.Blobs, ps *cachetest.Partials) {
			d := resume(t, ps, dgst)
			write(t, d, "rig", 0)
			write(t, d, "ight", 1)
			write(t, d, "ightt", 1)
			write(t, d, "gg", 2)
		},
		"other bytes than were held": func(t *testing.T, _ *cachetest.Blobs, ps *cachetest.Partials) {
			d := resume(t, ps, dgst)
			if err := d.Keep(nil); err != nil {
				t.Error(err)
			}
			write(t, d, "rig", 0)
			if _, err := d.Suspend(); err != nil {
				t.Error(err)
			}
			write(t, resume(t, ps, dgst), "x", 0)
		},
		"other bytes in a draft": func(t *testing.T, blobs *cachetest.Blobs, _ *cachetest.Partials) {
			d, err := blobs.Create(t.Context(), dgst)
			if err != nil {
				t.Error(err)
			}
			write(t, d, "rig", 0)
			write(t, d, "x", 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			blobs, ps := fakes()
			do(t, blobs, ps)
		})
	}
}

// Bytes that are not held any more may come in another form.
func TestFakeForgetsWhatIsNotHeld(t *testing.T) {
	_, ps := fakes()
	dgst := digest.FromString("right")
	d := resume(t, ps, dgst)
	if err := d.Keep(nil); err != nil {
		t.Fatal(err)
	}
	write(t, d, "wrong", 0)
	ps.Restart()
	d = resume(t, ps, dgst)
	write(t, d, "right", 0)
	if err := d.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

// Drafts are counted until they end, in whatever way, and after a restart those of
// before are dead.
func TestFakeCountsDrafts(t *testing.T) {
	blobs, ps := fakes()
	want := func(n int) {
		t.Helper()
		if got := blobs.Drafts(); got != n {
			t.Errorf("%d drafts, want %d", got, n)
		}
	}
	one, two, three := digest.FromString("1"), digest.FromString("2"), digest.FromString("3")
	plain, err := blobs.Create(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := resume(t, ps, one), resume(t, ps, two), resume(t, ps, three)
	want(4)
	write(t, a, "1", 0)
	if err := a.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	want(3)
	if err := errors.Join(a.Discard(), b.Discard(), b.Discard()); err != nil {
		t.Error(err)
	}
	want(2)
	if err := c.Keep(nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Suspend(); err != nil {
		t.Error(err)
	}
	want(1)
	late := resume(t, ps, three)
	ps.Restart()
	want(0)
	if _, err := late.WriteAt([]byte("3"), 0); err == nil {
		t.Error("a draft of before the restart is written")
	}
	if err := plain.Commit(t.Context()); err == nil {
		t.Error("a draft of before the restart is committed")
	}
	resume(t, ps, three)
	if err := errors.Join(plain.Discard(), late.Discard()); err != nil {
		t.Error(err)
	}
	if _, err := late.Suspend(); err != nil {
		t.Error(err)
	}
	want(1)
}

func TestFakeFails(t *testing.T) {
	cause := errors.New("cause")
	dgst := digest.FromString("x")
	for op, do := range map[string]func(cache.Partial) error{
		"write":      func(d cache.Partial) error { _, err := d.WriteAt([]byte("x"), 0); return err },
		"open draft": func(d cache.Partial) error { _, err := d.Open(t.Context()); return err },
		"commit":     func(d cache.Partial) error { return d.Commit(t.Context()) },
		"keep":       func(d cache.Partial) error { return d.Keep(nil) },
		"sync":       func(d cache.Partial) error { return d.Sync(t.Context()) },
		"suspend":    func(d cache.Partial) error { _, err := d.Suspend(); return err },
	} {
		blobs, ps := fakes()
		d := resume(t, ps, dgst)
		blobs.Fail = func(asked string) error {
			if asked == op {
				return cause
			}
			return nil
		}
		if err := do(d); !errors.Is(err, cause) {
			t.Errorf("%s: error %v", op, err)
		}
		if err := d.Discard(); err != nil || blobs.Drafts() != 0 {
			t.Errorf("%s: discarding: %v, %d drafts", op, err, blobs.Drafts())
		}
	}
	blobs, ps := fakes()
	blobs.Fail = func(string) error { return cause }
	if _, err := ps.Resume(t.Context(), dgst); !errors.Is(err, cause) {
		t.Errorf("create: error %v", err)
	}
}
