package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/seed/bundle"
	"registry-module/upstream"
)

// collector finds out what belongs to the images of a bundle.
type collector struct {
	*createFlags
	images imageControl
	cfg    *config.Config
	notes  io.Writer

	// chosen are the children of indexes that are carried, by their platforms, and kept
	// those that were taken, for what tells something about them.
	chosen map[digest.Digest]map[digest.Digest]bool
	kept   map[digest.Digest]bool
}

func (c *collector) note(format string, args ...any) {
	if !c.asJSON {
		_, _ = fmt.Fprintln(c.notes, printable("warning: "+fmt.Sprintf(format, args...)))
	}
}

// roots are the images to carry: those that are given, or all that are stored and complete.
// All errors come at once.
func (c *collector) roots(ctx context.Context, images []seed.Want) (roots []bundle.Image, _ error) {
	c.chosen, c.kept = make(map[digest.Digest]map[digest.Digest]bool), make(map[digest.Digest]bool)
	if c.all {
		return c.allRoots(ctx)
	}
	var errs []error
	for _, w := range images {
		more, err := c.namedRoots(ctx, w)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			errs = append(errs, err)
		}
		roots = append(roots, more...)
	}
	return roots, errors.Join(errs...)
}

// attachedTag is the form of tags that say what is attached to a manifest: those of the
// referrers tag schema of the OCI distribution specification, and of cosign.
var attachedTag = regexp.MustCompile(`^sha(256|512)-[0-9a-f]{64}(\.(sig|att|sbom))?$`)

