package lab

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"strings"
)

// Platforms are those of the samples that have more than one, in the form that
// clients take.
func Platforms() []string {
	var all []string
	for _, p := range platforms() {
		all = append(all, p.String())
	}
	return all
}

func platforms() []platform {
	return []platform{
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "arm64"},
		{OS: "linux", Architecture: "arm", Variant: "v7"},
	}
}

// SampleKinds that tests ask for by name; see [Sample].
const (
	OCIIndex   = "OCI index"
	DockerList = "Docker manifest list"
	Artifact   = "artifact"
)

// Sample returns the sample of a kind.
func Sample(kind string) (Image, error) {
	all, err := Samples()
	if err != nil {
		return Image{}, err
	}
	for _, img := range all {
		if img.Kind == kind {
			return img, nil
		}
	}
	return Image{}, fmt.Errorf("there is no sample %q", kind)
}

// Samples returns one image of each kind of content that a registry has to
// carry to the byte. They are small, and the same each time.
func Samples() ([]Image, error) {
	var all []Image
	for _, make := range []func() (Image, error){
		func() (Image, error) { return multiArch(OCIIndex, ociIndex, ociManifest, ociConfig, ociGzip) },
		func() (Image, error) {
			return multiArch(DockerList, dockerList, dockerManifest, dockerConfig, dockerGzip)
		},
		func() (Image, error) { return single("OCI image", ociManifest, ociConfig, ociGzip) },
		func() (Image, error) { return single("Docker image", dockerManifest, dockerConfig, dockerGzip) },
		func() (Image, error) { return single("zstd layer", ociManifest, ociConfig, ociZstd) },
		nestedIndex, artifact, helmChart, zeroByteBlob, nonDistributable, unnamedType, unknownFields, largeManifest,
		longName, sparseIndex,
	} {
		img, err := make()
		if err != nil {
			return nil, fmt.Errorf("making sample %d: %w", len(all), err)
		}
		if img.Repo == "" {
			img.Repo = "samples/" + strings.ReplaceAll(strings.ToLower(img.Kind), " ", "-")
		}
		img.Tag = "1.0"
		all = append(all, img)
	}
	return all, nil
}

// single is an image of two layers that runs on amd64.
func single(kind, manifestType, configType, layerType string) (Image, error) {
	img, err := runnable(platforms()[0], kind, manifestType, configType, layerType)
	img.Kind = kind
	return img, err
}

// runnable is an image of two layers, and those that are added: one that all platforms
// share, and the platform's program.
func runnable(p platform, kind, manifestType, configType, layerType string, more ...layer) (Image, error) {
	shared, err := tarOf(file{"etc/motd", 0o644, bytes.Repeat([]byte(kind+"\n"), 10_000)})
	if err != nil {
		return Image{}, err
	}
	program, err := ExitProgram(p.Architecture)
	if err != nil {
		return Image{}, err
	}
	own, err := tarOf(file{"exit", 0o755, program})
	if err != nil {
		return Image{}, err
	}
	var layers []layer
	for _, tarball := range [][]byte{shared, own} {
		l, err := compressed(layerType, tarball)
		if err != nil {
			return Image{}, err
		}
		layers = append(layers, l)
	}
	return image(manifestType, configType, p, append(layers, more...)...)
}

func multiArch(kind, indexType, manifestType, configType, layerType string, more ...layer) (Image, error) {
	index := manifest{SchemaVersion: 2, MediaType: indexType}
	var children []Image
	for _, p := range platforms() {
		child, err := runnable(p, kind, manifestType, configType, layerType, more...)
		if err != nil {
			return Image{}, err
		}
		d := child.Root().describe()
		d.Platform = &p
		index.Manifests = append(index.Manifests, d)
		children = append(children, child)
	}
	root, err := index.encode()
	return join(kind, root, children...), err
}

// IndexImage is an image for all of [Platforms], with a layer of 256 KiB that they share.
// What is in it is in no image of another name, but for the programs.
func IndexImage(repo, tag string) (Image, error) {
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(repo + ":" + tag)) // it never fails
	content := make([]byte, 256<<10)
	if _, err := newNoise(seed.Sum64()).ReadAt(content, 0); err != nil {
		return Image{}, err
	}
	own, err := tarOf(file{"etc/noise", 0o644, content})
	if err != nil {
		return Image{}, err
	}
	shared, err := compressed(ociGzip, own)
	if err != nil {
		return Image{}, err
	}
	img, err := multiArch("index", ociIndex, ociManifest, ociConfig, ociGzip, shared)
	return img.In(repo, tag), err
}

// nestedIndex is an index whose entry is an index.
func nestedIndex() (Image, error) {
	inner, err := multiArch("nested index", ociIndex, ociManifest, ociConfig, ociGzip)
	if err != nil {
		return Image{}, err
	}
	outer := manifest{SchemaVersion: 2, MediaType: ociIndex, Manifests: []descriptor{inner.Root().describe()}}
	root, err := outer.encode()
	return join("nested index", root, inner), err
}

// sparseIndex names images that the registry does not have.
func sparseIndex() (Image, error) {
	full, err := multiArch("sparse index", ociIndex, ociManifest, ociConfig, ociGzip)
	if err != nil {
		return Image{}, err
	}
	first, err := runnable(platforms()[0], "sparse index", ociManifest, ociConfig, ociGzip)
	return join("sparse index", full.Root(), first), err
}

// empty is the config of artifacts that have none.
func empty() (descriptor, RawBlob) {
	blob := BytesBlob([]byte("{}"))
	d := describe(ociEmpty, blob)
	d.Data = []byte("{}")
	return d, blob
}

