package seed

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"registry-module/cache"
)

// cosignTags are the ends of the tags by which cosign attaches something.
var cosignTags = [...]string{".sig", ".att", ".sbom"}

// attached returns what is attached to a manifest and those below it: what refers to them,
// and what cosign's tags stand for. What refers to that in turn comes along, and is the
// last that is looked for.
func (w *walker) attached(ctx context.Context, top *node) ([]*node, error) {
	var subjects []digest.Digest
	known := make(map[digest.Digest]bool)
	var visit func(n *node)
	visit = func(n *node) {
		if !known[n.Digest] && !n.side {
			known[n.Digest] = true
			subjects = append(subjects, n.Digest)
			for _, c := range n.children {
				visit(c)
			}
		}
	}
	visit(top)
	var mu sync.Mutex
	byTag := make(map[digest.Digest][]*node)
	refer := make(map[digest.Digest][]*node)
	var group errgroup.Group
	group.SetLimit(maxSideBySide)
	for _, dgst := range subjects {
		group.Go(func() error {
			nodes, err := w.referring(ctx, dgst, true)
			mu.Lock()
			defer mu.Unlock()
			refer[dgst] = nodes
			return err
		})
		if dgst.Algorithm() != digest.SHA256 {
			continue // cosign has no others
		}
		for _, end := range cosignTags {
			group.Go(func() error {
				n, err := w.byTag(ctx, "sha256-"+dgst.Encoded()+end)
				if n != nil {
					mu.Lock()
					defer mu.Unlock()
					byTag[dgst] = append(byTag[dgst], n)
				}
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(w.i.points, func(a, b point) int {
		if a.tag < b.tag {
			return -1
		}
		return 1 // each tag is there once
	})
	var all []*node
	for _, dgst := range subjects {
		all = append(all, refer[dgst]...)
		all = append(all, byTag[dgst]...)
	}
	return all, nil
}

// referring returns what refers to a manifest, and, if on is set, what refers to that.
func (w *walker) referring(ctx context.Context, dgst digest.Digest, on bool) (all []*node, _ error) {
	list, err := ask(ctx, w.run, func(ctx context.Context) (cache.Referrers, error) { return w.i.repo.Referrers(ctx, dgst) })
	if err != nil {
		return nil, w.pardon(err, "what refers to %s is not known: %v", dgst, err)
	}
	if list.Stale != nil {
		w.note("what refers to %s is what is stored: %v", dgst, list.Stale)
	}
	seen := make(map[digest.Digest]bool)
	for _, d := range list.Manifests {
		if d.Digest.Validate() != nil || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		n, err := w.referrer(ctx, d)
		if err != nil {
			if err := w.pardon(err, "%s, which refers to %s, is left out: %v", d.Digest, dgst, err); err != nil {
				return nil, err
			}
			continue
		}
		all = append(all, n)
		if !on {
			continue
		}
		more, err := w.referring(ctx, d.Digest, false)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// referrer is one of a list of them, all of it.
func (w *walker) referrer(ctx context.Context, d v1.Descriptor) (*node, error) {
	n, err := w.child(ctx, d, 0, nil)
	if err != nil && !passes(err) && ctx.Err() == nil {
		// Anybody who may push can attach something, which is no reason to do without the
		// image.
		err = errors.Join(errUseless, err)
	}
	return n, err
}

var errUseless = errors.New("it cannot be used")

// byTag is what one of cosign's tags stands for; nil where there is none.
func (w *walker) byTag(ctx context.Context, tag string) (*node, error) {
	t, err := ask(ctx, w.run, func(ctx context.Context) (cache.Tagged, error) { return w.i.repo.Peek(ctx, tag) })
	if errors.Is(err, cache.ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		var n *node
		if n, err = w.tree(ctx, t.Manifest, w.keeps(len(t.Bytes)), 0, nil); err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			if t.Stale == nil {
				w.i.points = append(w.i.points, point{tag, t.Digest})
			}
			return n, nil
		}
		err = errors.Join(errUseless, err)
	}
	return nil, w.pardon(err, "what the tag %s attaches is left out: %v", tag, err)
}

// pardon notes what is no reason to do without the image, and otherwise returns err: while
// a remote cannot be asked, what it has attached is not known.
func (w *walker) pardon(err error, format string, args ...any) error {
	if errors.Is(err, errUseless) || lasting(err) || w.i.stale != nil && passes(err) {
		w.note(format, args...)
		return nil
	}
	return err
}
