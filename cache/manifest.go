package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/internal/verify"
)

// Media types of Docker's image formats. See
// https://distribution.github.io/distribution/spec/manifest-v2-2/
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// CachedManifest returns the manifest dgst if it is stored and the remote has
// served it in this repository, and the error of [Repository.CachedTag]
// otherwise. It never contacts the remote.
func (r *Repository) CachedManifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	m, err := r.cachedManifest(ctx, dgst)
	if err == nil {
		r.use(dgst)
		r.told(ctx, Answered{Source: FromStore})
	}
	return m, err
}

// cachedManifest is CachedManifest for ourselves.
func (r *Repository) cachedManifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	if m, ok := r.c.manifests.Get(manifestKey{r.key, dgst}); ok {
		return m, nil
	}
	return r.loadManifest(ctx, dgst)
}

// Manifest returns the manifest dgst, from the remote where it is not stored.
func (r *Repository) Manifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	m, err := r.manifest(ctx, dgst)
	if err == nil {
		r.use(dgst)
	} else {
		r.toldFailure(ctx, err)
	}
	return m, err
}

func (r *Repository) manifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	m, err := r.cachedManifest(ctx, dgst)
	if err == nil || !absent(err) {
		r.told(ctx, Answered{Source: FromStore})
		return m, err
	}
	memory := r.memoryKey(kindManifest, dgst.String())
	if err := r.absentAtRemote(memory); err != nil {
		return Manifest{}, err
	}
	m, err = flight(ctx, r, kindManifest, dgst.String(), func(ctx context.Context) (Manifest, error) {
		// The flight that we have just missed may have stored it.
		if m, err := r.cachedManifest(ctx, dgst); err == nil || !absent(err) {
			r.told(ctx, Answered{Source: FromStore})
			return m, err
		}
		m, _, err := r.fetchManifest(ctx, dgst.String())
		r.learn(memory, err, false)
		return m, err
	})
	if err != nil {
		err = r.explainMissing(ctx, dgst, err)
	}
	return m, err
}

// loadManifest reads a stored manifest and remembers it.
func (r *Repository) loadManifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	c := r.c
	var rec contentRecord
	err := c.record(ctx, key(kindManifest, r.key, dgst.String()), &rec)
	if absent(err) {
		// The index may have lost what the layout knows.
		_, err = c.opts.Refs.Get(ctx, Ref{r.key, RefManifest, dgst.String()})
	}
	if err != nil {
		return Manifest{}, err
	}
	content, err := c.readBlob(ctx, dgst)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Descriptor: Descriptor{MediaType: rec.MediaType, Digest: dgst, Size: int64(len(content))}, Bytes: content}
	if m.MediaType == "" {
		doc, err := parseManifest(content)
		if err != nil {
			return Manifest{}, fmt.Errorf("stored manifest %s: %w", dgst, err)
		}
		m.MediaType = doc.mediaType()
		if err := r.indexChanges(ctx, m, doc); err != nil {
			r.c.log.WithError(err).Warnf("manifest %s of %s could not be indexed", dgst, r.key)
		}
	}
	r.remember(m)
	return m, nil
}

// readBlob returns stored content of at most [MaxManifestSize] bytes. Content
// that is damaged is taken away and then absent, so that it is fetched again.
func (c *Cache) readBlob(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	b, err := c.open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.Close() }() // it was only read
	content, err := c.readWhole(ctx, dgst, b)
	if isDamage(err) {
		c.takeAway(ctx, dgst, b, err)
		return nil, errDamaged
	}
	return content, err
}

