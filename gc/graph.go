package gc

import (
	"math"
	"slices"
	"sort"
)

// ID stands for content: the first 64 bits of its digest. Two contents with one
// ID are treated as one.
type ID uint64

// Graph is what is stored and how it belongs together. The zero value is an
// empty graph.
//
// It is filled in two phases: first [Graph.Add] for all content, then all else
// in any order. Add has no effect after any other call. What is said of content
// that was not added has no effect either.
//
// It is not safe for concurrent use.
type Graph struct {
	nodes  chunks[node] // sorted by ID once sealed
	flags  []flag       // of each node
	starts []uint32     // the first node of each value of the upper bits of ID
	shift  int          // how far to shift an ID for its upper bits
	sealed bool

	records chunks[record]
	parts   chunks[uint32] // nodes
	scratch []ID

	// What follows from the above; see prepare.
	prepared  bool
	held      bool     // what is inKept is marked
	settled   bool     // what stays is marked
	followers []uint64 // subject and attached manifest, 32 bits each, sorted
	parents   []uint64 // manifest and manifest that names it, likewise
}

type node struct {
	id     ID
	size   int64
	score  float32 // some 24 bits are enough to compare by
	last   uint32  // seconds that end in 2106
	refs   uint32  // by how many stored manifests it is named
	record uint32  // index in records plus 1, or 0
}

// record is what is known of a manifest.
type record struct {
	node        uint32
	first, end  uint32 // in parts
	missing     uint32 // parts that are not stored, of an image manifest
	subject     uint32 // node plus 1 that it is attached to, or 0
	children    uint32 // stored manifests it names that are not attached to anything
	hasContents bool   // Manifest or Index was called for it
	index       bool   // it was Index
}

type flag uint16

const (
	isKept     flag = 1 << iota // Keep was called for it
	isBusy                      // Busy was called for it
	hasExpired                  // by one name at least
	isFresh                     // has not expired by one name at least
	hasFollowers
	hasParents
	inKept // is Kept, below or attached to it
	inBusy // likewise
	bound  // stays because of something in Kept or Busy, an index of an image
	dead   // is in the plan

	stays   = inKept | inBusy | bound
	planned = stays | dead
)

// Add adds stored content which takes size bytes of storage. Duplicates are
// merged: the larger size counts, and the later and more valuable use. Content
// that is added in increasing order of ID is not sorted again.
func (g *Graph) Add(id ID, size int64, u Use) {
	if g.sealed {
		return
	}
	score := float32(u.Score)
	if !(score > 0) { // nor a NaN
		score = 0
	}
	g.nodes.append(node{
		id:    id,
		size:  max(size, 0),
		score: score,
		last:  uint32(min(max(u.Last, 0), math.MaxUint32)),
	})
}

// Manifest says that id is a manifest that consists of parts. Parts that were
// not added are missing: the image is not complete. Further calls for one ID
// have no effect.
func (g *Graph) Manifest(id ID, parts []ID) { g.contents(id, parts, true) }

// Index says that id is an index that names parts. Parts that were not added
// are not missing: nobody asked for those platforms. Further calls for one ID
// have no effect.
func (g *Graph) Index(id ID, parts []ID) { g.contents(id, parts, false) }

func (g *Graph) contents(id ID, parts []ID, count bool) {
	n, ok := g.find(id)
	if !ok {
		return
	}
	r := g.record(n)
	if r.hasContents {
		return
	}
	g.prepared = false
	r.hasContents, r.index = true, !count
	r.first = uint32(g.parts.len())
	// A layer may be there twice.
	g.scratch = append(g.scratch[:0], parts...)
	slices.Sort(g.scratch)
	for _, part := range slices.Compact(g.scratch) {
		if part == id {
			continue
		}
		if p, ok := g.find(part); ok {
			g.parts.append(p)
		} else if count {
			r.missing++
		}
	}
	r.end = uint32(g.parts.len())
}

// maxChain is how many manifests may be attached one to the next.
const maxChain = 64

