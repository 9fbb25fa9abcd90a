package seed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"registry-module/cache"
)

// What an image may consist of is bounded, because it comes from outside: arbitrary, far
// more than what is usual.
const (
	maxManifests = 1000 // of one image, with what is attached
	maxDepth     = 4    // indexes in indexes
	// maxAllBlobs is how many blobs the images of a job name in all, each for itself.
	maxAllBlobs = 1_000_000
	// maxSideBySide is how much of one image is looked at at a time. How many questions are
	// under way is bounded by maxAsks.
	maxSideBySide = 8
)

// walk finds out what the images consist of.
func (r *run) walk(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(maxAsks)
	for _, i := range r.images {
		if i.err != nil {
			continue
		}
		group.Go(func() error {
			w := walker{run: r, i: i, found: make(map[platform]bool)}
			if err := w.image(ctx); err != nil {
				i.fail(err)
			}
			return nil
		})
	}
	_ = group.Wait() // none of them fails
}

// peek is a manifest that is being looked at, or was.
type peek struct {
	done     chan struct{}
	manifest cache.Manifest
	// keep tells whether there was memory for its bytes.
	keep bool
	err  error
}

// manifest looks at a manifest of a repository. Who wants the same one shares it.
func (r *run) manifest(ctx context.Context, repo Repository, dgst digest.Digest) (*peek, error) {
	k := repo.Key() + "@" + dgst.String()
	r.mu.Lock()
	p := r.peeks[k]
	if p != nil {
		r.mu.Unlock()
		select {
		case <-p.done:
			return p, p.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p = &peek{done: make(chan struct{})}
	r.peeks[k] = p
	r.mu.Unlock()
	t, err := ask(ctx, r, func(ctx context.Context) (cache.Tagged, error) { return repo.Peek(ctx, dgst.String()) })
	p.manifest, p.err = t.Manifest, err
	if p.keep = r.keeps(len(t.Bytes)); !p.keep {
		r.mu.Lock()
		delete(r.peeks, k)
		r.mu.Unlock()
	}
	close(p.done)
	return p, p.err
}

// keeps tells whether there is memory for so many bytes more, and takes it.
func (r *run) keeps(n int) bool {
	if r.memory.Add(int64(n)) <= maxMemory {
		return true
	}
	r.memory.Add(-int64(n))
	return false
}

// node is a manifest with what it lists.
type node struct {
	*part
	blobs    []v1.Descriptor
	children []*node
	// side tells that it is an attestation of another one of the index, or below one.
	side bool
}

// walker finds out what one image consists of.
type walker struct {
	*run
	i *image

	mu        sync.Mutex
	manifests int
	// found are the platforms that were wanted and are there, and have all that are there.
	found map[platform]bool
	have  []string
	// vague tells that there are manifests that do not say for which platform they are.
	vague bool
}

var errTooMany = fmt.Errorf("it consists of more than %d manifests", maxManifests)

// image finds out all.
func (w *walker) image(ctx context.Context) error {
	t, err := ask(ctx, w.run, func(ctx context.Context) (cache.Tagged, error) { return w.i.repo.Peek(ctx, w.i.ref) })
	if err != nil {
		return err
	}
	if w.i.stale = t.Stale; t.Stale != nil {
		w.note("the remote could not be asked, and what is stored was taken: %v", t.Stale)
	}
	w.i.planned.Digest = t.Digest
	top, err := w.tree(ctx, t.Manifest, w.keeps(len(t.Bytes)), 0, w.i.platforms)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", t.Digest, err)
	}
	if err := w.checkPlatforms(top); err != nil {
		return err
	}
	var attached []*node
	if !w.i.bare {
		if attached, err = w.attached(ctx, top); err != nil {
			return fmt.Errorf("what is attached to it: %w; without that it can be seeded by --no-referrers", err)
		}
	}
	return w.lay(top, attached)
}

// tree returns what a manifest consists of: of an index, the children for platforms, and
// all where there are none. Keep tells whether its bytes stay in memory.
func (w *walker) tree(ctx context.Context, m cache.Manifest, keep bool, depth int, platforms []platform) (*node, error) {
	if err := w.counted(1); err != nil {
		return nil, err
	}
	doc, err := parseDocument(m.Bytes)
	if err != nil {
		return nil, err
	}
	n := &node{part: &part{Descriptor: cache.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes))}}}
	if keep {
		n.content = m.Bytes
	}
	if !doc.isIndex() {
		n.blobs = doc.blobs()
		return n, w.takes(len(n.blobs))
	}
	if depth++; depth > maxDepth {
		return nil, fmt.Errorf("it is an index in more than %d others", maxDepth-1)
	}
	children := w.choose(doc.Manifests, platforms)
	if len(children) > maxManifests {
		return nil, errTooMany
	}
	n.children = make([]*node, len(children))
	var group errgroup.Group
	group.SetLimit(maxSideBySide)
	var failed atomic.Bool // nobody else is asked then; who is shares the answer with others
	for at, c := range children {
		group.Go(func() error {
			if failed.Load() {
				return nil
			}
			child, err := w.child(ctx, c.Descriptor, depth, platforms)
			switch {
			case err == nil:
				child.side = c.side
				n.children[at] = child
			case c.side && lasting(err):
				w.note("the attestation %s is left out: %v", c.Digest, err)
			default:
				failed.Store(true)
				return fmt.Errorf("manifest %s%s: %w", c.Digest, inWords(c.Descriptor), err)
			}
			return nil
		})
	}
	err = group.Wait()
	n.children = slices.DeleteFunc(n.children, func(c *node) bool { return c == nil })
	return n, err
}

