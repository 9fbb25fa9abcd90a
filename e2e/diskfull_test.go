package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"registry-module/e2e/lab"
)

// smallDisk starts a module whose data directory is a disk of its own, in memory, that
// is left no room on purpose. It returns the mount point: foreign files go beside the
// data directory.
func smallDisk(t *testing.T, size int64, settings ...lab.Env) (m *lab.Server, mount string) {
	t.Helper()
	mount, remove, err := lab.Tmpfs(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	// The log is elsewhere.
	dir := tempDir(t)
	if err := os.Mkdir(filepath.Join(mount, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(mount, "data"), filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	none := lab.Env{"REGISTRY_CACHE_MINFREE": "0%", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": filepath.Join(mount, "data")}
	return moduleIn(t, dir, append([]lab.Env{none}, settings...)...), mount
}

// TestDiskFull fills the disk for real: somebody else does, while a blob is being
// written. Whoever pulls it does not notice, and neither does who pulls what is stored
// or what is new. When there is room again, what is pulled is stored again.
//
// It is ENOSPC only: a file system with quotas, for EDQUOT, takes a kernel that has
// them. TestFileSystemFails has both, without a kernel.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	old := noise(t, "full/old", 4*mib, 2*mib, 1000)
	filling := noise(t, "full/filling", 12*mib)
	later := noise(t, "full/later", 6*mib, 300<<10)
	up := origin(t, lab.OriginOptions{}, old, filling, later)
	m, mount := smallDisk(t, 64*mib, up.Env())
	if err := pull(t.Context(), m, old); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stored", func() bool { return allStored(m, old) })

	// The disk becomes full when half of a blob is there.
	half, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	up.Use(lab.Each(func(r *http.Request) lab.Middleware {
		if !lab.Blobs(r) || !lab.ForDigest(filling.Blobs[0].Digest.String())(r) {
			return nil
		}
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(&pausing{ResponseWriter: w, left: filling.Blobs[0].Size / 2, pause: func() {
					once.Do(func() { close(half) })
					<-goOn
				}}, r)
			})
		}
	}))
	pulled := make(chan error, 1)
	go func() { pulled <- pull(t.Context(), m, filling) }()
	<-half
	foreign := filepath.Join(mount, "foreign")
	if err := lab.FillUp(t.Context(), foreign, 0); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if err := <-pulled; err != nil {
		t.Errorf("the pull in which the disk became full: %v", err)
	}
	up.Use()

	for range 3 {
		for _, img := range []lab.Image{filling, later} {
			if err := pull(t.Context(), m, img); err != nil {
				t.Errorf("%s, with a full disk: %v", img.Repo, err)
			}
		}
	}
	up.Reset()
	if err := pull(t.Context(), m, old); err != nil {
		t.Errorf("what is stored, with a full disk: %v", err)
	}
	if got := up.Counts(); allStored(m, old) && got.BlobGET != 0 {
		t.Errorf("what is stored was fetched: %v", got)
	}
	warnedOnce(t, m, filling, later)
	if left := partials(t, m); len(left) != 0 {
		t.Errorf("what has no room has left %v", left)
	}

	// Foreign files go as they have come. What was stored may have made room.
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	for _, img := range []lab.Image{old, filling, later} {
		eventually(t, img.Repo+" is stored once there is room", func() bool {
			if err := pull(t.Context(), m, img); err != nil {
				t.Errorf("with room: %v", err)
			}
			return allStored(m, img)
		})
	}
	takeDown(t, up)
	for _, img := range []lab.Image{old, filling, later} {
		if err := pull(t.Context(), m, img); err != nil {
			t.Errorf("%s, without upstream: %v", img.Repo, err)
		}
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	sameAsIndex(t, m)
	checkStore(t, m)
}

// TestMoreThanTheDisk pulls more than the disk has room for, without a limit: what was
// used last is stored, and the rest has made room. A blob that is larger than the disk
// is passed on, and one line says so.
func TestMoreThanTheDisk(t *testing.T) {
	t.Parallel()
	const size = 48 * mib
	var images []lab.Image
	for i := range 10 {
		images = append(images, noise(t, fmt.Sprintf("more/%d", i), 6*mib, 3*mib, 20<<10))
	}
	huge := noise(t, "more/huge", size+mib)
	up := origin(t, lab.OriginOptions{}, append(images, huge)...)
	m, _ := smallDisk(t, size, up.Env())
	for _, img := range images {
		if err := pull(t.Context(), m, img); err != nil {
			t.Errorf("%s: %v", img.Repo, err)
		}
		eventually(t, img.Repo+", which has just been pulled, is stored", func() bool {
			// What makes room may take a moment longer than who pulls.
			return allStored(m, img) || pull(t.Context(), m, img) == nil && allStored(m, img)
		})
	}
	for range 3 {
		if err := pull(t.Context(), m, huge); err != nil {
			t.Errorf("larger than the disk: %v", err)
		}
	}
	if stored(m, huge.Blobs[0].Digest) {
		t.Error("a blob that is larger than the disk is stored")
	}
	warnedOnce(t, m, huge)
	last := images[len(images)-1]
	takeDown(t, up)
	if err := pull(t.Context(), m, last); err != nil {
		t.Errorf("what was pulled last, without upstream: %v", err)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	sameAsIndex(t, m)
	checkStore(t, m)
}

// TestFullFromTheStart has a disk that is full before the first pull, and stays so
// over a restart: the module starts, and passes on what it cannot store.
func TestFullFromTheStart(t *testing.T) {
	t.Parallel()
	img := noise(t, "brim/app", 6*mib, 1000)
	up := origin(t, lab.OriginOptions{}, img)
	m, mount := smallDisk(t, 48*mib, up.Env())
	foreign := filepath.Join(mount, "foreign")
	if err := lab.FillUp(t.Context(), foreign, 0); err != nil {
		t.Fatal(err)
	}
	many := func(what string) {
		t.Helper()
		for range 5 {
			if err := pull(t.Context(), m, img); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	many("full")
	if err := m.Restart(t.Context()); err != nil {
		t.Fatalf("a start with a full disk: %v", err)
	}
	many("full, after a restart")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.Restart(t.Context()); err != nil {
		t.Fatalf("a start with a full disk, after kill -9: %v", err)
	}
	many("full, after kill -9")
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stored once there is room", func() bool {
		return pull(t.Context(), m, img) == nil && allStored(m, img)
	})
}

// pausing is an answer that pauses after some bytes of its body.
type pausing struct {
	http.ResponseWriter
	left  int64
	pause func()
}

func (p *pausing) Write(b []byte) (int, error) {
	if p.left -= int64(len(b)); p.left < 0 && p.pause != nil {
		p.pause()
		p.pause = nil
	}
	return p.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find Flush and the like.
func (p *pausing) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// warnedOnce fails the test unless the log has a warning with figures about what did not
// fit, and no more than one about each blob.
func warnedOnce(t *testing.T, m *lab.Server, images ...lab.Image) {
	t.Helper()
	text := string(must(os.ReadFile(m.Log()))(t))
	figures := regexp.MustCompile(`\d{4,} bytes|[\d.]+ ?([KMG]i?B|bytes)`)
	found := 0
	var warnings []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " msg=request ") && (strings.Contains(line, "level=warning") || strings.Contains(line, "level=error")) {
			warnings = append(warnings, strings.TrimSpace(line))
			if figures.MatchString(line) && strings.Contains(line, "space") {
				found++
			}
		}
	}
	const most = 25
	if len(warnings) > most {
		t.Errorf("%d warnings, want at most %d; the last is\n%s", len(warnings), most, warnings[len(warnings)-1])
	}
	for _, img := range images {
		for _, b := range img.Blobs {
			of := 0
			for _, w := range warnings {
				if strings.Contains(w, b.Digest.Encoded()) {
					of++
				}
			}
			if of > 1 {
				t.Errorf("%d warnings about the blob %s, want one", of, b.Digest)
			}
		}
	}
	if found == 0 {
		t.Errorf("no warning about space has figures:\n%s", strings.Join(warnings, "\n"))
	}
	t.Logf("%d warnings, %d of them about space and with figures; the first:\n%s", len(warnings), found, strings.Join(warnings[:min(2, len(warnings))], "\n"))
}
