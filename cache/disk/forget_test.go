package disk_test

import (
	"io"
	"testing"
)

// What is dropped from the page cache can be read all the same.
func TestForget(t *testing.T) {
	s := open(t, t.TempDir())
	b, err := s.Open(t.Context(), store(t, s, "content"))
	must(t, err)
	f, ok := b.(interface{ Forget(off, n int64) })
	if !ok {
		t.Fatal("blobs have no Forget")
	}
	f.Forget(0, 7)
	if got, err := io.ReadAll(b); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, b.Close())
}
