package disk_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// Each operation of storing a blob and its link fails in turn, having had its
// effect or not. Afterwards the directory is opened anew: the blob is absent or
// whole, nothing unfinished is left, and the next try succeeds.
func TestCommitFails(t *testing.T) {
	content := "content"
	dgst := digest.FromString(content)
	ref := cache.Ref{Repo: "a/b", Kind: cache.RefLayer, Name: dgst.String()}

	store := func(t *testing.T, s *disk.Store) error {
		d, err := s.Create(t.Context(), dgst)
		if err != nil {
			return err
		}
		_, err = d.WriteAt([]byte(content), 0)
		if err == nil {
			err = d.Commit(t.Context())
		}
		if err == nil {
			err = s.Refs().Put(t.Context(), ref, dgst)
		}
		return errors.Join(err, d.Discard())
	}

	for mode, name := range map[durabletest.Mode]string{durabletest.Absent: "absent", durabletest.Done: "done"} {
		t.Run(name, func(t *testing.T) {
			for at := 0; ; at++ {
				dir := t.TempDir()
				_ = open(t, dir).Close() // so that only storing is counted
				faulty := &durabletest.FS{FS: durable.OS{}, At: at, Mode: mode}
				s, err := disk.Open(dir, disk.Options{FS: faulty})
				if err == nil {
					err = store(t, s)
					if closeErr := s.Close(); closeErr != nil {
						t.Fatal(closeErr)
					}
				}
				if faulty.Injected() && err == nil {
					t.Errorf("the failure of %q went unnoticed", faulty.Ops()[at])
				}

				again := open(t, dir)
				b, openErr := again.Open(t.Context(), dgst)
				switch {
				case openErr == nil:
					got, readErr := io.ReadAll(b)
					if readErr != nil || string(got) != content {
						t.Errorf("after %q: the blob is %q, %v", faulty.Ops()[at], got, readErr)
					}
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				case !errors.Is(openErr, fs.ErrNotExist) || err == nil:
					t.Errorf("the blob: %v", openErr)
				}
				if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) != 0 {
					t.Errorf("after %q: %v is left", faulty.Ops()[at], left)
				}
				if err := store(t, again); err != nil {
					t.Errorf("after %q: the next try: %v", faulty.Ops()[at], err)
				}
				if got, err := again.Refs().Get(t.Context(), ref); err != nil || got != dgst {
					t.Errorf("the link is %q, %v", got, err)
				}
				if err := again.Close(); err != nil {
					t.Error(err)
				}
				if len(faulty.Ops()) <= at { // nothing was left to fail
					break
				}
			}
		})
	}
}
