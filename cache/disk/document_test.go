package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

func TestDocument(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := s.Document("registry-module.x.json")
	if _, err := d.Read(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: error %v, want fs.ErrNotExist", err)
	}
	for _, content := range []string{"one", "", "three"} {
		must(t, d.Write(t.Context(), []byte(content)))
		if got, err := s.Document("registry-module.x.json").Read(t.Context()); err != nil || string(got) != content {
			t.Errorf("%q, %v, want %q", got, err, content)
		}
	}
	file := filepath.Join(dir, "registry-module.x.json")
	must(t, os.Truncate(file, 16<<20+1))
	if _, err := d.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "registry-module.x.json") {
		t.Errorf("too long: error %v", err)
	}
	if err := d.Write(t.Context(), make([]byte, 16<<20+1)); err == nil {
		t.Error("what cannot be read is written")
	}
	must(t, os.Remove(file))
	must(t, os.Mkdir(file, 0o755))
	if _, err := d.Read(t.Context()); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory: error %v", err)
	}
	for _, name := range []string{"", ".", "..", "x.json", "../registry-module.x", "registry-module./x", "index"} {
		if err := s.Document(name).Write(t.Context(), nil); err == nil {
			t.Errorf("%q is written", name)
		}
		if _, err := s.Document(name).Read(t.Context()); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("reading %q: %v", name, err)
		}
	}
}

// Whatever fails, the document is the old or the new one.
func TestDocumentFails(t *testing.T) {
	for _, mode := range []durabletest.Mode{durabletest.Absent, durabletest.Done, durabletest.Dead} {
		for at := 0; ; at++ {
			dir := t.TempDir()
			s := open(t, dir)
			must(t, s.Document("registry-module.x").Write(t.Context(), []byte("old")))
			must(t, s.Close())
			faulty := &durabletest.FS{FS: durable.OS{}, At: at, Mode: mode}
			s, err := disk.Open(dir, disk.Options{FS: faulty})
			if err == nil {
				err = s.Document("registry-module.x").Write(t.Context(), []byte("new"))
				must(t, s.Close())
			}
			if faulty.Injected() && err == nil {
				t.Errorf("the failure of %q went unnoticed", faulty.Ops()[at])
			}
			got, readErr := open(t, dir).Document("registry-module.x").Read(t.Context())
			if readErr != nil || string(got) != "new" && (err == nil || string(got) != "old") {
				t.Errorf("after %v: %q, %v", err, got, readErr)
			}
			if len(faulty.Ops()) <= at {
				break
			}
		}
	}
}
