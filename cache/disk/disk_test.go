package disk_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
)

func open(t *testing.T, dir string) *disk.Store {
	t.Helper()
	return openBoot(t, dir, nil)
}

func openBoot(t *testing.T, dir string, boot func() string) *disk.Store {
	t.Helper()
	s, err := disk.Open(dir, disk.Options{BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	t.Run("blobs", func(t *testing.T) {
		cachetest.TestBlobs(t, func(t *testing.T) cache.Blobs { return open(t, t.TempDir()) })
	})
	t.Run("refs", func(t *testing.T) {
		cachetest.TestRefs(t, func(t *testing.T) cache.Refs { return open(t, t.TempDir()).Refs() })
	})
	t.Run("document", func(t *testing.T) {
		cachetest.TestDocument(t, func(t *testing.T) cache.Document { return open(t, t.TempDir()).Document("registry-module.x") })
	})
	t.Run("quarantine", func(t *testing.T) {
		cachetest.TestQuarantine(t, func(t *testing.T) (cache.Blobs, cache.Quarantine) {
			s := open(t, t.TempDir())
			return s, s
		})
	})
	for name, boot := range map[string]func() string{
		"boot not known": func() string { return "" },
		"same boot":      func() string { return "boot" },
		"other boots":    rand.Text,
	} {
		t.Run("partials, "+name, func(t *testing.T) {
			cachetest.TestPartials(t, func(t *testing.T) (cache.Blobs, cache.Partials, func() (cache.Blobs, cache.Partials)) {
				dir := t.TempDir()
				s := openBoot(t, dir, boot)
				return s, s.Partials(), func() (cache.Blobs, cache.Partials) {
					_ = s.Close() // gives up the lock, as a kill does
					s = openBoot(t, dir, boot)
					return s, s.Partials()
				}
			})
		})
	}
}

// The layout is distribution's, so that the stock registry can read it.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	dgst := digest.FromString("abc")
	d, err := s.Create(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("abc"), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	refs := s.Refs()
	for _, ref := range []cache.Ref{
		{Repo: "a/b", Kind: cache.RefLayer, Name: dgst.String()},
		{Repo: "a/b", Kind: cache.RefManifest, Name: dgst.String()},
		{Repo: "a/b", Kind: cache.RefTag, Name: "v1"},
	} {
		if err := refs.Put(t.Context(), ref, dgst); err != nil {
			t.Fatal(err)
		}
	}
	hex := dgst.Encoded()
	for name, want := range map[string]string{
		"blobs/sha256/" + hex[:2] + "/" + hex + "/data":                 "abc",
		"repositories/a/b/_layers/sha256/" + hex + "/link":              dgst.String(),
		"repositories/a/b/_manifests/revisions/sha256/" + hex + "/link": dgst.String(),
		"repositories/a/b/_manifests/tags/v1/current/link":              dgst.String(),
	} {
		got, err := os.ReadFile(filepath.Join(dir, "docker/registry/v2", name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestUnfinishedDownloadsAreDropped(t *testing.T) {
	dir := t.TempDir()
	s, err := disk.Open(dir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), digest.FromString("abc")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // as a crash would leave it
		t.Fatal(err)
	}
	open(t, dir)
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) != 0 {
		t.Errorf("left in partial: %v", left)
	}
}

func TestNotWritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(filepath.Join(file, "data"), disk.Options{}); err == nil || !strings.Contains(err.Error(), "data directory") {
		t.Errorf("error %v, want one that names the data directory", err)
	}
}

// Names that would leave their place are refused, whoever sends them.
func TestHostileNames(t *testing.T) {
	s := open(t, t.TempDir())
	dgst := digest.FromString("")
	for _, ref := range []cache.Ref{
		{Repo: "", Kind: cache.RefTag, Name: "v1"},
		{Repo: "..", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/../../b", Kind: cache.RefTag, Name: "v1"},
		{Repo: "/etc", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a//b", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/_layers", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a/.hidden", Kind: cache.RefTag, Name: "v1"},
		{Repo: "a", Kind: cache.RefTag, Name: ""},
		{Repo: "a", Kind: cache.RefTag, Name: ".."},
		{Repo: "a", Kind: cache.RefTag, Name: "x/y"},
		{Repo: "a", Kind: cache.RefLayer, Name: "sha256:../../../x"},
		{Repo: "a", Kind: cache.RefManifest, Name: "v1"},
		{Repo: "a", Kind: 0, Name: dgst.String()},
	} {
		if err := s.Refs().Put(t.Context(), ref, dgst); err == nil {
			t.Errorf("put %+v is accepted", ref)
		}
		if _, err := s.Refs().Get(t.Context(), ref); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("get %+v: error %v, want a refusal", ref, err)
		}
		if err := s.Refs().Remove(t.Context(), ref); err == nil {
			t.Errorf("remove %+v is accepted", ref)
		}
	}
	for _, bad := range []digest.Digest{"", "sha256:../x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Open(t.Context(), bad); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("open %q: error %v, want a refusal", bad, err)
		}
		if _, err := s.Create(t.Context(), bad); err == nil {
			t.Errorf("create %q is accepted", bad)
		}
	}
}

// The bare names stay with the remote that had them first, and no two repositories
// ever share a place.
func TestNamings(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	wantHosts := func(want ...string) {
		t.Helper()
		if got, err := s.Hosts(); err != nil || !slices.Equal(got, want) {
			t.Errorf("hosts %q, %v, want %q", got, err, want)
		}
	}
	wantHosts("")
	if n, err := s.Namings(""); err != nil || n[""].Key("a") != "a" {
		t.Errorf("without a remote: %+v, %v", n, err)
	}
	n, err := s.Namings("first.test", "second.test:5000")
	must(t, err)
	wantHosts("first.test", "second.test:5000")

	// A repository of the first remote, as another registry-module has them.
	const foreign = "third.test/a"
	dgst := digest.FromString("content of " + foreign)
	must(t, s.Refs().Put(t.Context(), cache.Ref{Repo: n["first.test"].Key(foreign), Kind: cache.RefLayer, Name: dgst.String()}, dgst))

	hosts := []string{"fourth.test", "second.test:5000", "third.test", "first.test"}
	n, err = s.Namings(hosts...)
	must(t, err)
	wantHosts("first.test", "fourth.test", "second.test:5000", "third.test")
	if _, err := s.Refs().Get(t.Context(), cache.Ref{Repo: n["first.test"].Key(foreign), Kind: cache.RefLayer, Name: dgst.String()}); err != nil {
		t.Errorf("the first remote's %s is elsewhere now: %v", foreign, err)
	}

	keys := map[string]string{}
	for _, host := range hosts {
		for _, repo := range []string{"a", "a/b", "third.test/a", "first.test/a", "fourth.test/a", "fourth.test/fourth.test/a", "first.test/fourth.test/a"} {
			key := n[host].Key(repo)
			if other, taken := keys[key]; taken {
				t.Errorf("%s %s is stored as %s, like %s", host, repo, key, other)
			}
			keys[key] = host + " " + repo
			for _, other := range hosts {
				if got, ok := n[other].Name(key); ok != (other == host) || ok && got != repo {
					t.Errorf("%s %s is stored as %s, which is %q, %v at %s", host, repo, key, got, ok, other)
				}
			}
		}
	}
	for key, want := range map[string]string{
		"a":                         "first.test a",
		"third.test/a":              "first.test third.test/a",
		"@first.test/fourth.test/a": "first.test fourth.test/a",
		"@third.test/a":             "third.test a",
		"fourth.test/a":             "fourth.test a",
		"second.test:5000/a":        "second.test:5000 a",
	} {
		if keys[key] != want {
			t.Errorf("as %s is stored %q, want %q", key, keys[key], want)
		}
	}
	again, err := s.Namings(hosts...)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(n) {
		t.Errorf("after a restart: %v, %v, before: %v", again, err, n)
	}
}

func TestFormat(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"newer":   {`{"version":2}`, "use a newer version"},
		"damaged": {"", "damaged"},
		"other remotes at the place of the first": {`{"version":1,"remote":"a","others":{"b":""}}`, `"b" cannot be below ""`},
		"other remotes at each other's place":     {`{"version":1,"remote":"a","others":{"b":"c/"}}`, "damaged"},
		"other remotes elsewhere":                 {`{"version":1,"remote":"a","others":{"..":"../"}}`, "damaged"},
		"other remotes without slash":             {`{"version":1,"remote":"a","others":{"b":"b"}}`, "damaged"},
		"one remote twice":                        {`{"version":1,"remote":"a","others":{"a":"a/"}}`, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "registry-module.json"), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := disk.Open(dir, disk.Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// The stock registry does not sync its links: after a loss of power they are
// empty. What they stood for counts as not stored, and is stored again.
func TestDamagedLinks(t *testing.T) {
	dgst := digest.FromString("abc")
	for name, content := range map[string]string{
		"empty":    "",
		"zeros":    strings.Repeat("\x00", len(dgst)),
		"cut":      dgst.String()[:20],
		"too long": strings.Repeat("x", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			refs := open(t, dir).Refs()
			for ref, link := range map[cache.Ref]string{
				{Repo: "a", Kind: cache.RefLayer, Name: dgst.String()}:    "_layers/sha256/" + dgst.Encoded() + "/link",
				{Repo: "a", Kind: cache.RefManifest, Name: dgst.String()}: "_manifests/revisions/sha256/" + dgst.Encoded() + "/link",
				{Repo: "a", Kind: cache.RefTag, Name: "v1"}:               "_manifests/tags/v1/current/link",
			} {
				file := filepath.Join(dir, "docker/registry/v2/repositories/a", link)
				writeFile(t, file, content)
				if got, err := refs.Get(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v: %q, %v, want fs.ErrNotExist", ref, got, err)
				}
				listed := 0
				for e, err := range refs.All(t.Context()) {
					if e.Ref == ref {
						listed++
						if err == nil {
							t.Errorf("%v is listed without an error", ref)
						}
					}
				}
				if listed != 1 {
					t.Errorf("%v is listed %d times", ref, listed)
				}
				if err := refs.Put(t.Context(), ref, dgst); err != nil {
					t.Error(err)
				}
				if got, err := refs.Get(t.Context(), ref); err != nil || got != dgst {
					t.Errorf("%v after repair: %q, %v", ref, got, err)
				}
			}
		})
	}
}

// A directory without a link in it, as a crash or somebody else leaves it, is no reference,
// and none that is damaged.
func TestDirectoriesWithoutLinks(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	hex := digest.FromString("abc").Encoded()
	for _, name := range []string{"_layers/sha256/" + hex, "_manifests/revisions/sha256/" + hex, "_manifests/tags/v1/current", "_manifests/tags/v2"} {
		must(t, os.MkdirAll(filepath.Join(dir, "docker/registry/v2/repositories/a", name), 0o755))
	}
	writeFile(t, filepath.Join(dir, "docker/registry/v2/repositories/a/_layers/sha256", hex, "link.tmp"), "sha")
	for e, err := range s.Refs().All(t.Context()) {
		t.Errorf("%+v, %v", e, err)
	}
}

// What is in the way of a link, whatever it is, makes room for it.
func TestLinkIsInTheWay(t *testing.T) {
	dgst := digest.FromString("abc")
	ref := cache.Ref{Repo: "a/b", Kind: cache.RefTag, Name: "v1"}
	const tag = "docker/registry/v2/repositories/a/b/_manifests/tags/v1"
	link := tag + "/current/link"
	for name, tt := range map[string]struct {
		at   string
		make func(t *testing.T, name string)
	}{
		"directory":               {link, fill},
		"named pipe":              {link, fifo},
		"socket":                  {link, socket},
		"directory beside it":     {link + ".tmp", fill},
		"named pipe beside it":    {link + ".tmp", fifo},
		"file for its directory":  {tag + "/current", garbage},
		"file for the tag":        {tag, garbage},
		"file for the repository": {"docker/registry/v2/repositories/a/b", garbage},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			refs := open(t, dir).Refs()
			full := filepath.Join(dir, tt.at)
			must(t, os.MkdirAll(filepath.Dir(full), 0o755))
			tt.make(t, full)
			if got, err := refs.Get(t.Context(), ref); err == nil {
				t.Errorf("there is a link to %s", got)
			}
			must(t, refs.Put(t.Context(), ref, dgst))
			if got, err := refs.Get(t.Context(), ref); err != nil || got != dgst {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func fill(t *testing.T, name string)    { writeFile(t, filepath.Join(name, "x"), "x") }
func garbage(t *testing.T, name string) { writeFile(t, name, "x") }
func fifo(t *testing.T, name string)    { must(t, syscall.Mkfifo(name, 0o644)) }
func socket(t *testing.T, name string) {
	must(t, syscall.Mknod(name, syscall.S_IFSOCK|0o644, 0))
}

// What is no file does not make anybody wait, and is taken away like what is damaged.
func TestBlobIsNoFile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "x")
	writeFile(t, outside, "content")
	for name, make := range map[string]func(t *testing.T, name string){
		"directory": fill, "named pipe": fifo, "socket": socket,
		"link to a file": func(t *testing.T, name string) { must(t, os.Symlink(outside, name)) },
		"link to itself": func(t *testing.T, name string) { must(t, os.Symlink(name, name)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			dgst := store(t, s, "content")
			must(t, os.Remove(blobFile(dir, dgst)))
			make(t, blobFile(dir, dgst))
			if _, err := s.Open(t.Context(), dgst); !errors.Is(err, durable.ErrNotFile) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("opening it: %v", err)
			}
			if n, errs := listBlobs(s); n != 0 || len(errs) != 1 {
				t.Errorf("listed: %d, errors %v", n, errs)
			}
			must(t, s.Quarantine(t.Context(), dgst))
			wantGone(t, dir, s, "content")
			if _, err := os.Stat(outside); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who alters a file can set the time of its modification back, but not that of its change.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	dgst := store(t, s, "content")
	identity := func() any {
		b, err := s.Open(t.Context(), dgst)
		must(t, err)
		must(t, b.Close())
		return b.(interface{ Identity() any }).Identity()
	}
	before, name := identity(), blobFile(dir, dgst)
	if identity() != before {
		t.Error("it changes by itself")
	}
	info, err := os.Stat(name)
	must(t, err)
	for start := time.Now(); identity() == before && time.Since(start) < 5*time.Second; { // the clock of the kernel ticks slowly
		writeFile(t, name, "CONTENT")
		must(t, os.Chtimes(name, info.ModTime(), info.ModTime()))
	}
	if identity() == before {
		t.Error("it is the same for another content")
	}
}

// A link that cannot be read is not absent.
func TestUnreadableLink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "docker/registry/v2/repositories/a/_manifests/tags/v1/current/link")
	writeFile(t, link, "")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("link", link); err != nil { // ELOOP
		t.Fatal(err)
	}
	_, err := open(t, dir).Refs().Get(t.Context(), cache.Ref{Repo: "a", Kind: cache.RefTag, Name: "v1"})
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want one that is not fs.ErrNotExist", err)
	}
}

// All lists what the stock registry and a loss of power can leave.
func TestAll(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	good, loop, folder := digest.FromString("good"), digest.FromString("loop"), digest.FromString("folder")
	bare, misplaced := digest.FromString("bare"), digest.FromString("misplaced")
	at := func(dgst digest.Digest) string {
		return filepath.Join(dir, "docker/registry/v2/blobs/sha256", dgst.Encoded()[:2], dgst.Encoded(), "data")
	}
	writeFile(t, at(good), "good")
	writeFile(t, filepath.Join(filepath.Dir(at(bare)), "other"), "x")
	writeFile(t, filepath.Join(at(folder), "x"), "x")
	writeFile(t, filepath.Join(dir, "docker/registry/v2/blobs/sha256/zz", misplaced.Encoded(), "data"), "x")
	writeFile(t, filepath.Join(dir, "docker/registry/v2/blobs/sha256/aa/aanodigest/data"), "x")
	writeFile(t, filepath.Join(dir, "docker/registry/v2/blobs/other/aa/aa/data"), "x")
	writeFile(t, filepath.Join(dir, "docker/registry/v2/blobs/sha256/file"), "x")
	writeFile(t, at(loop), "x")
	if err := os.Remove(at(loop)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("data", at(loop)); err != nil { // ELOOP
		t.Fatal(err)
	}

	var got, failed []digest.Digest
	for e, err := range s.All(t.Context()) {
		switch {
		case err != nil:
			failed = append(failed, e.Digest)
		case e.Size != 4:
			t.Errorf("%v, want 4 bytes", e)
			fallthrough
		default:
			got = append(got, e.Digest)
		}
	}
	if !slices.Equal(got, []digest.Digest{good}) {
		t.Errorf("listed %v, want %s", got, good)
	}
	slices.Sort(failed)
	want := []digest.Digest{loop, folder}
	slices.Sort(want)
	if !slices.Equal(failed, want) {
		t.Errorf("listed with an error: %v, want %v", failed, want)
	}
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Many may write one link at the same time.
func TestConcurrentPut(t *testing.T) {
	refs := open(t, t.TempDir()).Refs()
	ref := cache.Ref{Repo: "a", Kind: cache.RefTag, Name: "v1"}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := refs.Put(t.Context(), ref, digest.FromString(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := refs.Get(t.Context(), ref); err != nil {
		t.Error(err)
	}
}
