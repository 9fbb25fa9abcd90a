package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// puller is a client that pulls images. Pull returns the digests that it has
// seen or keeps the reference under.
type puller interface {
	Pull(ctx context.Context, ref, platform string) (digests []string, err error)
}

// pullers are the clients that run images. Each call makes one with nothing
// stored. Images are called as at the address; requests go to the module.
func pullers() map[string]func(t *testing.T, up *lab.Upstream, m *lab.Server) (p puller, addr string) {
	return map[string]func(*testing.T, *lab.Upstream, *lab.Server) (puller, string){
		"docker": func(t *testing.T, _ *lab.Upstream, m *lab.Server) (puller, string) {
			d := must(lab.StartDocker(t.Context(), tempDir(t)))(t)
			end(t, d)
			return d, m.Addr
		},
		// containerd knows the image by its upstream's name, and the module from
		// hosts.toml.
		"containerd": func(t *testing.T, up *lab.Upstream, m *lab.Server) (puller, string) {
			c := must(lab.StartContainerd(t.Context(), tempDir(t)))(t)
			end(t, c)
			if err := c.Mirror(up.Addr, m.URL()); err != nil {
				t.Fatal(err)
			}
			return c, up.Addr
		},
		"podman": func(t *testing.T, _ *lab.Upstream, m *lab.Server) (puller, string) {
			return must(lab.NewPodman(tempDir(t)))(t), m.Addr
		},
		"skopeo": func(t *testing.T, _ *lab.Upstream, m *lab.Server) (puller, string) {
			return must(lab.NewSkopeo(tempDir(t)))(t), m.Addr
		},
		"crane": func(t *testing.T, _ *lab.Upstream, m *lab.Server) (puller, string) {
			return lab.CraneClient{Client: lab.NewClient(tempDir(t), bin.crane)}, m.Addr
		},
	}
}

// TestPull pulls by tag, by digest and by platform with each client. What was
// pulled once is pulled again, by a client with nothing stored, without one
// upstream request.
func TestPull(t *testing.T) {
	for name, start := range pullers() {
		for _, kind := range []string{lab.OCIIndex, lab.DockerList} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				img := sample(t, kind)
				up := upstream(t, lab.UpstreamOptions{}, img)
				m := module(t, up.Env())
				amd64, arm64 := childOf(t, img, "amd64"), childOf(t, img, "arm64")

				for _, step := range []struct {
					what      string
					ref       func(addr string) string
					platform  string
					manifests int // upstream GETs of manifests
					blobs     int // upstream GETs of blobs
					bytes     int64
				}{
					{what: "cold by tag", ref: img.ByTag, manifests: 2, blobs: 3, bytes: amd64.bytes()},
					{what: "again by tag", ref: img.ByTag},
					{what: "again by digest", ref: img.ByDigest},
					// The platforms have one layer in common.
					{what: "cold for arm64", ref: img.ByTag, platform: "linux/arm64", manifests: 1, blobs: 2,
						bytes: arm64.bytes() - arm64.Layers[0].Size},
					{what: "again for arm64", ref: img.ByTag, platform: "linux/arm64"},
					{what: "again for arm64 by digest", ref: img.ByDigest, platform: "linux/arm64"},
				} {
					up.Reset()
					client, addr := start(t, up, m)
					digests, err := client.Pull(t.Context(), step.ref(addr), step.platform)
					if err != nil {
						t.Fatalf("%s: %v", step.what, err)
					}
					if want := img.Root().Digest.String(); !slices.Contains(digests, want) {
						t.Errorf("%s: the client has %v, want %s", step.what, digests, want)
					}
					got := up.Counts()
					t.Logf("%s: %v", step.what, got)
					if step.manifests == 0 && got.Requests != 0 {
						t.Errorf("%s: %d upstream requests, want 0\n%v", step.what, got.Requests, up)
					}
					if got.ManifestGET != step.manifests || got.BlobGET != step.blobs || got.BlobBytes != step.bytes {
						t.Errorf("%s: fetched %d manifests, %d blobs, %d bytes from upstream, want %d, %d, %d\n%v", step.what,
							got.ManifestGET, got.BlobGET, got.BlobBytes, step.manifests, step.blobs, step.bytes, up)
					}
				}
				checkStore(t, m)
			})
		}
	}
}

// child is a platform's manifest.
type child struct {
	Config struct{ Size int64 }
	Layers []struct{ Size int64 }
}

// bytes is the size of all its blobs.
func (c child) bytes() int64 {
	size := c.Config.Size
	for _, l := range c.Layers {
		size += l.Size
	}
	return size
}

// childOf returns the manifest of an image for an architecture.
func childOf(t *testing.T, img lab.Image, arch string) child {
	t.Helper()
	var index struct {
		Manifests []struct {
			Digest   string
			Platform struct{ Architecture string }
		}
	}
	if err := json.Unmarshal(img.Root().Bytes, &index); err != nil {
		t.Fatal(err)
	}
	for _, d := range index.Manifests {
		for _, m := range img.Manifests {
			if d.Platform.Architecture == arch && m.Digest.String() == d.Digest {
				var c child
				if err := json.Unmarshal(m.Bytes, &c); err != nil {
					t.Fatal(err)
				}
				return c
			}
		}
	}
	t.Fatalf("%s has no manifest for %s", img.Kind, arch)
	return child{}
}

