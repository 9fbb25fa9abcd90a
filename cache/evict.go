package cache

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

// place is where content is, and under which names.
type place struct {
	dgst     digest.Digest
	size     int64 // of the content
	manifest []string
	layer    []string
	tags     []Ref
}

type places map[gc.ID]*place

// at returns the place of content, which is new if there was none.
func (p places) at(dgst string) *place {
	at := p[idOf(dgst)]
	if at.dgst == "" {
		at.dgst = digest.Digest(dgst)
	}
	return at
}

// locate finds out where the content of victims is, by one walk through the index.
func (c *Cache) locate(ctx context.Context, victims []gc.Victim) (places, error) {
	all := make(places)
	for _, v := range victims {
		for _, id := range v.Content {
			all[id] = new(place)
		}
	}
	return all, c.find(ctx, all)
}

// find fills in the places that are asked for.
func (c *Cache) find(ctx context.Context, all places) error {
	wanted := func(dgst string) *place {
		if all[idOf(dgst)] == nil {
			return nil
		}
		return all.at(dgst)
	}
	err := c.each(ctx, 1, func(parts []string, value []byte) error {
		at := wanted(parts[0])
		if at == nil {
			return nil
		}
		rec, err := decodeBlob(parts[0], value)
		at.size = rec.Size
		return err
	}, kindBlob)
	if err != nil {
		return err
	}
	err = c.each(ctx, 2, func(parts []string, _ []byte) error {
		if at := wanted(parts[1]); at != nil {
			at.manifest = append(at.manifest, parts[0])
		}
		return nil
	}, kindManifest)
	if err != nil {
		return err
	}
	err = c.each(ctx, 2, func(parts []string, _ []byte) error {
		if at := wanted(parts[1]); at != nil {
			at.layer = append(at.layer, parts[0])
		}
		return nil
	}, kindLayer)
	if err != nil {
		return err
	}
	return c.each(ctx, 2, func(parts []string, value []byte) error {
		var rec tagRecord
		if err := json.Unmarshal(value, &rec); err != nil {
			return nil // it is asked for when it is next used
		}
		if at := wanted(rec.Digest.String()); at != nil {
			at.tags = append(at.tags, Ref{parts[0], RefTag, parts[1]})
		}
		return nil
	}, kindTag)
}

// contents is how many manifests and blobs were removed.
func (r Removed) contents() int { return r.Manifests + r.Blobs }

// evictionOf describes what was removed of a victim.
func evictionOf(v gc.Victim, at places, bytes int64) Eviction {
	e := Eviction{Cause: EvictionCause(v.Why.String()), Bytes: bytes, Used: timeOf(v.Use.Last)}
	if p := at[v.ID]; p != nil {
		e.Digest, e.Image = p.dgst, p.image()
	}
	return e
}

// image is a name by which clients ask for a manifest, empty where it is none.
func (p *place) image() string {
	switch {
	case len(p.tags) > 0:
		return p.tags[0].Repo + ":" + p.tags[0].Name
	case len(p.manifest) > 0:
		return p.manifest[0] + "@" + p.dgst.String()
	}
	return ""
}

// evictVictim removes an image: first what leads to it, then what it consists of, so that
// what is left by a crash is not taken for the whole. It notes in touched the
// repositories that have lost a manifest or a blob. It returns whether the image is gone.
func (c *Cache) evictVictim(ctx context.Context, v gc.Victim, at places, touched map[string]bool, sum *Removed) bool {
	above := true // the image, or an index of it
	for _, id := range v.Content {
		needed := above
		above = above && id != v.ID
		p := at[id]
		if p == nil || p.dgst == "" {
			continue // it is gone
		}
		removed, err := c.evictContent(ctx, p, sum)
		if removed || err != nil {
			for _, repo := range append(p.manifest, p.layer...) {
				touched[repo] = true
			}
		}
		if err != nil {
			c.seldom("remove", err)("%s could not be removed", p.dgst)
			return false // it needs what it consists of
		}
		if !removed && needed {
			return false // all of it has come into use
		}
	}
	return true
}

// evictContent removes content from all repositories and from the store, unless it is in
// use.
func (c *Cache) evictContent(ctx context.Context, p *place, sum *Removed) (removed bool, err error) {
	ctx = context.WithoutCancel(ctx) // so that nothing is half removed
	defer c.contents.lock(p.dgst.String())()
	defer c.holds.removing()()
	if c.running(p.dgst) != nil || c.pins.more.Load() != c.collector.pins || c.pulls.spares(p.dgst) || c.holds.has(p.dgst) {
		return false, nil
	}
	if err := c.takeOut(ctx, p, sum); err != nil {
		return false, err
	}
	return true, nil
}

