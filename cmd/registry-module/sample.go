package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/time/rate"
)

// sampleRate is the rate of the link to the sample registry in bytes per second.
const sampleRate = 20_000_000

// sampleRegistry is a remote registry for the demo. It counts what it is asked.
type sampleRegistry struct {
	addr     string
	images   []string // repository:tag
	requests atomic.Int64
	bytes    atomic.Int64 // of answers' bodies

	handler http.Handler
	limit   *rate.Limiter
	server  *httptest.Server
	off     atomic.Bool
}

// samplePlatforms are what each sample image is made for.
var samplePlatforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64", Variant: "v8"},
	{OS: "linux", Architecture: "arm", Variant: "v7"},
}

// newSampleRegistry starts a registry with a few images of several platforms.
func newSampleRegistry(ctx context.Context) (*sampleRegistry, error) {
	const burst = 64 << 10
	s := &sampleRegistry{
		handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		limit:   rate.NewLimiter(rate.Inf, burst), // until it is filled
	}
	s.server = httptest.NewServer(s)
	u, err := url.Parse(s.server.URL)
	if err != nil {
		return nil, err
	}
	s.addr = u.Host
	for _, image := range []struct {
		name             string
		layers, layerMiB int64
	}{{"demo/sensor:1.0", 2, 1}, {"demo/gateway:2.1", 3, 2}, {"demo/analytics:latest", 4, 3}} {
		if err := s.push(ctx, image.name, image.layers, image.layerMiB<<20); err != nil {
			s.stop()
			return nil, fmt.Errorf("%s: %w", image.name, err)
		}
		s.images = append(s.images, image.name)
	}
	s.limit.SetLimit(sampleRate)
	s.requests.Store(0)
	s.bytes.Store(0)
	return s, nil
}

// push makes an image of random layers for each platform and pushes them under
// one index.
func (s *sampleRegistry) push(ctx context.Context, image string, layers, size int64) error {
	ref, err := name.ParseReference(s.addr+"/"+image, name.Insecure)
	if err != nil {
		return err
	}
	var adds []mutate.IndexAddendum
	for _, p := range samplePlatforms {
		img, err := random.Image(size, layers)
		if err != nil {
			return err
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			return err
		}
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
		if img, err = mutate.ConfigFile(img, cfg); err != nil {
			return err
		}
		adds = append(adds, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	return remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, adds...), remote.WithContext(ctx))
}

// ServeHTTP implements http.Handler: the registry behind a link.
func (s *sampleRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	if s.off.Load() {
		panic(http.ErrAbortHandler) // a reset connection
	}
	s.handler.ServeHTTP(&linkWriter{ResponseWriter: w, ctx: r.Context(), s: s}, r)
}

// pause switches the registry off, resume on again.
func (s *sampleRegistry) pause()  { s.off.Store(true) }
func (s *sampleRegistry) resume() { s.off.Store(false) }

func (s *sampleRegistry) stop() { s.server.Close() }

// linkWriter writes at the rate of the link.
type linkWriter struct {
	http.ResponseWriter
	ctx context.Context
	s   *sampleRegistry
}

func (w *linkWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		n := min(len(p), w.s.limit.Burst())
		if err := w.s.limit.WaitN(w.ctx, n); err != nil {
			return written, err
		}
		n, err := w.ResponseWriter.Write(p[:n])
		written += n
		w.s.bytes.Add(int64(n))
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// pullImage pulls ref for the platform of this machine, checking all digests,
// and returns how many bytes that were. Bytes of layers are written to what
// progress returns for their total.
func pullImage(ctx context.Context, ref string, progress func(total int64) io.Writer) (int64, error) {
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return 0, err
	}
	img, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithPlatform(hostPlatform()))
	if err != nil {
		return 0, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return 0, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return 0, err
	}
	total := int64(len(config))
	for _, l := range manifest.Layers {
		total += l.Size
	}
	bar := progress(total)
	if _, err := bar.Write(config); err != nil {
		return 0, err
	}
	layers, err := img.Layers()
	if err != nil {
		return 0, err
	}
	for _, l := range layers {
		if err := pullLayer(l, bar); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func pullLayer(l v1.Layer, w io.Writer) error {
	content, err := l.Compressed() // verifies itself
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // it was only read
	_, err = io.Copy(w, content)
	return err
}

// hostPlatform is the sample platform that is nearest to this machine's.
func hostPlatform() v1.Platform {
	for _, p := range samplePlatforms {
		if p.Architecture == runtime.GOARCH {
			return p
		}
	}
	return samplePlatforms[0]
}
