package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Name is a repository as clients call it who say nothing of a remote: the first
// of several places that has it. Which one that is, is found out once and then kept
// (see [Binding]), so that what has a name today is not something else tomorrow.
//
// The next place is asked only where one has said that it has no such repository:
// neither this manifest or blob, nor a list of tags. While a remote cannot be asked nobody
// can answer in its stead, since that might be somebody who has taken a name that is
// not theirs.
//
// The methods are those of [Repository].
type Name struct {
	c     *Cache
	name  string
	among []*Repository
	// ttl is [Options].BindingTTL.
	ttl time.Duration
}

// Name returns what clients call name, which is one of places, the first of them
// that has it. Places of remotes that are none of the cache's are left out.
func (c *Cache) Name(name string, places ...Place) *Name {
	n := &Name{c: c, name: name, among: make([]*Repository, 0, len(places)), ttl: c.settings.Load().bindingTTL}
	remotes := *c.remotes.Load() // at one time
	for _, p := range places {
		if r, ok := c.repository(remotes, p); ok {
			n.among = append(n.among, r)
		}
	}
	return n
}

// Fresh returns the name for a client that wants to know what the remote says now, see
// [Repository.Fresh].
func (n *Name) Fresh() *Name {
	fresh := *n
	fresh.among = make([]*Repository, len(n.among))
	for i, r := range n.among {
		fresh.among[i] = r.Fresh()
	}
	return &fresh
}

// CachedTag is [Repository.CachedTag]. Here and in the others that ask no remote,
// what is not known to be meant is not stored.
func (n *Name) CachedTag(ctx context.Context, tag string) (Tagged, error) {
	return looked(ctx, n, kindTag, tag, true, func(ctx context.Context) (t Tagged, err error) {
		r, err := n.cached(ctx)
		if err != nil {
			return t, err
		}
		return r.CachedTag(ctx, tag)
	})
}

// CachedManifest is [Repository.CachedManifest].
func (n *Name) CachedManifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	return looked(ctx, n, kindManifest, dgst.String(), true, func(ctx context.Context) (m Manifest, err error) {
		r, err := n.cached(ctx)
		if err != nil {
			return m, err
		}
		return r.CachedManifest(ctx, dgst)
	})
}

// CachedBlob is [Repository.CachedBlob].
func (n *Name) CachedBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	return looked(ctx, n, kindBlob, dgst.String(), true, func(ctx context.Context) (*Reader, error) {
		r, err := n.cached(ctx)
		if err != nil {
			return nil, err
		}
		return r.CachedBlob(ctx, dgst)
	})
}

// Tag is [Repository.Tag].
func (n *Name) Tag(ctx context.Context, tag string) (Tagged, error) {
	return looked(ctx, n, kindTag, tag, false, func(ctx context.Context) (Tagged, error) {
		return find(ctx, n, aContent, func(r *Repository) (Tagged, error) { return r.Tag(ctx, tag) })
	})
}

// Manifest is [Repository.Manifest].
func (n *Name) Manifest(ctx context.Context, dgst digest.Digest) (Manifest, error) {
	return looked(ctx, n, kindManifest, dgst.String(), false, func(ctx context.Context) (Manifest, error) {
		return find(ctx, n, aContent, func(r *Repository) (Manifest, error) { return r.Manifest(ctx, dgst) })
	})
}

// StatBlob is [Repository.StatBlob].
func (n *Name) StatBlob(ctx context.Context, dgst digest.Digest) (Descriptor, error) {
	return looked(ctx, n, kindBlob, dgst.String(), false, func(ctx context.Context) (Descriptor, error) {
		return find(ctx, n, aContent, func(r *Repository) (Descriptor, error) { return r.StatBlob(ctx, dgst) })
	})
}

// OpenBlob is [Repository.OpenBlob].
func (n *Name) OpenBlob(ctx context.Context, dgst digest.Digest) (*Reader, error) {
	return looked(ctx, n, kindBlob, dgst.String(), false, func(ctx context.Context) (*Reader, error) {
		return find(ctx, n, aContent, func(r *Repository) (*Reader, error) { return r.OpenBlob(ctx, dgst) })
	})
}

// Tags is [Repository.Tags].
func (n *Name) Tags(ctx context.Context, count int, last string) (TagList, error) {
	return looked(ctx, n, "", "", false, func(ctx context.Context) (TagList, error) {
		return find(ctx, n, allTags, func(r *Repository) (TagList, error) { return r.Tags(ctx, count, last) })
	})
}

// Referrers is [Repository.Referrers]. What is nowhere has no referrers.
func (n *Name) Referrers(ctx context.Context, dgst digest.Digest) (Referrers, error) {
	return looked(ctx, n, kindReferrers, dgst.String(), false, func(ctx context.Context) (Referrers, error) { return n.referrers(ctx, dgst) })
}

func (n *Name) referrers(ctx context.Context, dgst digest.Digest) (Referrers, error) {
	r, settled, err := n.meant(ctx)
	if err != nil {
		return Referrers{}, err
	}
	if settled {
		return r.Referrers(ctx, dgst)
	}
	list, err := find(ctx, n, aContent, func(r *Repository) (Referrers, error) {
		list, err := r.Referrers(ctx, dgst)
		if err == nil && len(list.Manifests) == 0 {
			err = errNoReferrers // which says nothing of whether this is what is meant
		}
		return list, err
	})
	if nowhere := (notAnywhere)(nil); errors.Is(err, errNoReferrers) || errors.As(err, &nowhere) {
		toldNowhere(ctx)
		return Referrers{Freshness: list.Freshness}, nil
	}
	return list, err
}

