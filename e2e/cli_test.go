package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/index"
	"registry-module/e2e/lab"
)

// cli runs a command for the data directory of a server, whether that runs or not, and
// returns what it prints.
func cli(t *testing.T, m *lab.Server, args ...string) string {
	t.Helper()
	out, err := tryCLI(t.Context(), m, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryCLI is as cli, for any goroutine.
func tryCLI(ctx context.Context, m *lab.Server, args ...string) (string, error) {
	return lab.Run(ctx, filepath.Dir(m.Data), lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": m.Data}, bin.module, args...)
}

// cliJSON runs one and reads the JSON that it prints.
func cliJSON[T any](t *testing.T, m *lab.Server, args ...string) (v T) {
	t.Helper()
	out := cli(t, m, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return v
}

// verified fails the test if `registry-module verify` finds something.
func verified(t *testing.T, m *lab.Server) {
	t.Helper()
	report := cliJSON[cache.VerifyReport](t, m, "verify")
	t.Logf("verify: %d blobs, %d bytes in %v", report.Blobs, report.Bytes, report.Took)
	for _, p := range report.Problems {
		t.Errorf("verify: %+v", p)
	}
	if n, size, err := lab.CheckStore(m.Data); err != nil || n != report.Blobs || size != report.Bytes {
		t.Errorf("verify has found %d blobs, %d bytes; there are %d, %d, %v", report.Blobs, report.Bytes, n, size, err)
	}
}

// sameAsIndex compares the blobs of a server that was stopped with its index.
func sameAsIndex(t *testing.T, m *lab.Server) {
	t.Helper()
	idx := must(index.Open(filepath.Join(m.Data, "index"), nil))(t)
	defer func() {
		if err := idx.Close(); err != nil {
			t.Error(err)
		}
	}()
	indexed := map[digest.Digest]int64{}
	prefix := []byte("b\x00") // docs/disk-format.md
	for e, err := range idx.Scan(t.Context(), prefix, nil) {
		if err != nil {
			t.Fatal(err)
		}
		var blob struct {
			Size int64 `json:"s"`
		}
		if err := json.Unmarshal(e.Value, &blob); err != nil {
			t.Fatal(err)
		}
		indexed[digest.Digest(e.Key[len(prefix):])] = blob.Size
	}
	blobs := 0
	err := filepath.WalkDir(filepath.Join(m.Data, "docker/registry/v2/blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		blobs++
		hex := filepath.Base(filepath.Dir(path))
		dgst := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if size, known := indexed[dgst]; !known || size != info.Size() {
			t.Errorf("%s has %d bytes on the disk, and %d in the index (%v)", dgst, info.Size(), size, known)
		}
		delete(indexed, dgst)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for dgst, size := range indexed {
		t.Errorf("%s has %d bytes in the index, and is not on the disk", dgst, size)
	}
	t.Logf("the index has the %d blobs that are on the disk", blobs)
}
