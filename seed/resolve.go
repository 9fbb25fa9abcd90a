package seed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"registry-module/cache"
)

// maxTags bounds how many tags of a repository are looked at: arbitrary, some megabytes.
const maxTags = 200_000

// found is what has come of looking for a name.
type found struct {
	repo Repository
	tags cache.TagList // where tags are to be picked
	err  error
}

// resolve finds out which images are wanted. Each name is looked for once, and what is
// wanted several times, be it by different names, is one image.
func (r *run) resolve(ctx context.Context) error {
	type name struct{ name, ref string }
	founds := make(map[name]*found)
	var group errgroup.Group
	group.SetLimit(maxAsks)
	for _, w := range r.wants {
		if ctx.Err() != nil {
			break
		}
		n := name{w.name, w.ref()}
		if founds[n] != nil {
			continue
		}
		f := new(found)
		founds[n] = f
		group.Go(func() error {
			f.repo, f.err = ask(ctx, r, func(ctx context.Context) (Repository, error) { return r.cache.Find(ctx, n.name, n.ref) })
			if f.err == nil && n.ref == "" {
				f.tags, f.err = r.allTags(ctx, f.repo)
			}
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	if err := ctx.Err(); err != nil {
		return err
	}
	seen := make(map[string]*image)
	for _, w := range r.wants {
		for _, i := range r.imagesOf(w, founds[name{w.name, w.ref()}]) {
			k := i.planned.Image + "\x00" + i.planned.Error // of what is not known
			if i.repo != nil {
				k = i.repo.Key() + "\x00" + i.ref
			}
			if before := seen[k]; before != nil {
				before.unite(i)
				continue
			}
			seen[k] = i
			r.images = append(r.images, i)
		}
	}
	if len(r.images) > maxImages {
		return fmt.Errorf("the job comes to %d images, more than %d: pick fewer tags, for example by newest", len(r.images), maxImages)
	}
	return nil
}

// allTags lists all tags of a repository.
func (r *run) allTags(ctx context.Context, repo Repository) (cache.TagList, error) {
	var all cache.TagList
	last := ""
	for {
		page, err := ask(ctx, r, func(ctx context.Context) (cache.TagList, error) { return repo.Tags(ctx, -1, last) })
		if err != nil {
			return all, fmt.Errorf("listing the tags: %w", err)
		}
		all.Tags = append(all.Tags, page.Tags...)
		if all.Stale == nil {
			all.Stale = page.Stale
		}
		if len(all.Tags) > maxTags {
			return all, fmt.Errorf("listing the tags: there are more than %d", maxTags)
		}
		if !page.More || len(page.Tags) == 0 || page.Tags[len(page.Tags)-1] == last {
			return all, nil
		}
		last = page.Tags[len(page.Tags)-1]
	}
}

// imagesOf returns the images that w means. What cannot be had is an image with an error.
func (r *run) imagesOf(w wanted, f *found) []*image {
	base := func(written string) *image {
		return &image{
			planned:   PlannedImage{Image: written, From: w.From},
			platforms: w.platforms, bare: w.Bare, loose: w.Loose,
		}
	}
	if f.err != nil {
		i := base(w.Image)
		i.fail(f.err)
		return []*image{i}
	}
	var images []*image
	add := func(written, tag, ref string) {
		i := base(written)
		i.repo, i.tag, i.ref = f.repo, tag, ref
		place := f.repo.Place()
		i.planned.Remote, i.planned.Repository, i.planned.Tag = place.Host, place.Repo, tag
		images = append(images, i)
	}
	if w.Tags == nil {
		add(w.Image, w.tag, w.ref())
		return images
	}
	if f.tags.Stale != nil {
		r.unsure = cmp.Or(r.unsure, fmt.Sprintf("the tags of %s could not be listed at its remote", w.name))
	}
	for _, tag := range w.Tags.Pick(f.tags.Tags) {
		add(w.name+":"+tag, tag, tag)
		if f.tags.Stale != nil {
			images[len(images)-1].note("the tags are those that are stored, since the remote could not list them: " + f.tags.Stale.Error())
		}
	}
	if len(images) == 0 {
		i := base(w.Image)
		text, _ := json.Marshal(w.Tags) // which cannot fail
		err := fmt.Errorf("none of its %d tags is wanted by %s", len(f.tags.Tags), text)
		if f.tags.Stale != nil {
			err = fmt.Errorf("%w; they are those that are stored, since the remote could not list them: %w", err, f.tags.Stale)
		}
		i.fail(err)
		i.repo = f.repo
		i.ref = string(text)
		place := f.repo.Place()
		i.planned.Remote, i.planned.Repository = place.Host, place.Repo
		return []*image{i}
	}
	return images
}

// unite adds to i what another want of the same image wants beyond it.
func (i *image) unite(other *image) {
	if len(i.platforms) == 0 || len(other.platforms) == 0 {
		i.platforms = nil // which is all
	} else {
		for _, p := range other.platforms {
			if !slices.Contains(i.platforms, p) {
				i.platforms = append(slices.Clip(i.platforms), p)
			}
		}
	}
	i.bare = i.bare && other.bare
	i.loose = i.loose && other.loose
	const most = 1 << 10 // bytes; where else it is named is of no use any more
	if from := other.planned.From; from != "" && len(i.planned.From)+len(from) < most &&
		!slices.Contains(strings.Split(i.planned.From, "; "), from) {
		i.planned.From = strings.TrimPrefix(i.planned.From+"; "+from, "; ")
	}
	for _, n := range other.notes {
		i.note(n)
	}
}

// lasting tells whether the remote has said for good that something cannot be had.
func lasting(err error) bool {
	return errors.Is(err, cache.ErrNotFound) || errors.Is(err, cache.ErrInvalid) || errors.Is(err, cache.ErrDenied)
}