// Prefetch is [Repository.Prefetch].
func (n *Name) Prefetch(ctx context.Context, m Manifest) {
	if r, err := n.cached(ctx); err == nil {
		r.Prefetch(m)
	}
}

// errNotSettled is the answer for what would have to be found out. It counts as
// absent.
var errNotSettled error = absentError("which remote is meant is not known yet")

// cached returns the repository that is known to be meant.
func (n *Name) cached(ctx context.Context) (*Repository, error) {
	r, settled, err := n.meant(ctx)
	if err == nil && !settled {
		err = errNotSettled
	}
	return r, err
}

// meant returns the repository that is known to be meant. Not settled is one that
// has to be found out (nil), or found out anew.
func (n *Name) meant(ctx context.Context) (r *Repository, settled bool, err error) {
	if len(n.among) == 1 {
		return n.among[0], true, nil
	}
	b, err := n.c.binding(ctx, n.name)
	if absent(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	i := slices.IndexFunc(n.among, func(r *Repository) bool { return r.remote.Host == b.Host })
	if i < 0 {
		return nil, false, nil // it is not configured any more, or not for this name
	}
	return n.among[i], !b.expired(n.c.opts.Now(), n.ttl), nil
}

// What an operation asks for, whose "not found" is about that.
type subject bool

const (
	aContent subject = false
	allTags  subject = true
)

// find does op at the place that is meant, or at one after the other until one has
// what is asked for.
func find[T any](ctx context.Context, n *Name, what subject, op func(*Repository) (T, error)) (T, error) {
	var none T
	bound, settled, err := n.meant(ctx)
	if err != nil {
		return none, err
	}
	if settled {
		return at(n, bound, op)
	}
	var nowhere notAnywhere
	remembered := false // that those before do not have it is no news
	for _, r := range n.among {
		if bound != nil && r != bound {
			why, due := r.away()
			if due {
				r.askLater(ctx)
			}
			if why != nil {
				return at(n, bound, op) // it cannot be asked whether that has changed
			}
		}
		got, err := op(r)
		has := err == nil
		if !has {
			var old bool
			has, old, err = r.has(ctx, what, err)
			remembered = remembered || old
		}
		switch {
		case has && remembered:
			// What a name means from now on is not for memory to say.
			discard(got, err)
			return find(ctx, n.Fresh(), what, op)
		case has:
			if meant := n.bind(ctx, r, bound); meant != r {
				// Somebody else was faster, and has found it elsewhere.
				discard(got, err)
				return at(n, meant, op)
			}
			return got, err
		case err == nil:
			nowhere = append(nowhere, fmt.Errorf("%s has no repository %s", r.remote.Host, r.name))
			continue
		}
		if bound != nil && r != bound {
			return at(n, bound, op)
		}
		return none, err
	}
	toldNowhere(ctx)
	return none, nowhere
}

// discard closes what was got and is not wanted, if that is something to close.
func discard(got any, err error) {
	if c, ok := got.(io.Closer); ok && err == nil {
		_ = c.Close() // it was not read
	}
}

// at does op at r, which n means.
func at[T any](n *Name, r *Repository, op func(*Repository) (T, error)) (T, error) {
	got, err := op(r)
	if errors.Is(err, ErrNotFound) && len(n.among) > 1 {
		err = fmt.Errorf("%w; the name %s is bound to %s, and not looked for elsewhere", err, n.name, r.remote.Host)
	}
	return got, err
}

// has tells whether there is the repository at all, after what was asked for has
// failed with err. Where it is, or where that cannot be found out, the error is for
// the client; where it is not, there is none. Remembered tells that the remote has said
// so before, and was not asked.
func (r *Repository) has(ctx context.Context, what subject, err error) (has, remembered bool, _ error) {
	_, isOurs := errors.AsType[*missingPlatform](err)
	switch {
	case errors.Is(err, ErrDenied) && r.remote.DeniedIsAbsent:
		return false, false, nil
	case !errors.Is(err, ErrNotFound):
		return false, false, err
	case isOurs:
		return true, false, err
	}
	if r.remote.Upstream == nil {
		switch known, indexErr := r.c.has(ctx, key(kindRepo, r.key)); {
		case indexErr != nil:
			return false, false, indexErr
		case known:
			return true, false, err
		}
		return false, false, nil
	}
	if what == allTags {
		_, remembered := errors.AsType[*rememberedError](err)
		return false, remembered, nil
	}
	askErr := r.absentAtRemote(r.memoryKey(kindRepo, ""))
	if remembered = askErr != nil; !remembered {
		_, askErr = flight(ctx, r, kindRepo, "", r.askRepo)
	}
	switch {
	case askErr == nil:
		return true, false, err
	case errors.Is(askErr, ErrNotFound), errors.Is(askErr, ErrDenied) && r.remote.DeniedIsAbsent:
		return false, remembered, nil
	}
	return false, false, fmt.Errorf("whether there is a repository %s: %w", r.name, askErr)
}

// notAnywhere is ErrNotFound of all places that were asked.
type notAnywhere []error

func (e notAnywhere) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return ErrNotFound.Error() + ": " + strings.Join(texts, ", ")
}

func (e notAnywhere) Unwrap() error { return ErrNotFound }
