package cache

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

// survey is what is stored, how it hangs together, and how it was used. Its size is some
// 50 bytes for each blob: digests are looked up again for what comes of it.
type survey struct {
	gc.Graph
	uses map[gc.ID]gc.Use
	// stored are those of uses whose content is stored.
	stored map[gc.ID]bool
	// pins are all pins.
	pins []Pin
}

// survey looks at all that the index knows. Pause is how long a pull may ask for nothing
// and still count as running.
func (c *Cache) survey(ctx context.Context, pause time.Duration) (*survey, error) {
	s, err := c.surveyStored(ctx)
	if err == nil {
		c.surveyPulls(ctx, s, pause)
	}
	return s, err
}

// surveyStored is survey without what belongs to running pulls.
func (c *Cache) surveyStored(ctx context.Context) (*survey, error) {
	if err := c.Ready(ctx); err != nil {
		return nil, err
	}
	c.tryFlushUses(ctx) // or else they are lost: there may be no room, which is to be made
	s := &survey{pins: c.pins.all(), stored: make(map[gc.ID]bool)}
	var err error
	if s.uses, err = c.allUses(ctx); err != nil {
		return nil, err
	}
	for _, scan := range []func(context.Context, *survey) error{c.surveyBlobs, c.surveyParts, c.surveyNames} {
		if err := scan(ctx, s); err != nil {
			return nil, err
		}
	}
	for _, id := range c.holds.all() {
		s.Busy(id)
	}
	c.surveyHeld(ctx, s)
	return s, nil
}

// surveyPulls adds what belongs to running pulls: what was just asked for, and manifests
// whose blobs are being read, however long ago they were asked for.
func (c *Cache) surveyPulls(ctx context.Context, s *survey, pause time.Duration) {
	parts := func(dgst digest.Digest) (rec partsRecord) {
		// Of what is not known for now, all counts as running.
		if err := c.record(ctx, key(kindParts, dgst.String()), &rec); err != nil && !absent(err) {
			c.log.WithError(err).Debugf("what manifest %s consists of", dgst)
		}
		return rec
	}
	now := c.opts.Now()
	for _, in := range c.pulls.running(now) {
		for _, id := range in.busy(now, pause, parts) {
			s.Busy(id)
		}
	}
}

// surveyBlobs adds all that is stored.
func (c *Cache) surveyBlobs(ctx context.Context, s *survey) error {
	return c.each(ctx, 1, func(parts []string, value []byte) error {
		rec, err := decodeBlob(parts[0], value)
		if err != nil {
			return err
		}
		id := idOf(parts[0])
		use, used := s.uses[id]
		if used {
			s.stored[id] = true
		}
		s.Add(id, c.space.occupied(rec.Size), use)
		return nil
	}, kindBlob)
}

// surveyParts adds what manifests consist of, and what they refer to.
func (c *Cache) surveyParts(ctx context.Context, s *survey) error {
	err := c.each(ctx, 1, func(parts []string, value []byte) error {
		rec, err := decode[partsRecord]("manifest "+parts[0], value)
		if err != nil {
			return err
		}
		if rec.Index {
			s.Index(idOf(parts[0]), rec.ids())
		} else {
			s.Manifest(idOf(parts[0]), rec.ids())
		}
		return nil
	}, kindParts)
	if err != nil {
		return err
	}
	return c.each(ctx, 3, func(parts []string, _ []byte) error {
		s.Attach(idOf(parts[2]), idOf(parts[1]))
		return nil
	}, kindSubject)
}

// surveyNames adds under which names manifests are stored: which of them have expired, and
// which are pinned.
func (c *Cache) surveyNames(ctx context.Context, s *survey) error {
	now := c.opts.Now()
	var owner string // of the repository that was last looked at
	var ttl time.Duration
	for n, err := range c.allNames(ctx) {
		if err != nil {
			return err
		}
		id := idOf(n.dgst.String())
		if len(of(s.pins, n.repo, n.tag, n.dgst)) > 0 {
			s.Keep(id)
		}
		if n.tag != "" {
			if subject, ok := attachedTo(n.tag); ok {
				s.Attach(id, subject)
			}
			continue
		}
		if n.repo != owner {
			owner, ttl = n.repo, c.ttl(n.repo)
		}
		// Of what was used before the index was rebuilt nobody knows when.
		last := timeOf(max(s.uses[id].Last, c.since))
		s.Expired(id, ttl > 0 && now.Sub(last) > ttl)
	}
	return nil
}

// ttl is how long is kept of a repository what nobody asks for, 0 for ever: while its
// remote is away, what is removed cannot be had again.
func (c *Cache) ttl(repo string) time.Duration {
	r := c.owner(repo)
	if r == nil {
		return 0
	}
	if why, _ := r.away(); why != nil || r.remote.Upstream == nil {
		return 0
	}
	return r.remote.TTL
}

// attachedTo returns what a tag of cosign's is about: sha256-<hex>.sig and the like.
func attachedTo(tag string) (subject gc.ID, ok bool) {
	name, suffix, ok := strings.Cut(tag, ".")
	if !ok || !slices.Contains(attachedSuffixes(), "."+suffix) {
		return 0, false
	}
	dgst := digest.Digest(strings.Replace(name, "-", ":", 1))
	return idOf(dgst.String()), dgst.Validate() == nil
}

