package cache

import (
	"context"
	"errors"
	"slices"
	"sync"
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
	lasts time.Duration
	done  *lru.Cache[manifestKey, time.Time]

	mu    sync.Mutex
	lanes map[string]*prefetchLane // by host
}

// prefetchLane is the work for one remote.
type prefetchLane struct {
	queue chan prefetch
	// running bounds the blobs that are fetched at the same time.
	running chan struct{}
	stop    context.CancelFunc
}

// prefetch is an image of which something is to be fetched.
type prefetch struct {
	r    *Repository
	m    Manifest
	lane *prefetchLane
}

// newPrefetcher returns a prefetcher for no remotes.
func newPrefetcher(c *Cache, lasts time.Duration, work func(context.Context, *prefetcher, prefetch) bool) (*prefetcher, error) {
	done, err := lru.New[manifestKey, time.Time](prefetchMemory)
	if err != nil {
		return nil, err
	}
	return &prefetcher{c: c, work: work, lasts: lasts, done: done, lanes: make(map[string]*prefetchLane)}, nil
}

// serve makes it work for those of remotes that can be asked, and for no others. What is
// being fetched for those comes all the same.
func (p *prefetcher) serve(remotes []served) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for host, lane := range p.lanes {
		if r := hosted(remotes, host); r == nil || r.Upstream == nil {
			lane.stop()
			delete(p.lanes, host)
		}
	}
	for _, r := range remotes {
		if r.Upstream == nil || p.lanes[r.Host] != nil {
			continue
		}
		ctx, stop := context.WithCancel(p.c.ctx)
		lane := &prefetchLane{make(chan prefetch, prefetchQueue), make(chan struct{}, prefetchFills), stop}
		p.lanes[r.Host] = lane
		p.c.wg.Go(func() {
			defer stop()
			p.run(ctx, lane)
		})
	}
}

// Prefetch tells that a client pulls m: where [Options].Prefetch is set, its
// configuration and layers are fetched in the background, so that they are there
// when the client asks. An index is not followed: which of its images the client
// wants is not known. Where [Options].Attached is set, what is attached to m is
// fetched, so that it can be found when the remote is away. It never waits.
func (r *Repository) Prefetch(m Manifest) {
	calm := *r
	calm.force = false // that was for the client's own request
	for _, p := range r.c.settings.Load().prefetch {
		p.add(prefetch{r: &calm, m: m})
	}
}

func (p *prefetcher) add(job prefetch) {
	p.mu.Lock()
	defer p.mu.Unlock() // so that the lane does not end before it has the job
	if job.lane = p.lanes[job.r.remote.Host]; job.lane == nil {
		return
	}
	k, now := manifestKey{job.r.key, job.m.Digest}, p.c.opts.Now()
	if at, known := p.done.Get(k); known && (p.lasts == 0 || !now.Before(at) && now.Sub(at) < p.lasts) {
		return
	}
	p.done.Add(k, now)
	select {
	case job.lane.queue <- job:
	default:
		p.again(job)
	}
}

// run works until ctx ends, on the remote's images one after the other.
func (p *prefetcher) run(ctx context.Context, lane *prefetchLane) {
	for {
		select {
		case job := <-lane.queue:
			if !p.work(ctx, p, job) {
				p.again(job)
			}
		case <-ctx.Done():
			for {
				select {
				case job := <-lane.queue:
					p.again(job)
				default:
					return
				}
			}
		}
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
	running := job.lane.running
	for blob := range doc.blobs() {
		select {
		case running <- struct{}{}:
		case <-ctx.Done():
			p.again(job)
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
