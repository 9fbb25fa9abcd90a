package cache

import (
	"maps"
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
	// Of one repository, the last manyManifests count as being pulled, and when there are
	// manyPulls repositories, or manyBlobs in one, those are forgotten that are not read.
	manyManifests = 16
	manyPulls     = 1024
	manyBlobs     = 1024
)

// pulls are what clients are about to fetch: who has asked for a manifest is going to
// ask for what it names. None of that is evicted. The zero value is ready.
type pulls struct {
	mu    sync.Mutex
	repos map[string]*pull
	limit int // of repos, from which on those are forgotten that have ended
	// reading counts who reads a blob, or waits for its download.
	reading map[digest.Digest]int
	// wanted is what was asked for since a collection has begun, with whether it was
	// linked; nil where none runs.
	wanted map[gc.ID]bool
}

// pull is what is going on in one repository.
type pull struct {
	manifests []asked // the last one comes last
	blobs     map[gc.ID]*read
	limit     int // of blobs, like that of pulls
}

type asked struct {
	dgst digest.Digest
	last time.Time
}

// read is that a blob is being read, or was last.
type read struct {
	open int
	last time.Time
	// whole is when it was last read to its end.
	whole time.Time
}

// readEnd is how reading a blob has ended.
type readEnd int

const (
	notRead   readEnd = iota // it is not there
	readSome                 // or it was downloaded, and nobody need have read it
	readToEnd                // be it from somewhere in the middle on
)

// within tells whether last is no longer ago than pause. What is in the future is of a
// clock that was set back.
func within(last, now time.Time, pause time.Duration) bool {
	since := now.Sub(last)
	return since <= pause && since >= -pause
}

// at returns the pull of a repository. The caller holds p.mu.
func (p *pulls) at(repo string, now time.Time) *pull {
	at := p.repos[repo]
	if at == nil {
		if len(p.repos) >= max(p.limit, manyPulls) {
			p.sweep(now)
			p.limit = 2 * len(p.repos) // so that it is not done for each
		}
		if p.repos == nil {
			p.repos = make(map[string]*pull)
		}
		at = &pull{blobs: make(map[gc.ID]*read)}
		p.repos[repo] = at
	}
	return at
}

// sweep forgets what has ended. The caller holds p.mu.
func (p *pulls) sweep(now time.Time) {
	for repo, at := range p.repos {
		at.sweep(now)
		if len(at.blobs) == 0 && len(at.manifests) == 0 {
			delete(p.repos, repo)
		}
	}
}

func (p *pull) sweep(now time.Time) {
	maps.DeleteFunc(p.blobs, func(_ gc.ID, b *read) bool { return b.open == 0 && !within(b.last, now, pullPause) })
	if len(p.blobs) == 0 {
		p.manifests = slices.DeleteFunc(p.manifests, func(m asked) bool { return !within(m.last, now, pullPause) })
	}
}

// manifest notes that a manifest was asked for.
func (p *pulls) manifest(repo string, dgst digest.Digest, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.at(repo, now)
	p.want(dgst)
	if n := len(at.manifests); n > 0 && at.manifests[n-1].dgst == dgst {
		at.manifests[n-1].last = now
		return
	}
	at.manifests = slices.DeleteFunc(at.manifests, func(m asked) bool { return m.dgst == dgst })
	at.manifests = append(at.manifests, asked{dgst, now})
	at.manifests = at.manifests[max(len(at.manifests)-manyManifests, 0):]
}

// want notes that content must outlive the collection that runs. The caller holds p.mu.
func (p *pulls) want(dgst digest.Digest) {
	if p.wanted != nil {
		id := idOf(dgst.String())
		linked := p.wanted[id]
		p.wanted[id] = linked
	}
}

// linked notes that content was linked, or is named by a manifest that is being linked. Who
// links content says so as the last thing before it lets go of the content's lock: said
// earlier, it would be lost to a collection that begins in between, and looks for names
// before the new one is there.
func (p *pulls) linked(content ...gc.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted != nil {
		for _, id := range content {
			p.wanted[id] = true
		}
	}
}

