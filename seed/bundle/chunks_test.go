package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
	"registry-module/seed/bundle"
)

// split writes the sample, of about 5 MiB, in chunks of 1 MiB.
func split(tb testing.TB, dir string) (file string, d bundle.Description, s *store) {
	tb.Helper()
	s, roots := sample(tb, 1_000_000)
	file, d = splitOf(tb, dir, s, roots)
	return file, d, s
}

func splitOf(tb testing.TB, dir string, s *store, roots []bundle.Image) (file string, d bundle.Description) {
	tb.Helper()
	d = describe(tb, s, roots, bundle.DescribeOptions{})
	file = filepath.Join(dir, "site.tar")
	if err := bundle.WriteFile(context.Background(), file, d, s, bundle.FileOptions{ChunkSize: 1 << 20}); err != nil {
		tb.Fatal(err)
	}
	return file, d
}

// The chunks are the tar, their sums are right, and the head is a tar of its own.
func TestChunks(t *testing.T) {
	dir := t.TempDir()
	file, d, s := split(t, dir)
	var joined []byte
	var found []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, strings.TrimPrefix(e.Name(), "site.tar"))
		if !strings.HasPrefix(e.Name(), "site.tar.0") {
			continue
		}
		p, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > 1<<20 {
			t.Errorf("%s has %d bytes", e.Name(), len(p))
		}
		joined = append(joined, p...)
	}
	if want := []string{".001", ".002", ".003", ".004", ".005", ".head", ".sums"}; !slices.Equal(found, want) {
		t.Errorf("files %q, want %q", found, want)
	}
	if !bytes.Equal(joined, written(t, d, s, bundle.WriteOptions{})) {
		t.Error("the chunks are not the tar")
	}
	check := exec.Command("sha256sum", "-c", "--strict", file+".sums")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK") != 6 {
		t.Errorf("sha256sum: %v, %s", err, out)
	}
	if out, err := exec.Command("tar", "tf", file+".head").CombinedOutput(); err != nil {
		t.Errorf("tar: %v, %s", err, out)
	}
}

func TestChunkSize(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	err := bundle.WriteFile(context.Background(), filepath.Join(t.TempDir(), "b"), d, s, bundle.FileOptions{ChunkSize: 1<<20 - 1})
	if err == nil || !strings.Contains(err.Error(), "1MiB") {
		t.Errorf("error %v", err)
	}
	for total, want := range map[int64]int64{1: math.MaxInt64, math.MaxInt64 / 2: math.MaxInt64, 5: 5} {
		if got := bundle.PlannedCount(total, want); got != 1 {
			t.Errorf("%d chunks of %d bytes for %d", got, want, total)
		}
	}
	// 4 GiB is one byte more than a file of FAT32 can have.
	if got := bundle.PlannedSize(10<<30, 4<<30); got >= 4<<30 || got%512 != 0 {
		t.Errorf("chunks of %d bytes", got)
	}
}

