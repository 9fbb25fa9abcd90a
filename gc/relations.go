package gc

import "slices"

// prepare works out what follows from the relations, where they have changed.
func (g *Graph) prepare() {
	g.seal()
	if g.prepared {
		return
	}
	g.prepared, g.held, g.settled = true, false, false
	for i := range uint32(g.nodes.len()) {
		g.nodes.at(i).refs = 0
		g.flags[i] &^= hasFollowers | hasParents | planned
	}
	g.followers, g.parents = g.followers[:0], g.parents[:0]
	for i := range uint32(g.records.len()) {
		r := g.records.at(i)
		r.children = 0
		if g.attached(r.node) {
			s := r.subject - 1
			g.flags[s] |= hasFollowers
			g.followers = append(g.followers, uint64(s)<<32|uint64(r.node))
		}
		for j := r.first; j < r.end; j++ {
			p := *g.parts.at(j)
			part := g.nodes.at(p)
			part.refs++
			if part.record == 0 {
				continue
			}
			g.flags[p] |= hasParents
			g.parents = append(g.parents, uint64(p)<<32|uint64(r.node))
			if !g.attached(p) {
				r.children++
			}
		}
	}
	slices.Sort(g.followers)
	slices.Sort(g.parents)
	g.inherit()
}

// maxNesting is how many indexes deep an image may be to inherit from all of
// them. There is no use for more than two, and no limit in the specification.
const maxNesting = 16

// inherit gives what is known of the use of an index to the images it names.
// Who pulls by tag asks for the index, and by its digest for the one image of a
// platform; an image that was not asked for by digest for long, while its index
// was, is there for a client that has most of it, or for another platform.
func (g *Graph) inherit() {
	changed := true
	for depth := 0; changed && depth < maxNesting; depth++ {
		changed = false
		for _, pair := range g.parents {
			p, i := uint32(pair>>32), uint32(pair)
			child, index := g.nodes.at(p), g.nodes.at(i)
			f := g.flags[p] | g.flags[i]&(hasExpired|isFresh)
			score, last := max(child.score, index.score-1), max(child.last, index.last)
			if f != g.flags[p] || score != child.score || last != child.last {
				g.flags[p], child.score, child.last = f, score, last
				changed = true
			}
		}
	}
}

// attached tells whether node n is attached to a manifest that is stored.
func (g *Graph) attached(n uint32) bool {
	s := g.manifest(n).subject
	return s != 0 && g.nodes.at(s-1).record != 0
}

// manifest returns the record of node n, or an empty one.
func (g *Graph) manifest(n uint32) record {
	if r := g.nodes.at(n).record; r != 0 {
		return *g.records.at(r - 1)
	}
	return record{node: n}
}

// eachFollower calls f for all that is attached to node n.
func (g *Graph) eachFollower(n uint32, f func(uint32)) {
	if g.flags[n]&hasFollowers != 0 {
		eachSecond(g.followers, n, f)
	}
}

// eachParent calls f for all manifests that name the manifest n.
func (g *Graph) eachParent(n uint32, f func(uint32)) {
	if g.flags[n]&hasParents != 0 {
		eachSecond(g.parents, n, f)
	}
}

// eachSecond calls f for the second of each pair whose first is n.
func eachSecond(pairs []uint64, n uint32, f func(uint32)) {
	i, _ := slices.BinarySearch(pairs, uint64(n)<<32)
	for ; i < len(pairs) && uint32(pairs[i]>>32) == n; i++ {
		f(uint32(pairs[i]))
	}
}

// eachPart calls f for all stored parts of node n.
func (g *Graph) eachPart(n uint32, f func(uint32)) {
	r := g.manifest(n)
	for i := r.first; i < r.end; i++ {
		f(*g.parts.at(i))
	}
}

// Sizes returns how large id is with all that is stored below it and attached
// to any of that, each content counted once; how much of this is unique: used
// by nothing else, so that it would go with id; and how many parts are missing
// of the manifests among it, counted for each manifest that names them. Absent
// images of an index are not missing.
func (g *Graph) Sizes(id ID) (size, unique int64, missing int) {
	n, ok := g.find(id)
	if !ok {
		return 0, 0, 0
	}
	g.prepare()
	closure, inside := g.closure(n)
	for _, m := range closure {
		size += g.nodes.at(m).size
		missing += int(g.manifest(m).missing)
	}
	unique = size
	g.dropShared([]uint32{n}, closure, inside, func(m uint32) { unique -= g.nodes.at(m).size })
	return size, unique, missing
}

// closure returns nodes with all that is stored below them and attached to any of that,
// and how often something of it names or holds each node of it.
func (g *Graph) closure(roots ...uint32) (closure []uint32, inside map[uint32]uint32) {
	inside = make(map[uint32]uint32)
	for _, n := range roots {
		if _, ok := inside[n]; !ok {
			inside[n] = 0
			closure = append(closure, n)
		}
	}
	for i := 0; i < len(closure); i++ {
		next := func(m uint32) {
			if _, ok := inside[m]; !ok {
				closure = append(closure, m)
			}
			inside[m]++
		}
		g.eachPart(closure[i], next)
		g.eachFollower(closure[i], next)
	}
	return closure, inside
}

// dropShared takes out of a closure what something outside of it uses, and what is
// below that, but not the roots, and calls drop for each.
func (g *Graph) dropShared(roots, closure []uint32, inside map[uint32]uint32, drop func(uint32)) {
	var shared []uint32
	for _, m := range closure {
		holders := g.nodes.at(m).refs
		if g.attached(m) {
			holders++
		}
		if inside[m] < holders && !slices.Contains(roots, m) {
			shared = append(shared, m)
		}
	}
	// What is below something that others use is used by them too.
	left := func(m uint32) {
		if _, ok := inside[m]; ok && !slices.Contains(roots, m) {
			shared = append(shared, m)
		}
	}
	for i := 0; i < len(shared); i++ {
		m := shared[i]
		if _, ok := inside[m]; !ok {
			continue // counted before
		}
		delete(inside, m)
		drop(m)
		g.eachPart(m, left)
		g.eachFollower(m, left)
	}
}
