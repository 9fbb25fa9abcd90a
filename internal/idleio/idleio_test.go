package idleio_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"registry-module/internal/idleio"
)

// class returns the class of this thread's input and output.
func class(t *testing.T) uintptr {
	t.Helper()
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return prio >> 13
}

func TestDo(t *testing.T) {
	const idle = 3
	want := errors.New("x")
	for range 20 {
		err := idleio.Do(t.Context(), func(context.Context) error {
			if got := class(t); got != idle {
				t.Errorf("class %d, want %d", got, idle)
			}
			return want
		})
		if err != want {
			t.Errorf("error %v, want %v", err, want)
		}
		if got := class(t); got == idle {
			t.Fatal("a thread that others use is idle")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := idleio.Do(ctx, func(context.Context) error { return want }); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: error %v", err)
	}
}

// resident returns how many pages of f are in the page cache.
func resident(t *testing.T, f *os.File, size int) (n int) {
	t.Helper()
	p, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(p) }()
	pages := make([]byte, (size+os.Getpagesize()-1)/os.Getpagesize())
	if err := mincore(p, pages); err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		n += int(page & 1)
	}
	return n
}

func TestDrop(t *testing.T) {
	const size = 1 << 20
	name := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	before := resident(t, f, size)
	if before == 0 {
		t.Fatal("nothing is in the page cache to begin with")
	}
	idleio.Drop(f, -1, 0) // nothing that could be dropped
	if now := resident(t, f, size); now != before {
		t.Errorf("%d pages, before %d", now, before)
	}
	idleio.Drop(f, 0, size)
	if now := resident(t, f, size); now != 0 {
		t.Errorf("%d pages after all was dropped", now)
	}
}
