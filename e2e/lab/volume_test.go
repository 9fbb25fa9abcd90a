package lab

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAllocated(t *testing.T) {
	dir := t.TempDir()
	empty, err := Allocated(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "a")
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if err := sparse.Close(); err != nil {
		t.Fatal(err)
	}
	full, err := Allocated(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := full.Bytes() - empty.Bytes(); got < 1<<20 || got > 1<<20+64<<10 {
		t.Errorf("a file of 1 MiB and one of holes take %d bytes", got)
	}
	if err := os.Rename(name, name+"-renamed"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(sparse.Name()); err != nil {
		t.Fatal(err)
	}
	later, err := Allocated(dir)
	if err != nil {
		t.Fatal(err)
	}
	both := full.Both(later)
	if len(both) != 2 || both.Bytes() < 1<<20 {
		t.Errorf("the directory and what was renamed: %v", both)
	}
	if _, err := Allocated(filepath.Join(dir, "absent")); err == nil {
		t.Error("a directory that is not there has been measured")
	}
}

func TestTmpfs(t *testing.T) {
	const size = 1 << 20
	dir, remove, err := Tmpfs(size)
	if err != nil {
		t.Fatal(err)
	}
	if err := FillUp(t.Context(), filepath.Join(dir, "a"), 0); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b"), make([]byte, 8<<10), 0o644); err == nil {
		t.Error("a file could be written to a disk that is full")
	}
	if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Size() > size || info.Size() < size/2 {
		t.Errorf("what fills it: %v, %v", info, err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
