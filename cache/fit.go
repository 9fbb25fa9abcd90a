package cache

import (
	"context"
	"fmt"
	"math"

	"registry-module/gc"
)

// Fit tells whether content that is to be kept has room. Sizes are in bytes of the storage.
type Fit struct {
	// More is how much more will be taken by what is not stored yet.
	More int64 `json:"more"`
	// Kept is what all that is kept takes then, pinned before or now, and Limit how much
	// that may be; 0 is no limit.
	Kept  int64 `json:"kept"`
	Limit int64 `json:"limit"`
	// OK tells whether it fits, if need be when all has gone that may go.
	OK bool `json:"ok"`
}

const (
	// manyFills is for how many fills at the same time there has to be room for what each
	// takes beside its content until it ends.
	manyFills = 16
	// surelyBlob is from how many bytes on content is taken for a blob and not for a
	// manifest, whose link takes more.
	surelyBlob = 1 << 20
	// entriesOf is what the entries of the index take for one content, and sumsOfAPart for
	// each of its sumPart bytes.
	entriesOf = 1 << 10
	// absurd is more than any storage has, and can still be reckoned with.
	absurd      = 1 << 60
	sumsOfAPart = 8
)

// Fit tells whether content has room together with all that is kept: what is pinned, for
// whatever reason, and what a [Hold] keeps. An entry of content may be there several times,
// once for each repository that it is to be part of: it counts once, and its link each
// time. Everything else that is stored may go, and unfinished downloads, too.
//
// It looks at all that is stored. What others store meanwhile can take the room.
func (c *Cache) Fit(ctx context.Context, content []BlobEntry) (Fit, error) {
	f, err := c.fits(ctx, content)
	if err != nil {
		return Fit{}, fmt.Errorf("finding out whether there is room: %w", err)
	}
	return f, nil
}

func (c *Cache) fits(ctx context.Context, content []BlobEntry) (Fit, error) {
	if err := c.pins.broken; err != nil {
		return Fit{}, err
	}
	s, err := c.surveyStored(ctx)
	if err != nil {
		return Fit{}, err
	}
	wanted := make(map[gc.ID]*fitted, len(content))
	for _, e := range content {
		id := idOf(e.Digest.String())
		w := wanted[id]
		if w == nil {
			w = &fitted{size: min(max(e.Size, 0), absurd)}
			wanted[id] = w
		}
		w.links++
		s.Keep(id)
	}
	stored, err := c.storedFor(ctx, s, wanted)
	if err != nil {
		return Fit{}, err
	}
	a, err := c.space.account(ctx)
	if err != nil {
		return Fit{}, err
	}
	more, passing := c.takes(wanted)
	// What may go beside what is stored and not kept: unfinished downloads. Those of content
	// are going to be it.
	free := saturate(c.leftTaken(), c.fillsTaken(wanted))
	// Of the storage itself, what is removed gives back its bytes; that its place takes
	// something, too, is not so everywhere.
	limit := saturate(stored.kept, saturate(a.free, saturate(free, stored.goes)))
	if c.space.max > 0 {
		limit = min(limit, saturate(a.leftOfMax, saturate(a.used, free)))
	}
	limit -= passing
	f := Fit{More: more, Kept: saturate(stored.kept, more), Limit: max(limit, 1)}
	f.OK = more == 0 || f.Kept <= limit
	return f, nil
}

// fitted is content that has to fit.
type fitted struct {
	size   int64
	links  int // that it is going to have at least
	linked int // that it has
	stored bool
}

// storedFit is what is stored: how much of the storage that takes which is kept, and how
// many bytes the rest has.
type storedFit struct{ kept, goes int64 }

// storedFor adds up what is stored, and notes in wanted what of that is.
func (c *Cache) storedFor(ctx context.Context, s *survey, wanted map[gc.ID]*fitted) (sum storedFit, err error) {
	err = c.each(ctx, 1, func(parts []string, value []byte) error {
		rec, err := decodeBlob(parts[0], value)
		if err != nil {
			return err
		}
		id := idOf(parts[0])
		if w := wanted[id]; w != nil {
			w.stored = true
		}
		if s.Stays(id) {
			sum.kept += c.space.occupied(rec.Size)
		} else {
			sum.goes += rec.Size
		}
		return nil
	}, kindBlob)
	if err != nil {
		return sum, err
	}
	for _, kind := range []RefKind{RefLayer, RefManifest} {
		err := c.each(ctx, 2, func(parts []string, _ []byte) error {
			id := idOf(parts[1])
			if w := wanted[id]; w != nil {
				w.linked++
			}
			if s.Stays(id) {
				sum.kept += c.takesRef(kind)
			}
			return nil
		}, kindOf(kind))
		if err != nil {
			return sum, err
		}
	}
	err = c.each(ctx, 2, func(_ []string, value []byte) error {
		rec, err := decode[tagRecord]("a tag", value)
		if err == nil && s.Stays(idOf(rec.Digest.String())) {
			sum.kept += c.takesRef(RefTag)
		}
		return err
	}, kindTag)
	return sum, err
}

// takesRef is how much of the storage a reference takes.
func (c *Cache) takesRef(kind RefKind) int64 {
	if c.opts.Usage == nil {
		return 0
	}
	return c.opts.Usage.OccupiesRef(kind)
}

// takes returns how much of the storage is going to be taken for wanted beside what is
// already, and how much has to be free beside that while it is fetched.
func (c *Cache) takes(wanted map[gc.ID]*fitted) (more, passing int64) {
	fills := int64(0)
	for _, w := range wanted {
		link := RefManifest // with the place of a repository, which is enough for its tag, too
		if w.size >= surelyBlob {
			link = RefLayer
		}
		more = saturate(more, int64(max(w.links-w.linked, 0))*c.takesRef(link))
		if w.stored {
			continue
		}
		more = saturate(more, c.space.occupied(w.size))
		fills++
		if c.opts.Usage != nil {
			more = saturate(more, entriesOf+w.size/sumPart*sumsOfAPart)
			passing = max(passing, w.size/8192) // see [reservation.grow]
		}
	}
	if c.opts.Usage != nil {
		passing = min(fills, manyFills) * (passing + c.space.extra())
	}
	return more, passing
}

// leftTaken is what is reserved for unfinished downloads that nobody works on.
func (c *Cache) leftTaken() (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.left {
		n += l.res.size + l.res.extra
	}
	return n
}

// fillsTaken is what is reserved at least for downloads of wanted that run.
func (c *Cache) fillsTaken(wanted map[gc.ID]*fitted) (n int64) {
	c.mu.Lock()
	var running []*fill
	for dgst, f := range c.fills {
		if w := wanted[idOf(dgst.String())]; w != nil && !w.stored {
			running = append(running, f)
		}
	}
	c.mu.Unlock()
	for _, f := range running {
		select {
		case <-f.started:
			if f.cause() == nil {
				n += max(f.size, 0)
			}
		default:
		}
	}
	return n
}

// saturate adds, up to what there can be.
func saturate(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
