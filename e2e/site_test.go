package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/e2e/lab"
	"registry-module/seed"
)

// The registries of the site that is seeded in these tests.
const (
	publicHost  = "mcr.microsoft.com"
	privateHost = "plant.azurecr.io"
)

// factory is a site whose deployment manifest names images of two registries, which are
// there under their real names.
type factory struct {
	public, private *site
	env             lab.Env // of a module in front of both
	// modules are the images by the names that the manifest has, but for the first
	// component of the names.
	modules []module8
	// signed is one of them, with what is attached to it.
	signed   lab.Image
	attached []lab.Image
	// manifest is the path of the deployment manifest.
	manifest string
	version  string // what ${LINE_VERSION} stands for there
}

// module8 is one of its eight modules.
type module8 struct {
	// named is the image as it is written in the manifest.
	name, named string
	host        string
	lab.Image
}

// newFactory makes it. Its registries can be reached by whoever has its env only.
func newFactory(t *testing.T) *factory {
	t.Helper()
	f := &factory{public: new(site), private: new(site), version: "3.4.1"}
	add := func(host, name, named, repo, tag string) lab.Image {
		img := must(lab.IndexImage(repo, tag))(t)
		f.modules = append(f.modules, module8{name, named, host, img})
		map[string]*site{publicHost: f.public, privateHost: f.private}[host].Add(img)
		return img
	}
	add(publicHost, "edgeAgent", publicHost+"/azureiotedge-agent:1.5", "azureiotedge-agent", "1.5")
	add(publicHost, "edgeHub", publicHost+"/azureiotedge-hub:1.5", "azureiotedge-hub", "1.5")
	add(publicHost, "apiproxy", publicHost+"/azureiotedge-api-proxy:latest", "azureiotedge-api-proxy", "latest")
	add(publicHost, "blob", publicHost+"/azure-blob-storage:1.4", "azure-blob-storage", "1.4")
	add(privateHost, "opc", privateHost+"/line/opc-publisher:2.9", "line/opc-publisher", "2.9")
	// The default remote, as lower layers call it.
	f.signed = add(privateHost, "vision", "$upstream:8000/line/vision:${LINE_VERSION}", "line/vision", f.version)
	plc := add(privateHost, "plc", "", "line/plc", "1.0")
	f.modules[len(f.modules)-1].named = plc.ByDigest(privateHost)
	add(privateHost, "history", privateHost+"/line/history", "line/history", "latest")

	tagged := must(lab.CosignTags(f.signed.Repo, f.signed.Root()))(t)
	referrers := must(lab.Signatures(f.signed.Repo, f.signed.Root()))(t)
	list := must(lab.ReferrersIndex(f.signed.Repo, f.signed.Root().Digest, referrers...))(t)
	f.private.Add(tagged...)
	f.private.Add(referrers...)
	f.private.Add(list)
	f.attached = slices.Concat(tagged, referrers)

	proxy := lab.Env{"REGISTRY_PROXY_HTTPPROXY": internet(t, map[string]*site{publicHost: f.public, privateHost: f.private}).URL()}
	f.env = inFrontOf(
		merge(lab.Env{"REGISTRY_PROXY_REMOTEURL": "http://" + privateHost}, proxy),
		merge(lab.Env{"REGISTRY_PROXY_REMOTEURL": "http://" + publicHost}, proxy),
	)
	f.manifest = filepath.Join(tempDir(t), "deployment.json")
	if err := os.WriteFile(f.manifest, f.deployment(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

// deployment is its manifest.
func (f *factory) deployment(t *testing.T) []byte {
	t.Helper()
	system, modules := map[string]any{}, map[string]any{}
	for i, m := range f.modules {
		settings := map[string]any{
			"image":         m.named,
			"createOptions": fmt.Sprintf(`{"HostConfig":{"Binds":["/image: nothing/%s:/data"]}}`, m.name),
		}
		module := map[string]any{"type": "docker", "settings": settings}
		if i < 2 {
			system[m.name] = module
			continue
		}
		module["status"], module["restartPolicy"], module["version"] = "running", "always", "1.0"
		module["env"] = map[string]any{"image": map[string]any{"value": "not/an:image"}}
		modules[m.name] = module
	}
	return must(json.MarshalIndent(map[string]any{"modulesContent": map[string]any{
		"$edgeAgent": map[string]any{"properties.desired": map[string]any{
			"schemaVersion": "1.1",
			"runtime": map[string]any{"type": "docker", "settings": map[string]any{
				"minDockerVersion": "v1.25",
				"registryCredentials": map[string]any{"plant": map[string]any{
					"address": privateHost, "username": "plant", "password": "${PLANT_PASSWORD}",
				}},
			}},
			"systemModules": system, "modules": modules,
		}},
		"$edgeHub": map[string]any{"properties.desired": map[string]any{
			"schemaVersion": "1.1", "routes": map[string]any{"up": "FROM /messages/* INTO $upstream"},
			"storeAndForwardConfiguration": map[string]any{"timeToLiveSecs": 7200},
		}},
	}}, "", "  "))(t)
}

// run runs a command of the module for a data directory, with the settings of a module in
// front of both registries.
func (f *factory) run(ctx context.Context, data string, args ...string) (string, error) {
	env := merge(f.env, lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": data, "LINE_VERSION": f.version})
	return lab.Run(ctx, filepath.Dir(data), env, bin.module, args...)
}

// seed seeds what the manifest names into a data directory.
func (f *factory) seed(t *testing.T, data string, more ...string) (r seed.Report) {
	t.Helper()
	out, err := f.run(t.Context(), data, append([]string{"seed", "-f", f.manifest, "--platform", "linux/amd64,linux/arm64", "-o", "json"}, more...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r
}

// blobBytes is how many bytes of blobs both registries have sent.
func (f *factory) blobBytes() int64 {
	return f.public.Counts().BlobBytes + f.private.Counts().BlobBytes
}

// carried are the blobs of an image that the site is to have: not those of arm/v7.
func carried(t *testing.T, img lab.Image) (blobs []lab.RawBlob, left []lab.RawManifest) {
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
	wanted := map[string]bool{}
	for _, d := range index.Manifests {
		i := slices.IndexFunc(img.Manifests, func(m lab.RawManifest) bool { return m.Digest.String() == d.Digest })
		if d.Platform.Architecture == "arm" {
			left = append(left, img.Manifests[i])
			continue
		}
		for _, b := range img.Blobs {
			if strings.Contains(string(img.Manifests[i].Bytes), b.Digest.String()) {
				wanted[b.Digest.String()] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(img.Blobs), func(b lab.RawBlob) bool { return !wanted[b.Digest.String()] }), left
}

// size is that of all blobs that the site is to have, each once.
func (f *factory) size(t *testing.T) (size int64) {
	t.Helper()
	all := map[string]int64{}
	for _, m := range f.modules {
		blobs, _ := carried(t, m.Image)
		for _, b := range blobs {
			all[b.Digest.String()] = b.Size
		}
	}
	for _, img := range f.attached {
		for _, b := range img.Blobs {
			all[b.Digest.String()] = b.Size
		}
	}
	for n := range maps.Values(all) {
		size += n
	}
	return size
}

// darkened starts a module on a data directory in a network namespace that has nothing
// but a loopback interface.
func darkened(t *testing.T, dir string, env lab.Env) *lab.Server {
	t.Helper()
	ns := netns(t, "127.0.0.1")
	m := must(lab.StartModuleIn(t.Context(), ns, bin.module, dir, env))(t)
	end(t, m)
	return m
}

// serves looks whether a module has all that the manifest names, to the byte, and finds what
// is attached. One in the dark says what it lacks of the platforms that were left out.
func (f *factory) serves(t *testing.T, m *lab.Server, dark bool) {
	t.Helper()
	for _, module := range f.modules {
		blobs, left := carried(t, module.Image)
		if !dark {
			left = nil // it is fetched
		}
		img := module.Image
		img.Blobs = blobs
		if strings.Contains(module.named, "@") {
			img.Tag = img.Root().Digest.String() // which is all that was asked for
		}
		for _, by := range []way{{alias: module.host}, {ns: module.host}} {
			wholeImage(t, m, by, img)
			for _, manifest := range left {
				a := refused(t, "a platform that was left out", by.manifest(m, img.Repo, manifest.Digest.String()), http.StatusNotFound, "MANIFEST_UNKNOWN")
				for _, word := range []string{"linux/arm/v7", "linux/amd64", "linux/arm64"} {
					if !strings.Contains(string(a.Body), word) {
						t.Errorf("the answer for a platform that was left out does not say %s: %s", word, a.Body)
					}
				}
			}
		}
	}
	for _, img := range f.attached {
		root := img.Root()
		for _, ref := range []string{img.Tag, root.Digest.String()} {
			if a := get(t, manifestURL(m, img.Repo, ref)); a.Status != http.StatusOK || string(a.Body) != string(root.Bytes) {
				t.Errorf("%s %s: status %d\n%.300s", img.Kind, ref, a.Status, a.Body)
			}
		}
		for _, b := range img.Blobs {
			if err := must(fetch(t.Context(), blobURL(m, img.Repo, b.Digest)))(t).whole(b); err != nil {
				t.Errorf("a blob of %s: %v", img.Kind, err)
			}
		}
	}
	list := get(t, m.URL()+"/v2/"+f.signed.Repo+"/referrers/"+f.signed.Root().Digest.String())
	for _, kind := range []string{lab.CosignBundle, lab.NotarySignature, lab.InToto} {
		if list.Status != http.StatusOK || !strings.Contains(string(list.Body), kind) {
			t.Errorf("the list of referrers, status %d, has no %s:\n%s", list.Status, kind, list.Body)
		}
	}
	oras := lab.NewClient(tempDir(t), bin.oras)
	if out, err := oras.CLI(t.Context(), "discover", "--plain-http", "--format", "json", f.signed.ByDigest(m.Addr)); err != nil || !strings.Contains(out, lab.CosignBundle) {
		t.Errorf("oras discover: %v\n%s", err, out)
	}
}

// pulled pulls each image with docker, containerd, podman and skopeo, by the names of the
// manifest: $upstream:8000 is the module, and so is the other hosts' mirror. Docker has
// mirrors for Docker Hub only, and writes the host behind the module's address.
func (f *factory) pulled(t *testing.T, m *lab.Server) {
	t.Helper()
	d := must(lab.StartDocker(t.Context(), tempDir(t)))(t)
	end(t, d)
	c := must(lab.StartContainerd(t.Context(), tempDir(t)))(t)
	end(t, c)
	p := must(lab.NewPodman(tempDir(t)))(t)
	for _, host := range []string{publicHost, privateHost} {
		if err := c.Mirror(host, m.URL()); err != nil {
			t.Fatal(err)
		}
		if err := p.Mirror(host, m.Addr+"/"+host); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Mirror(m.Addr, m.URL()); err != nil {
		t.Fatal(err)
	}
	clients := map[string]puller{
		"docker": d, "containerd": c, "podman": p, "skopeo": must(lab.NewSkopeo(tempDir(t)))(t),
	}
	for _, module := range f.modules {
		ref := strings.ReplaceAll(module.named, "${LINE_VERSION}", f.version)
		ref, upstream := strings.CutPrefix(ref, "$upstream:8000/")
		if upstream {
			ref = m.Addr + "/" + ref
		}
		if !strings.ContainsAny(ref[strings.LastIndexByte(ref, '/'):], ":@") {
			ref += ":latest"
		}
		for name, client := range clients {
			by := ref
			if !upstream && (name == "docker" || name == "skopeo") {
				by = m.Addr + "/" + ref
			}
			platforms := []string{"linux/amd64", "linux/arm64"}
			if name == "docker" {
				platforms = platforms[:1] // it cannot have two under one digest
			}
			for _, platform := range platforms {
				digests, err := client.Pull(t.Context(), by, platform)
				if err != nil {
					t.Errorf("%s pulls %s for %s: %v", name, by, platform, err)
				} else if want := module.Root().Digest.String(); !slices.Contains(digests, want) {
					t.Errorf("%s: %s is %v, want %s", name, by, digests, want)
				}
			}
		}
	}
}
