package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
	"registry-module/internal/extents"
)

const part = cache.PartSize

// partialContent has two parts and a bit, no two bytes of which that are a part
// apart are the same. They are not to be modified.
var partialContent = sync.OnceValues(func() ([]byte, digest.Digest) {
	content := make([]byte, 2*part+1000)
	for i := range content {
		content[i] = byte(i%251 + i/part)
	}
	return content, digest.FromBytes(content)
})

func boot(id string) func() string { return func() string { return id } }

func openWith(t *testing.T, dir string, fsys durable.FS, id string) *disk.Store {
	t.Helper()
	s, err := disk.Open(dir, disk.Options{FS: fsys, BootID: boot(id)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func resume(t *testing.T, s *disk.Store, dgst digest.Digest) cache.Partial {
	t.Helper()
	p, err := s.Partials().Resume(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// keepParts has an earlier process, under the boot id id, download all of it and
// be stopped. It returns the two files.
func keepParts(t *testing.T, dir, id string) (data, journal string) {
	t.Helper()
	content, dgst := partialContent()
	s := openWith(t, dir, nil, id)
	p := resume(t, s, dgst)
	check(t, p.Keep([]byte("note")))
	writeAt(t, p, content, 0)
	if kept, err := p.Suspend(); err != nil || kept != int64(len(content)) {
		t.Fatalf("suspending: %d, %v", kept, err)
	}
	check(t, s.Close())
	data = filepath.Join(dir, "partial", "sha256-"+dgst.Encoded())
	return data, data + ".journal"
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, d cache.Draft, p []byte, off int64) {
	t.Helper()
	if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("writing: %d, %v", n, err)
	}
}

// alter changes one byte of a file.
func alter(t *testing.T, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	check(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	check(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, off)
	check(t, err)
	check(t, f.Close())
}

// Bytes are compared when the kernel was restarted since, or may have been, and
// only then.
func TestBytesAreComparedAfterReboot(t *testing.T) {
	_, dgst := partialContent()
	all := []extents.Span{{Start: 0, End: 2*part + 1000}}
	without := []extents.Span{{Start: 0, End: part}, {Start: 2 * part, End: 2*part + 1000}}
	for name, tt := range map[string]struct {
		before, now string
		alter       int64
		want        []extents.Span
	}{
		"same boot":             {"a", "a", part + 5, all},
		"other boot":            {"a", "b", part + 5, without},
		"other boot, last part": {"a", "b", 2*part + 999, []extents.Span{{Start: 0, End: 2 * part}}},
		"boot not known now":    {"a", "", part + 5, without},
		"boot not known before": {"", "a", part + 5, without},
		"boot never known":      {"", "", part + 5, without},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data, _ := keepParts(t, dir, tt.before)
			alter(t, data, tt.alter)
			p := resume(t, openWith(t, dir, nil, tt.now), dgst)
			if held := p.Held(); !slices.Equal(held, tt.want) {
				t.Errorf("held %v, want %v", held, tt.want)
			}
			check(t, p.Discard())
		})
	}
}

// Once they were compared, they need not be again until the kernel is restarted
// once more. Records of an earlier boot are not vouched for by that of a later one.
func TestComparedOnce(t *testing.T) {
	dir := t.TempDir()
	content, dgst := partialContent()
	data, journal := keepParts(t, dir, "a")
	alter(t, data, 5)
	s := openWith(t, dir, nil, "b")
	p := resume(t, s, dgst)
	writeAt(t, p, content[:100], 0) // what was dropped is fetched again
	_, err := p.Suspend()
	check(t, err)
	check(t, s.Close())
	if text, err := os.ReadFile(journal); err != nil || !strings.Contains(string(text), " b\n") || strings.Count(string(text), "\n0 ") != 1 {
		t.Errorf("the journal is %q, %v, want it to be of this boot and without what was dropped", text, err)
	}
	alter(t, data, part)
	want := []extents.Span{{Start: 0, End: 100}, {Start: part, End: 2*part + 1000}}
	s = openWith(t, dir, nil, "b")
	p = resume(t, s, dgst)
	if held := p.Held(); !slices.Equal(held, want) {
		t.Errorf("held %v, want %v", held, want)
	}
	if string(p.Note()) != "note" {
		t.Errorf("note %q", p.Note())
	}
	_, err = p.Suspend()
	check(t, err)
	check(t, s.Close())
	p = resume(t, openWith(t, dir, nil, "c"), dgst)
	want = []extents.Span{{Start: 0, End: 100}, {Start: 2 * part, End: 2*part + 1000}}
	if held := p.Held(); !slices.Equal(held, want) {
		t.Errorf("held %v after another boot, want %v", held, want)
	}
	check(t, p.Discard())
}

// Where the bytes are fewer than the journal says, or none of them is right, the
// rest is kept, or nothing.
func TestDamagedPartials(t *testing.T) {
	_, dgst := partialContent()
	for name, tt := range map[string]struct {
		damage func(t *testing.T, data, journal string)
		want   []extents.Span
		anew   bool
	}{
		"cut":          {func(t *testing.T, data, _ string) { check(t, os.Truncate(data, 2*part+999)) }, []extents.Span{{Start: 0, End: 2 * part}}, false},
		"emptied":      {func(t *testing.T, data, _ string) { check(t, os.Truncate(data, 0)) }, nil, true},
		"no data":      {func(t *testing.T, data, _ string) { check(t, os.Remove(data)) }, nil, true},
		"no journal":   {func(t *testing.T, _, journal string) { check(t, os.Remove(journal)) }, nil, true},
		"empty one":    {func(t *testing.T, _, journal string) { check(t, os.Truncate(journal, 0)) }, nil, true},
		"long journal": {func(t *testing.T, _, journal string) { check(t, os.Truncate(journal, 16<<20+1)) }, nil, true},
		"another's": {func(t *testing.T, _, journal string) {
			text, err := os.ReadFile(journal)
			check(t, err)
			writeFile(t, journal, strings.Replace(string(text), dgst.Encoded(), digest.FromString("").Encoded(), 1))
		}, nil, true},
	} {
		for when, id := range map[string]string{"same boot": "a", "other boot": "b"} {
			for _, running := range []bool{false, true} {
				t.Run(name+", "+when, func(t *testing.T) {
					dir := t.TempDir()
					data, journal := keepParts(t, dir, "a")
					var s *disk.Store
					if running { // damaged after Open
						s = openWith(t, dir, nil, id)
					}
					tt.damage(t, data, journal)
					if !running {
						s = openWith(t, dir, nil, id)
					}
					for e, err := range s.Partials().All(t.Context()) {
						if err == nil && !tt.anew && e.Size != extents.Set(tt.want).Len() {
							t.Errorf("listed %v, want %d bytes", e, extents.Set(tt.want).Len())
						}
					}
					p := resume(t, s, dgst)
					if held := p.Held(); !slices.Equal(held, tt.want) {
						t.Errorf("held %v, want %v", held, tt.want)
					}
					if anew := p.Note() == nil; anew != tt.anew {
						t.Errorf("note %q, want that it is new: %v", p.Note(), tt.anew)
					}
					if tt.anew {
						if info, err := os.Stat(data); err != nil || info.Size() != 0 {
							t.Errorf("the file is %v, %v, want it empty", info, err)
						}
					}
					check(t, p.Discard())
					if left := listPartial(t, durable.OS{}, dir); len(left) != 0 {
						t.Errorf("left: %q", left)
					}
				})
			}
		}
	}
}

func listPartial(t *testing.T, fsys durable.FS, dir string) []string {
	t.Helper()
	entries, err := fsys.ReadDir(filepath.Join(dir, "partial"))
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// What nobody can use is removed at start, and nothing else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	data, journal := keepParts(t, dir, "a")
	text, err := os.ReadFile(journal)
	check(t, err)
	other := filepath.Join(dir, "partial", "sha256-"+digest.FromString("other").Encoded())
	third := filepath.Join(dir, "partial", "sha256-"+digest.FromString("third").Encoded())
	writeFile(t, other, "no journal")
	writeFile(t, third+".journal", "no data")
	writeFile(t, other+"-ABCDEF", "a draft")
	writeFile(t, data+".journal.tmp", string(text))
	writeFile(t, filepath.Join(dir, "partial", "sha256-00"), "")
	writeFile(t, filepath.Join(dir, "partial", "sha256-00.journal"), "")
	writeFile(t, filepath.Join(dir, "partial", "README"), "")
	check(t, os.Symlink(data, third))
	fourth := filepath.Join(dir, "partial", "sha256-"+digest.FromString("fourth").Encoded())
	writeFile(t, fourth, "another's journal")
	writeFile(t, fourth+".journal", string(text))
	writeFile(t, filepath.Join(dir, "partial", "lost+found", "x"), "")
	open(t, dir)
	want := []string{"lost+found", filepath.Base(data), filepath.Base(journal)}
	if left := listPartial(t, durable.OS{}, dir); !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
}

// What follows a torn line is not lost with it.
func TestAfterTornLine(t *testing.T) {
	dir := t.TempDir()
	content, dgst := partialContent()
	_, journal := keepParts(t, dir, "a")
	text, err := os.ReadFile(journal)
	check(t, err)
	check(t, os.Truncate(journal, int64(len(text))-5))
	s := openWith(t, dir, nil, "a")
	p := resume(t, s, dgst)
	if held, want := p.Held(), []extents.Span{{Start: 0, End: 2 * part}}; !slices.Equal(held, want) {
		t.Errorf("held %v, want %v", held, want)
	}
	writeAt(t, p, content[2*part:], 2*part)
	_, err = p.Suspend()
	check(t, err)
	p = resume(t, s, dgst)
	if held, want := p.Held(), []extents.Span{{Start: 0, End: int64(len(content))}}; !slices.Equal(held, want) {
		t.Errorf("held %v, want %v", held, want)
	}
	check(t, p.Discard())
}

// The journal says nothing but what it has to.
func TestJournalFile(t *testing.T) {
	dir := t.TempDir()
	_, dgst := partialContent()
	_, journal := keepParts(t, dir, "a")
	text, err := os.ReadFile(journal)
	check(t, err)
	lines := strings.Split(string(text), "\n")
	if len(lines) != 6 || lines[0] != "partial 1 "+dgst.String()+" 262144 a" || lines[1] != `note "note"` ||
		!strings.HasPrefix(lines[2], "0 262144 ") || !strings.HasPrefix(lines[3], "262144 262144 ") ||
		!strings.HasPrefix(lines[4], "524288 1000 ") || lines[5] != "" {
		t.Errorf("the journal is %q", text)
	}
}

func TestOneUserOfAPartial(t *testing.T) {
	s := open(t, t.TempDir())
	_, dgst := partialContent()
	p := resume(t, s, dgst)
	if _, err := s.Partials().Resume(t.Context(), dgst); err == nil {
		t.Error("it is resumed twice")
	}
	check(t, p.Discard())
	check(t, resume(t, s, dgst).Discard())
	for _, bad := range []digest.Digest{"", "sha256:../x"} {
		if _, err := s.Partials().Resume(t.Context(), bad); err == nil {
			t.Errorf("%q is resumed", bad)
		}
		if err := s.Partials().Remove(t.Context(), bad); err == nil {
			t.Errorf("%q is removed", bad)
		}
	}
}

// What is kept is not thrown away for an error that may pass.
func TestResumeFailsForNow(t *testing.T) {
	_, dgst := partialContent()
	for name, journal := range map[string]bool{"data": false, "journal": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			keepParts(t, dir, "a")
			fsys := &failing{FS: durable.OS{}}
			s := openWith(t, dir, fsys, "a")
			fsys.open = func(name string) error {
				if strings.Contains(name, "partial") && strings.HasSuffix(name, ".journal") == journal {
					return syscall.EMFILE
				}
				return nil
			}
			if _, err := s.Partials().Resume(t.Context(), dgst); !errors.Is(err, syscall.EMFILE) {
				t.Errorf("error %v, want EMFILE", err)
			}
			listed := 0
			for e, err := range s.Partials().All(t.Context()) {
				listed++
				if e.Digest != dgst || !errors.Is(err, syscall.EMFILE) {
					t.Errorf("listed %v, %v", e, err)
				}
			}
			if listed != 1 {
				t.Errorf("%d are listed", listed)
			}
			fsys.open = nil
			p := resume(t, s, dgst)
			if held := p.Held(); len(held) != 1 {
				t.Errorf("held %v", held)
			}
			check(t, p.Discard())
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		dir := t.TempDir()
		keepParts(t, dir, "a")
		s := openWith(t, dir, nil, "b")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Partials().Resume(ctx, dgst); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		p := resume(t, s, dgst)
		if held := p.Held(); len(held) != 1 {
			t.Errorf("held %v", held)
		}
		check(t, p.Discard())
	})
}

// A journal that cannot be written fails no download. What it said before stays.
func TestJournalFails(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *disk.Store, p cache.Partial){
		"commit": func(t *testing.T, s *disk.Store, p cache.Partial) {
			content, dgst := partialContent()
			check(t, p.Commit(t.Context()))
			b, err := s.Open(t.Context(), dgst)
			check(t, err)
			if b.Size() != int64(len(content)) {
				t.Errorf("the blob has %d bytes", b.Size())
			}
			check(t, b.Close())
		},
		"suspend": func(t *testing.T, s *disk.Store, p cache.Partial) {
			_, dgst := partialContent()
			if err := p.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("syncing: error %v, want ENOSPC", err)
			}
			if err := p.Keep([]byte("other")); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("keeping: error %v, want ENOSPC", err)
			}
			if kept, err := p.Suspend(); kept != part || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("suspending: %d, %v, want the first part, and ENOSPC", kept, err)
			}
			p = resume(t, s, dgst)
			if held, want := p.Held(), []extents.Span{{Start: 0, End: part}}; !slices.Equal(held, want) {
				t.Errorf("held %v, want %v", held, want)
			}
			check(t, p.Discard())
		},
	} {
		t.Run(name, func(t *testing.T) {
			content, dgst := partialContent()
			fsys := &failing{FS: durable.OS{}}
			s := openWith(t, t.TempDir(), fsys, "a")
			p := resume(t, s, dgst)
			check(t, p.Keep([]byte("note")))
			writeAt(t, p, content[:part], 0)
			fsys.write = func(name string) error {
				if strings.HasSuffix(name, ".journal") {
					return syscall.ENOSPC
				}
				return nil
			}
			writeAt(t, p, content[part:2*part], part)
			fsys.write = nil
			writeAt(t, p, content[2*part:], 2*part)
			end(t, s, p)
		})
	}
}

