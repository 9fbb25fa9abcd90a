package cache

import (
	"context"
	"errors"

	lru "github.com/hashicorp/golang-lru/v2"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// prefetchQueue is how many images wait to be fetched ahead; more are not.
	prefetchQueue = 16
	// prefetchMemory is of how many images is known that they were fetched, so
	// that the next client does not make the cache look again.
	prefetchMemory = 1024
	// prefetchFills is how many blobs are fetched ahead at the same time.
	prefetchFills = 3
	// maxAttached is how much of what is attached to one image is fetched: arbitrary,
	// and bounded, because anybody who may push can attach something.
	maxAttached = 64
)

// prefetcher fetches what images consist of before somebody asks for it, the
// least urgent work of all.
type prefetcher struct {
	c     *Cache
	queue chan prefetch
	done  *lru.Cache[manifestKey, struct{}]
}

// prefetch is an image whose blobs are to be fetched.
type prefetch struct {
	r *Repository
	m Manifest
}

func newPrefetcher(c *Cache) (*prefetcher, error) {
	done, err := lru.New[manifestKey, struct{}](prefetchMemory)
	if err != nil {
		return nil, err
	}
	return &prefetcher{c: c, queue: make(chan prefetch, prefetchQueue), done: done}, nil
}

// Prefetch tells that a client pulls m: where [Options].Prefetch is set, its
// configuration and layers are fetched in the background, so that they are there
// when the client asks. An index is not followed: which of its images the client
// wants is not known. Where [Options].Attached is set, what is attached to m is
// fetched, so that it can be found when the remote is away. It never waits.
func (r *Repository) Prefetch(m Manifest) {
	p := r.c.prefetch
	if p == nil {
		return
	}
	k := manifestKey{r.key, m.Digest}
	if known, _ := p.done.ContainsOrAdd(k, struct{}{}); known {
		return
	}
	select {
	case p.queue <- prefetch{r, m}:
	default:
		p.done.Remove(k)
	}
}

// run works until the cache is closed.
func (p *prefetcher) run() {
	ctx := p.c.ctx
	running := make(chan struct{}, prefetchFills)
	for {
		select {
		case job := <-p.queue:
			if p.c.opts.Prefetch {
				p.blobs(ctx, job, job.m, running)
			}
			if p.c.opts.Attached {
				p.attached(ctx, job, running)
			}
		case <-ctx.Done():
			return
		}
	}
}

// blobs fetches what m consists of, and returns when the last of it has begun.
func (p *prefetcher) blobs(ctx context.Context, job prefetch, m Manifest, running chan struct{}) {
	doc, err := parseManifest(m.Bytes)
	if err != nil { // it was parsed before
		return
	}
	for blob := range doc.blobs() {
		select {
		case running <- struct{}{}:
		case <-ctx.Done():
			return
		}
		p.c.wg.Go(func() {
			defer func() { <-running }()
			if !p.fetch(ctx, job.r, blob) {
				p.again(job)
			}
		})
	}
}

// again makes the next pull try again what has failed.
func (p *prefetcher) again(job prefetch) { p.done.Remove(manifestKey{job.r.key, job.m.Digest}) }

// attached fetches what is attached to an image: what refers to it, and what cosign
// puts under tags that are made of its digest.
func (p *prefetcher) attached(ctx context.Context, job prefetch, running chan struct{}) {
	if doc, err := parseManifest(job.m.Bytes); err != nil || doc.Subject != nil {
		return // it is attached itself
	}
	list, err := job.r.Referrers(ctx, job.m.Digest)
	failed := err != nil || list.Stale != nil
	for _, d := range list.Manifests[:min(len(list.Manifests), maxAttached)] {
		m, err := job.r.Manifest(ctx, d.Digest)
		if err != nil {
			failed = failed || !errors.Is(err, ErrNotFound)
			continue
		}
		p.blobs(ctx, job, m, running)
	}
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		t, err := job.r.Tag(ctx, referrersTag(job.m.Digest)+suffix)
		if err != nil {
			failed = failed || !errors.Is(err, ErrNotFound)
			continue
		}
		p.blobs(ctx, job, t.Manifest, running)
	}
	if failed {
		p.again(job)
	}
}

// fetch brings a blob into the cache, and returns whether there is nothing left to
// do. What is stored for another repository is left to who asks for it.
func (p *prefetcher) fetch(ctx context.Context, r *Repository, blob v1.Descriptor) bool {
	f, fresh, err := p.c.fill(ctx, r, blob.Digest)
	if errors.Is(err, errStored) || err == nil && !fresh {
		return true
	}
	if err != nil {
		return false
	}
	_, err = f.whole(ctx)
	return err == nil
}
