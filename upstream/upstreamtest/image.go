package upstreamtest

import (
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"
)

// Image tells what an image that was put into the registry is made of.
type Image struct {
	Digest    digest.Digest
	MediaType string
	// Manifest is the image's manifest as it is served.
	Manifest []byte
	Config   digest.Digest
	// Layers are in the order of the manifest; those of foreign layers, which
	// the registry does not serve, are among them.
	Layers []digest.Digest
	// Size is what config and layers have in bytes, each digest once, foreign
	// layers left out.
	Size int64
}

// Blobs returns the digests of config and layers.
func (img Image) Blobs() []digest.Digest {
	return append([]digest.Digest{img.Config}, img.Layers...)
}

// AddImage puts img into repo under its digest and, where tag is not empty,
// under tag.
func (r *Registry) AddImage(repo, tag string, img v1.Image) Image {
	out, err := r.addImage(repo, tag, img)
	if err != nil {
		r.fail("reading an image for %s: %v", repo, err)
	}
	return out
}

// AddRandomImage puts an image of that many random layers, each of a little
// over size bytes, into repo.
func (r *Registry) AddRandomImage(repo, tag string, layers int, size int64) Image {
	img, err := random.Image(size, int64(layers))
	if err != nil {
		r.fail("making a random image: %v", err)
	}
	return r.AddImage(repo, tag, img)
}

// AddIndex puts idx into repo, with all that it names, and returns its digest.
func (r *Registry) AddIndex(repo, tag string, idx v1.ImageIndex) digest.Digest {
	dgst, err := r.addIndex(repo, tag, idx)
	if err != nil {
		r.fail("reading an index for %s: %v", repo, err)
	}
	return dgst
}

// AddRandomIndex puts an index of one random image for each platform ("linux/amd64")
// into repo. It returns its digest and the images.
func (r *Registry) AddRandomIndex(repo, tag string, layers int, size int64, platforms ...string) (digest.Digest, []Image) {
	var idx v1.ImageIndex = empty.Index
	images := make([]Image, 0, len(platforms))
	for _, p := range platforms {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			r.fail("platform %q: %v", p, err)
		}
		img, err := randomPlatformImage(*platform, layers, size)
		if err != nil {
			r.fail("making a random image: %v", err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: platform},
		})
		images = append(images, r.AddImage(repo, "", img))
	}
	return r.AddIndex(repo, tag, idx), images
}

// randomPlatformImage makes an image whose config names its platform.
func randomPlatformImage(p v1.Platform, layers int, size int64) (v1.Image, error) {
	img, err := random.Image(size, int64(layers))
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	return mutate.ConfigFile(img, config)
}

func (r *Registry) addImage(repo, tag string, img v1.Image) (Image, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return Image{}, err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return Image{}, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return Image{}, err
	}
	layers, err := img.Layers()
	if err != nil {
		return Image{}, err
	}
	out := Image{MediaType: string(mediaType), Manifest: raw}
	out.Config = r.AddBlob(repo, config)
	out.Size = int64(len(config))
	seen := map[digest.Digest]bool{out.Config: true}
	for _, layer := range layers {
		hash, err := layer.Digest()
		if err != nil {
			return Image{}, err
		}
		dgst := digest.Digest(hash.String())
		out.Layers = append(out.Layers, dgst)
		layerType, err := layer.MediaType()
		if err != nil {
			return Image{}, err
		}
		if seen[dgst] || !layerType.IsDistributable() {
			continue
		}
		seen[dgst] = true
		content, err := read(layer)
		if err != nil {
			return Image{}, err
		}
		r.AddBlob(repo, content)
		out.Size += int64(len(content))
	}
	out.Digest = r.AddManifest(repo, tag, out.MediaType, raw)
	return out, nil
}

func read(layer v1.Layer) ([]byte, error) {
	rc, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

func (r *Registry) addIndex(repo, tag string, idx v1.ImageIndex) (digest.Digest, error) {
	raw, err := idx.RawManifest()
	if err != nil {
		return "", err
	}
	mediaType, err := idx.MediaType()
	if err != nil {
		return "", err
	}
	parsed, err := idx.IndexManifest()
	if err != nil {
		return "", err
	}
	for _, desc := range parsed.Manifests {
		switch {
		case desc.MediaType.IsIndex():
			child, err := idx.ImageIndex(desc.Digest)
			if err != nil {
				return "", err
			}
			if _, err := r.addIndex(repo, "", child); err != nil {
				return "", err
			}
		case desc.MediaType.IsImage():
			child, err := idx.Image(desc.Digest)
			if err != nil {
				return "", err
			}
			if _, err := r.addImage(repo, "", child); err != nil {
				return "", err
			}
		}
	}
	return r.AddManifest(repo, tag, string(mediaType), raw), nil
}
