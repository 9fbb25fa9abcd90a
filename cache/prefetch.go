package cache

import (
	"context"
	"errors"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// prefetchQueue is how many images of a remote wait to be fetched ahead; more are
	// not.
	prefetchQueue = 16
	// prefetchMemory is of how many images is known that they were fetched, so
	// that the next client does not make the cache look again.
	prefetchMemory = 1024
	// prefetchFills is how many blobs are fetched ahead at the same time.
	prefetchFills = 3
	// maxAttached is how much of what is attached to one image is fetched: arbitrary,
	// and bounded, because anybody who may push can attach something.
	maxAttached = 64
	// attachedFor is how long what is attached to an image is not looked for again:
	// signatures come after what they sign.
	attachedFor = time.Hour
	// By these, BuildKit marks the attestations within an index. See
	// https://docs.docker.com/build/metadata/attestations/attestation-storage/
	attestationType     = "vnd.docker.reference.type"
	attestationManifest = "attestation-manifest"
)

// prefetcher fetches what belongs to images before somebody asks for it, the least
// urgent work of all: what they consist of, or what is attached to them. Remotes do not
// wait for each other.
type prefetcher struct {
	c *Cache
	// work does it for an image, and returns whether there is nothing left to do.
	work func(ctx context.Context, p *prefetcher, job prefetch) bool
	// lasts is for how long there is nothing left to do; 0 is for ever.
	lasts  time.Duration
	queues map[*remote]chan prefetch
	done   *lru.Cache[manifestKey, time.Time]
	// running bounds the blobs of a remote that are fetched at the same time.
	running map[*remote]chan struct{}
}

// prefetch is an image of which something is to be fetched.
type prefetch struct {
	r *Repository
	m Manifest
}

// newPrefetcher returns a prefetcher for remotes that can be asked.
func newPrefetcher(c *Cache, lasts time.Duration, work func(context.Context, *prefetcher, prefetch) bool) (*prefetcher, error) {
	done, err := lru.New[manifestKey, time.Time](prefetchMemory)
	if err != nil {
		return nil, err
	}
	p := &prefetcher{
		c: c, work: work, lasts: lasts, done: done,
		queues: make(map[*remote]chan prefetch), running: make(map[*remote]chan struct{}),
	}
	for _, r := range *c.remotes.Load() {
		if r.Upstream != nil {
			p.queues[r.remote] = make(chan prefetch, prefetchQueue)
			p.running[r.remote] = make(chan struct{}, prefetchFills)
		}
	}
	return p, nil
}

// Prefetch tells that a client pulls m: where [Options].Prefetch is set, its
// configuration and layers are fetched in the background, so that they are there
// when the client asks. An index is not followed: which of its images the client
// wants is not known. Where [Options].Attached is set, what is attached to m is
// fetched, so that it can be found when the remote is away. It never waits.
func (r *Repository) Prefetch(m Manifest) {
	calm := *r
	calm.force = false // that was for the client's own request
	for _, p := range r.c.prefetch {
		p.add(prefetch{&calm, m})
	}
}

func (p *prefetcher) add(job prefetch) {
	queue := p.queues[job.r.remote]
	if queue == nil {
		return
	}
	k, now := manifestKey{job.r.key, job.m.Digest}, p.c.opts.Now()
	if at, known := p.done.Get(k); known && (p.lasts == 0 || !now.Before(at) && now.Sub(at) < p.lasts) {
		return
	}
	p.done.Add(k, now)
	select {
	case queue <- job:
	default:
		p.again(job)
	}
}

// run works until the cache is closed, on each remote's images one after the other.
func (p *prefetcher) run() {
	for _, queue := range p.queues {
		p.c.wg.Go(func() {
			for {
				select {
				case job := <-queue:
					if !p.work(p.c.ctx, p, job) {
						p.again(job)
					}
				case <-p.c.ctx.Done():
					return
				}
			}
		})
	}
}

// again makes the next pull try again what has failed.
func (p *prefetcher) again(job prefetch) { p.done.Remove(manifestKey{job.r.key, job.m.Digest}) }

// fetchParts fetches what an image consists of.
func fetchParts(ctx context.Context, p *prefetcher, job prefetch) bool {
	p.blobs(ctx, job, job.m, p.fetch)
	return true // or else blobs has said so
}

// blobs does fetch for what m consists of, and returns when the last of it has begun.
func (p *prefetcher) blobs(ctx context.Context, job prefetch, m Manifest, fetch func(context.Context, *Repository, v1.Descriptor) bool) {
	doc, err := parseManifest(m.Bytes)
	if err != nil { // it was parsed before
		return
	}
	running := p.running[job.r.remote]
	for blob := range doc.blobs() {
		select {
		case running <- struct{}{}:
		case <-ctx.Done():
			return
		}
		p.c.wg.Go(func() {
			defer func() { <-running }()
			if !fetch(ctx, job.r, blob) {
				p.again(job)
			}
		})
	}
}

// fetchAttached fetches what is attached to an image: what refers to it, what its index
// has beside it, and what cosign puts under tags that are made of its digest.
func fetchAttached(ctx context.Context, p *prefetcher, job prefetch) bool {
	doc, err := parseManifest(job.m.Bytes)
	if err != nil || doc.Subject != nil {
		return true // it is attached itself
	}
	list, err := job.r.Referrers(ctx, job.m.Digest)
	done := err == nil && list.Stale == nil
	attached := slices.Clone(list.Manifests)
	for _, d := range doc.Manifests {
		if d.Annotations[attestationType] == attestationManifest && askable(d) {
			attached = append(attached, d)
		}
	}
	for _, d := range attached[:min(len(attached), maxAttached)] {
		m, err := job.r.Manifest(ctx, d.Digest)
		if err != nil {
			done = done && errors.Is(err, ErrNotFound)
			continue
		}
		p.blobs(ctx, job, m, p.fetchOrLink)
		// Clients look for what refers to that in turn. It is not followed.
		if _, err := job.r.Referrers(ctx, d.Digest); err != nil {
			done = false
		}
	}
	for _, suffix := range attachedSuffixes() {
		t, err := job.r.Tag(ctx, ReferrersTag(job.m.Digest)+suffix)
		if err != nil {
			done = done && errors.Is(err, ErrNotFound)
			continue
		}
		p.blobs(ctx, job, t.Manifest, p.fetchOrLink)
	}
	return done
}

// fetchOrLink is fetch, also for what is stored or comes for another repository: the
// empty configuration that most artifacts share does.
func (p *prefetcher) fetchOrLink(ctx context.Context, r *Repository, blob v1.Descriptor) bool {
	f, fresh, err := p.c.fill(ctx, r, blob.Digest)
	switch {
	case errors.Is(err, errStored):
		b, _, err := r.openStored(ctx, blob.Digest)
		if err == nil {
			return b.Close() == nil
		}
		_, err = r.vouch(ctx, blob.Digest)
		return err == nil
	case err != nil:
		return false
	case !fresh && !f.serves(r):
		_, err = r.vouch(ctx, blob.Digest)
		return err == nil
	}
	_, err = f.whole(ctx)
	return err == nil
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