// begin notes that a blob of a repository is being read or downloaded, until end is called,
// with whether it was there: what was not is of nobody's interest, however many ask for it.
func (p *pulls) begin(repo string, dgst digest.Digest, now func() time.Time) (end func(readEnd)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, id := p.at(repo, now()), idOf(dgst.String())
	b := at.blobs[id]
	if b == nil {
		if len(at.blobs) >= max(at.limit, manyBlobs) {
			at.sweep(now())
			at.limit = 2 * len(at.blobs)
		}
		b = new(read)
		at.blobs[id] = b
	}
	b.open++
	if p.reading == nil {
		p.reading = make(map[digest.Digest]int)
	}
	p.reading[dgst]++
	p.want(dgst)
	ended := false
	return func(how readEnd) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if ended {
			return
		}
		ended = true
		b.open--
		if how == readToEnd {
			b.whole = now()
		}
		switch {
		case how != notRead:
			b.last = now()
		case b.open == 0 && b.last.IsZero() && at.blobs[id] == b:
			delete(at.blobs, id)
			if len(at.blobs) == 0 && len(at.manifests) == 0 && p.repos[repo] == at {
				delete(p.repos, repo)
			}
		}
		if p.reading[dgst]--; p.reading[dgst] == 0 {
			delete(p.reading, dgst)
		}
	}
}

// collecting begins or ends a collection, during which spares tells more.
func (p *pulls) collecting(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = nil
	if on {
		p.wanted = make(map[gc.ID]bool)
	}
}

// spares tells whether content has come into use since the collection has begun.
func (p *pulls) spares(dgst digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, wanted := p.wanted[idOf(dgst.String())]
	return wanted || p.reading[dgst] > 0
}

// isLinked tells whether content was linked since the collection has begun, or named by a
// manifest that was.
func (p *pulls) isLinked(dgst digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted[idOf(dgst.String())]
}

// inRepo is what is going on in one repository.
type inRepo struct {
	manifests []asked
	blobs     map[gc.ID]read
}

// running returns what is going on.
func (p *pulls) running(now time.Time) (all []inRepo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(now)
	for _, at := range p.repos {
		in := inRepo{manifests: slices.Clone(at.manifests), blobs: make(map[gc.ID]read, len(at.blobs))}
		for id, b := range at.blobs {
			in.blobs[id] = *b
		}
		all = append(all, in)
	}
	return all
}

// busy returns what of it belongs to pulls that have paused for no longer than pause:
// blobs that are being read, or were; manifests that were asked for; and those of which a
// blob is read, however long ago they were asked for. What a manifest of parts consists
// of ends with the pull: when all of it was read since it was asked for.
func (in inRepo) busy(now time.Time, pause time.Duration, parts func(digest.Digest) partsRecord) (busy []gc.ID) {
	recent := func(id gc.ID) bool {
		b, ok := in.blobs[id]
		return ok && (b.open > 0 || within(b.last, now, pause))
	}
	ended := make(map[gc.ID]bool)
	for _, m := range slices.Backward(in.manifests) {
		rec := parts(m.dgst)
		ids := rec.ids()
		id := idOf(m.dgst.String())
		switch {
		case in.ended(m, rec, ids, ended):
			ended[id] = true
			for _, part := range ids {
				ended[part] = ended[part] || !rec.Index // the blobs of an image
			}
		case within(m.last, now, pause), slices.ContainsFunc(ids, recent):
			busy = append(busy, id)
		}
	}
	for id, b := range in.blobs {
		if b.open > 0 || recent(id) && !ended[id] {
			busy = append(busy, id)
		}
	}
	return busy
}

// ended tells whether a client has got all of a manifest: each blob since it has asked for
// that, or of an index, an image. Ended has those for which that is known.
func (in inRepo) ended(m asked, rec partsRecord, ids []gc.ID, ended map[gc.ID]bool) bool {
	if rec.Index {
		return slices.ContainsFunc(ids, func(id gc.ID) bool { return ended[id] })
	}
	return len(ids) > 0 && !slices.ContainsFunc(ids, func(id gc.ID) bool {
		b, ok := in.blobs[id]
		return !ok || b.open > 0 || b.whole.IsZero() || b.whole.Before(m.last)
	})
}