// readWhole returns b's bytes, at most [MaxManifestSize], which it has compared with
// dgst. What is wrong with them is a [damage].
func (c *Cache) readWhole(ctx context.Context, dgst digest.Digest, b Blob) ([]byte, error) {
	if b.Size() > MaxManifestSize {
		if _, err := c.compare(ctx, b, dgst, pace{}); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: manifest %s has %d bytes, more than %d", ErrInvalid, dgst, b.Size(), MaxManifestSize)
	}
	content := make([]byte, b.Size())
	if n, err := io.ReadFull(b, content); err != nil {
		return nil, readDamage(err, int64(n))
	}
	if err := verify.Bytes(dgst, content); err != nil {
		return nil, &damage{err: err}
	}
	return content, nil
}

func (r *Repository) remember(m Manifest) {
	if len(m.Bytes) <= memManifestSize {
		r.c.manifests.Add(manifestKey{r.key, m.Digest}, m)
	}
}

// fetchManifest gets the manifest that ref, a tag or a digest, stands for from
// the remote, verifies and stores it. A manifest that cannot be stored is
// returned all the same: the pull goes on. Said is what the remote says of it, which is of
// the moment.
func (r *Repository) fetchManifest(ctx context.Context, ref string) (m Manifest, said Descriptor, err error) {
	m, doc, said, err := r.getManifest(ctx, ref)
	if err != nil {
		return Manifest{}, said, err
	}
	r.remember(m)
	if err = r.storeManifest(ctx, m, doc); err != nil {
		r.c.noRoom(m.Size, storageError(err))
		r.c.seldom("store "+m.Digest.String(), err)("manifest %s of %s could not be stored and is served uncached", m.Digest, r.key)
	}
	r.isThere(m.Digest)
	r.told(ctx, Answered{Source: FromRemote, Stored: err == nil})
	return m, said, nil
}

// getManifest is fetchManifest without keeping anything.
func (r *Repository) getManifest(ctx context.Context, ref string) (m Manifest, doc *manifestDoc, said Descriptor, err error) {
	if r.remote.Upstream == nil {
		return Manifest{}, nil, said, r.missing(fmt.Sprintf("manifest %s of %s", ref, r.name))
	}
	m, err = r.remote.Upstream.Manifest(ctx, r.name, ref)
	if err != nil {
		return Manifest{}, nil, said, err
	}
	doc, err = checkManifest(&m, ref)
	if err != nil {
		return Manifest{}, nil, said, &UpstreamError{
			Kind: ErrInvalid, Remote: r.remote.Host,
			Op: fmt.Sprintf("fetching manifest %s of %s", ref, r.name), Err: err,
		}
	}
	said = m.Descriptor
	m.Age, m.Stale = 0, false
	return m, doc, said, nil
}

// isThere forgets that the remote has said that there is no such repository or manifest.
func (r *Repository) isThere(dgst digest.Digest) {
	for _, known := range []string{r.memoryKey(kindRepo, ""), r.memoryKey(kindManifest, dgst.String())} {
		r.c.memory.Remove(known)
	}
}

// checkManifest verifies what the remote gave for ref, and completes m.
func checkManifest(m *Manifest, ref string) (*manifestDoc, error) {
	if len(m.Bytes) > MaxManifestSize {
		return nil, fmt.Errorf("the manifest has %d bytes, more than %d", len(m.Bytes), MaxManifestSize)
	}
	m.Size = int64(len(m.Bytes))
	if asked, err := digest.Parse(ref); err == nil {
		if err := verify.Bytes(asked, m.Bytes); err != nil {
			return nil, err
		}
		if m.Digest.Validate() != nil || m.Digest.Algorithm() != asked.Algorithm() {
			m.Digest = asked
		}
	}
	if m.Digest == "" {
		m.Digest = digest.FromBytes(m.Bytes)
	}
	if err := m.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("Docker-Content-Digest %.150q: %w", m.Digest, err)
	}
	if err := verify.Bytes(m.Digest, m.Bytes); err != nil {
		return nil, fmt.Errorf("Docker-Content-Digest: %w", err)
	}
	doc, err := parseManifest(m.Bytes)
	if err != nil {
		return nil, err
	}
	if m.MediaType, err = doc.agree(m.MediaType); err != nil {
		return nil, err
	}
	return doc, nil
}