// What could not be synced may be gone, though it can still be read, and another
// fsync finds nothing wrong. It is neither kept nor stored.
func TestSyncOfBytesFails(t *testing.T) {
	content, dgst := partialContent()
	for name, sync := range map[string]func(p cache.Partial) error{
		"sync":   func(p cache.Partial) error { return p.Sync(t.Context()) },
		"commit": func(p cache.Partial) error { return p.Commit(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fsys := &failing{FS: durable.OS{}}
			s := openWith(t, dir, fsys, "a")
			p := resume(t, s, dgst)
			check(t, p.Keep([]byte("note")))
			writeAt(t, p, content, 0)
			fsys.sync = func(name string) error {
				if strings.HasSuffix(name, dgst.Encoded()) {
					return syscall.EIO
				}
				return nil
			}
			if err := sync(p); !errors.Is(err, syscall.EIO) {
				t.Errorf("error %v, want EIO", err)
			}
			fsys.sync = nil
			if left := listPartial(t, fsys, dir); len(left) != 1 {
				t.Errorf("left: %q, want only the bytes", left)
			}
			for range 2 {
				if err := p.Commit(t.Context()); !errors.Is(err, syscall.EIO) {
					t.Errorf("committing: error %v, want EIO", err)
				}
				if err := p.Sync(t.Context()); !errors.Is(err, syscall.EIO) {
					t.Errorf("syncing: error %v, want EIO", err)
				}
				if err := p.Keep(nil); !errors.Is(err, syscall.EIO) {
					t.Errorf("keeping: error %v, want EIO", err)
				}
			}
			if kept, err := p.Suspend(); kept != 0 || !errors.Is(err, syscall.EIO) {
				t.Errorf("suspending: %d, %v", kept, err)
			}
			if left := listPartial(t, fsys, dir); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
			if _, err := s.Open(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the blob: %v", err)
			}
		})
	}
}

