package durabletest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// Many random operations have the same results as on the operating system's file
// system.
func TestMemIsLikeOS(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	mem := newMem(t, dir)
	names := []string{"a", "b", "a/x", "a/y", "b/x", "a/x/z"}
	name := func() string { return filepath.Join(dir, names[rnd.IntN(len(names))]) }
	for range 5000 {
		var op func(durable.FS) (string, error)
		one, two, flag := name(), name(), []int{os.O_RDWR, os.O_RDWR | os.O_CREATE, os.O_RDWR | os.O_CREATE | os.O_EXCL,
			os.O_WRONLY | os.O_CREATE | os.O_TRUNC, os.O_WRONLY | os.O_CREATE | os.O_APPEND, os.O_RDONLY}[rnd.IntN(6)]
		off, content := rnd.Int64N(10), []byte("abcdefgh")[:rnd.IntN(8)]
		switch rnd.IntN(6) {
		case 0:
			op = func(f durable.FS) (string, error) { return "", f.Mkdir(one, 0o755) }
		case 1:
			op = func(f durable.FS) (string, error) { return "", f.Remove(one) }
		case 2:
			if info, err := os.Stat(one); err == nil && info.IsDir() {
				continue // Mem does not
			}
			op = func(f durable.FS) (string, error) { return "", f.Rename(one, two) }
		case 3:
			op = func(f durable.FS) (string, error) {
				entries, err := f.ReadDir(one)
				return fmt.Sprint(entries), err
			}
		default:
			op = func(f durable.FS) (string, error) { return useFile(f, one, flag, off, content) }
		}
		got, gotErr := op(mem)
		want, wantErr := op(durable.OS{})
		if got != want || kind(gotErr) != kind(wantErr) {
			t.Fatalf("%q, %v, want %q, %v", got, gotErr, want, wantErr)
		}
	}
}

func newMem(t *testing.T, dir string) *durabletest.Mem {
	t.Helper()
	mem := new(durabletest.Mem)
	if err := new(durable.Dirs).MkdirAll(mem, dir); err != nil {
		t.Fatal(err)
	}
	return mem
}

// useFile opens a file, uses it, and tells what it has seen.
func useFile(fsys durable.FS, name string, flag int, off int64, content []byte) (string, error) {
	f, err := fsys.OpenFile(name, flag, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	var log strings.Builder
	see := func(n int64, err error) { fmt.Fprintln(&log, n, kind(err)) }
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return "directory", nil
	}
	fmt.Fprintln(&log, info.Name(), info.Size(), info.Mode().Type())
	if flag != os.O_RDONLY {
		n, err := f.WriteAt(content, off)
		see(int64(n), err)
		n, err = f.Write(content)
		see(int64(n), err)
	}
	see(f.Seek(off, io.SeekStart))
	see(f.Seek(-1, io.SeekCurrent))
	see(f.Seek(off-5, io.SeekEnd))
	if flag&os.O_WRONLY == 0 {
		buf := make([]byte, 5)
		n, err := f.ReadAt(buf, off)
		see(int64(n), err)
		rest, err := io.ReadAll(f)
		fmt.Fprintln(&log, string(buf), string(rest), err)
	}
	see(0, f.Sync())
	see(0, f.Close())
	see(0, f.Close())
	return log.String(), nil
}

// kind is what an error is, as far as callers tell errors apart.
func kind(err error) string {
	for _, kind := range []error{fs.ErrNotExist, fs.ErrClosed, io.EOF} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	if err != nil {
		return "another error"
	}
	return ""
}

// What was synced is never lost, and all that was not can be, and need not be.
func TestCrash(t *testing.T) {
	const blocks = 3 * 4096
	old, now := bytes.Repeat([]byte("o"), blocks), bytes.Repeat([]byte("n"), 2*blocks)
	write := func(m *durabletest.Mem, name string, content []byte, sync bool) {
		f, err := m.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		do   func(m *durabletest.Mem)
		want []string // all outcomes, each has to come
	}{
		"synced": {
			func(m *durabletest.Mem) { write(m, "/d/f", old, true); check(durable.SyncDir(m, "/d")) },
			[]string{"f=OOO"},
		},
		"name not synced": {
			func(m *durabletest.Mem) { write(m, "/d/f", old, true) },
			[]string{"", "f=OOO"},
		},
		"directory not synced": {
			func(m *durabletest.Mem) { check(m.Mkdir("/d/e", 0o755)) },
			[]string{"", "e/"},
		},
		"renamed": {
			func(m *durabletest.Mem) {
				write(m, "/d/f", old, true)
				check(m.Rename("/d/f", "/d/g"))
			},
			[]string{"", "f=OOO", "g=OOO"},
		},
		"renamed elsewhere and synced there": {
			func(m *durabletest.Mem) {
				check(m.Mkdir("/e", 0o755))
				write(m, "/e/f", old, true)
				check(m.Rename("/e/f", "/d/g"))
				check(durable.SyncDir(m, "/d"))
			},
			[]string{"g=OOO"},
		},
		"replaced": {
			func(m *durabletest.Mem) {
				check(durable.WriteFile(m, "/d/f", old))
				write(m, "/d/g", now[:4096], true)
				check(m.Rename("/d/g", "/d/f"))
			},
			[]string{"f=OOO", "f=OOO g=N", "f=N"},
		},
		"removed": {
			func(m *durabletest.Mem) {
				check(durable.WriteFile(m, "/d/f", old))
				check(m.Remove("/d/f"))
			},
			[]string{"", "f=OOO"},
		},
		"bytes not synced": {
			func(m *durabletest.Mem) {
				check(durable.WriteFile(m, "/d/f", old[:4096]))
				write(m, "/d/f", now[:2*4096], false)
			},
			[]string{"f=O", "f=N", "f=O0", "f=N0", "f=ON", "f=NN"},
		},
		"truncated": {
			func(m *durabletest.Mem) {
				check(durable.WriteFile(m, "/d/f", old[:4096]))
				f, err := m.OpenFile("/d/f", os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0)
				check(err)
				check(f.Close())
			},
			[]string{"f=", "f=O", "f=0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMem(t, "/d")
			tt.do(m)
			seen := make(map[string]bool)
			for seed := range uint64(1000) {
				left := tree(t, m.Crash(rand.New(rand.NewPCG(seed, 0))), "/d")
				if left != "?" && !slices.Contains(tt.want, left) {
					t.Fatalf("seed %d leaves %q, want one of %q", seed, left, tt.want)
				}
				seen[left] = true
			}
			for _, want := range tt.want {
				if !seen[want] {
					t.Errorf("%q never comes", want)
				}
			}
		})
	}
}

// tree tells what is in dir: names, and a letter for each block; "?" where a file
// does not end with a block.
func tree(t *testing.T, m *durabletest.Mem, dir string) string {
	t.Helper()
	entries, err := m.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name()+"/")
			continue
		}
		content, err := durable.ReadFile(m, filepath.Join(dir, e.Name()), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(content)%4096 != 0 {
			return "?"
		}
		s := e.Name() + "="
		for b := range slices.Chunk(content, 4096) {
			if strings.Trim(string(b), string(b[:1])) != "" {
				t.Fatalf("a block of %s is mixed", e.Name())
			}
			s += map[byte]string{0: "0", 'o': "O", 'n': "N"}[b[0]]
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}