// storeManifest makes m and its link durable, and indexes what it names.
func (r *Repository) storeManifest(ctx context.Context, m Manifest, doc *manifestDoc) error {
	// It may be removed between the two, since room is made for others.
	const rounds = 3
	for range rounds {
		if err := r.c.storeBytes(ctx, m.Digest, m.Bytes); err != nil {
			return err
		}
		if err := r.linkManifest(ctx, m, doc); !absent(err) {
			return err
		}
	}
	return fmt.Errorf("%w: it is removed again and again", ErrNoSpace)
}

// linkManifest makes m, whose bytes are stored, part of the repository.
func (r *Repository) linkManifest(ctx context.Context, m Manifest, doc *manifestDoc) error {
	defer r.c.contents.lock(m.Digest.String())() // so that it is not removed meanwhile
	release, err := r.writing()
	if err != nil {
		return err
	}
	defer release()
	b, err := r.c.opts.Blobs.Open(ctx, m.Digest)
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	defer r.c.pulls.linked(idOf(m.Digest.String())) // by a name that who removes it may not know
	r.c.uses.store(m.Digest, r.c.opts.Now())
	if err := r.c.opts.Refs.Put(ctx, Ref{r.key, RefManifest, m.Digest.String()}, m.Digest); err != nil {
		return err
	}
	return r.indexChanges(ctx, m, doc)
}

// indexChanges makes the entries of m.
func (r *Repository) indexChanges(ctx context.Context, m Manifest, doc *manifestDoc) error {
	defer r.c.repos.lock(r.key)() // so that nothing is tidied up that m has brought
	return r.c.applyInParts(ctx, r.manifestChanges(ctx, m, doc))
}

// applyInParts applies changes of which the last makes the others count. A
// manifest may name thousands of blobs.
func (c *Cache) applyInParts(ctx context.Context, changes []Change) error {
	b := batch{index: c.opts.Index}
	for _, change := range changes {
		if err := b.add(ctx, change); err != nil {
			return err
		}
	}
	return b.flush(ctx)
}

// manifestChanges are the entries that m causes in the index.
func (r *Repository) manifestChanges(ctx context.Context, m Manifest, doc *manifestDoc) []Change {
	var changes []Change
	for d := range doc.blobs() {
		changes = append(changes, put(key(kindNamed, r.key, d.Digest.String()), contentRecord{Size: d.Size}))
	}
	changes = append(changes, r.refers(ctx, m, doc)...)
	parts, ids := partsOf(doc)
	r.c.pulls.linked(append(ids, idOf(m.Digest.String()))...)
	return append(changes,
		put(key(kindParts, m.Digest.String()), parts),
		put(key(kindRepo, r.key), struct{}{}),
		put(key(kindManifest, r.key, m.Digest.String()), contentRecord{MediaType: m.MediaType, Size: m.Size}))
}

// storeBytes stores small, verified content, unless it is stored already.
func (c *Cache) storeBytes(ctx context.Context, dgst digest.Digest, content []byte) error {
	if b, err := c.open(ctx, dgst); err == nil {
		return b.Close()
	}
	var res *reservation
	if err := c.fit(ctx, &res, int64(len(content))); err != nil {
		return err
	}
	defer res.release()
	d, err := c.opts.Blobs.Create(ctx, dgst)
	if err != nil {
		return err
	}
	_, err = d.WriteAt(content, 0)
	if err == nil {
		res.wrote(int64(len(content)))
		err = c.commit(ctx, d, res, dgst, int64(len(content)))
	}
	if err != nil {
		return errors.Join(err, d.Discard())
	}
	c.replaced(dgst)
	return nil
}

