package gc

import (
	"cmp"
	"slices"
)

// PlanOptions say what a plan is for. The zero value takes only what has
// expired.
type PlanOptions struct {
	// Free is how many bytes are to be freed at least, in all.
	Free int64
	// Unused takes all content that no stored manifest names, and not only as
	// much of it as has to be freed.
	Unused bool
}

// Plan is what to evict.
type Plan struct {
	// Victims go in this order.
	Victims []Victim
	// Freed is how many bytes the victims take. It is less than what was asked
	// for if that is more than can be freed.
	Freed int64
	// Evictable is how many bytes could be freed at most.
	Evictable int64
	// Kept and Busy are how many bytes stay because of [Graph.Keep] and, of
	// the rest, because of [Graph.Busy].
	Kept, Busy int64
}

// Victim is what goes as a whole.
type Victim struct {
	// ID is the manifest of an image, or content that no manifest names.
	ID ID
	// Content is all that goes, ID among it, in the order in which it is to be
	// removed so that no manifest is without its parts: indexes, the manifest,
	// what is attached, blobs.
	Content []ID
	// Size is how many bytes Content takes.
	Size int64
	// Why says why it goes.
	Why Why
	// Use is that of ID, or of an index that names it less a half-life, if
	// that is more.
	Use Use
}

// Why says why something goes.
type Why uint8

// The reasons.
const (
	// Unused is content that no stored manifest names.
	Unused Why = iota + 1
	// Expired is an image that has expired by all its names.
	Expired
	// Room is an image that is worth least, when room is needed.
	Room
)

// String returns the reason in a word.
func (w Why) String() string {
	switch w {
	case Unused:
		return "unused"
	case Expired:
		return "expired"
	case Room:
		return "room"
	}
	return "unknown"
}

// trifle is how much an image has to free for being worth to be evicted. The
// manifest and config of an image whose layers other images use too are
// smaller; without upstream they are the difference between an image and none.
const trifle = 64 << 10

// Plan returns what to evict: content that no stored manifest names, then
// images that have expired, then the images that are worth least, until
// o.Free bytes are freed. Expired images go in any case.
//
// What goes is the manifest of one image, with what is attached to it and the
// parts that no other manifest then uses. An index goes with the last stored
// image that it names. Of images that are worth the same, those that are not
// complete go first, then those whose last use is longer ago.
//
// Images that turn out to free next to nothing, because others that stay use
// the same layers, do not go when only room is needed.
func (g *Graph) Plan(o PlanOptions) Plan {
	g.prepare()
	g.prepared = false
	var p Plan
	g.hold(isKept, inKept)
	g.hold(isBusy, inBusy)
	g.bind()
	for i, f := range g.flags {
		size := g.nodes.at(uint32(i)).size
		switch {
		case f&inKept != 0:
			p.Kept += size
		case f&inBusy != 0:
			p.Busy += size
		case f&bound == 0:
			p.Evictable += size
		}
	}
	units := g.units(o)
	e := eviction{units: make([]evicted, 0, len(units)), order: make([]uint32, 0, g.nodes.len())}
	for _, u := range units {
		why := g.why(u)
		if e.freed >= o.Free && why != Expired && (why != Unused || !o.Unused) {
			if why == Room {
				break // it is the last of the three
			}
			continue
		}
		g.evict(&e, u, why)
	}
	g.spare(&e, o.Free)
	p.Freed = e.freed
	p.Victims = g.victims(&e)
	return p
}

// hold marks all below what is marked with from, and all attached to any of it.
func (g *Graph) hold(from, mark flag) {
	var stack []uint32
	push := func(n uint32) {
		if g.flags[n]&mark == 0 {
			g.flags[n] |= mark
			stack = append(stack, n)
		}
	}
	for i, f := range g.flags {
		if f&from != 0 {
			push(uint32(i))
		}
		for len(stack) > 0 {
			n := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			g.eachPart(n, push)
			g.eachFollower(n, push)
		}
	}
}

// bind marks what stays because of an image that stays: the indexes that name
// it, with what is attached to them, but not the other images that they name.
func (g *Graph) bind() {
	var stack []uint32
	push := func(n uint32) {
		if g.flags[n]&stays == 0 {
			g.flags[n] |= bound
			stack = append(stack, n)
		}
	}
	up := func(n uint32) {
		if !g.attached(n) {
			g.eachParent(n, func(index uint32) {
				if !g.attached(index) {
					push(index)
				}
			})
		}
	}
	for i, f := range g.flags {
		if f&(inKept|inBusy) != 0 {
			up(uint32(i))
		}
		for len(stack) > 0 {
			n := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			up(n)
			g.eachFollower(n, push)
			g.eachPart(n, func(part uint32) {
				if g.nodes.at(part).record == 0 {
					push(part)
				}
			})
		}
	}
}

// why returns why node n goes, if it has to.
func (g *Graph) why(n uint32) Why {
	switch {
	case g.nodes.at(n).record == 0:
		return Unused
	case g.flags[n]&(hasExpired|isFresh) == hasExpired:
		return Expired
	}
	return Room
}

// units returns what can go and takes others with it, in the order in which it
// goes: the less it is worth, the earlier.
func (g *Graph) units(o PlanOptions) []uint32 {
	var units []uint32
	for i := range uint32(g.nodes.len()) {
		n := g.nodes.at(i)
		switch {
		case g.flags[i]&stays != 0:
		case n.record == 0 && n.refs > 0: // goes with the manifests that name it
		case n.record == 0 && o.Free <= 0 && !o.Unused:
		case n.record != 0 && o.Free <= 0 && g.why(i) != Expired:
		case n.record != 0 && g.attached(i): // goes with its subject
		case n.record != 0 && g.manifest(i).children > 0: // goes with its images
		default:
			units = append(units, i)
		}
	}
	slices.SortFunc(units, func(i, j uint32) int {
		a, b := g.nodes.at(i), g.nodes.at(j)
		return cmp.Or(
			cmp.Compare(g.why(i), g.why(j)),
			cmp.Compare(a.score, b.score),
			-cmp.Compare(g.manifest(i).missing, g.manifest(j).missing),
			cmp.Compare(a.last, b.last),
			cmp.Compare(i, j), // in the order of IDs
		)
	})
	return units
}
