package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

// RemoveImage removes an image: ref is a tag, or a digest with all tags that stand for it,
// or empty for all of the repository. With it goes what it consists of, unless something
// else uses that. The next request for it asks the remote. Running pulls do not keep it,
// pins do ([ErrPinned]).
//
// A manifest that another tag stands for stays, and with it what it consists of. So does
// what is pinned of an image that is not.
func (c *Cache) RemoveImage(ctx context.Context, repository, ref string) (sum Removed, err error) {
	release, err := c.takeTurn(ctx, 0)
	if err != nil {
		return sum, err
	}
	defer release()
	names, err := c.toRemove(ctx, repository, ref)
	if err != nil {
		return sum, err
	}
	digests := slices.Compact(digestsOf(names))
	for _, dgst := range digests {
		if err := c.dropPins(ctx, repository, dgst); err != nil {
			return sum, err
		}
	}
	c.pulls.collecting(true)
	defer c.pulls.collecting(false)
	s, err := c.survey(ctx, pullPause)
	if err != nil {
		return sum, err
	}
	for _, n := range names {
		if n.tag != "" || !s.Kept(idOf(n.dgst.String())) {
			continue
		}
		at := places{idOf(n.dgst.String()): new(place)}
		if err := c.find(ctx, at); err != nil {
			return sum, err
		}
		if len(at.at(n.dgst.String()).manifest) == 1 {
			return sum, fmt.Errorf("%s: %w, as a part of an image that is", n, ErrPinned)
		}
	}
	ctx = context.WithoutCancel(ctx)
	tidy := map[string]bool{repository: true}
	for _, n := range names {
		if n.tag != "" {
			if err := c.dropTag(ctx, Ref{repository, RefTag, n.tag}, n.dgst); err != nil {
				return sum, err
			}
			sum.Tags++
		}
	}
	byHand := newRemoval(s, names)
	err = c.removeManifests(ctx, s, repository, digests, tidy, byHand, &sum)
	byHand.tell(c)
	c.lookForRoom(ctx)
	if err != nil {
		return sum, err
	}
	slices.Sort(sum.Remaining)
	sum.Remaining = slices.Compact(sum.Remaining)
	return sum, c.tidy(ctx, tidy)
}

func digestsOf(names []imageName) (all []digest.Digest) {
	for _, n := range names {
		all = append(all, n.dgst)
	}
	slices.Sort(all)
	return all
}

// toRemove returns the names that are meant, if none is pinned.
func (c *Cache) toRemove(ctx context.Context, repository, ref string) (names []imageName, err error) {
	var meant imageName
	if ref != "" {
		if meant, err = c.nameOf(ctx, repository, ref); err != nil {
			return nil, err
		}
	} else if err := c.Ready(ctx); err != nil {
		return nil, err
	}
	pins := c.pins.all()
	for n, err := range c.namesIn(ctx, repository) {
		if err != nil {
			return nil, err
		}
		if ref != "" && (n.dgst != meant.dgst || meant.tag != "" && n.tag != meant.tag) {
			continue
		}
		if pinned := of(pins, n.repo, n.tag, n.dgst); len(pinned) > 0 {
			return nil, fmt.Errorf("%s: %w, by %s (%s)", n, ErrPinned, pinned[0].Pattern, pinned[0].Reason)
		}
		names = append(names, n)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("nothing of %s is stored: %w", repository, ErrNotFound)
	}
	return names, nil
}

// String is the name as people write it.
func (n imageName) String() string {
	if n.tag != "" {
		return n.repo + ":" + n.tag
	}
	return n.repo + "@" + n.dgst.String()
}

// removal is what a command has removed, image by image.
type removal struct {
	images []*Eviction
	of     map[gc.ID]*Eviction // by what belongs to an image: of several, to the first
	gone   map[*Eviction]bool
}

// newRemoval is for images by their names, which nothing was removed of yet.
func newRemoval(s *survey, names []imageName) *removal {
	r := &removal{of: make(map[gc.ID]*Eviction), gone: make(map[*Eviction]bool)}
	images := make(map[digest.Digest]*Eviction)
	tagged := make(map[digest.Digest]bool)
	for _, n := range names {
		e := images[n.dgst]
		if e == nil {
			id := idOf(n.dgst.String())
			e = &Eviction{Cause: EvictedByHand, Image: n.String(), Digest: n.dgst, Used: timeOf(s.LastUse(id))}
			images[n.dgst] = e
			r.images = append(r.images, e)
			r.of[id] = e
		}
		if n.tag != "" && !tagged[n.dgst] {
			e.Image, tagged[n.dgst] = n.String(), true
		}
	}
	for _, e := range r.images {
		for _, id := range s.Below(idOf(e.Digest.String())) {
			if r.of[id] == nil {
				r.of[id] = e
			}
		}
	}
	return r
}

// dropped notes that content has gone, which has given back so many bytes.
func (r *removal) dropped(id gc.ID, bytes int64) {
	if e := r.of[id]; e != nil {
		e.Bytes += bytes
		r.gone[e] = true
	}
}

// tell tells of the images that have gone.
func (r *removal) tell(c *Cache) {
	for _, e := range r.images {
		if r.gone[e] {
			c.evicted(*e)
		}
	}
}

