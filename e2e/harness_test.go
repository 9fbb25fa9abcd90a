package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// full is for `make campaign`.
var full = flag.Bool("full", false, "run tests at the full size of what they promise, which takes many minutes and 20 GB of disk")

// sized returns the first value or, for a test at its full size, the second.
func sized[T any](small, whole T) T {
	if *full {
		return whole
	}
	return small
}

// bin is where the programs are. TestMain sets it once, before any test runs.
var bin struct{ module, registry, crane, oras string }

func TestMain(m *testing.M) {
	if err := install(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func install(ctx context.Context) (err error) {
	if bin.module = os.Getenv("E2E_BINARY"); bin.module == "" {
		if bin.module, err = lab.Module(ctx); err != nil {
			return err
		}
	}
	if bin.registry, err = lab.StockRegistry().Install(ctx); err != nil {
		return err
	}
	if bin.crane, err = lab.Crane().Install(ctx); err != nil {
		return err
	}
	bin.oras, err = lab.Oras().Install(ctx)
	return err
}

// must takes the results of a call, and the test that the call must not fail:
// must(os.Open(name))(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// tempDir is t.TempDir with a path that is short enough for sockets in it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := must(os.MkdirTemp("", "e2e"))(t)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// process is what the harness ends after a test.
type process interface {
	Stop() error
	Tail(lines int) string
}

// end ends a process after the test, and shows its log if the test has failed.
func end(t *testing.T, p process) {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(p.Tail(25))
		}
	})
}

// upstream starts an upstream that has the images.
func upstream(t *testing.T, o lab.UpstreamOptions, images ...lab.Image) *lab.Upstream {
	t.Helper()
	o.Dir, o.Registry = tempDir(t), bin.registry
	up := must(lab.StartUpstream(t.Context(), o))(t)
	t.Cleanup(func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("requests to the upstream since the last reset:\n%v", up)
		}
	})
	if err := up.Push(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	return up
}

// origin starts an upstream in this process that has the images.
func origin(t *testing.T, o lab.OriginOptions, images ...lab.Image) *lab.Origin {
	t.Helper()
	up := must(lab.StartOrigin(o, images...))(t)
	t.Cleanup(func() {
		if err := up.Down(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("requests to the upstream since the last reset:\n%v", &up.Ledger)
		}
	})
	return up
}

// amplification fails the test if upstream has sent more than most times the
// bytes that were needed.
func amplification(t *testing.T, up *lab.Origin, needed int64, most float64) {
	t.Helper()
	got := up.Counts()
	ratio := float64(got.BlobBytes) / float64(needed)
	t.Logf("upstream bytes / needed bytes = %.4f; at most %d at once; %v", ratio, up.Parallel(), got)
	if ratio > most || got.BlobBytes < needed {
		t.Errorf("upstream sent %d bytes of blobs, want %d, at most %.2f times", got.BlobBytes, needed, most)
	}
}

// module starts registry-module with the settings.
func module(t *testing.T, settings ...lab.Env) *lab.Server {
	t.Helper()
	return moduleFrom(t, bin.module, settings...)
}

// moduleFrom does so with another binary than the one that is released.
func moduleFrom(t *testing.T, binary string, settings ...lab.Env) *lab.Server {
	t.Helper()
	s := must(lab.StartModule(t.Context(), binary, tempDir(t), merge(settings...)))(t)
	end(t, s)
	return s
}

// stock starts the stock registry with the same settings.
func stock(t *testing.T, settings ...lab.Env) *lab.Server {
	t.Helper()
	s := must(lab.StartStock(t.Context(), bin.registry, tempDir(t), merge(settings...)))(t)
	end(t, s)
	return s
}

func merge(settings ...lab.Env) lab.Env {
	all := lab.Env{}
	for _, s := range settings {
		maps.Copy(all, s)
	}
	return all
}

// sample returns a sample of package lab.
func sample(t *testing.T, kind string) lab.Image {
	t.Helper()
	return must(lab.Sample(kind))(t)
}

// noise returns an image with layers of the given sizes, which are in no image
// of another repository.
func noise(t *testing.T, repo string, sizes ...int64) lab.Image {
	t.Helper()
	seed := fnv.New32a()
	seed.Write([]byte(repo))
	return must(lab.NoiseImage(repo, "1.0", uint64(seed.Sum32()), sizes...))(t)
}

func blobURL(s interface{ URL() string }, repo string, dgst digest.Digest) string {
	return s.URL() + "/v2/" + repo + "/blobs/" + dgst.String()
}

// address is a server that the harness has not started itself, by its URL.
type address string

func (a address) URL() string { return string(a) }

// knowSize pulls the manifest of an image, which tells the sizes of its layers.
func knowSize(t *testing.T, s interface{ URL() string }, img lab.Image) {
	t.Helper()
	if a := get(t, manifestURL(s, img.Repo, img.Tag)); a.Status != http.StatusOK || string(a.Body) != string(img.Root().Bytes) {
		t.Fatalf("manifest: status %d, %v\n%.300s", a.Status, a.Err, a.Body)
	}
}

func manifestURL(s interface{ URL() string }, repo, ref string) string {
	return s.URL() + "/v2/" + repo + "/manifests/" + ref
}

// checkStore fails the test if something in the data directory is not what its
// name says. It returns how many blobs there are.
func checkStore(t *testing.T, s *lab.Server) int {
	t.Helper()
	n, size, err := lab.CheckStore(s.Data)
	if err != nil {
		t.Error(err)
	}
	t.Logf("stored: %d blobs, %d bytes", n, size)
	return n
}

// stored tells whether a blob lies in the data directory under its name.
func stored(s *lab.Server, dgst digest.Digest) bool {
	_, err := os.Stat(filepath.Clean(lab.BlobPath(s.Data, dgst)))
	return err == nil
}

// allStored tells whether all blobs of an image do.
func allStored(s *lab.Server, img lab.Image) bool {
	return !slices.ContainsFunc(img.Blobs, func(b lab.RawBlob) bool { return !stored(s, b.Digest) })
}

// partials lists what is kept of downloads that are not complete.
func partials(t *testing.T, s *lab.Server) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Data, "partial"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// requests fails the test unless the upstream has seen exactly that many.
func requests(t *testing.T, up *lab.Upstream, what string, want int) {
	t.Helper()
	got := up.Counts()
	t.Logf("%s: %v", what, got)
	if got.Requests != want {
		t.Errorf("%s: %d upstream requests, want %d\n%v", what, got.Requests, want, up)
	}
}

// eventually polls until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	within(t, 30*time.Second, what, so)
}

// within does so for a while.
func within(t *testing.T, d time.Duration, what string, so func() bool) {
	t.Helper()
	patience := time.NewTimer(d)
	defer patience.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-patience.C:
			t.Fatalf("still not so: %s", what)
		}
	}
}