func (c *collector) allRoots(ctx context.Context) (roots []bundle.Image, _ error) {
	for i, err := range c.images.Images(ctx) {
		switch {
		case err != nil:
			return nil, err
		case !i.Complete:
			c.note("left out %s, which is not complete: %s", listedName(i), stateText(i))
		case i.Remote == "" || i.Name == "":
			c.note("left out %s: of which registry it is is not known", listedName(i))
		default:
			root := c.root(i)
			root.Attached = attachedTag.MatchString(i.Tag)
			roots = append(roots, root)
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("no image is stored that is complete: `registry-module ls` lists what is stored")
	}
	return roots, nil
}

// root is an image by the name of its registry.
func (c *collector) root(i cache.Image) bundle.Image {
	host, name := c.canonical(i.Remote, i.Name)
	return bundle.Image{Remote: host, Repository: name, Tag: i.Tag, Digest: i.Digest, MediaType: i.MediaType}
}

// canonical is the registry that a repository is of: what a remote serves of others has
// their hosts in front.
func (c *collector) canonical(host, name string) (string, string) {
	for _, r := range c.cfg.Remotes {
		if r.URL.Host != host {
			continue
		}
		for _, ns := range r.Namespaces {
			if rest, ok := strings.CutPrefix(name, ns+"/"); ok {
				return upstream.HostOf(ns), rest
			}
		}
	}
	return host, name
}

// namedRoots is an image with what is attached to it.
func (c *collector) namedRoots(ctx context.Context, w seed.Want) ([]bundle.Image, error) {
	name := w.Image
	d, err := c.images.Inspect(ctx, name)
	if err != nil {
		return nil, err
	}
	if d.Remote == "" || d.Name == "" {
		return nil, fmt.Errorf("%s: of which registry it is is not known: configure that (REGISTRY_PROXY_REMOTEURL)", printable(name))
	}
	if err := c.choose(w, d); err != nil {
		return nil, err
	}
	root := c.root(d.Image)
	if _, tag, dgst := config.CutReference(name); dgst != "" && tag == "" {
		root.Tag = ""
	}
	if w.Bare {
		return []bundle.Image{root}, nil
	}
	tags, err := c.attached(ctx, d, &root)
	return append([]bundle.Image{root}, tags...), err
}

// attached adds to root the manifests that refer to it, or to what it lists, and to those.
// It returns what is attached by tags.
func (c *collector) attached(ctx context.Context, d cache.ImageDetail, root *bundle.Image) (tags []bundle.Image, _ error) {
	of := func(ref string) string { return imageName(d.Remote+"/"+d.Name, ref) }
	details := []cache.ImageDetail{d}
	for _, m := range children(d) {
		if chosen := c.chosen[d.Digest]; !m.Stored || chosen != nil && !chosen[m.Digest] {
			continue
		}
		child, err := c.images.Inspect(ctx, of(m.Digest.String()))
		if errors.Is(err, cache.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		details = append(details, child)
	}
	seen := make(map[digest.Digest]bool)
	add := func(manifests []digest.Digest) (fresh []digest.Digest) {
		for _, dgst := range manifests {
			if !seen[dgst] {
				seen[dgst] = true
				fresh = append(fresh, dgst)
				root.Manifests = append(root.Manifests, bundle.Manifest{Digest: dgst})
			}
		}
		return fresh
	}
	for _, subject := range details {
		for _, dgst := range add(subject.Attached) {
			referrer, err := c.images.Inspect(ctx, of(dgst.String()))
			if err == nil {
				add(referrer.Attached)
			} else if !errors.Is(err, cache.ErrNotFound) {
				return nil, err
			}
		}
		for _, tag := range subject.AttachedTags {
			t, err := c.images.Inspect(ctx, of(tag))
			if err != nil {
				return nil, err
			}
			if !t.Complete {
				c.note("left out %s, which is attached to %s: it is not complete", of(tag), root.Reference())
				continue
			}
			attached := c.root(t.Image)
			attached.Attached = true
			tags = append(tags, attached)
		}
	}
	return tags, nil
}

// choose chooses the children of an index by their platforms. What is missing of those is
// an error.
func (c *collector) choose(w seed.Want, d cache.ImageDetail) error {
	site := make(map[digest.Digest]bool, len(c.at))
	for _, content := range c.at {
		site[content.Digest] = true
	}
	listed := children(d)
	var have []string
	for _, m := range listed {
		have = append(have, m.Platform)
	}
	var problems []string
	if len(w.Platforms) > 0 && len(listed) > 0 {
		chosen := c.chosen[d.Digest]
		if chosen == nil {
			chosen = make(map[digest.Digest]bool)
		}
		for _, p := range w.Platforms {
			places := choosePlatform(p, have)
			if len(places) == 0 {
				problems = append(problems, p+" is not among its platforms")
			}
			for _, at := range places {
				m := listed[at]
				chosen[m.Digest] = true
				if !m.Stored {
					problems = append(problems, fmt.Sprintf("manifest %s of %s is not stored", m.Digest, p))
				}
			}
		}
		c.chosen[d.Digest] = chosen
	}
	for n, m := range d.Manifests {
		chosen := c.chosen[d.Digest]
		if !m.Stored || n > 0 && (chosen != nil && !chosen[m.Digest] || !isPlatform(m.Platform)) {
			continue
		}
		for _, p := range m.Parts {
			if !p.Stored && !site[p.Digest] {
				problems = append(problems, strings.TrimSpace(fmt.Sprintf("blob %s of %s", p.Digest, m.Platform))+" is not stored")
			}
		}
	}
	if len(problems) == 0 {
		return nil
	}
	const most = 10
	if more := len(problems) - most; more > 0 {
		problems = append(problems[:most], fmt.Sprintf("and %d more", more))
	}
	hint := "; leave --cached out to fetch it"
	if !c.cached {
		hint = ""
	}
	return fmt.Errorf("%s is not complete: %s%s", printable(w.Image), strings.Join(problems, ", "), hint)
}

// children are the manifests that an index lists.
func children(d cache.ImageDetail) []cache.ManifestDetail {
	if len(d.Manifests) == 0 {
		return nil
	}
	return d.Manifests[1:]
}

// isWanted tells whether a child of an index is carried.
func (c *collector) isWanted(i bundle.Image, child v1.Descriptor) (wanted bool) {
	defer func() { c.kept[child.Digest] = c.kept[child.Digest] || wanted }()
	// What buildkit says of a child, beside it in the index.
	if of := child.Annotations["vnd.docker.reference.digest"]; of != "" {
		return !c.noReferrers && (c.kept[digest.Digest(of)] || len(c.platforms) == 0 && c.chosen[i.Digest] == nil)
	}
	if chosen := c.chosen[i.Digest]; chosen != nil {
		return chosen[child.Digest]
	}
	if len(c.platforms) == 0 || child.Platform == nil {
		return true
	}
	has := strings.TrimSuffix(strings.Join([]string{child.Platform.OS, child.Platform.Architecture, child.Platform.Variant}, "/"), "/")
	return slices.ContainsFunc(c.platforms, func(p string) bool { return len(choosePlatform(p, []string{has})) > 0 })
}

var platformForm = regexp.MustCompile(`^[a-z0-9._-]{1,64}(/[a-z0-9._-]{1,64}){1,2}$`)

// isPlatform tells whether a text is one in the form os/architecture[/variant].
func isPlatform(p string) bool {
	return platformForm.MatchString(p) && !strings.HasPrefix(p, "unknown/")
}

// choosePlatform returns the places in have of what is meant by want, as seed chooses:
// without a variant all, but of arm64 only v8; with one that, or else the highest below.
func choosePlatform(want string, have []string) (places []int) {
	base, variant := cutVariant(want)
	if base == "linux/arm64" && variant == "" {
		variant = "v8"
	}
	best := ""
	for i, h := range have {
		b, v := cutVariant(h)
		if b != base {
			continue
		}
		if usual := map[string]string{"arm": "v7", "arm64": "v8", "amd64": "v1"}; v == "" {
			v = usual[b[strings.LastIndexByte(b, '/')+1:]]
		}
		switch {
		case variant == "":
			places = append(places, i)
		case v == "":
		case v == best:
			places = append(places, i)
		case v <= variant && v > best: // they have one digit
			best, places = v, []int{i}
		}
	}
	return places
}

// cutVariant cuts off the variant of a platform.
func cutVariant(p string) (base, variant string) {
	parts := strings.SplitN(p, "/", 3)
	if len(parts) < 3 {
		return p, ""
	}
	return parts[0] + "/" + parts[1], parts[2]
}

// storedWants are the images that are stored of what is wanted.
func storedWants(ctx context.Context, i imageControl, wants []seed.Want) (images []seed.Want, _ error) {
	var stored []cache.Image
	var errs []error
	for _, w := range wants {
		if w.Tags == nil {
			images = append(images, w)
			continue
		}
		if stored == nil {
			for image, err := range i.Images(ctx) {
				if err != nil {
					return nil, err
				}
				stored = append(stored, image)
			}
		}
		var tags []string
		for _, image := range stored {
			if image.Tag != "" && means(w.Image, image) {
				tags = append(tags, image.Tag)
			}
		}
		picked := w.Tags.Pick(tags)
		if len(picked) == 0 {
			errs = append(errs, fmt.Errorf("%s: no tag is stored that is wanted", printable(w.Image)))
		}
		for _, tag := range picked {
			one := w
			one.Image, one.Tags = imageName(w.Image, tag), nil
			images = append(images, one)
		}
	}
	return images, errors.Join(errs...)
}

// means tells whether a repository that people call name is that of an image.
func means(name string, i cache.Image) bool {
	if name == i.Repository {
		return true
	}
	host, rest, ok := strings.Cut(name, "/")
	if !ok || upstream.HostOf(host) != i.Remote {
		return false
	}
	return rest == i.Name || i.Remote == upstream.DockerHub && "library/"+rest == i.Name
}
