package durabletest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// What has happened when the second write fails, and then a third comes.
func TestModes(t *testing.T) {
	for _, tt := range []struct {
		mode      durabletest.Mode
		n         int
		content   string
		thirdDies bool
	}{
		{durabletest.Absent, 0, "ab\x00\x00\x00\x00gh", false},
		{durabletest.Done, 2, "abcd\x00\x00gh", false},
		{durabletest.Dead, 0, "ab", true},
	} {
		name := filepath.Join(t.TempDir(), "file")
		fsys := &durabletest.FS{FS: durable.OS{}, At: 2, Mode: tt.mode, Err: syscall.ENOSPC}
		f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := f.WriteAt([]byte("ab"), 0); n != 2 || err != nil || fsys.Injected() {
			t.Errorf("mode %d: first write: %d, %v", tt.mode, n, err)
		}
		n, err := f.WriteAt([]byte("cdef"), 2)
		if n != tt.n || !errors.Is(err, durabletest.ErrInjected) || !errors.Is(err, syscall.ENOSPC) || !fsys.Injected() {
			t.Errorf("mode %d: second write: %d, %v", tt.mode, n, err)
		}
		if _, err := f.WriteAt([]byte("gh"), 6); (err != nil) != tt.thirdDies {
			t.Errorf("mode %d: third write: %v", tt.mode, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := fsys.OpenFile(name, os.O_RDWR, 0); (err != nil) != tt.thirdDies {
			t.Errorf("mode %d: opening: %v", tt.mode, err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != tt.content {
			t.Errorf("mode %d: content %q, %v, want %q", tt.mode, got, err, tt.content)
		}
		want := []string{"create " + name, "write " + name, "write " + name, "write " + name, "open " + name}
		if got := fsys.Ops(); !slices.Equal(got, want) {
			t.Errorf("mode %d: operations %q, want %q", tt.mode, got, want)
		}
	}
}
