package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/index"
)

func open(t testing.TB, dir string) *index.Index {
	t.Helper()
	x, err := index.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() }) // may be closed already
	return x
}

func TestContract(t *testing.T) {
	cachetest.TestIndex(t, func(t *testing.T) cache.Index { return open(t, t.TempDir()) })
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := open(t, dir).Get(t.Context(), []byte("k")); err != nil || string(got) != "v" {
		t.Errorf("after reopening: %q, %v", got, err)
	}
}

// A database that cannot be opened is replaced by an empty one: the cache
// rebuilds it.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("no manifest of Badger's"), 0o644); err != nil {
		t.Fatal(err)
	}
	x := open(t, dir)
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Error(err)
	}
}

// A table that is not whole must not be read, although Badger would go on
// without it: with half of its entries, an index that says to be complete is
// wrong.
func TestDamagedTable(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	put(t, x, "k", "v")
	must(t, x.Close())
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables %v, %v, want one", tables, err)
	}
	p := read(t, tables[0])
	for i := range p {
		p[i] ^= 1
		must(t, os.WriteFile(tables[0], p, 0o644))
		if err := index.CheckTable(tables[0]); err == nil {
			t.Errorf("byte %d of %d is changed, and the table is good", i, len(p))
		} else if !index.Damaged(err) {
			t.Errorf("byte %d of %d: %v is no damage", i, len(p), err)
		}
		p[i] ^= 1
	}
	must(t, os.WriteFile(tables[0], p, 0o644))
	must(t, index.CheckTable(tables[0]))
}

func TestIsDamaged(t *testing.T) {
	text := func(err error) error { return fmt.Errorf("while opening memtables err: %+v", err) } // as Badger does
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"magic":                {errors.New("manifest has bad magic"), true},
		"checksum":             {fmt.Errorf("block 1: %w", io.ErrUnexpectedEOF), true},
		"missing table":        {errors.New("file does not exist for table 1"), true},
		"missing file":         {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, true},
		"missing file's text":  {text(&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}), true},
		"mapping of nothing":   {text(os.NewSyscallError("mmap", syscall.EINVAL)), true},
		"permission":           {&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, true},
		"permission's text":    {text(&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}), true},
		"a directory":          {&fs.PathError{Op: "read", Path: "x", Err: syscall.EISDIR}, true},
		"files":                {&fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}, false},
		"files' text":          {text(&fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}), false},
		"all files' text":      {text(&fs.PathError{Op: "open", Path: "x", Err: syscall.ENFILE}), false},
		"memory":               {os.NewSyscallError("mmap", syscall.ENOMEM), false},
		"memory's text, twice": {text(text(os.NewSyscallError("mmap", syscall.ENOMEM))), false},
		"full":                 {fmt.Errorf("creating: %w", syscall.ENOSPC), false},
		"full's text":          {text(&fs.PathError{Op: "truncate", Path: "x", Err: syscall.ENOSPC}), false},
		"quota":                {text(&fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}), false},
		"input/output":         {&fs.PathError{Op: "read", Path: "x", Err: syscall.EIO}, true},
		"input/output's text":  {text(&fs.PathError{Op: "read", Path: "x", Err: syscall.EIO}), true},
		"read-only":            {text(&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}), false},
		"lock": {fmt.Errorf("cannot acquire directory lock on \"x\".  Another process is using this Badger database. error: %v",
			syscall.EWOULDBLOCK), false},
	} {
		if got := index.Damaged(tt.err); got != tt.want {
			t.Errorf("%s: damaged %v, want %v", name, got, tt.want)
		}
	}
}

// What is not damage must not cost the index.
func TestNotDamaged(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	put(t, x, "k", "v")
	if _, err := index.Open(dir, nil); err == nil { // it is locked
		t.Error("an index is open twice")
	}
	if got, err := x.Get(t.Context(), []byte("k")); err != nil || string(got) != "v" {
		t.Errorf("k: %q, %v", got, err)
	}
	must(t, x.Close())
	if got, err := open(t, dir).Get(t.Context(), []byte("k")); err != nil || string(got) != "v" {
		t.Errorf("k after reopening: %q, %v", got, err)
	}
}

func TestUseAfterClose(t *testing.T) {
	x := open(t, t.TempDir())
	put(t, x, "k", "v")
	must(t, x.Close())
	must(t, x.Close())
	wantClosed(t, x)
}