// Each way in which a chunk can be wrong costs the images that lie in it, and no others.
func TestChunkLost(t *testing.T) {
	remove := func(t *testing.T, name string) {
		t.Helper()
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(t *testing.T, name string, at int) {
		t.Helper()
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p[at] ^= 1
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flipHead := func(t *testing.T, name string) {
		t.Helper()
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		flip(t, name, bytes.Index(p, []byte("team/tool\"")))
	}
	// In this order: base and c of module, d of tool, the signature, a and b of app, with
	// 1,000,000 bytes each but the signature.
	shared, roots := sample(t, 1_000_000)
	const module, tool = "mcr.example.com/azure/module:1", "quay.example:5000/team/tool@"
	const sig, app = "docker.io/library/app:sha256-", "docker.io/library/app:1.0"
	for name, tt := range map[string]struct {
		damage func(t *testing.T, file string)
		open   string // what is opened, beside the bundle's name
		lost   []string
		state  map[string]bundle.ChunkState
		fails  bool // it cannot be opened
	}{
		"nothing":            {damage: func(*testing.T, string) {}},
		"opened by a chunk":  {damage: func(*testing.T, string) {}, open: ".003"},
		"opened by its sums": {damage: func(*testing.T, string) {}, open: ".sums"},
		"first missing": {
			damage: func(t *testing.T, f string) { remove(t, f+".001") }, open: ".001",
			lost: []string{module, app}, state: map[string]bundle.ChunkState{"site.tar.001": bundle.ChunkMissing},
		},
		"middle missing": {
			damage: func(t *testing.T, f string) { remove(t, f+".004") },
			lost:   []string{app}, state: map[string]bundle.ChunkState{"site.tar.004": bundle.ChunkMissing},
		},
		"last missing": {
			damage: func(t *testing.T, f string) { remove(t, f+".005") },
			lost:   []string{app}, state: map[string]bundle.ChunkState{"site.tar.005": bundle.ChunkMissing},
		},
		"all but the last missing": {
			damage: func(t *testing.T, f string) {
				for i := 1; i < 5; i++ {
					remove(t, fmt.Sprintf("%s.%03d", f, i))
				}
			},
			lost: []string{module, tool, sig, app},
		},
		"flipped": {
			damage: func(t *testing.T, f string) { flip(t, f+".003", 500_000) },
			lost:   []string{tool}, state: map[string]bundle.ChunkState{"site.tar.003": bundle.ChunkDamaged},
		},
		"flipped without sums": {
			damage: func(t *testing.T, f string) { flip(t, f+".003", 500_000); remove(t, f+".sums") },
			lost:   []string{tool},
		},
		"truncated": {
			damage: func(t *testing.T, f string) {
				if err := os.Truncate(f+".005", 100); err != nil {
					t.Fatal(err)
				}
			},
			lost: []string{app}, state: map[string]bundle.ChunkState{"site.tar.005": bundle.ChunkSize},
		},
		"two exchanged": {
			damage: func(t *testing.T, f string) {
				for _, r := range [][2]string{{".002", ".x"}, {".003", ".002"}, {".x", ".003"}} {
					if err := os.Rename(f+r[0], f+r[1]); err != nil {
						t.Fatal(err)
					}
				}
			},
			lost:  []string{module, tool, sig, app},
			state: map[string]bundle.ChunkState{"site.tar.002": bundle.ChunkDamaged, "site.tar.003": bundle.ChunkDamaged},
		},
		"head damaged": {
			damage: func(t *testing.T, f string) { flipHead(t, f+".001") },
			state:  map[string]bundle.ChunkState{"site.tar.001": bundle.ChunkDamaged},
		},
		"no copy of the head": {damage: func(t *testing.T, f string) { remove(t, f+".head") }},
		"no copy of the head, one missing": {
			damage: func(t *testing.T, f string) { remove(t, f+".head"); remove(t, f+".005") },
			lost:   []string{app}, state: map[string]bundle.ChunkState{"site.tar.005": bundle.ChunkMissing},
		},
		"first and head missing": {damage: func(t *testing.T, f string) { remove(t, f+".001"); remove(t, f+".head") }, fails: true},
		"head damaged twice":     {damage: func(t *testing.T, f string) { flipHead(t, f+".001"); flipHead(t, f+".head") }, fails: true},
		"a directory for a chunk": {
			damage: func(t *testing.T, f string) {
				remove(t, f+".005")
				if err := os.Mkdir(f+".005", 0o700); err != nil {
					t.Fatal(err)
				}
			},
			lost: []string{app}, state: map[string]bundle.ChunkState{"site.tar.005": bundle.ChunkMissing},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.content = shared.content
			file, d := splitOf(t, t.TempDir(), s, roots)
			tt.damage(t, file)
			b, err := bundle.Open(file+tt.open, bundle.OpenOptions{})
			if tt.fails {
				if !errors.Is(err, bundle.ErrInvalid) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.Close() }()
			to := newSink(t)
			r, err := bundle.Load(context.Background(), to, b, bundle.LoadOptions{})
			if (len(tt.lost) > 0) != errors.Is(err, bundle.ErrPartly) || len(tt.lost) == 0 && err != nil {
				t.Errorf("error %v", err)
			}
			want := slices.DeleteFunc(names(d), func(n string) bool {
				return slices.ContainsFunc(tt.lost, func(l string) bool { return strings.HasPrefix(n, l) })
			})
			if !sameSet(to.images, want) || len(r.Failed) != len(tt.lost) {
				t.Errorf("images %q, want %q; failed %v", to.images, want, r.Failed)
			}
			for _, c := range b.Chunks() {
				want, wrong := tt.state[c.Name]
				if wrong && c.State != want || !wrong && c.State != bundle.ChunkPresent && tt.state != nil {
					t.Errorf("chunk %+v, want it %s", c, want)
				}
				if wrong && len(tt.lost) > 0 && !strings.Contains(err.Error(), c.Name) {
					t.Errorf("the error does not name %s: %v", c.Name, err)
				}
			}
			// What is lost can be brought later.
			again, err := bundle.Load(context.Background(), to, stream(t, written(t, d, s, bundle.WriteOptions{})), bundle.LoadOptions{})
			if err != nil || len(again.Images) != len(d.Images) {
				t.Errorf("later: %v", err)
			}
		})
	}
}

// Whichever operation of the file system fails, even if none happens any more, and if the
// power is lost then: nothing that is left looks complete, unless it is, and the next run
// comes to the right end.
func TestWriteFileFails(t *testing.T) {
	for mode, of := range map[durabletest.Mode]string{durabletest.Absent: "absent", durabletest.Done: "done", durabletest.Dead: "dead"} {
		for name, tt := range map[string]struct {
			layer int
			size  int64
			files int
		}{
			"whole": {layer: 3000, files: 3},
			"split": {layer: 212_000, size: 1 << 20, files: 5},
		} {
			t.Run(name+", "+of, func(t *testing.T) {
				t.Parallel()
				s, roots := sample(t, tt.layer)
				d := describe(t, s, roots, bundle.DescribeOptions{})
				o := bundle.FileOptions{ChunkSize: tt.size}
				rnd := rand.New(rand.NewPCG(1, 2))
				for at := 0; failsAt(t, at, mode, rnd, d, s, o, tt.files); at++ {
				}
			})
		}
	}
}

// failsAt has operation at fail; it returns false where there is none.
func failsAt(t *testing.T, at int, mode durabletest.Mode, rnd *rand.Rand, d bundle.Description, s *store, o bundle.FileOptions, files int) bool {
	t.Helper()
	mem := new(durabletest.Mem)
	// An earlier run, of other content and in more files, has been killed, and one before that was not.
	for _, old := range []string{"b.txt", "b.001", "b.002", "b.004", "b.sums", "b.head", "b.003.tmp", "b.sums.tmp"} {
		f, err := mem.OpenFile("/"+old, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("old")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.SyncDir(mem, "/"); err != nil {
		t.Fatal(err)
	}
	f := &durabletest.FS{FS: mem, At: at, Mode: mode}
	o.FS = f
	err := bundle.WriteFile(context.Background(), "/b", d, s, o)
	if f.Injected() && err == nil && mode != durabletest.Dead {
		t.Errorf("the failure of operation %d went unnoticed: %q", at, f.Ops()[at])
	}
	if mode == durabletest.Dead || err == nil {
		mem = mem.Crash(rnd)
	}
	if sums, readErr := durable.ReadFile(mem, "/b.sums", 1<<20); err == nil || readErr == nil && string(sums) != "old" {
		checkSums(t, mem) // as far as it came
	}
	o.FS = mem
	if err := bundle.WriteFile(context.Background(), "/b", d, s, o); err != nil {
		t.Fatal(err)
	}
	checkSums(t, mem)
	if entries, _ := mem.ReadDir("/"); len(entries) != files {
		t.Errorf("operation %d: %v is there, want %d files", at, entries, files)
	}
	return f.Injected()
}

// checkSums compares what b.sums names with it.
func checkSums(t *testing.T, mem *durabletest.Mem) {
	t.Helper()
	sums, err := durable.ReadFile(mem, "/b.sums", 1<<20)
	if err != nil || len(sums) == 0 {
		t.Errorf("sums: %q, %v", sums, err)
	}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		content, err := durable.ReadFile(mem, "/"+name, 1<<30)
		if err != nil || digest.FromBytes(content).Encoded() != sum {
			t.Errorf("%s does not have its sum: %v", name, err)
		}
	}
}

// What is only called like a chunk is not taken for one of an earlier bundle and removed.
func TestNotAChunk(t *testing.T) {
	for name, size := range map[string]int64{"whole": 0, "split": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			s, roots := sample(t, 3000)
			d := describe(t, s, roots, bundle.DescribeOptions{})
			mem := new(durabletest.Mem)
			if err := durable.WriteFile(mem, "/b.2026", []byte("mine")); err != nil {
				t.Fatal(err)
			}
			for range 2 - min(1, size) { // behind a bundle that was split it is not known
				if err := bundle.WriteFile(context.Background(), "/b", d, s, bundle.FileOptions{ChunkSize: size, FS: mem}); err != nil {
					t.Fatal(err)
				}
			}
			if p, err := durable.ReadFile(mem, "/b.2026", 100); err != nil || string(p) != "mine" {
				t.Errorf("%q, %v", p, err)
			}
		})
	}
}

