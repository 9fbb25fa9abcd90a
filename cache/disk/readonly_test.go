package disk_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
)

// refusing is a file system that refuses to be written to, as the kernel does: what is
// there can be opened, and made again, without a complaint.
type refusing struct {
	durable.FS
	err error
}

func (r refusing) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if flag&^unix.O_NOFOLLOW != os.O_RDONLY {
		return nil, &fs.PathError{Op: "open", Path: name, Err: r.err}
	}
	return r.FS.OpenFile(name, flag, perm)
}

func (r refusing) Mkdir(name string, _ fs.FileMode) error {
	if _, err := os.Lstat(name); err == nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: unix.EEXIST}
	}
	return &fs.PathError{Op: "mkdir", Path: name, Err: r.err}
}

func (r refusing) Rename(oldname, newname string) error {
	return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: r.err}
}

func (r refusing) Remove(name string) error {
	return &fs.PathError{Op: "remove", Path: name, Err: r.err}
}

func TestReadOnly(t *testing.T) {
	for name, partial := range map[string]bool{"of this program": true, "of the stock registry": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			dgst := store(t, s, "content")
			ref := cache.Ref{Repo: "a", Kind: cache.RefLayer, Name: dgst.String()}
			must(t, s.Refs().Put(t.Context(), ref, dgst))
			must(t, s.Document("registry-module.x").Write(t.Context(), []byte("x")))
			must(t, s.Close())
			if !partial {
				must(t, os.Remove(filepath.Join(dir, "partial")))
				must(t, os.Remove(filepath.Join(dir, "registry-module.lock")))
			}

			ro := func() *disk.Store {
				s, err := disk.Open(dir, disk.Options{FS: refusing{durable.OS{}, unix.EROFS}})
				must(t, err)
				return s
			}
			s = ro()
			other := ro() // nobody owns it
			if !s.ReadOnly() {
				t.Error("it does not say that it is read-only")
			}
			b, err := s.Open(t.Context(), dgst)
			must(t, err)
			if got, err := io.ReadAll(b); err != nil || string(got) != "content" {
				t.Errorf("%q, %v", got, err)
			}
			must(t, b.Close())
			if got, err := s.Refs().Get(t.Context(), ref); err != nil || got != dgst {
				t.Errorf("%q, %v", got, err)
			}
			if got, err := s.Document("registry-module.x").Read(t.Context()); err != nil || string(got) != "x" {
				t.Errorf("%q, %v", got, err)
			}
			for _, err := range s.All(t.Context()) {
				must(t, err)
			}
			for _, err := range s.Partials().All(t.Context()) {
				must(t, err)
			}
			for _, err := range s.Strays(t.Context()) {
				must(t, err)
			}
			first, err := s.Namings("one.test", "two.test")
			must(t, err)
			if hosts, err := s.Hosts(); err != nil || strings.Join(hosts, " ") != "one.test two.test" {
				t.Errorf("hosts %q, %v", hosts, err)
			}
			if again, err := s.Namings("two.test"); err != nil || again["two.test"].Key("a") != first["two.test"].Key("a") {
				t.Errorf("named %v, before %v, %v", again, first, err)
			}

			_, createErr := s.Create(t.Context(), digest.FromString("x"))
			_, resumeErr := s.Partials().Resume(t.Context(), digest.FromString("x"))
			for what, err := range map[string]error{
				"create":         createErr,
				"resume":         resumeErr,
				"remove":         s.Remove(t.Context(), dgst),
				"quarantine":     s.Quarantine(t.Context(), dgst),
				"put":            s.Refs().Put(t.Context(), ref, dgst),
				"remove link":    s.Refs().Remove(t.Context(), ref),
				"remove partial": s.Partials().Remove(t.Context(), dgst),
				"document":       s.Document("registry-module.x").Write(t.Context(), nil),
			} {
				if !errors.Is(err, unix.EROFS) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "mount it writable") {
					t.Errorf("%s: error %v", what, err)
				}
			}
			must(t, s.Close())
			must(t, other.Close())
		})
	}
}

func TestNotReadOnly(t *testing.T) {
	full, empty := t.TempDir(), t.TempDir()
	s := open(t, full)
	store(t, s, "content")
	must(t, s.Close())
	for name, tt := range map[string]struct {
		dir  string
		err  error
		want string
	}{
		"nothing to serve":       {empty, unix.EROFS, "is empty, and on a read-only file system"},
		"the operator's mistake": {full, unix.EACCES, "chown -R"},
		"full":                   {full, unix.ENOSPC, "no space left"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := disk.Open(tt.dir, disk.Options{FS: refusing{durable.OS{}, tt.err}})
			if err == nil || !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
