package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers is what refers to a manifest: signatures, attestations, SBOMs.
type Referrers struct {
	Manifests []v1.Descriptor
	Freshness
}

// What of a list of referrers is kept is bounded, because anybody who may push can attach
// something, and because the index wants small entries: arbitrary, far more than what is
// usual.
const (
	maxReferrers     = 1024     // descriptors of one list
	maxReferrersPart = 32 << 10 // bytes of one entry, of which a list may have many
	maxDescriptor    = 16 << 10 // bytes of one descriptor
)

// Referrers lists what refers to the manifest dgst, which need not exist. The list is
// the remote's, with the lifetime of a tag: the one that would stand for it where there
// is no API (OCI distribution specification, "Referrers Tag Schema"). Where the remote
// cannot be asked it is what the remote has said last, and what is stored beside that.
func (r *Repository) Referrers(ctx context.Context, dgst digest.Digest) (Referrers, error) {
	list, err := r.currentReferrers(ctx, dgst)
	if err != nil {
		r.toldFailure(ctx, err)
	}
	return list, err
}

func (r *Repository) currentReferrers(ctx context.Context, dgst digest.Digest) (Referrers, error) {
	said, err := r.c.referrers(ctx, r.key, dgst)
	known := err == nil
	if err != nil && !absent(err) {
		return Referrers{}, err
	}
	if r.absentAtRemote(r.memoryKey(kindReferrers, dgst.String())) != nil {
		r.told(ctx, Answered{Source: FromMemory})
		return Referrers{}, nil
	}
	if !known {
		attached, err := r.attached(ctx, dgst)
		if err != nil {
			return Referrers{}, err
		}
		known = len(attached) > 0
	}
	question := func(ctx context.Context) (Referrers, error) { return r.fetchReferrers(ctx, dgst) }
	if known {
		s := stored{kind: kindReferrers, name: dgst.String(), tag: ReferrersTag(dgst), validated: said.Validated, due: said.Due}
		give := func(f Freshness) (Referrers, error) {
			if f.Stale == nil && r.remote.Upstream != nil {
				return Referrers{said.Manifests, f}, nil
			}
			attached, err := r.attached(ctx, dgst)
			return Referrers{merge(said.Manifests, attached), f}, err
		}
		return current(ctx, r, s, give, question)
	}
	if r.remote.Upstream == nil {
		r.told(ctx, Answered{Source: FromStore})
		return Referrers{}, nil
	}
	return flight(ctx, r, kindReferrers, dgst.String(), question)
}

// ReferrersTag is the tag that lists what refers to dgst where there is no API for that
// (OCI distribution specification, "Referrers Tag Schema").
func ReferrersTag(dgst digest.Digest) string {
	const maxAlgorithm, maxEncoded = 32, 64
	algorithm, encoded, _ := strings.Cut(dgst.String(), ":")
	return algorithm[:min(len(algorithm), maxAlgorithm)] + "-" + encoded[:min(len(encoded), maxEncoded)]
}

// merge adds to a list what is not in it.
func merge(list, more []v1.Descriptor) []v1.Descriptor {
	list = slices.Clip(list)
	for _, d := range more {
		if !slices.ContainsFunc(list, func(known v1.Descriptor) bool { return known.Digest == d.Digest }) {
			list = append(list, d)
		}
	}
	return list
}

// attached lists what is stored that refers to dgst.
func (r *Repository) attached(ctx context.Context, dgst digest.Digest) (list []v1.Descriptor, err error) {
	if err := r.c.Ready(ctx); err != nil {
		return nil, err
	}
	for e, err := range r.c.opts.Index.Scan(ctx, append(key(kindSubject, r.key, dgst.String()), 0), nil) {
		if err != nil {
			return nil, err
		}
		var d v1.Descriptor
		if err := json.Unmarshal(e.Value, &d); err != nil {
			return nil, fmt.Errorf("entry %q of the index: %w", e.Key, err)
		}
		if list = append(list, d); len(list) == maxReferrers {
			return list, nil
		}
	}
	// Somebody may have asked for the list by its tag.
	if m, err := r.storedTag(ctx, ReferrersTag(dgst)); err == nil {
		if doc, err := parseManifest(m.Bytes); err == nil {
			list = merge(list, slices.DeleteFunc(doc.Manifests, func(d v1.Descriptor) bool { return !askable(d) }))
		}
	}
	return list, nil
}