// counted counts n more manifests of the image.
func (w *walker) counted(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.manifests+n > maxManifests || n == 0 && w.manifests == maxManifests {
		return errTooMany
	}
	w.manifests += n
	return nil
}

// takes counts n more blobs of the job, which are kept in memory.
func (r *run) takes(n int) error {
	if r.named.Add(int64(n)) > maxAllBlobs {
		return fmt.Errorf("the job comes to more than %d blobs: seed it in parts, or pick fewer tags, for example by newest", maxAllBlobs)
	}
	return nil
}

// child is what a manifest of an index consists of.
func (w *walker) child(ctx context.Context, d v1.Descriptor, depth int, platforms []platform) (*node, error) {
	if err := w.counted(0); err != nil {
		return nil, err // and nobody is asked
	}
	p, err := w.manifest(ctx, w.i.repo, d.Digest)
	if err != nil {
		return nil, err
	}
	return w.tree(ctx, p.manifest, p.keep, depth, platforms)
}

// inWords says for which platform a manifest is.
func inWords(d v1.Descriptor) string {
	if p, ok := platformOf(d); ok {
		return " for " + p.String()
	}
	return ""
}

// listed is a manifest of an index that is to be fetched.
type listed struct {
	v1.Descriptor
	side bool // an attestation of another one
}

// choose returns which manifests of an index are to be fetched: those for platforms, and
// those that may be, because they do not say for which they are. Attestations go with what
// they are about.
func (w *walker) choose(manifests []v1.Descriptor, platforms []platform) (chosen []listed) {
	var have []platform
	var places []int // of have, in manifests
	taken := make([]bool, len(manifests))
	subjects := make(map[digest.Digest]bool)
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, d := range manifests {
		p, known := platformOf(d)
		_, side := about(d)
		switch {
		case side:
		case known:
			have, places = append(have, p), append(places, at)
			taken[at] = len(platforms) == 0
			w.have = append(w.have, p.String())
		case len(platforms) == 0, d.Platform == nil:
			taken[at] = true
			w.vague = w.vague || !isIndexType(d.MediaType)
		}
	}
	for _, p := range platforms {
		for _, at := range p.choose(have) {
			taken[places[at]] = true
			w.found[p] = true
		}
	}
	seen := make(map[digest.Digest]bool)
	for at, d := range manifests {
		if taken[at] {
			subjects[d.Digest] = true
			if p, ok := platformOf(d); ok && !slices.Contains(w.i.planned.Platforms, p.String()) {
				w.i.planned.Platforms = append(w.i.planned.Platforms, p.String())
			}
		}
	}
	for at, d := range manifests {
		subject, side := about(d)
		if side = side && !w.i.bare && subjects[subject]; (taken[at] || side) && !seen[d.Digest] {
			seen[d.Digest] = true
			chosen = append(chosen, listed{d, side})
		}
	}
	return chosen
}

// dockerList is the media type of Docker's indexes.
const dockerList = "application/vnd.docker.distribution.manifest.list.v2+json"

func isIndexType(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == dockerList
}

// checkPlatforms returns an error where an index has nothing for one of the platforms.
func (w *walker) checkPlatforms(top *node) error {
	if len(w.i.platforms) == 0 || top.children == nil {
		return nil // of a manifest that is in no index it is not known
	}
	var missing []string
	for _, p := range w.i.platforms {
		if !w.found[p] {
			missing = append(missing, p.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(w.have)
	has := strings.Join(slices.Compact(w.have), ", ")
	if w.vague {
		w.note("whether it has %s is not known: its index does not say for which platforms some manifests are", strings.Join(missing, ", "))
		return nil
	}
	if has == "" {
		has = "none"
	}
	return fmt.Errorf("%w: it has nothing for %s, but for %s", errNoPlatform, strings.Join(missing, ", "), has)
}

var errNoPlatform = errors.New("no such platform")

// note notes what is worth to know of the image.
func (w *walker) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.i.note(fmt.Sprintf(format, args...))
}

// lay puts all that was found in the order in which it is stored.
func (w *walker) lay(top *node, attached []*node) error {
	i := w.i
	seen := make(map[digest.Digest]bool)
	var visit func(n *node, side bool)
	visit = func(n *node, side bool) {
		if seen[n.Digest] {
			return
		}
		seen[n.Digest] = true
		side = side || n.side
		for _, c := range n.children {
			visit(c, side)
		}
		if side {
			i.planned.Attached++
		}
		i.parts = append(i.parts, n.part)
		i.planned.Size = sum(i.planned.Size, n.Size)
		for _, b := range n.blobs {
			if !seen[b.Digest] {
				seen[b.Digest] = true
				i.blobs = append(i.blobs, b)
				i.planned.Size = sum(i.planned.Size, b.Size)
			}
		}
	}
	visit(top, false)
	for _, n := range attached {
		visit(n, true)
	}
	i.planned.Layers = len(i.blobs)
	if len(i.blobs) > maxBlobs {
		return fmt.Errorf("its manifests name more than %d blobs", maxBlobs)
	}
	return nil
}