// takeOut removes content, by all its names. The caller holds its lock.
func (c *Cache) takeOut(ctx context.Context, p *place, sum *Removed) error {
	if err := c.unname(ctx, p); err != nil {
		return err
	}
	if err := c.remove(ctx, p.dgst); err != nil {
		return err
	}
	sum.Tags += len(p.tags)
	if len(p.manifest) > 0 {
		sum.Manifests++
	} else {
		sum.Blobs++
	}
	sum.Bytes += c.space.occupied(p.size)
	return nil
}

// unname removes all names of content: tags, then the links that they lead to.
func (c *Cache) unname(ctx context.Context, p *place) error {
	for _, tag := range p.tags {
		if err := c.dropTag(ctx, tag, p.dgst); err != nil {
			return err
		}
	}
	for _, repo := range p.manifest {
		if err := c.dropManifest(ctx, repo, p.dgst); err != nil {
			return err
		}
	}
	var changes []Change
	for _, repo := range p.layer {
		if err := c.opts.Refs.Remove(ctx, Ref{repo, RefLayer, p.dgst.String()}); err != nil {
			return err
		}
		changes = append(changes, Change{Key: key(kindLayer, repo, p.dgst.String()), Delete: true})
	}
	// What it consisted of is of no interest once no repository has it any more.
	changes = append(changes, Change{Key: key(kindParts, p.dgst.String()), Delete: true})
	return c.applyInParts(ctx, changes)
}

// dropTag removes a tag, if it still stands for dgst.
func (c *Cache) dropTag(ctx context.Context, tag Ref, dgst digest.Digest) error {
	defer c.tags.lock(string(key(kindTag, tag.Repo, tag.Name)))()
	var rec tagRecord
	if err := c.record(ctx, key(kindTag, tag.Repo, tag.Name), &rec); err != nil || rec.Digest != dgst {
		return nil // it stands for something else by now, or for nothing
	}
	if err := c.opts.Index.Apply(ctx, Change{Key: key(kindTag, tag.Repo, tag.Name), Delete: true}); err != nil {
		return err
	}
	return c.opts.Refs.Remove(ctx, tag)
}

// dropManifest removes the link to a manifest from a repository, and what is known of it
// there.
func (c *Cache) dropManifest(ctx context.Context, repo string, dgst digest.Digest) error {
	if err := c.opts.Refs.Remove(ctx, Ref{repo, RefManifest, dgst.String()}); err != nil {
		return err
	}
	changes := []Change{{Key: key(kindManifest, repo, dgst.String()), Delete: true}}
	c.lists.Lock()
	defer c.lists.Unlock()
	if said, err := c.readReferrers(ctx, repo, dgst); err == nil {
		for i := range said.Parts {
			changes = append(changes, Change{Key: referrersPart(repo, dgst, i), Delete: true})
		}
		for _, d := range said.Manifests {
			changes = append(changes, Change{Key: key(kindListed, repo, d.Digest.String()), Delete: true})
		}
		changes = append(changes, Change{Key: key(kindReferrers, repo, dgst.String()), Delete: true})
	}
	if b, err := c.opts.Blobs.Open(ctx, dgst); err == nil { // what it refers to
		doc, err := readManifest(b)
		if err == nil && doc.Subject != nil {
			changes = append(changes, Change{Key: key(kindSubject, repo, doc.Subject.Digest.String(), dgst.String()), Delete: true})
		}
		if err := errors.Join(err, b.Close()); err != nil {
			c.log.WithError(err).Debugf("reading manifest %s, which is being removed", dgst)
		}
	}
	c.manifests.Remove(manifestKey{repo, dgst})
	return c.applyInParts(ctx, changes)
}

// tidy removes from the index what is only there for manifests that are gone: which blobs
// they have named, and repositories of which nothing is left.
func (c *Cache) tidy(ctx context.Context, repos map[string]bool) error {
	for repo := range repos {
		if err := c.tidyRepo(ctx, repo); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cache) tidyRepo(ctx context.Context, repo string) error {
	defer c.repos.lock(repo)()
	named := make(map[gc.ID]bool)
	left := false
	for dgst, err := range c.names(ctx, "", kindManifest, repo) {
		if err != nil {
			return err
		}
		left = true
		var rec partsRecord
		if err := c.record(ctx, key(kindParts, dgst), &rec); err != nil {
			return nil // not known for now what it names
		}
		for _, id := range rec.ids() {
			named[id] = true
		}
	}
	changes := batch{index: c.opts.Index}
	for dgst, err := range c.names(ctx, "", kindNamed, repo) {
		if err == nil && !named[idOf(dgst)] {
			err = changes.add(ctx, Change{Key: key(kindNamed, repo, dgst), Delete: true})
		}
		if err != nil {
			return err
		}
	}
	for _, kind := range []string{kindTag, kindLayer} {
		for _, err := range c.names(ctx, "", kind, repo) {
			if err != nil {
				return err
			}
			left = true
			break
		}
	}
	if !left {
		if err := changes.add(ctx, Change{Key: key(kindRepo, repo), Delete: true}); err != nil {
			return err
		}
	}
	return changes.flush(ctx)
}
