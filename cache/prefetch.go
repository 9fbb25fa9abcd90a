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
// wants is not known. It never waits.
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
			doc, err := parseManifest(job.m.Bytes)
			if err != nil { // it was parsed before
				continue
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
						p.done.Remove(manifestKey{job.r.key, job.m.Digest}) // the next pull tries again
					}
				})
			}
		case <-ctx.Done():
			return
		}
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