// References describes what the manifest consists of: layers, configuration,
// the manifests of an index.
func (m Manifest) References() []v1.Descriptor {
	doc, err := parseManifest(m.Bytes)
	if err != nil { // what is stored has been parsed before
		return nil
	}
	parts := slices.Collect(doc.blobs())
	for _, m := range doc.Manifests {
		if askable(m) {
			parts = append(parts, m)
		}
	}
	return parts
}

// manifestDoc is what the cache reads of a manifest or an index, of any kind.
type manifestDoc struct {
	MediaType  string          `json:"mediaType"`
	Config     *v1.Descriptor  `json:"config"`
	Layers     []v1.Descriptor `json:"layers"`
	Blobs      []v1.Descriptor `json:"blobs"`     // of artifact manifests
	Manifests  []v1.Descriptor `json:"manifests"` // of indexes
	FSLayers   json.RawMessage `json:"fsLayers"`  // of Docker's schema 1
	Signatures json.RawMessage `json:"signatures"`

	Subject      *v1.Descriptor    `json:"subject"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

// parseManifest reads a manifest. It refuses what is no JSON object; what it
// does not know it leaves alone.
func parseManifest(p []byte) (*manifestDoc, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(p, " \t\r\n"), []byte("{")) {
		return nil, fmt.Errorf("it is no manifest: it begins with %.32q", p)
	}
	doc := new(manifestDoc)
	if err := json.Unmarshal(p, doc); err != nil {
		return nil, fmt.Errorf("it is no manifest: %w", err)
	}
	return doc, nil
}

// mediaType is what the content says that it is.
func (d *manifestDoc) mediaType() string {
	switch {
	case d.MediaType != "":
		return d.MediaType
	case len(d.FSLayers) > 0 && len(d.Signatures) > 0:
		return dockerSigned1
	case len(d.FSLayers) > 0:
		return dockerSchema1
	case d.Manifests != nil:
		return v1.MediaTypeImageIndex
	default:
		// The media type is optional in OCI manifests, and only in them.
		return v1.MediaTypeImageManifest
	}
}

// agree compares the media type that the remote has declared with the content,
// and returns the one to serve: the declared one to the letter, or the
// content's where the remote was vague.
func (d *manifestDoc) agree(declared string) (string, error) {
	base, _, err := mime.ParseMediaType(declared)
	if err != nil && declared != "" {
		return "", fmt.Errorf("its media type %.100q: %w", declared, err)
	}
	switch base {
	case "", "application/json", "application/octet-stream", "text/plain":
		return d.mediaType(), nil
	}
	if d.MediaType != "" && !strings.EqualFold(base, d.MediaType) {
		return "", fmt.Errorf("it was declared as %s, but says that it is %.100q", base, d.MediaType)
	}
	var shape string
	switch base {
	case v1.MediaTypeImageIndex, dockerList:
		if d.Manifests == nil {
			shape = "lists no manifests"
		}
	case v1.MediaTypeImageManifest, dockerManifest:
		if d.Config == nil || d.Manifests != nil {
			shape = "is no image manifest"
		}
	case dockerSchema1, dockerSigned1:
		if d.FSLayers == nil {
			shape = "has no fsLayers"
		}
	}
	if shape != "" {
		return "", fmt.Errorf("it was declared as %s, but %s", base, shape)
	}
	return declared, nil
}

// blobs yields what the manifest consists of that the remote serves as blobs.
// Layers with URLs need not be there.
func (d *manifestDoc) blobs() iter.Seq[v1.Descriptor] {
	return func(yield func(v1.Descriptor) bool) {
		parts := append(slices.Clone(d.Layers), d.Blobs...)
		if d.Config != nil {
			parts = append(parts, *d.Config)
		}
		for _, p := range parts {
			if askable(p) && len(p.URLs) == 0 && !yield(p) {
				return
			}
		}
	}
}

// askable tells whether somebody can ask for the content by its descriptor.
func askable(d v1.Descriptor) bool { return d.Size >= 0 && d.Digest.Validate() == nil }
