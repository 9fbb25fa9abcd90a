package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/gc"
)

// ErrPinned means that an image is pinned, and is not removed for that reason.
var ErrPinned = errors.New("it is pinned")

// Images lists what is stored: in the order of the repositories' names, of each first the
// tags, then the manifests that no tag stands for, and no index that is stored names.
func (c *Cache) Images(ctx context.Context) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		s, err := c.survey(ctx, pullPause)
		if err != nil {
			yield(Image{}, err)
			return
		}
		for repo, err := range c.names(ctx, "", kindRepo) {
			if err != nil {
				yield(Image{}, err)
				return
			}
			names, err := c.listed(ctx, repo)
			if err != nil {
				yield(Image{}, err)
				return
			}
			for _, n := range names {
				image, err := c.image(ctx, s, n)
				if !yield(image, err) || err != nil {
					return
				}
			}
		}
	}
}

// listed returns the names of a repository's images.
func (c *Cache) listed(ctx context.Context, repo string) (list []imageName, err error) {
	var manifests []digest.Digest
	led := make(map[gc.ID]bool) // what is reached by another name
	for n, err := range c.namesIn(ctx, repo) {
		if err != nil {
			return nil, err
		}
		if n.tag != "" {
			led[idOf(n.dgst.String())] = true
			list = append(list, n)
			continue
		}
		manifests = append(manifests, n.dgst)
		var rec partsRecord
		if err := c.record(ctx, key(kindParts, n.dgst.String()), &rec); err == nil && rec.Index {
			for _, id := range rec.ids() {
				led[id] = true
			}
		}
	}
	for _, dgst := range manifests {
		if !led[idOf(dgst.String())] {
			list = append(list, imageName{repo: repo, dgst: dgst})
		}
	}
	return list, nil
}

// image describes one name.
func (c *Cache) image(ctx context.Context, s *survey, n imageName) (Image, error) {
	image := Image{Repository: n.repo, Tag: n.tag, Digest: n.dgst, Pins: of(s.pins, n.repo, n.tag, n.dgst)}
	if r := c.owner(n.repo); r != nil {
		image.Remote, image.Name = r.remote.Host, r.name
	}
	if n.rec.Validated != 0 {
		image.Confirmed = timeOf(n.rec.Validated / 1e9)
	}
	var rec contentRecord
	switch err := c.record(ctx, key(kindManifest, n.repo, n.dgst.String()), &rec); {
	case absent(err):
		return image, nil // a tag whose manifest is gone
	case err != nil:
		return Image{}, err
	}
	image.MediaType = rec.MediaType
	id := idOf(n.dgst.String())
	image.Size, image.Unique, image.Missing = s.Sizes(id)
	image.Complete = s.complete(n.dgst)
	image.Used = timeOf(s.LastUse(id))
	// What cannot be read is repaired when it is next asked for; a list is not the place.
	image.Platforms, _ = c.platforms(ctx, whole(s), n.dgst)
	return image, nil
}

