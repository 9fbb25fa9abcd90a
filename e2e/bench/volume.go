package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The shape of a volume with many images.
const (
	volumeLayers = 8       // of an image, beside those that it shares
	volumeShared = 2       // layers that all images of a repository have
	volumeTags   = 100     // in a repository
	volumeLayer  = 4 << 10 // bytes, a block of most file systems
	perImage     = volumeLayers + 2
)

// volume is a data directory as the stock registry writes it, with many small images.
type volume struct {
	data   string
	images int
	// Blobs is how many there are, manifests and configurations included, and bytes
	// their length.
	blobs int
	bytes int64
}

// volumeImage is one image of it.
type volumeImage struct {
	repo, tag string
	manifest  []byte
	// blobs are what it has stored but for its manifest, and shared those that others
	// have, too.
	blobs, shared [][]byte
}

// newVolume writes a volume of about that many blobs. It is no registry that does it, nor
// a module: a million fills would take hours.
func newVolume(ctx context.Context, data string, blobs int) (*volume, error) {
	v := &volume{data: data, images: max(1, blobs/perImage)}
	repos := (v.images + volumeTags - 1) / volumeTags
	v.blobs = v.images*perImage + repos*volumeShared
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards what follows, and bytes
		errs []error
		next int
	)
	for range 2 * runtime.NumCPU() { // they wait for the disk
		wg.Go(func() {
			for {
				mu.Lock()
				repo := next
				next++
				mu.Unlock()
				if repo >= repos || ctx.Err() != nil {
					return
				}
				size, err := v.writeRepo(repo)
				mu.Lock()
				v.bytes += size
				errs = append(errs, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, fmt.Errorf("writing a volume: %w", err)
	}
	return v, nil
}

// pick returns images, the same each time.
func (v *volume) pick(n int) []volumeImage {
	random := rand.New(rand.NewPCG(8, 9))
	var all []volumeImage
	for range n {
		all = append(all, v.numbered(random.IntN(v.images)))
	}
	return all
}

// numbered makes the image of a number.
func (v *volume) numbered(number int) volumeImage {
	img := volumeImage{repo: fmt.Sprintf("many/app-%04d", number/volumeTags), tag: fmt.Sprintf("v%d", number%volumeTags)}
	layer := func(of, name int) []byte {
		b := fmt.Appendf(nil, "layer %d of %d of %s\n", name, of, img.repo)
		return append(b, make([]byte, volumeLayer-len(b))...)
	}
	for i := range volumeShared {
		img.shared = append(img.shared, layer(-1, i))
	}
	for i := range volumeLayers {
		img.blobs = append(img.blobs, layer(number, i))
	}
	describe := func(mediaType string, b []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, b := range append(img.shared[:volumeShared:volumeShared], img.blobs...) {
		manifest.Layers = append(manifest.Layers, describe(ocispec.MediaTypeImageLayer, b))
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers"},"author":"%d"}`, number)
	manifest.Config = describe(ocispec.MediaTypeImageConfig, config)
	img.blobs = append(img.blobs, config)
	img.manifest, _ = json.Marshal(manifest) // such a struct always marshals
	return img
}

// writeRepo writes a repository with all its tags.
func (v *volume) writeRepo(repo int) (size int64, err error) {
	w := volumeWriter{root: filepath.Join(v.data, "docker/registry/v2")}
	first := repo * volumeTags
	for number := first; number < min(first+volumeTags, v.images); number++ {
		img := v.numbered(number)
		dir := filepath.Join("repositories", img.repo)
		blobs := img.blobs
		if number == first {
			blobs = append(blobs, img.shared...)
		}
		for _, b := range blobs {
			dgst := w.blob(b)
			w.link(filepath.Join(dir, "_layers/sha256", dgst.Encoded()), dgst)
		}
		dgst := w.blob(img.manifest)
		w.link(filepath.Join(dir, "_manifests/revisions/sha256", dgst.Encoded()), dgst)
		w.link(filepath.Join(dir, "_manifests/tags", img.tag, "current"), dgst)
	}
	return w.size, w.err
}

// volumeWriter writes until an error.
type volumeWriter struct {
	root string
	size int64
	err  error
}

func (w *volumeWriter) blob(b []byte) digest.Digest {
	dgst := digest.FromBytes(b)
	hex := dgst.Encoded()
	w.file(filepath.Join("blobs/sha256", hex[:2], hex), "data", b)
	w.size += int64(len(b))
	return dgst
}

func (w *volumeWriter) link(dir string, dgst digest.Digest) { w.file(dir, "link", []byte(dgst)) }

func (w *volumeWriter) file(dir, name string, content []byte) {
	if w.err != nil {
		return
	}
	dir = filepath.Join(w.root, dir)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		if w.err = os.MkdirAll(dir, 0o755); w.err != nil {
			return
		}
	}
	w.err = os.WriteFile(filepath.Join(dir, name), content, 0o644)
}
