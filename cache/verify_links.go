package cache

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
)

// links looks whether what is linked is stored.
func (v *verifier) links(ctx context.Context) error {
	for ref, err := range v.c.opts.Refs.All(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			v.badLink(ctx, ref.Ref, err)
			continue
		}
		if v.c.isStored(ctx, ref.Digest) || v.c.condition.lost.Contains(ref.Digest) {
			continue
		}
		p := Problem{Digest: ref.Digest, Image: ref.image(), What: "it is linked, and not stored"}
		if v.opts.Repair {
			p.Repaired = v.c.unlink(ctx, ref.Ref) == nil
		}
		v.problem(p)
	}
	return nil
}

// badLink reports a link that cannot be read, unless it is one of those that entries
// looks for.
func (v *verifier) badLink(ctx context.Context, ref Ref, cause error) {
	p := Problem{Image: ref.image(), What: cause.Error()}
	if ref.Name == "" {
		p.Hint = "see that the data directory can be read"
		v.problem(p)
		return
	}
	if _, known := v.c.linked(ctx, ref); known {
		return
	}
	if _, missing := errors.AsType[*fs.PathError](cause); missing && absent(cause) {
		return // it was removed
	}
	if v.opts.Repair {
		p.Repaired = v.c.unlink(ctx, ref) == nil
	}
	v.problem(p)
}

// entries looks whether there are links for what the index says is linked: without them,
// what is stored would be lost with the index.
func (v *verifier) entries(ctx context.Context) error {
	for _, kind := range []RefKind{RefTag, RefManifest, RefLayer} {
		prefix := append((Ref{Kind: kind}).entry()[:1], 0)
		for e, err := range v.c.opts.Index.Scan(ctx, prefix, nil) {
			if err != nil {
				return err
			}
			repo, name, _ := strings.Cut(string(e.Key[len(prefix):]), "\x00")
			ref := Ref{repo, kind, name}
			dgst, ok := v.c.linked(ctx, ref)
			if _, err := v.c.opts.Refs.Get(ctx, ref); !ok || !absent(err) {
				continue
			}
			p := Problem{Digest: dgst, Image: ref.image(), What: "its link is missing or damaged"}
			if v.opts.Repair && v.c.isStored(ctx, dgst) {
				p.Repaired = v.c.opts.Refs.Put(ctx, ref, dgst) == nil
			} else if v.opts.Repair {
				p.Repaired = v.c.unlink(ctx, ref) == nil
			}
			v.problem(p)
		}
	}
	return nil
}

// isStored tells whether there is content of dgst, be it damaged.
func (c *Cache) isStored(ctx context.Context, dgst digest.Digest) bool {
	if known, err := c.has(ctx, key(kindBlob, dgst.String())); err == nil && known {
		return true
	}
	b, err := c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return !absent(err)
	}
	_ = b.Close() // it was only looked for
	return true
}

// entry is the key under which the index has ref.
func (ref Ref) entry() []byte {
	kind := kindTag
	switch ref.Kind {
	case RefLayer:
		kind = kindLayer
	case RefManifest:
		kind = kindManifest
	}
	return key(kind, ref.Repo, ref.Name)
}

// image is a name for what ref is of.
func (ref Ref) image() string {
	switch ref.Kind {
	case RefTag:
		return ref.Repo + ":" + ref.Name
	case RefManifest:
		return ref.Repo + "@" + ref.Name
	}
	return ref.Repo
}

// linked returns where ref points to by the index.
func (c *Cache) linked(ctx context.Context, ref Ref) (digest.Digest, bool) {
	if ref.Kind == RefTag {
		var rec tagRecord
		err := c.record(ctx, ref.entry(), &rec)
		return rec.Digest, err == nil && rec.Digest != ""
	}
	known, err := c.has(ctx, ref.entry())
	return digest.Digest(ref.Name), err == nil && known
}

// unlink removes ref.
func (c *Cache) unlink(ctx context.Context, ref Ref) error {
	if err := c.opts.Refs.Remove(ctx, ref); err != nil {
		return err
	}
	c.tryApply(ctx, Change{Key: ref.entry(), Delete: true})
	return nil
}
