package cache

import (
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

const (
	// pullPause is how long a pull may ask for nothing and still count as running:
	// clients ask for the next layer as soon as they have one, but may have to unpack it.
	pullPause = 30 * time.Second
	// pullPauseInNeed is the same where there is no room otherwise.
	pullPauseInNeed = 5 * time.Second
	// pulledAtOnce is how many manifests of one repository count as being pulled: the
	// last ones that were asked for.
	pulledAtOnce = 16
	// manyPulls is for how many repositories is kept what is being pulled before those
	// are dropped where nothing is.
	manyPulls = 1024
)

// pulls are what clients are about to fetch: who has asked for a manifest is going to
// ask for what it names. None of that is evicted. The zero value is ready.
type pulls struct {
	mu    sync.Mutex
	repos map[string]*pull
	// reading counts who reads a blob, or waits for its download.
	reading map[digest.Digest]int
	// wanted is what was asked for since a collection has begun, nil where none runs.
	wanted map[gc.ID]struct{}
}

// pull is what is going on in one repository.
type pull struct {
	open      int // blobs that are being read or downloaded
	last      time.Time
	manifests []digest.Digest // the last one asked for comes last
}

// at returns the pull of a repository. The caller holds p.mu.
func (p *pulls) at(repo string, now time.Time) *pull {
	at := p.repos[repo]
	if at == nil {
		if len(p.repos) >= manyPulls {
			p.sweep(now, pullPause)
		}
		if p.repos == nil {
			p.repos = make(map[string]*pull)
		}
		at = new(pull)
		p.repos[repo] = at
	}
	at.last = now
	return at
}

// sweep forgets where nothing has been asked for within pause. The caller holds p.mu.
func (p *pulls) sweep(now time.Time, pause time.Duration) {
	for repo, at := range p.repos {
		if at.ended(now, pause) {
			delete(p.repos, repo)
		}
	}
}

// ended tells whether nothing goes on any more. A time in the future is of a clock that
// was set back.
func (p *pull) ended(now time.Time, pause time.Duration) bool {
	idle := now.Sub(p.last)
	return p.open == 0 && (idle > pause || idle < -pause)
}

// manifest notes that a manifest was asked for.
func (p *pulls) manifest(repo string, dgst digest.Digest, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.at(repo, now)
	if n := len(at.manifests); n == 0 || at.manifests[n-1] != dgst {
		at.manifests = slices.DeleteFunc(at.manifests, func(d digest.Digest) bool { return d == dgst })
		at.manifests = append(at.manifests, dgst)
		at.manifests = at.manifests[max(len(at.manifests)-pulledAtOnce, 0):]
	}
	p.want(dgst)
}

// want notes that content must outlive the collection that runs. The caller holds p.mu.
func (p *pulls) want(dgst digest.Digest) {
	if p.wanted != nil {
		p.wanted[idOf(dgst.String())] = struct{}{}
	}
}

// named notes that a manifest that is being stored names content.
func (p *pulls) named(parts []gc.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted != nil {
		for _, id := range parts {
			p.wanted[id] = struct{}{}
		}
	}
}

// begin notes that a blob of a repository is being read or downloaded, until end is called.
func (p *pulls) begin(repo string, dgst digest.Digest, now func() time.Time) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at(repo, now()).open++
	if p.reading == nil {
		p.reading = make(map[digest.Digest]int)
	}
	p.reading[dgst]++
	p.want(dgst)
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.at(repo, now()).open--
		if p.reading[dgst]--; p.reading[dgst] == 0 {
			delete(p.reading, dgst)
		}
	})
}

// collecting begins or ends a collection, during which spares tells more.
func (p *pulls) collecting(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = nil
	if on {
		p.wanted = make(map[gc.ID]struct{})
	}
}

// spares tells whether content has come into use since the collection has begun.
func (p *pulls) spares(dgst digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, wanted := p.wanted[idOf(dgst.String())]
	return wanted || p.reading[dgst] > 0
}

// running returns what belongs to pulls that have paused for no longer than pause.
func (p *pulls) running(now time.Time, pause time.Duration) (busy []digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(now, pullPause)
	for _, at := range p.repos {
		if !at.ended(now, pause) {
			busy = append(busy, at.manifests...)
		}
	}
	for dgst := range p.reading {
		busy = append(busy, dgst)
	}
	return busy
}
