package cache

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// Verdict says in one word what a request would be answered.
type Verdict string

// The verdicts.
const (
	// FromStoreAlone is an answer from the store, of which no remote is asked.
	FromStoreAlone Verdict = "stored"
	// FromStoreAsking is an answer from the store at once, while the remote is asked.
	FromStoreAsking Verdict = "stored, and confirmed in the background"
	// AskedFirst is an answer from the store once the remote has confirmed it, or does not
	// answer in time.
	AskedFirst Verdict = "confirmed"
	// Fetched is an answer that the remote has to give.
	Fetched Verdict = "fetched"
	// SaidAbsent is a "not found", of which no remote is asked.
	SaidAbsent Verdict = "not found"
	// NotToBeHad is no answer: it is not stored, and nobody can be asked.
	NotToBeHad Verdict = "unavailable"
)

// Explanation is what a pull of an image would meet now, and why.
type Explanation struct {
	// Place is the repository that is meant. Where that would have to be found out first,
	// there is none, and Among are those that would be asked, one after the other.
	Place Place   `json:"place,omitzero"`
	Among []Place `json:"among,omitempty"`
	// Bound tells since when the name means Place and none of the others; nil where it can
	// mean no other.
	Bound *Binding `json:"bound,omitempty"`

	// Verdict is about the manifest, Why the reason: of a remote that is not asked, or of
	// one that has to be.
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why,omitempty"`

	// Tag is what is known of it; nil for a digest, and for one that is not stored.
	Tag *TagExplanation `json:"tag,omitempty"`
	// Away is why the remote cannot be asked, empty where it can be expected to answer, or
	// there is none.
	Away string `json:"away,omitempty"`
	// Mirror tells that no remote can ever be asked about it.
	Mirror bool `json:"mirror,omitempty"`

	// Stored are the blobs, and manifests of platforms, that are there, Missing those that
	// would be fetched if they were asked for, of platforms whose manifest is stored. Kept
	// is what of Missing is there from downloads that broke off.
	Stored  Count `json:"stored"`
	Missing Count `json:"missing"`
	Kept    int64 `json:"kept,omitempty"`
	// Absent are the platforms whose manifests are not stored.
	Absent []string `json:"absentPlatforms,omitempty"`
}

// TagExplanation is what is known of a tag that is stored.
type TagExplanation struct {
	Digest digest.Digest `json:"digest"`
	// Confirmed is when the remote has last said so; zero where that is not known.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Rule is the one of the configuration that says how long it holds; empty where TTL is
	// that of the remote. Immutable tags are never asked about again.
	Rule      string        `json:"rule,omitempty"`
	TTL       time.Duration `json:"ttl"`
	Immutable bool          `json:"immutable,omitempty"`
	// Fresh is until when it is answered without asking; zero where that is for ever, or
	// over.
	Fresh time.Time `json:"fresh,omitzero"`
	// TooOld tells that it is not given any more without the remote ([Remote].MaxStale).
	TooOld bool `json:"tooOld,omitempty"`
}

// Explain tells what a pull of ref, a tag or a digest, would meet now, of what clients call
// name and is one of places, see [Cache.Name]. Nobody is asked, and nothing is changed.
func (c *Cache) Explain(ctx context.Context, name, ref string, places ...Place) (e Explanation, err error) {
	if err := c.Ready(ctx); err != nil {
		return e, err
	}
	n := c.Name(name, places...)
	r, settled, err := n.meant(ctx)
	if err != nil {
		return e, err
	}
	if len(n.among) > 1 {
		if b, err := c.binding(ctx, n.name); err == nil && r != nil {
			bound := c.bindings().of(n.name, b)
			e.Bound = &bound
		}
	}
	if !settled {
		for _, other := range n.among {
			e.Among = append(e.Among, other.Place())
		}
		e.Verdict, e.Why = Fetched, "which remote is meant has to be found out first"
		if len(n.among) == 0 {
			e.Verdict, e.Why = SaidAbsent, "no remote is meant"
		} else if why := n.among[0].why(); why != nil {
			e.Verdict, e.Why = NotToBeHad, why.Error() // nobody answers in its stead
		}
		return e, nil
	}
	return e, r.explain(ctx, ref, &e)
}

