package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"registry-module/e2e/lab"
)

// TestBundleStory carries the same images in a file: created, signed, split, carried,
// loaded into a server that others pull from, and pulled there.
func TestBundleStory(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	work := tempDir(t)
	data, key, public := filepath.Join(work, "data"), filepath.Join(work, "key.pem"), filepath.Join(work, "key.pub.pem")
	openssl := must(lab.System("openssl", "openssl"))(t)
	for _, args := range [][]string{
		{"genpkey", "-algorithm", "ed25519", "-out", key},
		{"pkey", "-in", key, "-pubout", "-out", public},
	} {
		must(lab.Run(t.Context(), work, nil, openssl, args...))(t)
	}
	create := func(to string, more ...string) {
		t.Helper()
		args := append([]string{"bundle", "create", to, "-f", f.manifest, "--platform", "linux/amd64,linux/arm64", "--sign-key", key}, more...)
		if out, err := f.run(t.Context(), data, args...); err != nil {
			t.Fatalf("bundle create: %v\n%s", err, out)
		}
	}
	whole, chunks := filepath.Join(work, "site.tar"), filepath.Join(work, "usb", "site.tar")
	if err := os.Mkdir(filepath.Dir(chunks), 0o755); err != nil {
		t.Fatal(err)
	}
	create(whole)
	if want := f.size(t); f.blobBytes() != want {
		t.Errorf("%d bytes were sent, want %d", f.blobBytes(), want)
	}
	// Again, out of what is stored, in an order of its own.
	create(filepath.Join(work, "again.tar"), "--cached")
	create(chunks, "--chunk-size", "1MiB")
	first := must(os.ReadFile(whole))(t)
	if again := must(os.ReadFile(filepath.Join(work, "again.tar")))(t); !bytes.Equal(first, again) {
		t.Error("two bundles of the same images are not the same")
	}
	var joined []byte
	parts := must(filepath.Glob(chunks + ".0*"))(t)
	for _, part := range parts {
		joined = append(joined, must(os.ReadFile(part))(t)...)
	}
	if len(parts) < 2 || !bytes.Equal(first, joined) {
		t.Errorf("%d chunks are not together what the bundle is", len(parts))
	}
	sums(t, chunks+".sums", parts)
	f.readable(t, whole)

	// Away from all networks, into a server in use.
	f.public.Reset()
	f.private.Reset()
	dir := tempDir(t)
	base := noise(t, "base/load", 400<<10, 100<<10)
	up := origin(t, lab.OriginOptions{}, base)
	before := moduleIn(t, dir, up.Env())
	everything(t, before, base)
	stop(t, before)
	m := darkened(t, dir, lab.Env{"REGISTRY_BUNDLE_TRUSTKEYS": "[" + public + "]"})
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	pulls := 0
	for range 3 {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := pull(ctx, m, base); err != nil && ctx.Err() == nil {
					t.Errorf("a pull while the bundle is loaded: %v", err)
					return
				}
				pulls++
			}
		})
	}
	receipt := filepath.Join(work, "receipt.json")
	out, err := tryCLI(t.Context(), m, "bundle", "load", chunks, "--trust-key", public, "--receipt", receipt)
	cancel()
	load.Wait()
	if err != nil {
		t.Fatalf("bundle load: %v\n%s", err, out)
	}
	t.Logf("%d pulls meanwhile\n%s", pulls, out)
	f.serves(t, m, true)
	f.pulled(t, m)
	everything(t, m, base)

	// Once more, with nothing to do; and nothing was asked of a registry.
	if out, err := tryCLI(t.Context(), m, "bundle", "load", whole); err != nil {
		t.Errorf("loading it again: %v\n%s", err, out)
	}
	if n := len(f.public.Requests()) + len(f.private.Requests()); n != 0 {
		t.Errorf("there were %d requests to the registries", n)
	}
	// Signed by nobody, or by somebody else, it is refused.
	unsigned := filepath.Join(work, "unsigned.tar")
	if out, err := f.run(t.Context(), data, "bundle", "create", unsigned, "-f", f.manifest, "--cached"); err != nil {
		t.Fatalf("bundle create: %v\n%s", err, out)
	}
	if out, err := tryCLI(t.Context(), m, "bundle", "load", unsigned); err == nil || !strings.Contains(err.Error(), "sign") {
		t.Errorf("an unsigned bundle: %v\n%s", err, out)
	}
	verified(t, m)
}

