package lab

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// descriptor is the JSON of a content descriptor, with all the fields that the
// samples use.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     *platform         `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String is the form that clients take: os/architecture[/variant].
func (p platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *descriptor       `json:"config,omitempty"`
	Layers        []descriptor      `json:"layers,omitempty"`
	Manifests     []descriptor      `json:"manifests,omitempty"`
	Subject       *descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// encode gives a manifest its bytes. They are indented, as some tools write
// them: a cache that parses and writes them again would change the digest.
func (m manifest) encode() (RawManifest, error) {
	b, err := json.MarshalIndent(m, "", "   ")
	if err != nil {
		return RawManifest{}, fmt.Errorf("encoding a manifest: %w", err)
	}
	return newManifest(m.MediaType, append(b, '\n')), nil
}

func describe(mediaType string, b RawBlob) descriptor {
	return descriptor{MediaType: mediaType, Digest: b.Digest, Size: b.Size}
}

func (m RawManifest) describe() descriptor {
	return descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes))}
}

// layer is a layer with what an image's config has to say of it.
type layer struct {
	mediaType string
	blob      RawBlob
	diffID    digest.Digest // of the uncompressed tar
}

// compressed packs a tar as a layer of the media type.
func compressed(mediaType string, tarball []byte) (layer, error) {
	packed, err := tarball, error(nil)
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		packed, err = gzipOf(tarball)
	case strings.HasSuffix(mediaType, "zstd"):
		packed, err = zstdOf(tarball)
	}
	if err != nil {
		return layer{}, fmt.Errorf("compressing a layer: %w", err)
	}
	return layer{mediaType, BytesBlob(packed), digest.FromBytes(tarball)}, nil
}

// image makes a single image for a platform.
func image(manifestType, configType string, p platform, layers ...layer) (Image, error) {
	var config struct {
		platform
		Config struct {
			Cmd []string
			Env []string
		} `json:"config"`
		RootFS struct {
			Type    string          `json:"type"`
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		History []map[string]string `json:"history"`
	}
	config.platform = p
	config.Config.Cmd = []string{"/exit"}
	config.Config.Env = []string{"PATH=/"}
	config.RootFS.Type = "layers"
	m := manifest{SchemaVersion: 2, MediaType: manifestType}
	img := Image{}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		config.History = append(config.History, map[string]string{"created_by": "lab"})
		m.Layers = append(m.Layers, describe(l.mediaType, l.blob))
		img.Blobs = append(img.Blobs, l.blob)
	}
	b, err := json.Marshal(config)
	if err != nil {
		return Image{}, fmt.Errorf("encoding an image's config: %w", err)
	}
	blob := BytesBlob(b)
	c := describe(configType, blob)
	m.Config = &c
	img.Blobs = append(img.Blobs, blob)
	raw, err := m.encode()
	img.Manifests = []RawManifest{raw}
	return img, err
}

// NoiseImage is an image for linux/amd64 whose layers, one for each size, are
// as described at [NoiseLayer].
func NoiseImage(repo, tag string, seed uint64, sizes ...int64) (Image, error) {
	layers := make([]RawBlob, 0, len(sizes))
	for i, size := range sizes {
		blob, err := NoiseLayer(seed<<8+uint64(i), size)
		if err != nil {
			return Image{}, err
		}
		layers = append(layers, blob)
	}
	return LayeredImage(repo, tag, layers...)
}

// LayeredImage is an image for linux/amd64 of uncompressed layers, which other images
// may have as well.
func LayeredImage(repo, tag string, blobs ...RawBlob) (Image, error) {
	layers := make([]layer, 0, len(blobs))
	for _, b := range blobs {
		layers = append(layers, layer{ociLayer, b, b.Digest})
	}
	img, err := image(ociManifest, ociConfig, platform{OS: "linux", Architecture: "amd64"}, layers...)
	img.Kind = "noise"
	return img.In(repo, tag), err
}