// TestContainerdNamespace shows that containerd says which registry it means,
// and that this is not sent on.
func TestContainerdNamespace(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	a := do(t, "HEAD", manifestURL(m, img.Repo, img.Tag)+"?ns="+up.Addr)
	if a.Status != 200 || a.Header.Get("OCI-Namespace") != up.Addr {
		t.Errorf("?ns=%s: status %d, OCI-Namespace %q, want 200, %q", up.Addr, a.Status, a.Header.Get("OCI-Namespace"), up.Addr)
	}
	for _, r := range up.Requests() {
		if strings.Contains(r.URI, "ns=") {
			t.Errorf("upstream was asked %s", r.URI)
		}
	}
}

// TestSkopeo runs what skopeo can do beside pulling.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	dir := tempDir(t)
	s := must(lab.NewSkopeo(dir))(t)
	ref := "docker://" + img.ByTag(m.Addr)

	copyAll := func(what string) {
		to := must(os.MkdirTemp(dir, "all"))(t)
		if _, err := s.CLI(t.Context(), "copy", "--all", "--preserve-digests", "--src-tls-verify=false", ref, "dir:"+to); err != nil {
			t.Fatal(err)
		}
		if got := string(must(os.ReadFile(filepath.Join(to, "manifest.json")))(t)); got != string(img.Root().Bytes) {
			t.Errorf("%s: the index differs from upstream's:\n%s", what, got)
		}
		for _, b := range img.Blobs {
			if _, err := os.Stat(filepath.Join(to, b.Digest.Encoded())); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	copyAll("cold copy --all")
	if got := up.Counts(); got.BlobBytes != img.Size() || got.BlobGET != len(img.Blobs) {
		t.Errorf("cold copy --all: %v\nwant %d blobs, %d bytes", got, len(img.Blobs), img.Size())
	}
	up.Reset()
	copyAll("warm copy --all")
	requests(t, up, "warm copy --all", 0)

	raw := must(s.CLI(t.Context(), "inspect", "--raw", "--tls-verify=false", ref))(t)
	if raw != string(img.Root().Bytes) {
		t.Errorf("inspect --raw differs from upstream's index:\n%s", raw)
	}
	requests(t, up, "inspect --raw", 0)

	var inspected struct {
		Digest   string
		RepoTags []string
	}
	if err := json.Unmarshal([]byte(must(s.CLI(t.Context(), "inspect", "--tls-verify=false", ref))(t)), &inspected); err != nil {
		t.Fatal(err)
	}
	if inspected.Digest != img.Root().Digest.String() || !slices.Equal(inspected.RepoTags, []string{img.Tag}) {
		t.Errorf("inspect: %+v, want %s and tag %s", inspected, img.Root().Digest, img.Tag)
	}
}

// TestCrane runs what crane can do beside pulling.
func TestCrane(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.DockerList)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	crane := lab.NewClient(tempDir(t), bin.crane)

	validate := func() {
		if out, err := crane.CLI(t.Context(), "validate", "--remote", img.ByTag(m.Addr)); err != nil {
			t.Errorf("validate --remote: %v\n%s", err, out)
		}
	}
	validate()
	cold := up.Counts()
	t.Logf("cold validate: %v", cold)
	if cold.BlobGET != len(img.Blobs) || cold.BlobBytes != img.Size() {
		t.Errorf("cold validate fetched %d blobs, %d bytes, want %d, %d\n%v", cold.BlobGET, cold.BlobBytes, len(img.Blobs), img.Size(), up)
	}
	up.Reset()
	validate()
	requests(t, up, "warm validate", 0)

	if got := must(crane.CLI(t.Context(), "digest", img.ByTag(m.Addr)))(t); got != img.Root().Digest.String() {
		t.Errorf("digest: %s, want %s", got, img.Root().Digest)
	}
	if got := must(crane.CLI(t.Context(), "manifest", img.ByDigest(m.Addr)))(t); got != strings.TrimSpace(string(img.Root().Bytes)) {
		t.Errorf("manifest differs from upstream's:\n%s", got)
	}
	requests(t, up, "digest and manifest", 0)
	if got := must(crane.CLI(t.Context(), "ls", m.Addr+"/"+img.Repo))(t); got != img.Tag {
		t.Errorf("ls: %q, want %q", got, img.Tag)
	}
}

// TestOras pulls an artifact.
func TestOras(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.Artifact)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	dir := tempDir(t)
	oras := lab.NewClient(dir, bin.oras)

	for _, what := range []string{"cold", "warm"} {
		up.Reset()
		to := must(os.MkdirTemp(dir, what))(t)
		if _, err := oras.CLI(t.Context(), "pull", "--plain-http", "--output", to, img.ByTag(m.Addr)); err != nil {
			t.Fatalf("%s pull: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(to, "sbom.spdx.json")); err != nil {
			t.Errorf("%s pull: %v", what, err)
		}
		got := must(oras.CLI(t.Context(), "manifest", "fetch", "--plain-http", img.ByTag(m.Addr)))(t)
		if got != strings.TrimSpace(string(img.Root().Bytes)) {
			t.Errorf("%s manifest fetch differs from upstream's:\n%s", what, got)
		}
		t.Logf("%s: %v", what, up.Counts())
	}
	requests(t, up, "warm pull and manifest fetch", 0)
}
