package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
)

// files lists all that is below the repositories, directories with a slash.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	root := filepath.Join(dir, "docker/registry/v2/repositories")
	must(t, filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err == nil && name != root {
			rel, _ := filepath.Rel(root, name)
			if e.IsDir() {
				rel += "/"
			}
			names = append(names, rel)
		}
		return err
	}))
	return names
}

// A reference that is removed leaves no directories behind, and nothing else goes.
func TestRefsRemoveLeavesNothing(t *testing.T) {
	dgst := digest.FromString("x")
	const hex = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	all := map[string]cache.Ref{
		"layer":    {Repo: "a/b/c", Kind: cache.RefLayer, Name: dgst.String()},
		"manifest": {Repo: "a/b/c", Kind: cache.RefManifest, Name: dgst.String()},
		"tag":      {Repo: "a/b/c", Kind: cache.RefTag, Name: "v1"},
		"above":    {Repo: "a", Kind: cache.RefTag, Name: "v1"},
	}
	for name, tt := range map[string]struct {
		put    []string
		extra  []string // files that others have made
		remove []string
		want   []string
	}{
		"all": {[]string{"layer", "manifest", "tag", "above"}, nil, []string{"layer", "manifest", "tag", "above"}, nil},
		"what the stock registry leaves": {
			[]string{"tag"}, []string{"a/b/c/_manifests/tags/v1/index/sha256/" + hex + "/link", "a/b/c/_uploads/"}, []string{"tag"}, nil,
		},
		"what a crash leaves": {[]string{"tag"}, []string{"a/b/c/_manifests/tags/v1/current/link.tmp"}, []string{"tag"}, nil},
		"what is not there":   {nil, []string{"a/b/c/_layers/sha256/"}, []string{"layer"}, nil},
		"one of two": {[]string{"layer", "above"}, nil, []string{"layer"}, []string{
			"a/", "a/_manifests/", "a/_manifests/tags/", "a/_manifests/tags/v1/", "a/_manifests/tags/v1/current/", "a/_manifests/tags/v1/current/link",
		}},
		"the one above": {[]string{"layer", "above"}, nil, []string{"above"}, []string{
			"a/", "a/b/", "a/b/c/", "a/b/c/_layers/", "a/b/c/_layers/sha256/", "a/b/c/_layers/sha256/" + hex + "/", "a/b/c/_layers/sha256/" + hex + "/link",
		}},
		"an upload": {[]string{"layer"}, []string{"a/b/c/_uploads/1/data"}, []string{"layer"}, []string{
			"a/", "a/b/", "a/b/c/", "a/b/c/_uploads/", "a/b/c/_uploads/1/", "a/b/c/_uploads/1/data",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			refs := open(t, dir).Refs()
			for _, name := range tt.put {
				must(t, refs.Put(t.Context(), all[name], dgst))
			}
			for _, name := range tt.extra {
				full := filepath.Join(dir, "docker/registry/v2/repositories", name)
				if name[len(name)-1] == '/' {
					must(t, os.MkdirAll(full, 0o755))
				} else {
					writeFile(t, full, dgst.String())
				}
			}
			for _, name := range tt.remove {
				must(t, refs.Remove(t.Context(), all[name]))
			}
			if got := files(t, dir); !slices.Equal(got, tt.want) {
				t.Errorf("left: %q, want %q", got, tt.want)
			}
			for _, ref := range all { // the directories that have gone are made again
				must(t, refs.Put(t.Context(), ref, dgst))
			}
		})
	}
}

// Many store and remove the same names at a time. No store fails, and what nobody
// removes afterwards is there.
func TestRemoveWhileStoring(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	contents := []string{"a", "b"}
	refs := []cache.Ref{
		{Repo: "a/b", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/b", Kind: cache.RefTag, Name: "v2"},
		{Repo: "a/b", Kind: cache.RefLayer, Name: digest.FromString("a").String()},
		{Repo: "a", Kind: cache.RefManifest, Name: digest.FromString("a").String()},
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 25 {
				ref, content := refs[(i+n)%len(refs)], contents[n%len(contents)]
				dgst := digest.FromString(content)
				var err error
				switch i % 4 {
				case 0:
					err = s.Refs().Put(t.Context(), ref, dgst)
				case 1:
					err = s.Refs().Remove(t.Context(), ref)
				case 2:
					d, createErr := s.Create(t.Context(), dgst)
					if createErr != nil {
						t.Error(createErr)
						return
					}
					_, err = d.WriteAt([]byte(content), 0)
					err = errors.Join(err, d.Commit(t.Context()))
				default:
					if n%2 == 0 {
						err = s.Remove(t.Context(), dgst)
					} else {
						err = s.Quarantine(t.Context(), dgst)
					}
				}
				if err != nil {
					t.Errorf("%d: %v", i%4, err)
				}
			}
		})
	}
	wg.Wait()
	for _, content := range contents {
		store(t, s, content)
	}
	for _, ref := range refs {
		must(t, s.Refs().Put(t.Context(), ref, digest.FromString("a")))
		if _, err := s.Refs().Get(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
	for _, ref := range refs {
		must(t, s.Refs().Remove(t.Context(), ref))
	}
	for _, content := range contents {
		must(t, s.Remove(t.Context(), digest.FromString(content)))
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "docker/registry/v2/blobs/sha256/*/*")); err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// hooked is a file system that calls a function after a directory was made.
type hooked struct {
	durable.FS
	made func(name string)
}

func (h hooked) Mkdir(name string, perm fs.FileMode) error {
	err := h.FS.Mkdir(name, perm)
	h.made(name)
	return err
}

// Who removes does not take away the directory that somebody else has just made.
func TestRemoveBetween(t *testing.T) {
	const content = "content"
	dgst := digest.FromString(content)
	ref := cache.Ref{Repo: "a", Kind: cache.RefLayer, Name: dgst.String()}
	for name, remove := range map[string]func(*disk.Store) error{
		"blob":       func(s *disk.Store) error { return s.Remove(t.Context(), dgst) },
		"quarantine": func(s *disk.Store) error { return s.Quarantine(t.Context(), dgst) },
		"reference":  func(s *disk.Store) error { return s.Refs().Remove(t.Context(), ref) },
	} {
		t.Run(name, func(t *testing.T) {
			var s *disk.Store
			var removals sync.WaitGroup
			h := hooked{durable.OS{}, func(name string) {
				if filepath.Base(name) != dgst.Encoded() {
					return
				}
				done := make(chan struct{})
				removals.Go(func() {
					defer close(done)
					if err := remove(s); err != nil {
						t.Error(err)
					}
				})
				for range 1000 { // it has time to do it, if it does not wait
					select {
					case <-done:
						return
					default:
						runtime.Gosched()
						_, _ = os.Stat(name)
					}
				}
			}}
			s, err := disk.Open(t.TempDir(), disk.Options{FS: h})
			must(t, err)
			store(t, s, content)
			must(t, s.Refs().Put(t.Context(), ref, dgst))
			removals.Wait()
			must(t, s.Close())
		})
	}
}
