package seed

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// progressEvery is how often is told how far a job is: often enough for a display that
// moves, and little for who writes it down.
const progressEvery = 200 * time.Millisecond

// tracker counts how far a job is, and tells it.
type tracker struct {
	tell func(Progress)
	wake chan struct{} // has an element when there is something in ended
	stop chan struct{}
	over chan struct{} // closed when tell is not called any more

	mu     sync.Mutex
	now    Progress // without Active and Done
	kept   map[digest.Digest]int64
	sizes  map[digest.Digest]int64
	active []*activeBlob
	// fetched is what came for blobs that are at their end.
	fetched int64
	ended   []SeededImage // to be told
}

// activeBlob is a blob that is being fetched.
type activeBlob struct {
	t *tracker
	ActiveBlob
	// from is how much of it was there, or is counted already.
	from int64
}

// newTracker returns a tracker that tells, unless tell is nil, how far r is, until it is
// closed.
func newTracker(r *run, p Plan, tell func(Progress)) *tracker {
	t := &tracker{
		tell: tell,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), over: make(chan struct{}),
		kept: make(map[digest.Digest]int64), sizes: make(map[digest.Digest]int64),
		now: Progress{TotalImages: len(r.images), Bytes: p.Present, TotalBytes: p.Size},
	}
	for dgst, c := range r.contents {
		t.kept[dgst], t.sizes[dgst] = c.kept, c.size
	}
	if tell == nil {
		close(t.over)
		return t
	}
	go t.run()
	return t
}

// run tells from one goroutine.
func (t *tracker) run() {
	defer close(t.over)
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	t.tell(t.snapshot())
	for {
		select {
		case <-ticker.C:
			t.tell(t.snapshot())
		case <-t.wake:
			t.tellEnded()
		case <-t.stop:
			t.tellEnded()
			return
		}
	}
}

// tellEnded tells of each image that has come to its end since.
func (t *tracker) tellEnded() {
	for {
		t.mu.Lock()
		if len(t.ended) == 0 {
			t.mu.Unlock()
			return
		}
		image := t.ended[0]
		t.ended = t.ended[1:]
		t.now.Images++
		if image.State == Failed || image.State == Unconfirmed {
			t.now.Failed++
		}
		t.mu.Unlock()
		p := t.snapshot()
		p.Done = &image
		t.tell(p)
	}
}

// snapshot is how far it is.
func (t *tracker) snapshot() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.now
	fetched := t.fetched
	for _, a := range t.active {
		p.Active = append(p.Active, a.ActiveBlob)
		fetched = sum(fetched, a.Bytes-a.from)
	}
	slices.SortFunc(p.Active, func(a, b ActiveBlob) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Digest, b.Digest))
	})
	// What was begun anew may be behind.
	t.now.Fetched = max(t.now.Fetched, fetched)
	p.Fetched = t.now.Fetched
	return p
}

// done notes that an image has come to its end.
func (t *tracker) done(image SeededImage) {
	if t.tell == nil {
		return
	}
	t.mu.Lock()
	t.ended = append(t.ended, image)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default: // it is awake
	}
}

// close tells the rest, and returns how many bytes were fetched. Nothing is under way any
// more.
func (t *tracker) close() (fetched int64) {
	close(t.stop)
	<-t.over
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fetched
}

// held notes how many bytes of content are there.
func (t *tracker) held(dgst digest.Digest, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hold(dgst, n)
}

// hold is held for who has t.mu.
func (t *tracker) hold(dgst digest.Digest, n int64) {
	n = min(n, t.sizes[dgst])
	if before := t.kept[dgst]; n > before {
		t.now.Bytes = sum(t.now.Bytes, n-before)
		t.kept[dgst] = n
	}
}

// begin notes that a blob is being fetched for an image.
func (t *tracker) begin(image string, d v1.Descriptor) *activeBlob {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.kept[d.Digest]
	a := &activeBlob{t: t, ActiveBlob: ActiveBlob{Image: image, Digest: d.Digest, Bytes: kept, Size: d.Size}, from: kept}
	t.active = append(t.active, a)
	return a
}

// held notes how many bytes of it are there.
func (a *activeBlob) held(n int64) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.Bytes = max(a.Bytes, min(n, a.Size))
	a.t.hold(a.Digest, n)
}

// fetched notes how many bytes one try has brought.
func (a *activeBlob) fetched(n int64) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.t.fetched = sum(a.t.fetched, n)
	a.from = a.Bytes
}

// end notes that it is not being fetched any more.
func (a *activeBlob) end() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.t.active = slices.DeleteFunc(a.t.active, func(other *activeBlob) bool { return other == a })
}