// fetchReferrers asks the remote what refers to dgst.
func (r *Repository) fetchReferrers(ctx context.Context, dgst digest.Digest) (Referrers, error) {
	all, err := r.remote.Upstream.Referrers(ctx, r.name, dgst)
	if errors.Is(err, ErrNotFound) {
		// Registries that have no referrers say so in another way.
		err = &UpstreamError{
			Kind: ErrInvalid, Remote: r.remote.Host, Op: fmt.Sprintf("listing referrers of %s in %s", dgst, r.name),
			Err: fmt.Errorf("whether there are any is not known: %v", err),
		}
	}
	if err != nil {
		r.learn(r.memoryKey(kindReferrers, dgst.String()), err, true)
		return Referrers{}, err
	}
	now := r.c.opts.Now()
	err = r.keepReferrers(ctx, dgst, referrersRecord{Validated: now.UnixNano(), Manifests: all})
	r.told(ctx, Answered{Source: FromRemote, Stored: err == nil})
	if err != nil {
		r.c.log.WithError(err).Warnf("the list of referrers of %s in %s could not be stored", dgst, r.key)
	}
	return Referrers{all, Freshness{Confirmed: now}}, nil
}

// keepReferrers keeps what the remote has said. That there are none is kept of what is
// known only, and otherwise just remembered: anybody can ask for any digest.
func (r *Repository) keepReferrers(ctx context.Context, dgst digest.Digest, rec referrersRecord) error {
	// Before the lock, since that may index a manifest, which looks at lists.
	unknown := len(rec.Manifests) == 0 && !r.isKnown(ctx, dgst)
	release, err := r.writing()
	if err != nil {
		return err
	}
	defer release()
	r.c.lists.Lock()
	defer r.c.lists.Unlock()
	memory := r.memoryKey(kindReferrers, dgst.String())
	r.learn(memory, nil, true)
	r.c.bare.Remove(memory)
	before, err := r.c.readReferrers(ctx, r.key, dgst)
	if err != nil {
		before = referrersRecord{} // whatever is there is replaced
	}
	keep := len(rec.Manifests) <= maxReferrers
	if unknown {
		keep = false
		r.c.bare.Add(memory, time.Unix(0, rec.Validated))
		r.learn(memory, errNoReferrers, true)
	}
	var parts [][]byte
	if keep {
		if parts, keep = rec.split(); !keep {
			r.c.log.Warnf("the list of referrers of %s in %s is not kept: it is too large", dgst, r.key)
		}
	}
	head := Change{Key: key(kindReferrers, r.key, dgst.String()), Delete: true}
	var changes []Change
	if keep {
		rec.Parts = len(parts)
		head = put(head.Key, referrersRecord{Validated: rec.Validated, Parts: rec.Parts})
		if err == nil && before.Parts == rec.Parts && slices.EqualFunc(before.Manifests, rec.Manifests, sameDescriptor) {
			return r.c.opts.Index.Apply(ctx, head) // which is all that has changed
		}
		for i, p := range parts {
			changes = append(changes, Change{Key: referrersPart(r.key, dgst, i), Value: p})
		}
		for _, d := range rec.Manifests {
			changes = append(changes, put(key(kindListed, r.key, d.Digest.String()), struct{}{}))
		}
	}
	for i := rec.Parts; i < before.Parts; i++ {
		changes = append(changes, Change{Key: referrersPart(r.key, dgst, i), Delete: true})
	}
	return r.c.applyInParts(ctx, append(changes, head))
}

// keepNoReferrers keeps that there are none of a manifest that is stored by now, if the
// remote has said so before it was: see [Repository.keepReferrers].
func (r *Repository) keepNoReferrers(ctx context.Context, dgst digest.Digest) error {
	r.c.lists.Lock()
	defer r.c.lists.Unlock()
	memory := r.memoryKey(kindReferrers, dgst.String())
	at, ok := r.c.bare.Get(memory)
	if !ok || !within(at, r.c.opts.Now(), peekedFor) {
		return nil
	}
	r.c.bare.Remove(memory)
	return r.c.opts.Index.Apply(ctx, put(key(kindReferrers, r.key, dgst.String()), referrersRecord{Validated: at.UnixNano()}))
}

