package e2e

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// nobody is the user that modules run as whose files are made unreadable: for root,
// nothing is.
const nobody = 65532

// TestEachFileDamaged damages each file of a data directory, one at a time, in each way
// that a disk, a crash or an operator does. The module starts on what is left, as it did
// before. Without upstream, each answer is right, or an error that says so, or breaks off;
// with upstream, all is right again. It runs on a sample that has each kind of file with
// each damage; `make damage` has all.
func TestEachFileDamaged(t *testing.T) {
	t.Parallel()
	d := newDamaged(t)
	var cases []damage
	sampled := map[string]bool{}
	for _, file := range d.files {
		kind := kindOfFile(d.shelf, file)
		for how := range damages() {
			// Which file of a kind is in the sample is the same each time.
			if one := kind + ": " + how; *full || !sampled[one] {
				sampled[one] = true
				cases = append(cases, damage{file, kind, how})
			}
		}
	}
	slices.SortFunc(cases, func(a, b damage) int { return strings.Compare(a.file+a.how, b.file+b.how) })
	t.Logf("%d files, %d cases", len(d.files), len(cases))
	queue := make(chan damage, len(cases))
	for _, c := range cases {
		queue <- c
	}
	close(queue)
	var wg sync.WaitGroup
	for range 8 { // they wait for the remote more than for the processor
		wg.Go(func() {
			for c := range queue {
				t.Run(c.kind+"/"+c.how+"/"+shorter(c.file), func(t *testing.T) { d.check(t, c) })
			}
		})
	}
	wg.Wait()
}

// shorter leaves out most digits of a digest.
func shorter(file string) string {
	parts := strings.Split(file, "/")
	for i, p := range parts {
		if len(p) == 64 {
			parts[i] = p[:8]
		}
	}
	return strings.Join(parts[max(0, len(parts)-6):], "-")
}

// damage is a case.
type damage struct{ file, kind, how string }

// damaged is a data directory to be damaged.
type damaged struct {
	binary string
	data   string      // never touched; copies are
	files  []string    // in it, relative, with slashes
	shelf  []lab.Image // stored
	rest   lab.Image   // half downloaded
	env    lab.Env
}