// TestBundleForCrane has crane push a bundle of one image as it is, with all its platforms,
// after tar has unpacked it.
func TestBundleForCrane(t *testing.T) {
	t.Parallel()
	img := must(lab.IndexImage("team/whole", "1.0"))(t)
	up := origin(t, lab.OriginOptions{}, img)
	work := tempDir(t)
	env := merge(up.Env(), lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": filepath.Join(work, "data")})
	path, layout := filepath.Join(work, "one.tar"), filepath.Join(work, "layout")
	if out, err := lab.Run(t.Context(), work, env, bin.module, "bundle", "create", path, "team/whole:1.0"); err != nil {
		t.Fatalf("bundle create: %v\n%s", err, out)
	}
	unpack(t, path, layout)
	into := memory(t, lab.MemoryOptions{})
	crane := lab.NewClient(tempDir(t), bin.crane)
	target := into.Addr + "/team/whole:1.0"
	if out, err := crane.CLI(t.Context(), "push", "--insecure", layout, target); err != nil {
		t.Fatalf("crane push: %v\n%s", err, out)
	}
	if got := must(crane.CLI(t.Context(), "digest", "--insecure", target))(t); got != img.Root().Digest.String() {
		t.Errorf("crane has pushed %s, want %s", got, img.Root().Digest)
	}
	if out, err := crane.CLI(t.Context(), "validate", "--insecure", "--remote", target); err != nil {
		t.Errorf("crane validate: %v\n%s", err, out)
	}
}

// sums compares the sums of chunks.
func sums(t *testing.T, path string, parts []string) {
	t.Helper()
	text := string(must(os.ReadFile(path))(t))
	for _, part := range parts {
		sum := sha256.Sum256(must(os.ReadFile(part))(t))
		if line := hex.EncodeToString(sum[:]) + "  " + filepath.Base(part); !strings.Contains(text, line) {
			t.Errorf("%s has no line %q:\n%s", filepath.Base(path), line, text)
		}
	}
}

// readable has other programs read a bundle: skopeo from the file, and ctr into a
// containerd.
func (f *factory) readable(t *testing.T, path string) {
	t.Helper()
	layout := tempDir(t)
	unpack(t, path, layout)
	c := must(lab.StartContainerd(t.Context(), tempDir(t)))(t)
	end(t, c)
	// For the machine's platform: ctr does not do without those that were left out otherwise.
	if out, err := c.Ctr(t.Context(), "images", "import", path); err != nil {
		t.Fatalf("ctr images import: %v\n%s", err, out)
	}
	imported := must(c.Ctr(t.Context(), "images", "list"))(t)
	skopeo := must(lab.NewSkopeo(tempDir(t)))(t)
	for _, m := range f.modules {
		name := m.ByTag(m.host)
		if strings.Contains(m.named, "@") {
			name = m.ByDigest(m.host)
		}
		want := m.Root().Digest.String()
		if !slices.ContainsFunc(strings.Split(imported, "\n"), func(line string) bool {
			return strings.HasPrefix(line, name+" ") && strings.Contains(line, want)
		}) {
			t.Errorf("containerd has no image %s %s:\n%s", name, want, imported)
		}
		for _, arch := range []string{"amd64", "arm64"} {
			out, err := skopeo.CLI(t.Context(), "--override-arch", arch, "inspect", "--config", "oci-archive:"+path+":"+name)
			if err != nil || !strings.Contains(strings.ReplaceAll(out, " ", ""), `"architecture":"`+arch+`"`) {
				t.Errorf("skopeo inspect %s for %s: %v\n%s", name, arch, err, out)
			}
		}
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(layout, "index.json")))(t), &index); err != nil || len(index.Manifests) < len(f.modules) {
		t.Errorf("index.json lists %d images, %v", len(index.Manifests), err)
	}
}

// unpack unpacks a tar.
func unpack(t *testing.T, path, dir string) {
	t.Helper()
	f := must(os.Open(path))(t)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		out := must(os.Create(to))(t)
		_, err = io.Copy(out, r)
		if err := errors.Join(err, out.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