// explain fills in what e says of ref in r.
func (r *Repository) explain(ctx context.Context, ref string, e *Explanation) error {
	e.Place, e.Mirror = r.Place(), r.remote.Upstream == nil
	if why := r.why(); why != nil {
		e.Away = why.Error()
	}
	dgst := digest.Digest(ref)
	if dgst.Validate() == nil {
		_, err := r.cachedManifest(ctx, dgst)
		if err != nil && !absent(err) {
			return err
		}
		if err == nil {
			e.Verdict = FromStoreAlone
			return r.explainParts(ctx, dgst, e)
		}
		r.explainAbsence(r.memoryKey(kindManifest, ref), e)
		return nil
	}
	var rec tagRecord
	err := r.c.record(ctx, key(kindTag, r.key, ref), &rec)
	if err == nil {
		_, err = r.cachedManifest(ctx, rec.Digest)
	}
	if err != nil && !absent(err) {
		return err
	}
	if err != nil {
		r.explainAbsence(r.memoryKey(kindTag, ref), e)
		return nil
	}
	r.explainTag(ref, rec, e)
	return r.explainParts(ctx, rec.Digest, e)
}

// explainTag tells what is done about a tag that is stored.
func (r *Repository) explainTag(tag string, rec tagRecord, e *Explanation) {
	s := r.asStored(tag, rec)
	t := &TagExplanation{Digest: rec.Digest, Confirmed: s.freshness().Confirmed, TooOld: r.tooStale(s)}
	t.TTL, t.Immutable = r.policy(s)
	if rule, ok := r.remote.TagRules.First(r.name, tag); ok {
		t.Rule = rule.String()
	}
	t.Fresh, _ = r.freshUntil(tag, rec)
	e.Tag = t
	f, next, err := r.judgeBy(s, func() (error, bool) { return r.why(), false })
	switch {
	case err != nil:
		e.Verdict, e.Why = SaidAbsent, err.Error()
	case next == ask && t.TooOld && e.Away != "":
		e.Verdict, e.Why = NotToBeHad, e.Away
	case next == ask:
		e.Verdict = AskedFirst
	case next == answerAndAsk:
		e.Verdict = FromStoreAsking
	default:
		e.Verdict = FromStoreAlone
	}
	if err == nil && f.Stale != nil && !errors.Is(f.Stale, ErrRevalidating) {
		e.Why = f.Stale.Error()
	}
}

// explainAbsence tells what is done about what is not stored.
func (r *Repository) explainAbsence(memory string, e *Explanation) {
	switch err := r.absentAtRemote(memory); {
	case r.remote.Upstream == nil:
		e.Verdict, e.Why = SaidAbsent, "no remote registry is configured, and it is not in the cache"
	case err != nil:
		e.Verdict, e.Why = SaidAbsent, err.Error()
	case e.Away != "":
		e.Verdict, e.Why = NotToBeHad, e.Away
	default:
		e.Verdict = Fetched
	}
}

// explainParts counts what is stored of a manifest that is.
func (r *Repository) explainParts(ctx context.Context, dgst digest.Digest, e *Explanation) error {
	d, err := r.c.InspectImage(ctx, r.key, dgst.String())
	if errors.Is(err, ErrNotFound) {
		return nil // it has just been removed
	}
	if err != nil {
		return err
	}
	counted := make(map[digest.Digest]bool)
	for _, m := range d.Manifests {
		if !m.Stored {
			e.Absent = append(e.Absent, m.Platform)
			continue
		}
		if m.Digest != dgst {
			e.Stored.add(m.Size)
		}
		for _, p := range m.Parts {
			switch {
			case counted[p.Digest]:
			case p.Stored:
				e.Stored.add(p.Size)
			default:
				e.Missing.add(p.Size)
				e.Kept += p.Kept
			}
			counted[p.Digest] = true
		}
	}
	return nil
}

// add counts one of size bytes.
func (c *Count) add(size int64) {
	c.Times++
	c.Bytes += size
}

// why is away for who takes no turn.
func (r *Repository) why() error {
	if r.remote.availability == nil {
		return nil
	}
	return r.remote.availability.Why()
}
