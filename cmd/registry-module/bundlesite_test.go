package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/upstream/upstreamtest"
)

// shortDir is a directory in which a socket has room.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bundle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// inDir has commands work on a data directory without remotes.
func inDir(t *testing.T, dir string) {
	t.Helper()
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
}

// pullAll pulls an image or index with all that it consists of.
func pullAll(t *testing.T, addr, image string) (v1.Hash, error) {
	t.Helper()
	ref, err := name.ParseReference(addr+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	d, err := remote.Get(ref, remote.WithContext(t.Context()), remote.WithTransport(tr))
	if err != nil {
		return v1.Hash{}, err
	}
	if d.MediaType.IsIndex() {
		index, err := d.ImageIndex()
		if err != nil {
			return d.Digest, err
		}
		return d.Digest, validate.Index(index)
	}
	img, err := d.Image()
	if err != nil {
		return d.Digest, err
	}
	return d.Digest, validate.Image(img)
}

// online is a data directory with images of a registry, which is away since.
type online struct {
	dir, host string
	index     digest.Digest // team/app:v1, of two platforms
	image     digest.Digest // team/tool:v1
	signature digest.Digest // that refers to index
	names     []string
}

func newOnline(t *testing.T) online {
	t.Helper()
	quiet(t)
	up := upstreamtest.New(t)
	o := online{dir: shortDir(t), host: up.Host()}
	o.index, _ = up.AddRandomIndex("team/app", "v1", 2, 300<<10, "linux/amd64", "linux/arm64")
	o.image = digest.Digest(up.AddRandomImage("team/tool", "v1", 2, 900<<10).Digest.String())
	o.signature = up.AddReferrer("team/app", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: o.index, Size: 1}, "application/x.signature", nil).Digest
	cosign := strings.Replace(o.index.String(), ":", "-", 1) + ".sig"
	up.AddRandomImage("team/app", cosign, 1, 100)
	o.names = []string{"team/app:v1", "team/app@" + o.index.String(), "team/tool:v1", "team/tool@" + o.image.String(), "team/app:" + cosign}
	cfg := testConfig(t, o.dir, up.Host())
	stop := serving(t, cfg)
	for _, image := range o.names {
		if _, err := pullAll(t, cfg.Addr, image); err != nil {
			t.Fatalf("%s: %v", image, err)
		}
	}
	fetched(t, cfg.Addr, "team/app/manifests/"+o.signature.String())
	fetched(t, cfg.Addr, "team/app/blobs/"+ocispec.DescriptorEmptyJSON.Digest.String())
	stop()
	up.Offline()
	return o
}

// fetched pulls a manifest or a blob alone.
func fetched(t *testing.T, addr, path string) {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/v2/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s, %v", path, resp.Status, err)
	}
}

// wantAll checks that all images are served at addr.
func (o online) wantAll(t *testing.T, addr string) {
	t.Helper()
	for _, image := range o.names {
		dgst, err := pullAll(t, addr, image)
		if err != nil {
			t.Errorf("%s: %v", image, err)
		}
		if _, want, ok := strings.Cut(image, "@"); ok && dgst.String() != want {
			t.Errorf("%s is %s", image, dgst)
		}
	}
	fetched(t, addr, "team/app/manifests/"+o.signature.String())
	resp, err := http.Get("http://" + addr + "/v2/team/app/referrers/" + o.index.String())
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	var list ocispec.Index
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Manifests) != 1 || list.Manifests[0].Digest != o.signature {
		t.Errorf("referrers: %+v, %v", list.Manifests, err)
	}
}

// create makes a bundle of all images, which are stored.
func (o online) create(t *testing.T, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "images.tar")
	o.createAs(t, file, append([]string{"team/app:v1", "team/tool:v1"}, args...)...)
	return file
}

func (o online) createAs(t *testing.T, file string, args ...string) {
	t.Helper()
	inDir(t, o.dir)
	if _, notes, err := command(t, append([]string{"bundle", "create", file, "--cached"}, args...)...); err != nil {
		t.Fatalf("%v\n%s", err, notes)
	}
}

func have(t *testing.T, dir string) string {
	t.Helper()
	inDir(t, dir)
	out, _, err := command(t, "ls", "-o", "have")
	if err != nil {
		t.Fatal(err)
	}
	return out
}