// A commit that fails may have moved the bytes all the same. Then there is nothing
// to keep.
func TestSuspendAfterCommit(t *testing.T) {
	content, dgst := partialContent()
	for where, want := range map[string]int64{
		dgst.Encoded():     0,                   // the directory of the blob, to which it was moved
		dgst.Encoded()[:2]: int64(len(content)), // the one above it, before that
	} {
		dir := t.TempDir()
		fsys := &failing{FS: durable.OS{}}
		s := openWith(t, dir, fsys, "a")
		p := resume(t, s, dgst)
		check(t, p.Keep(nil))
		writeAt(t, p, content, 0)
		fsys.sync = func(name string) error {
			if filepath.Base(name) == where {
				return syscall.EIO
			}
			return nil
		}
		if err := p.Commit(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Errorf("committing: error %v, want EIO", err)
		}
		fsys.sync = nil
		if kept, err := p.Suspend(); kept != want || err != nil {
			t.Errorf("suspending: %d, %v, want %d", kept, err, want)
		}
		if left := listPartial(t, fsys, dir); (len(left) == 0) != (want == 0) {
			t.Errorf("left: %q", left)
		}
		check(t, s.Close())
	}
}

// A file that cannot be closed has lost bytes: nothing of it is kept.
func TestCloseFails(t *testing.T) {
	dir := t.TempDir()
	content, dgst := partialContent()
	fsys := &failing{FS: durable.OS{}}
	s := openWith(t, dir, fsys, "a")
	p := resume(t, s, dgst)
	check(t, p.Keep(nil))
	writeAt(t, p, content, 0)
	fsys.close = func(name string) error {
		if strings.HasSuffix(name, dgst.Encoded()) {
			return syscall.EDQUOT
		}
		return nil
	}
	if kept, err := p.Suspend(); kept != 0 || !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("suspending: %d, %v", kept, err)
	}
	if left := listPartial(t, fsys, dir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// Nobody who writes waits for a sync.
func TestWriteWhileSyncing(t *testing.T) {
	content, dgst := partialContent()
	for _, which := range []string{dgst.Encoded(), ".journal", "partial"} {
		fsys := &failing{FS: durable.OS{}}
		s := openWith(t, t.TempDir(), fsys, "a")
		p := resume(t, s, dgst)
		check(t, p.Keep(nil))
		syncing, written := make(chan struct{}), make(chan struct{})
		fsys.sync = func(name string) error {
			if strings.HasSuffix(name, which) {
				close(syncing)
				<-written
			}
			return nil
		}
		done := make(chan error)
		go func() { done <- p.Sync(t.Context()) }()
		select {
		case <-syncing:
		case err := <-done:
			t.Fatalf("%s is not synced: %v", which, err)
		}
		writeAt(t, p, content, 0)
		r, err := p.Open(t.Context())
		check(t, err)
		check(t, r.Close())
		check(t, p.Keep([]byte("note")))
		close(written)
		check(t, <-done)
		fsys.sync = nil
		check(t, p.Commit(t.Context()))
	}
}

// Failed and short writes are reported, and not recorded.
func TestWriteFails(t *testing.T) {
	content, dgst := partialContent()
	fsys := &durabletest.FS{FS: durable.OS{}, At: -1, Mode: durabletest.Done, Err: syscall.ENOSPC}
	s := openWith(t, t.TempDir(), fsys, "a")
	for name, tt := range map[string]struct {
		after int // operations
		n     int
		kept  int64
	}{
		"the write":  {0, part / 2, 10},
		"its record": {1, part, 0},
	} {
		p := resume(t, s, dgst)
		check(t, p.Keep(nil))
		fsys.At = len(fsys.Ops()) + tt.after
		n, err := p.WriteAt(content[:part], 0)
		if n != tt.n || errors.Is(err, syscall.ENOSPC) != (n < part) {
			t.Errorf("%s fails: %d, %v, want %d", name, n, err, tt.n)
		}
		writeAt(t, p, content[:10], 0)
		kept, err := p.Suspend()
		if kept != tt.kept || errors.Is(err, syscall.ENOSPC) != (n == part) {
			t.Errorf("%s fails: suspending: %d, %v, want %d", name, kept, err, tt.kept)
		}
		check(t, s.Partials().Remove(t.Context(), dgst))
	}
}

func TestLongNote(t *testing.T) {
	_, dgst := partialContent()
	p := resume(t, open(t, t.TempDir()), dgst)
	if err := p.Keep(bytes.Repeat([]byte("x"), 1<<20)); err == nil {
		t.Error("a note of 1 MiB is accepted")
	}
	check(t, p.Keep(bytes.Repeat([]byte("\xff"), 16<<10)))
	check(t, p.Discard())
}

// failing is a file system whose operations a test can make fail, or wait.
type failing struct {
	durable.FS
	open, write, sync, close func(name string) error
}

func (f *failing) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if f.open != nil {
		if err := f.open(name); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &failingFile{file, f, name}, nil
}

type failingFile struct {
	durable.File
	fs   *failing
	name string
}

func (f *failingFile) Write(p []byte) (int, error) {
	if f.fs.write != nil {
		if err := f.fs.write(f.name); err != nil {
			return 0, err
		}
	}
	return f.File.Write(p)
}

func (f *failingFile) Sync() error {
	if f.fs.sync != nil {
		if err := f.fs.sync(f.name); err != nil {
			return err
		}
	}
	return f.File.Sync()
}

func (f *failingFile) Close() error {
	err := f.File.Close()
	if f.fs.close != nil {
		err = errors.Join(err, f.fs.close(f.name))
	}
	return err
}