// removeManifests removes manifests from a repository, and what they consist of from the
// store, unless that has another name.
func (c *Cache) removeManifests(ctx context.Context, s *survey, repository string, digests []digest.Digest, tidy map[string]bool, byHand *removal, sum *Removed) error {
	tops := make(places)
	for _, dgst := range digests {
		tops[idOf(dgst.String())] = new(place)
	}
	if err := c.find(ctx, tops); err != nil {
		return err
	}
	var ids []gc.ID
	for id, top := range tops {
		elsewhere := slices.DeleteFunc(slices.Clone(top.manifest), func(repo string) bool { return repo == repository })
		for _, tag := range top.tags {
			sum.Remaining = append(sum.Remaining, tag.Repo+":"+tag.Name)
		}
		switch {
		case top.dgst == "", slices.ContainsFunc(top.tags, func(tag Ref) bool { return tag.Repo == repository }):
		case len(elsewhere) > 0:
			for _, repo := range elsewhere {
				sum.Remaining = append(sum.Remaining, repo+"@"+top.dgst.String())
			}
			sum.Manifests++
			if err := c.dropManifest(ctx, repository, top.dgst); err != nil {
				return err
			}
			byHand.dropped(id, 0)
		case s.Kept(id): // by another image that names it
		default:
			ids = append(ids, id)
		}
	}
	alone := s.Alone(ids...)
	all := make(places)
	for _, id := range alone {
		all[id] = new(place)
	}
	if err := c.find(ctx, all); err != nil {
		return err
	}
	stays := make(map[gc.ID]bool) // since it has a name of its own
	for _, id := range alone {
		elsewhere := func(repo string) bool { return repo != repository }
		p := all[id]
		named := func(tag Ref) bool { // by a tag that is not only there for what goes
			subject, ok := attachedTo(tag.Name)
			return !ok || !slices.Contains(alone, subject)
		}
		if tops[id] == nil && (s.Kept(id) || slices.ContainsFunc(p.tags, named) || slices.ContainsFunc(p.manifest, elsewhere)) {
			for _, below := range s.Below(id) {
				stays[below] = true
			}
		}
	}
	for _, id := range alone {
		p := all[id]
		if p.dgst == "" || stays[id] {
			continue
		}
		for _, repo := range append(p.manifest, p.layer...) {
			tidy[repo] = true
		}
		before := *sum
		err := c.removeContent(ctx, p, tops[id] != nil, sum)
		if sum.contents() > before.contents() {
			byHand.dropped(id, sum.Bytes-before.Bytes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dropPins lets go of what was held for tags, if it is dgst: the operator does not want it.
func (c *Cache) dropPins(ctx context.Context, repository string, dgst digest.Digest) error {
	var tags []string
	for name, held := range c.pins.held() {
		if held == dgst && strings.HasPrefix(name, repository+":") {
			tags = append(tags, name)
		}
	}
	if len(tags) == 0 {
		return nil
	}
	return c.pins.letGo(ctx, tags...)
}

// removeContent is evictContent for what has to go, even if it is in use: unless it is only
// a part, and something that was stored since names it.
func (c *Cache) removeContent(ctx context.Context, p *place, top bool, sum *Removed) error {
	defer c.contents.lock(p.dgst.String())()
	defer c.holds.removing()()
	if !top && c.holds.has(p.dgst) {
		return nil
	}
	if c.pulls.isLinked(p.dgst) {
		if !top {
			return nil
		}
		now := places{idOf(p.dgst.String()): new(place)}
		if err := c.find(ctx, now); err != nil {
			return err
		}
		*p = *now.at(p.dgst.String()) // with the names that it has got since
	}
	return c.takeOut(ctx, p, sum)
}

// Collect removes what has expired, what nothing uses, and what is worth least, as far as
// there is need.
func (c *Cache) Collect(ctx context.Context, o CollectOptions) (Collection, error) {
	if !o.DryRun {
		c.expireLeft(ctx)
	}
	got, err := c.collect(ctx, collectOptions{free: o.Free, ahead: true, unused: true, dryRun: o.DryRun, report: true})
	if err != nil {
		return Collection{}, err
	}
	if !o.DryRun {
		c.dropOver(ctx)
	}
	sum := Collection{Victims: got.victims, Freed: got.removed.Bytes, Kept: got.plan.Kept, Busy: got.plan.Busy}
	if o.DryRun {
		sum.Freed = got.plan.Freed
	}
	if sum.Used, sum.Limit, err = c.space.state(ctx); err != nil {
		return Collection{}, err
	}
	if o.DryRun {
		sum.Used -= sum.Freed
	}
	return sum, nil
}

// describe tells what a victim is.
func describe(v gc.Victim, at places) Victim {
	d := Victim{Why: v.Why.String(), Blobs: len(v.Content), Bytes: v.Size, Used: timeOf(v.Use.Last)}
	p := at[v.ID]
	if p == nil {
		return d
	}
	d.Digest = p.dgst
	for _, id := range v.Content {
		if other := at[id]; other != nil {
			for _, tag := range other.tags {
				d.Images = append(d.Images, tag.Repo+":"+tag.Name)
			}
		}
	}
	if len(d.Images) == 0 {
		for _, repo := range p.manifest {
			d.Images = append(d.Images, repo+"@"+p.dgst.String())
		}
	}
	return d
}