func wantClosed(t *testing.T, x *index.Index) {
	t.Helper()
	if _, err := x.Get(t.Context(), []byte("k")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("get: error %v, want fs.ErrClosed", err)
	}
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k")}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("apply: error %v, want fs.ErrClosed", err)
	}
	n := 0
	for _, err := range x.Scan(t.Context(), nil, nil) {
		n++
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("scan: error %v, want fs.ErrClosed", err)
		}
	}
	if n != 1 {
		t.Errorf("scan: %d entries, want the error alone", n)
	}
}

// Close waits for a scan, which goes on, while nothing new begins, not even for
// the consumer of the scan.
func TestCloseWaits(t *testing.T) {
	x := open(t, t.TempDir())
	put(t, x, "k1", "v")
	put(t, x, "k2", "v")
	closed := make(chan error, 1)
	n := 0
	for _, err := range x.Scan(t.Context(), nil, nil) {
		must(t, err)
		if n++; n > 1 {
			continue
		}
		go func() { closed <- x.Close() }()
		for {
			if _, err := x.Get(t.Context(), []byte("k1")); err != nil {
				break
			}
		}
		wantClosed(t, x)
		select {
		case err := <-closed:
			t.Errorf("closed (%v) during a scan", err)
		default:
		}
	}
	if n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
	must(t, <-closed)
}

func TestCloseDuringUse(t *testing.T) {
	x := open(t, t.TempDir())
	put(t, x, "k", "v")
	var wg sync.WaitGroup
	started := make(chan struct{}, 12)
	for range 4 {
		for _, use := range []func() error{
			func() error { _, err := x.Get(t.Context(), []byte("k")); return err },
			func() error { return x.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: []byte("v")}) },
			func() (err error) {
				for _, err = range x.Scan(t.Context(), nil, nil) {
				}
				return err
			},
		} {
			wg.Go(func() {
				err := use()
				started <- struct{}{}
				for err == nil {
					err = use()
				}
				if !errors.Is(err, fs.ErrClosed) {
					t.Errorf("error %v, want fs.ErrClosed", err)
				}
			})
		}
	}
	for range cap(started) {
		<-started
	}
	must(t, x.Close())
	wg.Wait()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A long Scan is one of many transactions, which nobody sees.
func TestLongScan(t *testing.T) {
	const entries = 3*4096 + 1
	x := open(t, t.TempDir())
	var changes []cache.Change
	for i := range entries {
		changes = append(changes, cache.Change{Key: fmt.Appendf(nil, "k\x00%06d", i), Value: []byte(strconv.Itoa(i))})
		if len(changes) == 512 || i == entries-1 {
			must(t, x.Apply(t.Context(), changes...))
			changes = nil
		}
	}
	put(t, x, "j", "before")
	put(t, x, "l", "after")
	for _, from := range []int{0, 4095, 4096, 4097, entries - 1, entries} {
		next := from
		for e, err := range x.Scan(t.Context(), []byte("k\x00"), fmt.Appendf(nil, "k\x00%06d", from)) {
			must(t, err)
			if string(e.Key) != fmt.Sprintf("k\x00%06d", next) || string(e.Value) != strconv.Itoa(next) {
				t.Fatalf("from %d: %q is %q, after %d", from, e.Key, e.Value, next-1)
			}
			next++
		}
		if next != entries {
			t.Errorf("from %d: ended before %d of %d", from, next, entries)
		}
	}
	// What is removed by the consumer, as it comes, does not disturb it.
	n := 0
	for e, err := range x.Scan(t.Context(), []byte("k\x00"), nil) {
		must(t, err)
		n++
		must(t, x.Apply(t.Context(), cache.Change{Key: bytes.Clone(e.Key), Delete: true}))
	}
	if n != entries {
		t.Errorf("%d entries, want %d", n, entries)
	}
	for e := range x.Scan(t.Context(), []byte("k\x00"), nil) {
		t.Fatalf("%q is still there", e.Key)
	}
}

func put(t *testing.T, x *index.Index, k, v string) {
	t.Helper()
	must(t, x.Apply(t.Context(), cache.Change{Key: []byte(k), Value: []byte(v)}))
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(name)
	must(t, err)
	return p
}

func copyDir(t *testing.T, to, from string) {
	t.Helper()
	must(t, os.CopyFS(to, os.DirFS(from)))
}

// The data directory of a gateway is small: the index must not reserve the
// gigabytes of Badger's defaults.
func TestFootprint(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	var apparent int64
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			apparent += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if apparent > 64<<20 {
		t.Errorf("an empty index reserves %d MiB", apparent>>20)
	}
}
