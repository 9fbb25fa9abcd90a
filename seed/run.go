package seed

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

const (
	// maxAsks is how many questions to remotes are under way at a time. They are small, and
	// each costs a round trip. The cache has limits for each remote.
	maxAsks = 16
	// maxMemory bounds, in bytes, the manifests that are kept in memory between looking at
	// them and storing them. Further ones are asked for twice.
	maxMemory = 64 << 20
)

// run is a job that is being planned or done.
type run struct {
	*Seeder
	prunes bool
	wants  []wanted
	images []*image
	// unsure is why the tags that are wanted may be others, empty where they are known.
	unsure string

	asks   chan struct{} // has an element for each question under way
	memory atomic.Int64  // what manifests take, in bytes
	named  atomic.Int64  // how many blobs the images name, each for itself

	mu    sync.Mutex
	peeks map[string]*peek // by repository and digest

	contents map[digest.Digest]*content
	pinned   map[string]bool // patterns of pins that were set by seeding before
}

// image is an image that is wanted.
type image struct {
	planned PlannedImage
	// repo is nil where it is not known.
	repo Repository
	ref  string // a tag or a digest
	// tag is empty for one that is wanted by digest.
	tag       string
	platforms []platform // all where there are none
	bare      bool
	loose     bool
	// stale is why the remote could not be asked.
	stale error

	// parts are its manifests in the order in which they are stored: none comes before
	// those that it lists, and what is attached comes last.
	parts []*part
	blobs []v1.Descriptor // each once
	// points are tags that say what is attached.
	points []point
	err    error
	notes  []string // what is worth to know
}

// part is a manifest of an image.
type part struct {
	cache.Descriptor
	// content is nil where it is not kept in memory.
	content []byte
}

// point is a tag and what it stands for.
type point struct {
	tag  string
	dgst digest.Digest
}

func newRun(s *Seeder, job Job) *run {
	r := &run{Seeder: s, prunes: job.Prune, asks: make(chan struct{}, maxAsks), peeks: make(map[string]*peek)}
	for _, w := range job.Wants {
		parsed, err := w.parse()
		if err != nil {
			continue // not reached: the job is valid
		}
		r.wants = append(r.wants, parsed)
	}
	return r
}

// ask asks a remote, when it is our turn.
func ask[T any](ctx context.Context, r *run, question func(context.Context) (T, error)) (T, error) {
	return again(ctx, func(ctx context.Context) (none T, err error) {
		select {
		case r.asks <- struct{}{}:
			defer func() { <-r.asks }()
		case <-ctx.Done():
			return none, ctx.Err()
		}
		return question(ctx)
	})
}

// fail notes why an image cannot be had.
func (i *image) fail(err error) {
	i.err = err
	i.planned.Error = err.Error()
}

// note adds what is worth to know, once.
func (i *image) note(text string) {
	const most = 5 // a few say enough
	if len(i.notes) < most && !slices.Contains(i.notes, text) {
		i.notes = append(i.notes, text)
		i.planned.Warning = strings.Join(i.notes, "; ")
	}
}

// digests are those of all its content.
func (i *image) digests() []digest.Digest {
	all := make([]digest.Digest, 0, len(i.parts)+len(i.blobs))
	for _, p := range i.parts {
		all = append(all, p.Digest)
	}
	for _, b := range i.blobs {
		all = append(all, b.Digest)
	}
	return all
}

// pattern is that of its pin.
func (i *image) pattern() string {
	if i.tag != "" {
		return i.repo.Key() + ":" + i.tag
	}
	return i.repo.Key() + "@" + i.planned.Digest.String()
}

// report is what is known of it before anything is fetched.
func (i *image) report() SeededImage {
	p := i.planned
	return SeededImage{
		Image: p.Image, From: p.From, Remote: p.Remote, Digest: p.Digest, Platforms: p.Platforms,
		Attached: p.Attached, Size: p.Size, Error: p.Error, Warning: p.Warning,
	}
}
