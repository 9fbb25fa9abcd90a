package disk_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
)

func TestStrays(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	dgst := store(t, s, "content")
	must(t, s.Quarantine(t.Context(), store(t, s, "damaged")))
	must(t, s.Document("registry-module.x.json").Write(t.Context(), nil))
	_, err := s.Namings("one.test")
	must(t, err)
	_, err = s.Create(t.Context(), digest.FromString("x"))
	must(t, err)
	for _, ref := range []cache.Ref{
		{Repo: "a/b", Kind: cache.RefLayer, Name: dgst.String()},
		{Repo: "a/b", Kind: cache.RefManifest, Name: dgst.String()},
		{Repo: "a/b", Kind: cache.RefTag, Name: "v1"},
	} {
		must(t, s.Refs().Put(t.Context(), ref, dgst))
	}
	const v2 = "docker/registry/v2/"
	hex := dgst.Encoded()
	blobs, repo := v2+"blobs/sha256/", v2+"repositories/a/b/"
	for _, name := range []string{ // what belongs there
		"scheduler-state.json", "lost+found/x", "index/whatever/x", "registry-module.lock",
		repo + "_manifests/tags/v1/index/sha256/" + hex + "/link", repo + "_uploads/1/data",
		repo + "_layers/sha256/" + hex + "/link.tmp",
	} {
		writeFile(t, filepath.Join(dir, name), "x")
	}
	for stray, err := range s.Strays(t.Context()) {
		t.Errorf("%+v, %v, and there is none", stray, err)
	}

	want := map[string]string{
		"x":                                   "not of the layout",
		"other":                               "not of the layout", // with something in it
		"partial/other":                       "not of the layout",
		"quarantine/x":                        "not of the layout",
		"docker/x":                            "not of the layout",
		"docker/registry/x":                   "not of the layout",
		v2 + "x":                              "not of the layout",
		v2 + "blobs/md5":                      "not an algorithm of digests",
		blobs + "x":                           "not a directory",
		blobs + hex[:2] + "/abc":              "not the place of a digest",
		blobs + "zz/" + hex:                   "not the place of a digest",
		blobs + hex[:2] + "/" + hex + "/x":    "not of the layout",
		v2 + "repositories/x":                 "not a directory",
		v2 + "repositories/_x":                "not of the layout",
		repo + "_x":                           "not a name of a repository",
		repo + "_layers/sha256/abc":           "not the place of a digest",
		repo + "_layers/sha256/" + hex + "/x": "not of the layout",
		repo + "_manifests/x":                 "not of the layout",
		repo + "_manifests/tags/x":            "not a directory",
		repo + "_manifests/tags/v1/x":         "not of the layout",
		repo + "_manifests/tags/v1/current/x": "not of the layout",
	}
	for name, what := range want {
		full := filepath.Join(dir, name)
		switch {
		case what == "not a directory", strings.HasSuffix(name, "/x"), name == "x":
			writeFile(t, full, "x")
		default:
			writeFile(t, filepath.Join(full, "below/it"), "x")
		}
	}
	folder := digest.FromString("folder") // damaged content is no stray
	writeFile(t, filepath.Join(blobFile(dir, folder), "x"), "x")

	got := make(map[string]string)
	for stray, err := range s.Strays(t.Context()) {
		must(t, err)
		got[stray.Path] = stray.What
		if takes := du(t, filepath.Join(dir, stray.Path)); stray.Size != takes {
			t.Errorf("%s takes %d bytes, and not %d", stray.Path, takes, stray.Size)
		}
	}
	if !maps.Equal(got, want) {
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%s: %q, want %q", name, got[name], want[name])
			}
			delete(got, name)
		}
		t.Errorf("others: %v", got)
	}
	for range s.Strays(t.Context()) {
		break // an early end is fine
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for _, err := range s.Strays(ctx) {
		if n++; !errors.Is(err, context.Canceled) {
			t.Errorf("with a cancelled context: error %v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d strays with a cancelled context, want the error alone", n)
	}
}

// closed is a file system with a directory that we are not allowed to read.
type closed struct {
	durable.FS
	dir string
}

func (c closed) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == c.dir {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return c.FS.ReadDir(name)
}

func (c closed) Lstat(name string) (fs.FileInfo, error) {
	if filepath.Dir(name) == c.dir {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrPermission}
	}
	return c.FS.Lstat(name)
}

// Who is not allowed to read a part of the directory hears so, and what to do, and
// what else there is.
func TestUnreadableDirectories(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	one, two := store(t, s, "one"), store(t, s, "two")
	for _, dgst := range []digest.Digest{one, two} {
		must(t, s.Refs().Put(t.Context(), cache.Ref{Repo: dgst.Encoded()[:8], Kind: cache.RefLayer, Name: dgst.String()}, dgst))
	}
	must(t, s.Close())
	blob, repo := filepath.Dir(blobFile(dir, one)), filepath.Join(dir, "docker/registry/v2/repositories", one.Encoded()[:8])
	for name, tt := range map[string]struct {
		dir  string
		list func(s *disk.Store) (entries int, errs []error)
		want int
	}{
		"directory of a blob": {blob, listBlobs, 1},
		"directory of blobs":  {filepath.Dir(blob), listBlobs, 1},
		"all blobs":           {filepath.Dir(filepath.Dir(blob)), listBlobs, 0},
		"repository": {repo, func(s *disk.Store) (n int, errs []error) {
			for _, err := range s.Refs().All(t.Context()) {
				if n++; err != nil {
					n, errs = n-1, append(errs, err)
				}
			}
			return n, errs
		}, 1},
		"strays": {repo, func(s *disk.Store) (n int, errs []error) {
			for _, err := range s.Strays(t.Context()) {
				errs = append(errs, err)
			}
			return 0, errs
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := disk.Open(dir, disk.Options{FS: closed{durable.OS{}, tt.dir}})
			must(t, err)
			defer func() { must(t, s.Close()) }()
			n, errs := tt.list(s)
			if n != tt.want || len(errs) != 1 || !errors.Is(errs[0], fs.ErrPermission) ||
				!strings.Contains(errs[0].Error(), "chown -R") || !strings.Contains(errs[0].Error(), dir) {
				t.Errorf("%d entries, want %d, and errors %v", n, tt.want, errs)
			}
		})
	}
}

func listBlobs(s *disk.Store) (n int, errs []error) {
	for _, err := range s.All(context.Background()) {
		if n++; err != nil {
			n, errs = n-1, append(errs, err)
		}
	}
	return n, errs
}
