package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// onDisk is a cache over a directory, with a remote that breaks off in the middle
// of each blob.
type onDisk struct {
	cache *cache.Cache
	store *disk.Store
}

const (
	faultySize  = 2*cache.PartSize + 1000
	faultyLimit = 2 * faultySize
)

// openOnDisk starts a process. What of it fails is not there.
func openOnDisk(ctx context.Context, dir, boot string, fsys durable.FS, index cache.Index, up cache.Upstream) (s onDisk, err error) {
	s.store, err = disk.Open(dir, disk.Options{FS: fsys, BootID: func() string { return boot }})
	if err != nil {
		return s, err
	}
	s.cache, err = cache.New(ctx, cache.Options{
		Blobs: s.store, Partials: s.store.Partials(), Refs: s.store.Refs(), Index: index,
		Remotes: []cache.Remote{{Host: up.Host(), Upstream: up, RetryFor: time.Minute}},
		MaxSize: faultyLimit,
	})
	return s, err
}

// stop ends a process, in whatever state it is.
func (s onDisk) stop(t *testing.T) {
	t.Helper()
	if s.cache != nil {
		must(t, s.cache.Close())
	}
	if s.store != nil {
		must(t, s.store.Close())
	}
}

// repository is repository a.
func (s onDisk) repository() *cache.Repository {
	r, ok := s.cache.Repository(cache.Place{Host: new(cachetest.Upstream).Host(), Repo: "a"})
	if !ok {
		panic("there is no remote")
	}
	return r
}

// pull reads a blob of repository a.
func (s onDisk) pull(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	b, err := s.repository().OpenBlob(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.Close() }() // it was only read
	return io.ReadAll(b)
}

// wantRoom pulls a blob of repository a, which is to be stored. Until done is called, it
// is in use and not removed.
func (s onDisk) wantRoom(t *testing.T, failed string, dgst digest.Digest, content []byte) (done func()) {
	t.Helper()
	b, err := s.repository().OpenBlob(t.Context(), dgst)
	if err != nil {
		t.Errorf("%s fails: the next pull: %v", failed, err)
		return func() {}
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%s fails: the next pull: %d bytes of %d, or other ones, %v", failed, len(got), len(content), err)
	}
	synctest.Wait()
	stored, err := s.repository().CachedBlob(t.Context(), dgst)
	if err != nil {
		t.Errorf("%s fails: the next pull has stored nothing: %v", failed, err)
		stored = b
	}
	return func() { _, _ = stored.Close(), b.Close() } // they were only read
}

// wantNoRoom pulls a blob for which there is none.
func (s onDisk) wantNoRoom(t *testing.T, failed string, dgst digest.Digest) {
	t.Helper()
	if _, err := s.pull(t.Context(), dgst); err != nil {
		t.Errorf("%s fails: a pull without room: %v", failed, err)
	}
	synctest.Wait()
	if b, err := s.store.Open(t.Context(), dgst); err == nil {
		t.Errorf("%s fails: more is stored than the limit allows", failed)
		must(t, b.Close())
	}
}

// Each operation on the file system fails in turn while a blob is pulled, whose
// download breaks off once and goes on: the client gets it all the same. No space
// is lost, and after a restart everything is right, whatever it has left.
func TestFileSystemFails(t *testing.T) {
	for name, fault := range map[string]struct {
		mode durabletest.Mode
		err  error
	}{
		"not done":                   {durabletest.Absent, nil},
		"done all the same, or half": {durabletest.Done, nil},
		"disk full":                  {durabletest.Absent, syscall.ENOSPC},
		"half, disk full":            {durabletest.Done, syscall.ENOSPC},
		"over quota":                 {durabletest.Absent, syscall.EDQUOT},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 0; ; at++ {
				fails := false
				synctest.Test(t, func(t *testing.T) { fails = failAt(t, at, fault.mode, fault.err, nil) })
				if !fails {
					return
				}
			}
		})
	}
}

// The power is cut at each operation, and what was not synced is lost, or not.
func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for at := 0; ; at++ {
		fails := false
		for range 5 {
			synctest.Test(t, func(t *testing.T) { fails = failAt(t, at, durabletest.Dead, nil, rnd) })
		}
		if !fails {
			return
		}
	}
}

// failAt has one operation fail, and tells whether it came to that. Where rnd is
// given, the power goes with it.
func failAt(t *testing.T, at int, mode durabletest.Mode, err error, rnd *rand.Rand) (failed bool) {
	dir, index := t.TempDir(), new(cachetest.Index)
	content, other := randomBytes(faultySize), randomBytes(faultyLimit-faultySize)
	up := &cachetest.Upstream{Answer: func(_ int, part cache.BlobPart, s *cache.BlobStream) error {
		if part.Offset == 0 && s.Length > 300_000 {
			cutAfter(s, 300_000)
		}
		return nil
	}}
	dgst, otherDgst, tooMuch := up.AddBlob("a", content), up.AddBlob("a", other), up.AddBlob("a", []byte("more than fits"))
	mem := new(durabletest.Mem)
	faulty := &durabletest.FS{FS: mem, At: at, Mode: mode, Err: err}
	what := func() string {
		ops := faulty.Ops()
		if at >= len(ops) {
			return "nothing"
		}
		return fmt.Sprintf("%q (operation %d)", ops[at], at)
	}

	s, openErr := openOnDisk(t.Context(), dir, "1", faulty, index, up)
	if openErr == nil {
		got, err := s.pull(t.Context(), dgst)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s fails: %d bytes of %d came, or other ones, %v", what(), len(got), len(content), err)
		}
		synctest.Wait()
		if faulty.Injected() && mode != durabletest.Dead {
			// Both fit exactly: room that was lost to the failure would be missing.
			defer s.wantRoom(t, what(), dgst, content)()
			defer s.wantRoom(t, what(), otherDgst, other)()
			s.wantNoRoom(t, what(), tooMuch)
		}
	}
	s.stop(t)
	boot := "1"
	if rnd != nil {
		mem, boot, index = mem.Crash(rnd), "2", new(cachetest.Index)
	}

	before := up.Sent()
	s, err = openOnDisk(t.Context(), dir, boot, mem, index, up)
	if err != nil {
		t.Fatalf("%s fails: opening again: %v", what(), err)
	}
	synctest.Wait() // what is over the watermark is gone before somebody asks for it
	for _, blob := range []struct {
		dgst    digest.Digest
		content []byte
	}{{dgst, content}, {otherDgst, other}} {
		defer s.wantRoom(t, what()+", and after a restart", blob.dgst, blob.content)()
	}
	s.wantNoRoom(t, what()+", and after a restart", tooMuch)
	if again := up.Sent() - before; again > faultyLimit+100 {
		t.Errorf("%s fails, after a restart: %d bytes came, of %d that there are", what(), again, faultyLimit)
	}
	for e, err := range s.store.All(t.Context()) {
		must(t, err)
		b, err := s.store.Open(t.Context(), e.Digest)
		must(t, err)
		p, err := io.ReadAll(b)
		must(t, err)
		must(t, b.Close())
		if digest.FromBytes(p) != e.Digest {
			t.Errorf("%s fails: what is stored as %s is something else", what(), e.Digest)
		}
	}
	if left, err := mem.ReadDir(filepath.Join(dir, "partial")); err != nil || len(left) != 0 {
		t.Errorf("%s fails: %v is left, %v", what(), left, err)
	}
	s.stop(t)
	return faulty.Injected()
}
