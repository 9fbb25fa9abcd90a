package cache_test

import (
	"bytes"
	"syscall"
	"testing"
	"testing/synctest"
)

// A quota that runs out makes room, too, though the storage says that there is some: the
// pull in which that happens does not notice, and the next one is stored.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, tag := range []string{"1", "2", "3"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		const quota = 3 * 202 * kib
		s.blobs.Fail = func(op string) error {
			used := 0
			for b, err := range s.blobs.All(t.Context()) {
				must(t, err)
				used += int(b.Size)
			}
			if op == "write" && used+150*kib > quota {
				return syscall.EDQUOT
			}
			return nil
		}
		content := randomBytes(150 * kib)
		dgst := s.up.AddBlob("b", content)
		for _, stored := range []bool{false, true} {
			if got := readAll(t, s.openBlob(t, "b", dgst)); !bytes.Equal(got, content) {
				t.Error("other content")
			}
			s.rest()
			b, err := s.Repository("b").CachedBlob(t.Context(), dgst)
			if (err == nil) != stored {
				t.Errorf("stored is %v, want %v", err == nil, stored)
			}
			if err == nil {
				must(t, b.Close())
			}
		}
		s.wantImages(t, "a:2", "a:3")
	})
}