// Chunks that come on several media can be linked into one directory, and what is no file
// is no chunk, without waiting for anybody.
func TestChunkIsNoFile(t *testing.T) {
	file, d, _ := split(t, t.TempDir())
	moved := filepath.Join(t.TempDir(), "c")
	if err := os.Rename(file+".002", moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(moved, file+".002"); err != nil {
		t.Fatal(err)
	}
	load := func(lost int) {
		t.Helper()
		b, err := bundle.Open(file, bundle.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Close() }()
		to := newSink(t)
		if _, err := bundle.Load(context.Background(), to, b, bundle.LoadOptions{}); (err != nil) != (lost > 0) || len(to.images) != len(d.Images)-lost {
			t.Errorf("error %v, %d images", err, len(to.images))
		}
	}
	load(0)
	if err := os.Remove(file + ".005"); err != nil {
		t.Fatal(err)
	}
	for _, fifo := range []string{file + ".005", filepath.Join(filepath.Dir(file), "pipe")} {
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load(1)
	if _, err := bundle.Open(filepath.Join(filepath.Dir(file), "pipe"), bundle.OpenOptions{}); !errors.Is(err, durable.ErrNotFile) {
		t.Errorf("error %v for a named pipe", err)
	}
}

// A name that looks like that of a chunk may be that of a whole file.
func TestNameLikeChunk(t *testing.T) {
	s, roots := sample(t, 3000)
	d := describe(t, s, roots, bundle.DescribeOptions{})
	file := filepath.Join(t.TempDir(), "site.2026")
	if err := bundle.WriteFile(context.Background(), file, d, s, bundle.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"whole": -1, "truncated": 20_000} {
		t.Run(name, func(t *testing.T) {
			if size > 0 {
				if err := os.Truncate(file, size); err != nil {
					t.Fatal(err)
				}
			}
			b, err := bundle.Open(file, bundle.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.Close() }()
			if len(b.Description().Images) != 4 {
				t.Errorf("%+v", b.Description())
			}
		})
	}
}

func TestOpenNothing(t *testing.T) {
	dir := t.TempDir()
	_, err := bundle.Open(filepath.Join(dir, "b"), bundle.OpenOptions{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "b.001") {
		t.Errorf("error %v", err)
	}
	if _, err := bundle.Open(dir, bundle.OpenOptions{}); !errors.Is(err, durable.ErrNotFile) {
		t.Errorf("error %v for a directory", err)
	}
}