// isKnown tells whether dgst is a manifest that is stored here, or that refers to
// something here.
func (r *Repository) isKnown(ctx context.Context, dgst digest.Digest) bool {
	if _, err := r.cachedManifest(ctx, dgst); err == nil {
		return true
	}
	listed, err := r.c.has(ctx, key(kindListed, r.key, dgst.String()))
	return err == nil && listed
}

func sameDescriptor(a, b v1.Descriptor) bool { return reflect.DeepEqual(a, b) }

// referrersPart is the key of a part of a list.
func referrersPart(repo string, dgst digest.Digest, i int) []byte {
	return key(kindReferrersPart, repo, dgst.String(), fmt.Sprintf("%04d", i))
}

// split cuts a list into the values of entries that are small enough. It returns false
// where a descriptor is too large for one.
func (rec referrersRecord) split() (parts [][]byte, ok bool) {
	part := []byte("[")
	for _, d := range rec.Manifests {
		text, err := json.Marshal(d)
		if err != nil || len(text) > maxDescriptor {
			return nil, false
		}
		if len(part)+len(text) > maxReferrersPart {
			parts = append(parts, append(part, ']'))
			part = []byte("[")
		}
		if len(part) > 1 {
			part = append(part, ',')
		}
		part = append(part, text...)
	}
	if len(part) > 1 {
		parts = append(parts, append(part, ']'))
	}
	return parts, true
}

// referrers returns what the remote has said last. What cannot be read is absent.
func (c *Cache) referrers(ctx context.Context, repo string, dgst digest.Digest) (referrersRecord, error) {
	c.lists.RLock()
	defer c.lists.RUnlock()
	rec, err := c.readReferrers(ctx, repo, dgst)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		err = errDamaged
	}
	return rec, err
}

// readReferrers is referrers for who holds c.lists.
func (c *Cache) readReferrers(ctx context.Context, repo string, dgst digest.Digest) (rec referrersRecord, err error) {
	if err := c.record(ctx, key(kindReferrers, repo, dgst.String()), &rec); err != nil {
		return referrersRecord{}, err
	}
	for i := range rec.Parts {
		var part []v1.Descriptor
		if err := c.record(ctx, referrersPart(repo, dgst, i), &part); err != nil {
			return referrersRecord{}, err
		}
		rec.Manifests = append(rec.Manifests, part...)
	}
	return rec, nil
}

// errNoReferrers remembers that nothing refers to what is not stored.
var errNoReferrers = fmt.Errorf("referrers: %w", ErrNotFound)

// refers are the changes for a manifest that refers to another one. The list of the
// remote is due then, if it does not have it.
func (r *Repository) refers(ctx context.Context, m Manifest, doc *manifestDoc) []Change {
	if doc.Subject == nil || !askable(*doc.Subject) {
		return nil
	}
	d := v1.Descriptor{
		MediaType: m.MediaType, Digest: m.Digest, Size: m.Size,
		ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	}
	if doc.Config != nil {
		d.ArtifactType = cmp.Or(d.ArtifactType, doc.Config.MediaType)
	}
	change := put(key(kindSubject, r.key, doc.Subject.Digest.String(), m.Digest.String()), d)
	if len(change.Value) > maxDescriptor {
		d.Annotations = nil
		if change = put(change.Key, d); len(change.Value) > maxDescriptor {
			return nil
		}
	}
	changes := []Change{change}
	said, err := r.c.referrers(ctx, r.key, doc.Subject.Digest)
	if err == nil && !slices.ContainsFunc(said.Manifests, func(known v1.Descriptor) bool { return known.Digest == m.Digest }) {
		changes = append(changes, put(key(kindReferrers, r.key, doc.Subject.Digest.String()), referrersRecord{Validated: said.Validated, Due: true, Parts: said.Parts}))
	}
	r.c.memory.Remove(r.memoryKey(kindReferrers, doc.Subject.Digest.String()))
	r.c.bare.Remove(r.memoryKey(kindReferrers, doc.Subject.Digest.String()))
	return changes
}
