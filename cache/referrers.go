package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers is what refers to a manifest: signatures, attestations, SBOMs.
type Referrers struct {
	Manifests []v1.Descriptor
	Freshness
}

// maxReferrers is how large a list of referrers may be that is kept, in bytes of the
// index, and maxAnnotations how large the annotations of one: arbitrary, far more than
// what anybody attaches, and bounded, because the index wants small entries.
const (
	maxReferrers   = 256 << 10
	maxAnnotations = 16 << 10
)

// Referrers lists what refers to the manifest dgst, which need not exist. The list is
// the remote's, under the policy of the tag that would stand for it where there is no
// API (OCI distribution specification, "Referrers Tag Schema"). Where the remote cannot
// be asked it is what the remote has said last, and what is stored beside that.
func (r *Repository) Referrers(ctx context.Context, dgst digest.Digest) (Referrers, error) {
	var rec referrersRecord
	err := r.c.record(ctx, key(kindReferrers, r.key, dgst.String()), &rec)
	if err != nil && !absent(err) {
		return Referrers{}, err
	}
	s := r.asStoredReferrers(dgst, rec)
	said := err == nil
	if said {
		f, next, err := r.judge(s)
		if next == answerAndAsk {
			later(ctx, r, kindReferrers, dgst.String(), r.fetchReferrers(dgst))
		}
		if err != nil {
			return Referrers{}, err
		}
		if next != ask {
			return r.referrers(ctx, dgst, rec, f)
		}
	} else if err := r.absentAtRemote(s.memory); err != nil {
		return r.referrers(ctx, dgst, rec, Freshness{})
	}
	known, err := r.referrers(ctx, dgst, rec, s.freshness())
	if err != nil {
		return Referrers{}, err
	}
	have := said || len(known.Manifests) > 0
	if r.remote.Upstream == nil {
		return known, nil
	}
	patient := ctx
	if have {
		if why, due := r.away(); why != nil {
			if due {
				later(ctx, r, kindReferrers, dgst.String(), r.fetchReferrers(dgst))
			}
			known.Freshness, err = r.stale(s, why)
			return known, err
		}
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, stalePatience)
		defer cancel()
	}
	got, err := flight(patient, r, kindReferrers, dgst.String(), r.fetchReferrers(dgst))
	switch {
	case err == nil, !have, ctx.Err() != nil, errors.Is(err, ErrClosed):
		return got, err
	case patient.Err() != nil:
		err = fmt.Errorf("%w: no answer of %s within %v", ErrUnavailable, r.remote.Host, stalePatience)
	}
	known.Freshness, err = r.stale(s, err)
	return known, err
}

func (r *Repository) asStoredReferrers(dgst digest.Digest, rec referrersRecord) stored {
	return stored{
		what:      fmt.Sprintf("the list of referrers of %s in %s", dgst, r.name),
		tag:       referrersTag(dgst),
		memory:    r.memoryKey(kindReferrers, dgst.String()),
		validated: rec.Validated,
	}
}

// referrersTag is the tag that lists what refers to dgst where there is no API.
func referrersTag(dgst digest.Digest) string {
	const maxAlgorithm, maxEncoded = 32, 64
	algorithm, encoded, _ := strings.Cut(dgst.String(), ":")
	return algorithm[:min(len(algorithm), maxAlgorithm)] + "-" + encoded[:min(len(encoded), maxEncoded)]
}

// referrers is the list that is known: what the remote has said, and where that is not
// fresh, what is stored beside it.
func (r *Repository) referrers(ctx context.Context, dgst digest.Digest, rec referrersRecord, f Freshness) (Referrers, error) {
	list := Referrers{rec.Manifests, f}
	if r.remote.Upstream != nil && f.Stale == nil && rec.Validated != 0 {
		return list, nil
	}
	seen := make(map[digest.Digest]bool)
	for _, d := range rec.Manifests {
		seen[d.Digest] = true
	}
	add := func(d v1.Descriptor) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			list.Manifests = append(list.Manifests, d)
		}
	}
	list.Manifests = list.Manifests[:len(list.Manifests):len(list.Manifests)]
	for name, err := range r.c.names(ctx, "", kindSubject, r.key, dgst.String()) {
		var d v1.Descriptor
		if err == nil {
			err = r.c.record(ctx, key(kindSubject, r.key, dgst.String(), name), &d)
		}
		if err != nil {
			return Referrers{}, err
		}
		add(d)
	}
	// Somebody may have asked for the list by its tag.
	if m, err := r.storedTag(ctx, referrersTag(dgst)); err == nil {
		if doc, err := parseManifest(m.Bytes); err == nil {
			for _, d := range doc.Manifests {
				if askable(d) {
					add(d)
				}
			}
		}
	}
	return list, nil
}

// fetchReferrers asks the remote what refers to dgst.
func (r *Repository) fetchReferrers(dgst digest.Digest) func(context.Context) (Referrers, error) {
	return func(ctx context.Context) (Referrers, error) {
		all, err := r.remote.Upstream.Referrers(ctx, r.name, dgst)
		if err != nil {
			r.learn(r.memoryKey(kindReferrers, dgst.String()), err)
			return Referrers{}, err
		}
		now := r.c.opts.Now()
		r.keepReferrers(ctx, dgst, referrersRecord{now.UnixNano(), all})
		return Referrers{all, Freshness{Confirmed: now}}, nil
	}
}

// keepReferrers keeps what the remote has said. That there are none is kept of what is
// stored only, and otherwise just remembered: anybody can ask for any digest.
func (r *Repository) keepReferrers(ctx context.Context, dgst digest.Digest, rec referrersRecord) {
	memory := r.memoryKey(kindReferrers, dgst.String())
	if len(rec.Manifests) == 0 {
		if _, err := r.CachedManifest(ctx, dgst); err != nil {
			r.learn(memory, errNoReferrers)
			return
		}
	}
	r.learn(memory, nil)
	change := put(key(kindReferrers, r.key, dgst.String()), rec)
	if len(change.Value) > maxReferrers {
		r.c.log.Warnf("the list of referrers of %s in %s is too large to be kept: %d bytes, more than %d", dgst, r.key, len(change.Value), maxReferrers)
		return
	}
	if err := r.c.opts.Index.Apply(ctx, change); err != nil {
		r.c.log.WithError(err).Warnf("the list of referrers of %s in %s could not be stored", dgst, r.key)
	}
}

// errNoReferrers remembers that nothing refers to what is not stored.
var errNoReferrers = fmt.Errorf("referrers: %w", ErrNotFound)

// subjectChange is the entry of a manifest that refers to another one; false where it
// does not.
func (r *Repository) subjectChange(m Manifest, doc *manifestDoc) (Change, bool) {
	if doc.Subject == nil || !askable(*doc.Subject) {
		return Change{}, false
	}
	d := v1.Descriptor{
		MediaType: m.MediaType, Digest: m.Digest, Size: m.Size,
		ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	}
	if doc.Config != nil {
		d.ArtifactType = cmp.Or(d.ArtifactType, doc.Config.MediaType)
	}
	if text, err := json.Marshal(d.Annotations); err != nil || len(text) > maxAnnotations {
		d.Annotations = nil
	}
	return put(key(kindSubject, r.key, doc.Subject.Digest.String(), m.Digest.String()), d), true
}