// artifact has a type of its own, an empty config, a file with a name, and a
// subject.
func artifact() (Image, error) {
	subject, err := single(Artifact, ociManifest, ociConfig, ociGzip)
	if err != nil {
		return Image{}, err
	}
	config, configBlob := empty()
	content := BytesBlob([]byte(`{"spdxVersion":"SPDX-2.3"}`))
	layer := describe("application/spdx+json", content)
	layer.Annotations = map[string]string{"org.opencontainers.image.title": "sbom.spdx.json"}
	of := subject.Root().describe()
	root, err := manifest{
		SchemaVersion: 2, MediaType: ociManifest, ArtifactType: "application/spdx+json",
		Config: &config, Layers: []descriptor{layer}, Subject: &of,
		Annotations: map[string]string{"org.opencontainers.image.created": "2026-01-31T12:00:00Z"},
	}.encode()
	return join(Artifact, root, subject, Image{Blobs: []RawBlob{configBlob, content}}), err
}

func helmChart() (Image, error) {
	config := BytesBlob([]byte(`{"name":"chart","version":"1.0.0","apiVersion":"v2"}`))
	tarball, err := tarOf(file{"chart/Chart.yaml", 0o644, []byte("apiVersion: v2\nname: chart\nversion: 1.0.0\n")})
	if err != nil {
		return Image{}, err
	}
	packed, err := gzipOf(tarball)
	if err != nil {
		return Image{}, err
	}
	chart := BytesBlob(packed)
	c := describe("application/vnd.cncf.helm.config.v1+json", config)
	root, err := manifest{
		SchemaVersion: 2, MediaType: ociManifest, Config: &c,
		Layers: []descriptor{describe("application/vnd.cncf.helm.chart.content.v1.tar+gzip", chart)},
	}.encode()
	return join("helm chart", root, Image{Blobs: []RawBlob{config, chart}}), err
}

func zeroByteBlob() (Image, error) {
	config, configBlob := empty()
	nothing := BytesBlob(nil)
	root, err := manifest{
		SchemaVersion: 2, MediaType: ociManifest, ArtifactType: "application/vnd.example.nothing",
		Config: &config, Layers: []descriptor{describe("text/plain", nothing)},
	}.encode()
	return join("zero-byte blob", root, Image{Blobs: []RawBlob{configBlob, nothing}}), err
}

// nonDistributable has a layer that the registry need not have: clients fetch
// it from its urls.
func nonDistributable() (Image, error) {
	base, err := single("non-distributable layer", ociManifest, ociConfig, ociGzip)
	if err != nil {
		return Image{}, err
	}
	elsewhere := BytesBlob([]byte("not in the registry"))
	foreign := describe(ociForeign, elsewhere)
	foreign.URLs = []string{"http://127.0.0.1:1/layer.tar.gz"}
	config := base.Blobs[len(base.Blobs)-1]
	c := describe(ociConfig, config)
	root, err := manifest{
		SchemaVersion: 2, MediaType: ociManifest, Config: &c,
		Layers: []descriptor{describe(ociGzip, base.Blobs[0]), foreign},
	}.encode()
	return join("non-distributable layer", root, Image{Blobs: []RawBlob{config, base.Blobs[0]}}), err
}

// unnamedType has no mediaType field, which OCI manifests need not have: only
// the Content-Type says what it is.
func unnamedType() (Image, error) {
	img, err := single("manifest without mediaType", ociManifest, ociConfig, ociGzip)
	if err != nil {
		return Image{}, err
	}
	bare := bytes.Replace(img.Root().Bytes, []byte(`   "mediaType": "`+ociManifest+"\",\n"), nil, 1)
	img.Manifests = []RawManifest{newManifest(ociManifest, bare)}
	return img, nil
}

// unknownFields has fields and annotations that no specification knows yet,
// and one layer's as eStargz has them.
func unknownFields() (Image, error) {
	img, err := single("unknown fields", ociManifest, ociConfig, ociGzip)
	if err != nil {
		return Image{}, err
	}
	more := `"annotations": {"containerd.io/snapshot/stargz/toc.digest": "sha256:` + strings.Repeat("0", 64) + `", "text": "\u00e9 é 漢字 <&>"},
   "fromTheFuture": {"b": 1.50, "a": [null, 1e3]},
   "layers"`
	b := bytes.Replace(img.Root().Bytes, []byte(`"layers"`), []byte(more), 1)
	img.Manifests = []RawManifest{newManifest(ociManifest, b)}
	return img, nil
}

// largeManifest is just under the 4 MiB that registries have to take.
func largeManifest() (Image, error) {
	config, configBlob := empty()
	pad := strings.Repeat("0123456789abcdef", (4<<20-2<<10)/16)
	root, err := manifest{
		SchemaVersion: 2, MediaType: ociManifest, ArtifactType: "application/vnd.example.large",
		Config: &config, Layers: []descriptor{config}, Annotations: map[string]string{"pad": pad},
	}.encode()
	if err == nil && (len(root.Bytes) > 4<<20 || len(root.Bytes) < 4<<20-4<<10) {
		err = fmt.Errorf("the large manifest has %d bytes", len(root.Bytes))
	}
	return join("large manifest", root, Image{Blobs: []RawBlob{configBlob}}), err
}

// longName is in a repository whose name is as long as names may be.
func longName() (Image, error) {
	img, err := single("repository name of 255 characters", ociManifest, ociConfig, ociGzip)
	img.Repo = strings.Repeat("a", 99) + "/" + strings.Repeat("b", 99) + "/" + strings.Repeat("c", 55)
	return img, err
}