// platforms returns which platforms are stored of an image.
func (c *Cache) platforms(ctx context.Context, whole isWhole, dgst digest.Digest) ([]string, error) {
	doc, err := c.readDoc(ctx, dgst)
	if err != nil {
		return nil, err
	}
	if doc.Manifests == nil {
		p, err := c.platformOf(ctx, doc)
		if p == "" || err != nil {
			return nil, err
		}
		return []string{p}, nil
	}
	var all []string
	for _, d := range doc.Manifests {
		p := platformName(d.Platform)
		if p == "" || d.Digest.Validate() != nil {
			continue
		}
		ok, err := whole(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// maxConfig is how large an image's configuration may be that is read for its platform.
const maxConfig = 1 << 20

// platformOf reads the platform of an image from its configuration; empty where that is
// not stored, or of another kind.
func (c *Cache) platformOf(ctx context.Context, doc *manifestDoc) (string, error) {
	if doc.Config == nil || !askable(*doc.Config) || doc.Config.Size > maxConfig {
		return "", nil
	}
	b, err := c.opts.Blobs.Open(ctx, doc.Config.Digest)
	if absent(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = b.Close() }() // it was only read
	var p v1.Platform
	if err := json.NewDecoder(io.LimitReader(b, maxConfig)).Decode(&p); err != nil {
		return "", nil // artifacts have what they want there
	}
	return platformName(&p), nil
}

// platformName is os/architecture[/variant]; empty where it is not known, as for
// attestations.
func platformName(p *v1.Platform) string {
	if p == nil || p.OS == "" || p.Architecture == "" || p.OS == "unknown" {
		return ""
	}
	return path.Join(p.OS, p.Architecture, p.Variant)
}

// readDoc reads a stored manifest.
func (c *Cache) readDoc(ctx context.Context, dgst digest.Digest) (*manifestDoc, error) {
	b, err := c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	doc, err := readManifest(b)
	return doc, errors.Join(err, b.Close())
}

// readManifest reads a manifest of which nobody wants the bytes.
func readManifest(b Blob) (*manifestDoc, error) {
	if b.Size() > MaxManifestSize {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrInvalid, b.Size())
	}
	content, err := io.ReadAll(b)
	if err != nil {
		return nil, err
	}
	return parseManifest(content)
}

// InspectImage tells all that is known of an image: Ref is a tag or a digest. The error of
// what is not stored satisfies errors.Is(err, ErrNotFound).
func (c *Cache) InspectImage(ctx context.Context, repository, ref string) (ImageDetail, error) {
	n, err := c.nameOf(ctx, repository, ref)
	if err != nil {
		return ImageDetail{}, err
	}
	s, err := c.survey(ctx, pullPause)
	if err != nil {
		return ImageDetail{}, err
	}
	d := ImageDetail{}
	if d.Image, err = c.image(ctx, s, n); err != nil {
		return ImageDetail{}, err
	}
	shared, err := c.sharers(ctx)
	if err != nil {
		return ImageDetail{}, err
	}
	if d.Manifests, err = c.manifestDetails(ctx, s, shared, n); err != nil {
		return ImageDetail{}, err
	}
	for other, err := range c.namesIn(ctx, repository) {
		if err != nil {
			return ImageDetail{}, err
		}
		if other.tag != "" && other.dgst == n.dgst {
			d.Tags = append(d.Tags, other.tag)
		}
	}
	for repo, err := range c.names(ctx, "", kindRepo) {
		if err != nil {
			return ImageDetail{}, err
		}
		if has, err := c.has(ctx, key(kindManifest, repo, n.dgst.String())); err == nil && has {
			d.Repositories = append(d.Repositories, repo)
		}
	}
	if d.Attached, d.AttachedTags, err = c.attachedIn(ctx, repository, n.dgst); err != nil {
		return ImageDetail{}, err
	}
	if r := c.owner(repository); r != nil && n.tag != "" {
		d.Fresh, d.Stale = r.freshUntil(n.tag, n.rec)
	}
	return d, nil
}

// sharers counts by how many stored manifests content is named.
func (c *Cache) sharers(ctx context.Context) (map[gc.ID]int, error) {
	shared := make(map[gc.ID]int)
	err := c.each(ctx, 1, func(parts []string, value []byte) error {
		rec, err := decode[partsRecord]("manifest "+parts[0], value)
		for _, id := range rec.ids() {
			shared[id]++
		}
		return err
	}, kindParts)
	return shared, err
}

// manifestDetails describes a manifest, and those that it lists.
func (c *Cache) manifestDetails(ctx context.Context, s *survey, shared map[gc.ID]int, n imageName) ([]ManifestDetail, error) {
	doc, err := c.readDoc(ctx, n.dgst)
	if err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", n.dgst, err)
	}
	top, err := c.manifestDetail(ctx, s, shared, v1.Descriptor{Digest: n.dgst, MediaType: doc.mediaType()}, doc)
	if err != nil {
		return nil, err
	}
	all := []ManifestDetail{top}
	for _, d := range doc.Manifests {
		if !askable(d) {
			continue
		}
		child, err := c.readDoc(ctx, d.Digest)
		if err != nil && !absent(err) {
			return nil, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
		}
		detail, err := c.manifestDetail(ctx, s, shared, d, child)
		if err != nil {
			return nil, err
		}
		all = append(all, detail)
	}
	return all, nil
}

// manifestDetail describes one manifest; doc is nil where it is not stored.
func (c *Cache) manifestDetail(ctx context.Context, s *survey, shared map[gc.ID]int, d v1.Descriptor, doc *manifestDoc) (ManifestDetail, error) {
	m := ManifestDetail{
		Digest: d.Digest, MediaType: d.MediaType, Platform: platformName(d.Platform),
		Stored: doc != nil, Size: d.Size, Used: timeOf(s.LastUse(idOf(d.Digest.String()))),
	}
	if doc == nil {
		return m, nil
	}
	var err error
	if m.Size, err = c.storedSize(ctx, d.Digest); err != nil {
		return m, err
	}
	if m.Platform == "" && doc.Manifests == nil {
		m.Platform, _ = c.platformOf(ctx, doc)
	}
	for part := range doc.blobs() {
		info := PartInfo{Digest: part.Digest, MediaType: part.MediaType, Size: part.Size, Shared: shared[idOf(part.Digest.String())]}
		if info.Stored, err = c.has(ctx, key(kindBlob, part.Digest.String())); err != nil {
			return m, err
		}
		if !info.Stored {
			info.Kept = c.kept(part.Digest)
		}
		m.Parts = append(m.Parts, info)
	}
	return m, nil
}

// storedSize is the size of stored content, 0 where it is gone.
func (c *Cache) storedSize(ctx context.Context, dgst digest.Digest) (int64, error) {
	var rec blobRecord
	err := c.record(ctx, key(kindBlob, dgst.String()), &rec)
	if absent(err) {
		err = nil
	}
	return rec.Size, err
}

// kept is how many bytes there are of a blob that is not complete.
func (c *Cache) kept(dgst digest.Digest) int64 {
	if f := c.running(dgst); f != nil {
		return f.held()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.left[dgst]; l != nil {
		return l.kept
	}
	return 0
}

// nameOf looks a name up: ref is a tag or a digest.
func (c *Cache) nameOf(ctx context.Context, repository, ref string) (imageName, error) {
	if err := c.Ready(ctx); err != nil {
		return imageName{}, err
	}
	n := imageName{repo: repository, dgst: digest.Digest(ref)}
	var err error
	if n.dgst.Validate() != nil {
		n.tag = ref
		if err = c.record(ctx, key(kindTag, repository, ref), &n.rec); err == nil {
			n.dgst = n.rec.Digest
		}
	}
	if err == nil {
		var has bool
		if has, err = c.has(ctx, key(kindManifest, repository, n.dgst.String())); err == nil && has {
			return n, nil
		}
	}
	if err != nil && !absent(err) {
		return imageName{}, err
	}
	sep := ":"
	if n.tag == "" {
		sep = "@"
	}
	return imageName{}, fmt.Errorf("%s%s%s is not stored: %w", repository, sep, ref, ErrNotFound)
}

// Attached returns what is stored in the repository that is attached to a manifest:
// manifests that refer to it, and tags that are made of its digest, as cosign and the
// referrers tag schema have them.
func (r *Repository) Attached(ctx context.Context, dgst digest.Digest) (manifests []digest.Digest, tags []string, err error) {
	if err := r.c.Ready(ctx); err != nil {
		return nil, nil, err
	}
	return r.c.attachedIn(ctx, r.key, dgst)
}

// attachedIn is [Repository.Attached] by the name under which the repository is stored.
func (c *Cache) attachedIn(ctx context.Context, repository string, dgst digest.Digest) (manifests []digest.Digest, tags []string, err error) {
	for name, err := range c.names(ctx, "", kindSubject, repository, dgst.String()) {
		if err != nil {
			return nil, nil, err
		}
		manifests = append(manifests, digest.Digest(name))
	}
	for _, suffix := range append([]string{""}, attachedSuffixes()...) {
		tag := ReferrersTag(dgst) + suffix
		switch has, err := c.has(ctx, key(kindTag, repository, tag)); {
		case err != nil:
			return nil, nil, err
		case has:
			tags = append(tags, tag)
		}
	}
	return manifests, tags, nil
}

// attachedSuffixes are what cosign puts behind the digest of what it signs, in tags.
func attachedSuffixes() []string { return []string{".sig", ".att", ".sbom"} }