// surveyHeld keeps what pinned tags have stood for, where what they stand for now is not
// complete, and lets go of it where it is.
func (c *Cache) surveyHeld(ctx context.Context, s *survey) {
	var done []string
	for name, old := range c.pins.held() {
		i := strings.LastIndexByte(name, ':')
		repo, tag := name[:max(i, 0)], name[i+1:]
		var rec tagRecord
		err := c.record(ctx, key(kindTag, repo, tag), &rec)
		if err == nil && (rec.Digest == old || c.replaces(ctx, whole(s), rec.Digest, old)) {
			done = append(done, name)
			continue
		}
		s.Keep(idOf(old.String()))
	}
	if len(done) == 0 {
		return
	}
	// Not to have that written down keeps nobody from making room: it is found out again.
	if err := c.pins.letGo(ctx, done...); err != nil {
		c.seldom("pins", err)("what pinned tags have stood for is kept on")
	}
}

// replaces tells whether all is stored of an image that was of another one: what its
// manifest names, or of an index the same platforms.
func (c *Cache) replaces(ctx context.Context, whole isWhole, dgst, old digest.Digest) bool {
	if ok, err := whole(ctx, dgst); err != nil || !ok {
		return false
	}
	is, err := c.platforms(ctx, whole, dgst)
	if err != nil {
		return false
	}
	was, err := c.platforms(ctx, whole, old)
	if err != nil {
		return true // it is not there any more
	}
	for _, platform := range was {
		if !slices.Contains(is, platform) {
			return false
		}
	}
	return true
}

// isWhole tells whether all is stored that the stored manifests of an image name, and there
// are some.
type isWhole func(ctx context.Context, dgst digest.Digest) (bool, error)

// whole is isWhole by a survey.
func whole(s *survey) isWhole {
	return func(_ context.Context, dgst digest.Digest) (bool, error) { return s.complete(dgst), nil }
}

// isWhole is isWhole for one image, without a survey.
func (c *Cache) isWhole(ctx context.Context, dgst digest.Digest) (bool, error) {
	doc, err := c.readDoc(ctx, dgst)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for part := range doc.blobs() {
		if has, err := c.has(ctx, key(kindBlob, part.Digest.String())); err != nil || !has {
			return false, err
		}
	}
	for _, layer := range doc.schema1Layers() {
		if has, err := c.has(ctx, key(kindBlob, layer)); err != nil || !has {
			return false, err
		}
	}
	stored := doc.Manifests == nil
	for _, d := range doc.Manifests {
		if d.Digest.Validate() != nil {
			continue
		}
		has, err := c.has(ctx, key(kindBlob, d.Digest.String()))
		if err == nil && has {
			stored = true
			has, err = c.isWhole(ctx, d.Digest)
			if err == nil && !has {
				return false, nil
			}
		}
		if err != nil {
			return false, err
		}
	}
	return stored, nil
}

// complete tells whether all is stored that the stored manifests of an image name, and
// there are some.
func (s *survey) complete(dgst digest.Digest) bool {
	id := idOf(dgst.String())
	_, _, missing := s.Sizes(id)
	return missing == 0 && s.Whole(id)
}

// imageName is a name of a manifest that is stored: by a tag, or by none.
type imageName struct {
	repo, tag string
	dgst      digest.Digest
	rec       tagRecord // of the tag
}

// allNames yields all names: of each repository first the digests of all manifests,
// then the tags.
func (c *Cache) allNames(ctx context.Context) iter.Seq2[imageName, error] {
	return func(yield func(imageName, error) bool) {
		for repo, err := range c.names(ctx, "", kindRepo) {
			if err != nil {
				yield(imageName{}, err)
				return
			}
			for n, err := range c.namesIn(ctx, repo) {
				if !yield(n, err) || err != nil {
					return
				}
			}
		}
	}
}

// namesIn yields the names in one repository.
func (c *Cache) namesIn(ctx context.Context, repo string) iter.Seq2[imageName, error] {
	return func(yield func(imageName, error) bool) {
		for dgst, err := range c.names(ctx, "", kindManifest, repo) {
			if !yield(imageName{repo: repo, dgst: digest.Digest(dgst)}, err) || err != nil {
				return
			}
		}
		for n, err := range c.tagsIn(ctx, repo) {
			if !yield(n, err) || err != nil {
				return
			}
		}
	}
}

// tagsIn yields the tags of one repository.
func (c *Cache) tagsIn(ctx context.Context, repo string) iter.Seq2[imageName, error] {
	return func(yield func(imageName, error) bool) {
		prefix := append(key(kindTag, repo), 0)
		for e, err := range c.opts.Index.Scan(ctx, prefix, nil) {
			var rec tagRecord
			if err == nil {
				rec, err = decode[tagRecord]("a tag", e.Value)
			}
			if err != nil {
				yield(imageName{}, err)
				return
			}
			if !yield(imageName{repo, string(e.Key[len(prefix):]), rec.Digest, rec}, nil) {
				return
			}
		}
	}
}