// newDamaged fills a data directory: an image for many platforms, one with a large layer,
// one whose layer is another's too, what is attached to them, pins, and a download that
// was put aside. The module has stopped in order.
func newDamaged(t *testing.T) *damaged {
	t.Helper()
	multi := sample(t, lab.OCIIndex).In("damage/multi", "1.0")
	shared := must(lab.NoiseLayer(11, 6*mib))(t)
	large := must(lab.LayeredImage("damage/large", "1.0", shared, must(lab.NoiseLayer(12, 3000))(t)))(t)
	other := must(lab.LayeredImage("damage/other/image", "2.0", shared, must(lab.NoiseLayer(13, 200<<10))(t)))(t)
	d := &damaged{shelf: []lab.Image{multi, large, other}, rest: noise(t, "damage/rest", 5*mib)}
	d.shelf = append(d.shelf, must(lab.CosignTags(multi.Repo, multi.Root()))(t)...)
	d.shelf = append(d.shelf, must(lab.Signatures(large.Repo, large.Root()))(t)...)

	// The user can get to neither the caller's files nor the cache of tools.
	dir := d.directory(t)
	d.binary = filepath.Join(dir, "registry-module")
	if err := copyFile(bin.module, d.binary, 0o755); err != nil {
		t.Fatal(err)
	}
	up := origin(t, lab.OriginOptions{}, append(slices.Clone(d.shelf), d.rest)...)
	d.env = lab.Env{"REGISTRY_HTTP_DRAINTIMEOUT": "100ms", "REGISTRY_CACHE_MINFREE": "0%"}
	m := d.start(t, dir, up)
	cli := func(args ...string) {
		if _, err := lab.Run(t.Context(), dir, lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": m.Data}, d.binary, args...); err != nil {
			t.Error(err)
		}
	}
	for _, img := range d.shelf {
		everything(t, m, img)
		eventually(t, img.Repo+" is stored", func() bool { return allStored(m, img) && linked(m, img) })
	}
	for _, img := range []lab.Image{multi, large} {
		get(t, m.URL()+"/v2/"+img.Repo+"/referrers/"+img.Root().Digest.String())
	}
	cli("pin", "damage/multi:1.0")
	cli("pin", "damage/other/**")

	layer := d.rest.Blobs[0]
	knowSize(t, m, d.rest)
	up.Use(lab.Stall(lab.ForDigest(layer.Digest.String()), func() int64 { return layer.Size / 2 }))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = fetch(ctx, blobURL(m, d.rest.Repo, layer.Digest)) // it ends with the server
	}()
	within(t, 30*time.Second, "half of a blob is there", func() bool { return up.Counts().BlobBytes >= d.size()+layer.Size/2-64<<10 })
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	leave()
	<-gone
	if len(partials(t, m)) != 2 {
		t.Errorf("kept of what is half downloaded: %v, want the bytes and the journal", partials(t, m))
	}

	d.data = m.Data
	err := filepath.WalkDir(d.data, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			file, _ := filepath.Rel(d.data, name)
			d.files = append(d.files, filepath.ToSlash(file))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// size is that of all blobs that are stored.
func (d *damaged) size() (size int64) {
	seen := map[digest.Digest]bool{}
	for _, img := range d.shelf {
		for _, b := range img.Blobs {
			if !seen[b.Digest] {
				seen[b.Digest] = true
				size += b.Size
			}
		}
	}
	return size
}

// directory makes one that is the user's.
func (d *damaged) directory(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (d *damaged) start(t *testing.T, dir string, up *lab.Origin) *lab.Server {
	t.Helper()
	m := must(lab.StartModuleWith(t.Context(), lab.ModuleOptions{Binary: d.binary, Dir: dir, Env: d.settings(up), User: nobody}))(t)
	end(t, m)
	return m
}

// settings name the same remote whichever upstream it is that answers for it.
func (d *damaged) settings(up *lab.Origin) lab.Env {
	return merge(d.env, lab.Env{"REGISTRY_PROXY_REMOTEURL": "http://" + remoteHost, "REGISTRY_PROXY_HTTPPROXY": up.URL()})
}

// linked tells whether the layout has a link for each blob of an image.
func linked(s *lab.Server, img lab.Image) bool {
	return !slices.ContainsFunc(img.Blobs, func(b lab.RawBlob) bool {
		_, err := os.Stat(filepath.Join(s.Data, "docker/registry/v2/repositories", img.Repo, "_layers/sha256", b.Digest.Encoded(), "link"))
		return err != nil
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// check is one case.
func (d *damaged) check(t *testing.T, c damage) {
	dir := d.directory(t)
	if _, err := lab.Run(t.Context(), dir, nil, "cp", "-a", d.data, filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "data", filepath.FromSlash(c.file))
	before := must(os.Stat(name))(t)
	if before.Size() == 0 && c.how != "deleted" && c.how != "unreadable" {
		return // it cannot be damaged so
	}
	if err := damages()[c.how](name); err != nil {
		t.Fatal(err)
	}

	up := must(lab.StartOrigin(lab.OriginOptions{}, append(slices.Clone(d.shelf), d.rest)...))(t)
	defer func() { _ = up.Down() }() // it is down, or the test has failed
	if err := up.Down(); err != nil {
		t.Fatal(err)
	}
	m, err := lab.StartModuleWith(t.Context(), lab.ModuleOptions{Binary: d.binary, Dir: dir, Env: d.settings(up), User: nobody})
	if err != nil {
		d.refusal(t, c, err)
		return
	}
	defer func() {
		_ = m.Kill() // it may have ended
		if t.Failed() {
			t.Log(m.Tail(15))
		}
	}()
	wrong := 0
	for _, img := range append(slices.Clone(d.shelf), d.rest) {
		for url, want := range urlsOf(m, img) {
			a, err := askWhole(t.Context(), url)
			if err == nil {
				err = a.rightOrClear(want)
			}
			if err != nil {
				t.Errorf("without upstream: %s: %v", url, err)
			}
			if err == nil && a.Status != http.StatusOK {
				wrong++
			}
		}
	}
	if most := d.mayMiss(c); wrong > most {
		t.Errorf("without upstream, %d answers are errors after one file was damaged, want at most %d", wrong, most)
	}

	if err := up.Up(); err != nil {
		t.Fatal(err)
	}
	// The module may leave it alone for some seconds.
	patience := 15 * time.Second
	for _, img := range append(slices.Clone(d.shelf), d.rest) {
		for url, want := range urlsOf(m, img) {
			if err := untilRight(t.Context(), patience, url, want); err != nil {
				t.Errorf("with upstream: %v", err)
				if errors.Is(err, context.DeadlineExceeded) {
					patience = time.Second // it has had its time
				}
			}
		}
	}
	if err := m.Stop(); err != nil {
		t.Errorf("%v", err)
	}
	if log := string(must(os.ReadFile(m.Log()))(t)); strings.Contains(log, "goroutine ") || strings.Contains(log, "panic") {
		t.Error("it has panicked")
	}
	if n, _, err := lab.CheckStore(m.Data); err != nil {
		t.Errorf("%d blobs, and afterwards %v", n, err)
	}
}

// refusal judges why the module has not started. The files that say whose data it is, and
// who has it, are the only ones that it cannot do without: it names them.
func (d *damaged) refusal(t *testing.T, c damage, err error) {
	t.Helper()
	text := err.Error()
	switch {
	case strings.Contains(text, "goroutine ") || !strings.Contains(text, "exit status 1"):
		t.Errorf("it has crashed: %v", err)
	case c.file != "registry-module.json" && c.file != "registry-module.lock":
		t.Errorf("it does not start: %v", err)
	case !strings.Contains(text, c.file) && !strings.Contains(text, "not writable"):
		t.Errorf("the error does not name %s: %v", c.file, err)
	default:
		t.Logf("it does not start, and says why: %v", err)
	}
}

// mayMiss is how many answers may be errors without upstream: those that need what was
// in the file.
func (d *damaged) mayMiss(c damage) int {
	missing := 2 // what is half downloaded: its layer, and its configuration
	switch {
	case c.file == "registry-module.json":
		// It says whose images those are: with another host in it, they are another's.
		return math.MaxInt
	case strings.HasPrefix(c.kind, "index"), strings.HasPrefix(c.kind, "partial"), strings.HasPrefix(c.kind, "registry-module"):
		// It holds nothing that cannot be found out from the rest.
	case c.kind == "large layer":
		missing += 2 // it is in two images
	case strings.HasSuffix(c.kind, "manifest.v1+json") || strings.HasSuffix(c.kind, "index.v1+json"):
		missing += 2 // by its tag and by its digest
	case c.kind == "last blob", c.kind == "other blob":
		missing += 8 // an empty configuration is in many
	case c.kind == "tag" || strings.HasPrefix(c.kind, "link"):
		missing += 2
	}
	return missing
}
