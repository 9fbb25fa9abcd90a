package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/cache"
	"registry-module/e2e/lab"
)

// TestAdopt starts on a volume that a stock registry in proxy mode has written. All that
// it had is served without upstream, to the byte; it is listed; and the stock registry
// serves it again afterwards, with what has come meanwhile.
func TestAdopt(t *testing.T) {
	for name, binary := range map[string]func() (string, error){
		"registry 2.8": func() (string, error) { return lab.StockRegistry2(t.Context()) },
		"registry 3.1": func() (string, error) { return bin.registry, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			binary := must(binary())(t)
			multi := sample(t, lab.DockerList).In("adopt/multi", "1.0")
			oci := sample(t, lab.OCIIndex).In("library/oci", "latest")
			shared := must(lab.NoiseLayer(1, 3*mib))(t)
			first := must(lab.LayeredImage("adopt/first", "1.0", shared, must(lab.NoiseLayer(2, 100<<10))(t)))(t)
			second := must(lab.LayeredImage("adopt/deep/er/second", "v2", shared, must(lab.NoiseLayer(3, 5000))(t)))(t)
			images := []lab.Image{multi, oci, first, second}
			added := noise(t, "adopt/added", 2*mib, 1000)
			up := upstream(t, lab.UpstreamOptions{}, append(images, added)...)

			dir := tempDir(t)
			old := must(lab.StartStock(t.Context(), binary, dir, up.Env()))(t)
			end(t, old)
			for _, img := range images {
				everything(t, old, img)
			}
			for _, img := range images {
				eventually(t, "the stock registry has stored "+img.Repo, func() bool { return allStored(old, img) && allLinked(old, img) })
			}
			// An image without its tag: it was pulled by digest.
			untagged := must(lab.LayeredImage("adopt/untagged", "1.0", shared))(t)
			if err := up.Push(t.Context(), untagged); err != nil {
				t.Fatal(err)
			}
			byDigest(t, old, untagged)
			eventually(t, "the stock registry has stored what was pulled by digest", func() bool { return allStored(old, untagged) })
			if err := old.Stop(); err != nil {
				t.Fatal(err)
			}

			// Ours, without a single byte from upstream.
			takeDown(t, up)
			up.Reset()
			m := moduleIn(t, dir, up.Env())
			for _, img := range images {
				everything(t, m, img)
			}
			byDigest(t, m, untagged)
			crane := lab.CraneClient{Client: lab.NewClient(tempDir(t), bin.crane)}
			for _, ref := range []string{multi.ByTag(m.Addr), oci.ByTag(m.Addr), first.ByDigest(m.Addr), second.ByTag(m.Addr), untagged.ByDigest(m.Addr)} {
				if _, err := crane.Pull(t.Context(), ref, ""); err != nil {
					t.Errorf("crane pull %s: %v", ref, err)
				}
			}
			for _, platform := range lab.Platforms() {
				if _, err := crane.Pull(t.Context(), multi.ByTag(m.Addr), platform); err != nil {
					t.Errorf("crane pull --platform %s: %v", platform, err)
				}
			}
			requests(t, up, "an adopted volume", 0)

			// More comes, and an image that was there is asked for again.
			bringUp(t, up)
			eventually(t, "what is new is pulled", func() bool { return pull(t.Context(), m, added) == nil && allStored(m, added) })
			if got := up.Counts(); got.BlobBytes != added.Size() {
				t.Errorf("%d bytes of blobs came from upstream, want %d of what is new", got.BlobBytes, added.Size())
			}
			inList(t, m, append(images, added)...)
			if err := m.Stop(); err != nil {
				t.Fatal(err)
			}
			checkStore(t, m)

			// And back: as a proxy, which does not start while its remote is away, and
			// without a remote.
			for what, env := range map[string]lab.Env{"proxy": up.Env(), "plain": nil} {
				bringUp(t, up)
				back := must(lab.StartStock(t.Context(), binary, dir, env))(t)
				takeDown(t, up)
				for _, img := range append(slices.Clone(images), added) {
					everything(t, back, img)
				}
				byDigest(t, back, untagged)
				if err := back.Stop(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// everything compares all manifests and blobs of an image, and its tag.
func everything(t *testing.T, s *lab.Server, img lab.Image) {
	t.Helper()
	f := must(fetch(t.Context(), manifestURL(s, img.Repo, img.Tag)))(t)
	if f.Status != http.StatusOK || f.Digest != img.Root().Digest {
		t.Errorf("%s:%s: status %d, %s, want 200, %s", img.Repo, img.Tag, f.Status, f.Digest, img.Root().Digest)
	}
	byDigest(t, s, img)
}

// byDigest does so without the tag.
func byDigest(t *testing.T, s *lab.Server, img lab.Image) {
	t.Helper()
	for _, m := range slices.Backward(img.Manifests) {
		a := get(t, manifestURL(s, img.Repo, m.Digest.String()))
		if a.Status != http.StatusOK || string(a.Body) != string(m.Bytes) || a.Header.Get("Content-Type") != m.MediaType {
			t.Errorf("%s@%s: status %d, %s, want 200, %s\n%.300s", img.Repo, m.Digest, a.Status, a.Header.Get("Content-Type"), m.MediaType, a.Body)
		}
	}
	for _, b := range img.Blobs {
		wholeBlob(t, s, img.Repo, b)
	}
}

// allLinked tells whether the layout has all references of an image.
func allLinked(s *lab.Server, img lab.Image) bool {
	repo := filepath.Join(s.Data, "docker/registry/v2/repositories", img.Repo)
	links := []string{filepath.Join(repo, "_manifests/tags", img.Tag, "current/link")}
	for _, m := range img.Manifests {
		links = append(links, filepath.Join(repo, "_manifests/revisions/sha256", m.Digest.Encoded(), "link"))
	}
	for _, b := range img.Blobs {
		links = append(links, filepath.Join(repo, "_layers/sha256", b.Digest.Encoded(), "link"))
	}
	return !slices.ContainsFunc(links, func(name string) bool {
		info, err := os.Stat(name)
		return err != nil || info.Size() == 0
	})
}

// inList fails the test unless `registry-module ls` has the images, complete.
func inList(t *testing.T, m *lab.Server, images ...lab.Image) {
	t.Helper()
	all := cliJSON[[]cache.Image](t, m, "ls")
	for _, img := range images {
		i := slices.IndexFunc(all, func(l cache.Image) bool { return l.Repository == img.Repo && l.Tag == img.Tag })
		if i < 0 {
			t.Errorf("ls does not have %s:%s", img.Repo, img.Tag)
			continue
		}
		if got := all[i]; got.Digest != img.Root().Digest || !got.Complete || got.Missing != 0 || got.Size < img.Size() {
			t.Errorf("ls has %+v\nwant %s, complete, of %d bytes of blobs", got, img.Root().Digest, img.Size())
		}
	}
}

// TestNewerFormat refuses the directory of a version that does not exist yet.
func TestNewerFormat(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(data, "registry-module.json")
	const text = `{"version":99,"remote":"registry.example.test"}`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := serveOn(t.Context(), dir, data)
	for _, want := range []string{"exit status 1", "format 99", "newer version"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it has ended with %v, want %q\n%s", err, want, out)
		}
	}
	if got := string(must(os.ReadFile(file))(t)); got != text {
		t.Errorf("the file is now %s", got)
	}
	for _, e := range must(os.ReadDir(data))(t) {
		switch e.Name() {
		case "registry-module.json", "registry-module.lock", "partial":
		default:
			t.Errorf("a directory that was refused has a new file %s", e.Name())
		}
	}
}

// TestOneOwner starts a second process on a directory, which ends, and says who has it.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	img := noise(t, "owner/app", 5000)
	up := origin(t, lab.OriginOptions{}, img)
	m := module(t, up.Env())
	if err := pull(t.Context(), m, img); err != nil {
		t.Fatal(err)
	}
	refused := func(what, data string) {
		t.Helper()
		out, err := serveOn(t.Context(), tempDir(t), data)
		pid := fmt.Sprint(m.PID())
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), pid) {
			t.Errorf("%s: %v, want exit status 1 and the pid %s\n%s", what, err, pid, out)
		}
	}
	refused("a second process", m.Data)
	other := filepath.Join(tempDir(t), "other")
	if err := os.Symlink(m.Data, other); err != nil {
		t.Fatal(err)
	}
	refused("a second process, by another name", other)
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused("after a restart", m.Data)
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.Restart(t.Context()); err != nil {
		t.Fatalf("what a process has left that was killed: %v", err)
	}
	refused("after kill -9", m.Data)
	// The first one has not noticed.
	takeDown(t, up)
	if err := pull(t.Context(), m, img); err != nil {
		t.Errorf("the first process: %v", err)
	}
}

// serveOn runs `registry-module serve` on a data directory that refuses it. Its error has
// what it has printed.
func serveOn(ctx context.Context, dir, data string) (string, error) {
	addr, err := lab.FreeAddr()
	if err != nil {
		return "", err
	}
	return lab.Run(ctx, dir, lab.Env{
		"REGISTRY_HTTP_ADDR":                        addr,
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": data,
		"REGISTRY_PROXY_REMOTEURL":                  "http://127.0.0.1:1",
	}, bin.module, "serve")
}
