package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/e2e/lab"
)

// depot is a data directory in a directory of its own, with the settings of commands and
// servers on it. Its remote is remoteHost, for which an origin answers while that is up.
type depot struct {
	dir string
	env lab.Env
}

// newDepot makes one whose data directory does not exist yet.
func newDepot(t *testing.T, up *lab.Origin, settings ...lab.Env) *depot {
	t.Helper()
	d := &depot{dir: tempDir(t)}
	d.env = merge(append([]lab.Env{{
		"REGISTRY_PROXY_REMOTEURL":                  "http://" + remoteHost,
		"REGISTRY_PROXY_HTTPPROXY":                  up.URL(),
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": d.data(),
		"REGISTRY_CACHE_MINFREE":                    "0%",
		"REGISTRY_HTTP_DRAINTIMEOUT":                "100ms",
	}}, settings...)...)
	return d
}

func (d *depot) data() string { return filepath.Join(d.dir, "data") }

// file is a file beside the data directory.
func (d *depot) file(name string) string { return filepath.Join(d.dir, name) }

// write makes one.
func (d *depot) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(d.file(name), content, 0o644); err != nil {
		t.Fatal(err)
	}
	return d.file(name)
}

// run runs a command to its end, which has to come within two minutes.
func (d *depot) run(t *testing.T, args ...string) lab.Outcome {
	t.Helper()
	return d.runWith(t, nil, args...)
}

// runWith does so with a standard input.
func (d *depot) runWith(t *testing.T, stdin io.Reader, args ...string) lab.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o, err := lab.Command{Path: bin.module, Args: args, Env: d.env, Dir: d.dir, Stdin: stdin}.Do(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(o.Stderr, "goroutine ") || strings.Contains(o.Stderr, "panic:") {
		t.Errorf("%v: it has panicked\n%v", args, o)
	}
	return o
}

// good runs a command that has to do all that it is to do.
func (d *depot) good(t *testing.T, args ...string) lab.Outcome {
	t.Helper()
	o := d.run(t, args...)
	if o.Status != 0 {
		t.Fatalf("%v: %v", args, o)
	}
	return o
}

// begin starts a command.
func (d *depot) begin(t *testing.T, args ...string) *lab.Process {
	t.Helper()
	return must(lab.Start(t.Context(), lab.Spec{Name: "command", Path: bin.module, Args: args, Env: d.env, Dir: d.dir}))(t)
}

// serve starts a server on the data directory.
func (d *depot) serve(t *testing.T) *lab.Server {
	t.Helper()
	return moduleIn(t, d.dir, d.env)
}

// list are the images that are stored; none where there is no data directory.
func (d *depot) list(t *testing.T) (all []cache.Image) {
	t.Helper()
	if _, err := os.Stat(d.data()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	o := d.good(t, "ls", "-o", "json")
	if err := json.Unmarshal([]byte(o.Stdout), &all); err != nil {
		t.Fatalf("ls: %v\n%v", err, o)
	}
	return all
}

// noHalves fails the test if a tag stands for something that is not complete, or the name
// of a file is not that of its content.
func (d *depot) noHalves(t *testing.T) {
	t.Helper()
	for _, img := range d.list(t) {
		if img.Tag != "" && !img.Complete {
			t.Errorf("%s:%s is listed, and %d of its content is missing", img.Repository, img.Tag, img.Missing)
		}
	}
	if _, _, err := lab.CheckStore(d.data()); err != nil {
		t.Error(err)
	}
}

// servesAlone expects all of the images of a server that was not started yet, to the byte,
// while its remote is away.
func (d *depot) servesAlone(t *testing.T, images ...lab.Image) {
	t.Helper()
	s := d.serve(t)
	for _, img := range images {
		everything(t, s, img)
	}
	inList(t, s, images...)
	checkStore(t, s)
	if left := partials(t, s); len(left) != 0 {
		t.Errorf("what is left of downloads that are complete: %v", left)
	}
	stop(t, s)
}

// visible is what is served of images by a server on the data directory, whose remote is
// away. What is served is right; and an image that is served by its tag is so with all that
// belongs to it.
func (d *depot) visible(t *testing.T, images ...lab.Image) (whole int) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(d.data(), "docker/registry/v2/repositories")); errors.Is(err, fs.ErrNotExist) {
		return 0 // there is nothing that could be served
	}
	s := d.serve(t)
	for _, img := range images {
		missing := 0
		for url, want := range urlsOf(s, img) {
			a, err := askWhole(t.Context(), url)
			if err == nil {
				err = a.rightOrClear(want)
			}
			if err != nil {
				t.Errorf("%s: %v", url, err)
			}
			if a.Status != http.StatusOK || a.Err != nil {
				missing++
			}
		}
		tagged := must(fetch(t.Context(), manifestURL(s, img.Repo, img.Tag)))(t).Status == http.StatusOK
		switch {
		case tagged && missing > 0:
			t.Errorf("%s:%s is served, and %d of what belongs to it is not", img.Repo, img.Tag, missing)
		case tagged:
			whole++
		}
	}
	stop(t, s)
	d.noHalves(t)
	return whole
}

// content are the files of the data directory that say what is stored, and of whom, by
// their path, with a hash. The index is not among them: it may be written at each start.
func (d *depot) content(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(d.data(), func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(d.data(), path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir() && name == "index":
			return filepath.SkipDir
		case !e.Type().IsRegular() || strings.HasSuffix(name, ".lock"):
			return nil
		}
		b, err := os.ReadFile(path)
		all[name] = fmt.Sprintf("%x, %d bytes", sha256.Sum256(b), len(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unchanged compares it with what it was.
func (d *depot) unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	if after := d.content(t); !maps.Equal(before, after) {
		t.Errorf("the data directory has changed\nbefore: %v\nafter:  %v", pretty(before), pretty(after))
	}
}

func pretty(files map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "\n  %s: %s", name, files[name])
	}
	return b.String()
}

// unique is the bytes of the blobs of images, each once.
func unique(images ...lab.Image) (size int64) {
	seen := map[digest.Digest]bool{}
	for _, img := range images {
		for _, b := range img.Blobs {
			if !seen[b.Digest] {
				seen[b.Digest] = true
				size += b.Size
			}
		}
	}
	return size
}

// atRemote is what images are called where they come from.
func atRemote(images ...lab.Image) (all []string) {
	for _, img := range images {
		all = append(all, img.ByTag(remoteHost))
	}
	return all
}