// Attach says that id, a stored manifest such as a signature or an SBOM, refers
// to subject: it lives and dies with it if subject is a stored manifest. The
// first subject that is stored counts. What would make a chain of more than 64,
// or a ring, is not attached, nor what refers to a blob, which may be its own.
//
// The images that an attached index names are not attached by that.
func (g *Graph) Attach(id, subject ID) {
	n, ok := g.find(id)
	if !ok {
		return
	}
	s, ok := g.find(subject)
	if !ok {
		return
	}
	above := s
	for range maxChain {
		if above == n {
			return
		}
		r := g.nodes.at(above).record
		if r == 0 || g.records.at(r-1).subject == 0 {
			if r := g.record(n); r.subject == 0 {
				r.subject = s + 1
				g.prepared = false
			}
			return
		}
		above = g.records.at(r-1).subject - 1
	}
}

// Expired says whether id has expired by one of the names under which it is
// stored. It has only if all calls for it say so, and all for the indexes that
// name it.
func (g *Graph) Expired(id ID, expired bool) {
	f := isFresh
	if expired {
		f = hasExpired
	}
	g.set(id, f)
}

// Keep says that id is pinned: it stays, with all below it and all that is
// attached to any of that.
func (g *Graph) Keep(id ID) { g.set(id, isKept) }

// Busy says that id is part of a running pull: it stays like what is pinned,
// and is counted apart.
func (g *Graph) Busy(id ID) { g.set(id, isBusy) }

func (g *Graph) set(id ID, f flag) {
	if n, ok := g.find(id); ok {
		g.flags[n] |= f
		g.prepared = false
	}
}

// find returns the node of id.
func (g *Graph) find(id ID) (uint32, bool) {
	g.seal()
	if g.nodes.len() == 0 {
		return 0, false
	}
	bucket := id >> g.shift
	low, high := g.starts[bucket], g.starts[bucket+1]
	for low < high {
		middle := low + (high-low)/2
		if g.nodes.at(middle).id < id {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, low < uint32(g.nodes.len()) && g.nodes.at(low).id == id
}

// record returns the record of node n, and adds it where there is none.
func (g *Graph) record(n uint32) *record {
	at := &g.nodes.at(n).record
	if *at == 0 {
		g.records.append(record{node: n})
		*at = uint32(g.records.len())
	}
	return g.records.at(*at - 1)
}

// seal ends the phase of Add: it sorts and merges the nodes.
func (g *Graph) seal() {
	if g.sealed {
		return
	}
	g.sealed = true
	if byID := (nodesByID{&g.nodes}); !sort.IsSorted(byID) {
		sort.Sort(byID)
	}
	n := uint32(0)
	for i := range uint32(g.nodes.len()) {
		v := *g.nodes.at(i)
		if n > 0 {
			if before := g.nodes.at(n - 1); before.id == v.id {
				before.size = max(before.size, v.size)
				before.score = max(before.score, v.score)
				before.last = max(before.last, v.last)
				continue
			}
		}
		*g.nodes.at(n) = v
		n++
	}
	g.nodes.truncate(int(n))
	g.flags = make([]flag, n)

	// Digests are evenly spread: a table of the upper bits leaves few nodes
	// to search.
	bits := 0
	for bits < 16 && 1<<bits < n {
		bits++
	}
	g.shift = 64 - bits
	g.starts = make([]uint32, 1<<bits+1)
	for i := range n {
		g.starts[g.nodes.at(i).id>>g.shift+1] = i + 1
	}
	for i := 1; i < len(g.starts); i++ {
		g.starts[i] = max(g.starts[i], g.starts[i-1])
	}
}

type nodesByID struct{ *chunks[node] }

func (n nodesByID) Len() int           { return n.len() }
func (n nodesByID) Less(i, j int) bool { return n.at(uint32(i)).id < n.at(uint32(j)).id }
func (n nodesByID) Swap(i, j int) {
	a, b := n.at(uint32(i)), n.at(uint32(j))
	*a, *b = *b, *a
}
