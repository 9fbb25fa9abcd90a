package gc

// eviction is a plan in the making.
type eviction struct {
	units []evicted
	// order has the nodes of all that goes, unit by unit.
	order []uint32
	freed int64
}

// evicted is one unit of what goes.
type evicted struct {
	node       uint32
	first, end uint32 // in order
	size       int64
	why        Why
	spared     bool
}

// evict adds unit u to e, with what goes with it.
func (g *Graph) evict(e *eviction, u uint32, why Why) {
	first := len(e.order)
	take := func(n uint32) {
		if g.flags[n]&planned == 0 {
			g.flags[n] |= dead
			e.order = append(e.order, n)
		}
	}
	take(u)
	// Upwards: indexes of which this was the last image.
	for i := first; i < len(e.order); i++ {
		g.eachParent(e.order[i], func(index uint32) {
			r := g.records.at(g.nodes.at(index).record - 1)
			r.children--
			if r.children == 0 && !g.attached(index) {
				take(index)
			}
		})
	}
	for i, j := first, len(e.order)-1; i < j; i, j = i+1, j-1 {
		e.order[i], e.order[j] = e.order[j], e.order[i]
	}
	// Downwards: what is attached to any of that, then the blobs of all of it.
	for i := first; i < len(e.order); i++ {
		g.eachFollower(e.order[i], take)
	}
	for _, n := range e.order[first:] {
		g.eachPart(n, func(part uint32) {
			p := g.nodes.at(part)
			p.refs--
			if p.refs == 0 && p.record == 0 {
				take(part)
			}
		})
	}
	unit := evicted{node: u, first: uint32(first), end: uint32(len(e.order)), why: why}
	for _, n := range e.order[first:] {
		unit.size += g.nodes.at(n).size
	}
	e.freed += unit.size
	e.units = append(e.units, unit)
}

// spare takes images out of e again that free next to nothing, because all
// their larger parts stay with others, as long as free bytes are freed. Only
// now is it known who stays: two cold images of the same layers free nothing
// one by one. The most valuable are spared first.
func (g *Graph) spare(e *eviction, free int64) {
	for i := len(e.units) - 1; i >= 0; i-- {
		u := &e.units[i]
		content := e.order[u.first:u.end]
		if u.why != Room || u.size >= trifle || e.freed-u.size < free {
			continue
		}
		for _, n := range content {
			g.flags[n] &^= dead
		}
		if !g.whole(content) {
			for _, n := range content {
				g.flags[n] |= dead
			}
			continue
		}
		u.spared = true
		e.freed -= u.size
	}
}

// whole tells whether none of the parts of content goes, nor an index that names
// it. An index may do without other images.
func (g *Graph) whole(content []uint32) bool {
	whole := true
	check := func(n uint32) { whole = whole && g.flags[n]&dead == 0 }
	for _, n := range content {
		g.eachPart(n, func(part uint32) {
			if g.nodes.at(part).record == 0 {
				check(part)
			}
		})
		g.eachParent(n, check)
	}
	return whole
}

// victims returns what goes in the form in which it is told.
func (g *Graph) victims(e *eviction) []Victim {
	victims, contents := 0, 0
	for _, u := range e.units {
		if !u.spared {
			victims++
			contents += int(u.end - u.first)
		}
	}
	list := make([]Victim, 0, victims)
	ids := make([]ID, 0, contents) // one piece of memory for all
	for _, u := range e.units {
		if u.spared {
			continue
		}
		first := len(ids)
		for _, n := range e.order[u.first:u.end] {
			ids = append(ids, g.nodes.at(n).id)
		}
		n := g.nodes.at(u.node)
		list = append(list, Victim{
			ID:      n.id,
			Content: ids[first:len(ids):len(ids)],
			Size:    u.size,
			Why:     u.why,
			Use:     Use{Last: int64(n.last), Score: float64(n.score)},
		})
	}
	return list
}
