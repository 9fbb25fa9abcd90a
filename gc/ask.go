package gc

import "slices"

// LastUse returns when id was last used, in Unix seconds: itself, or an index that
// names it; 0 where that is not known.
func (g *Graph) LastUse(id ID) int64 {
	n, ok := g.find(id)
	if !ok {
		return 0
	}
	g.prepare()
	return int64(g.nodes.at(n).last)
}

// Whole tells whether id is a stored manifest of which no part is missing, or an
// index of which an image is stored, and all that are stored are whole.
func (g *Graph) Whole(id ID) bool {
	n, ok := g.find(id)
	if !ok || !g.manifest(n).hasContents {
		return false
	}
	g.prepare()
	if r := g.manifest(n); r.index && r.children == 0 {
		return false
	}
	closure, _ := g.closure(n)
	return !slices.ContainsFunc(closure, func(m uint32) bool { return g.manifest(m).missing > 0 })
}

// Alone returns what would be used by nothing any more without ids: those first, and
// each manifest before what it consists of.
func (g *Graph) Alone(ids ...ID) []ID {
	var roots []uint32
	for _, id := range ids {
		if n, ok := g.find(id); ok {
			roots = append(roots, n)
		}
	}
	g.prepare()
	closure, inside := g.closure(roots...)
	g.dropShared(roots, closure, inside, func(uint32) {})
	var alone []ID
	for _, m := range closure {
		if _, ok := inside[m]; ok {
			alone = append(alone, g.nodes.at(m).id)
		}
	}
	return alone
}

// Kept tells whether id stays because of [Graph.Keep].
func (g *Graph) Kept(id ID) bool {
	n, ok := g.find(id)
	if !ok {
		return false
	}
	g.prepare()
	if !g.held {
		g.hold(isKept, inKept)
		g.held = true
	}
	return g.flags[n]&inKept != 0
}

// Below returns id with all that is stored below it and attached to any of that.
func (g *Graph) Below(id ID) []ID {
	n, ok := g.find(id)
	if !ok {
		return nil
	}
	g.prepare()
	closure, _ := g.closure(n)
	below := make([]ID, len(closure))
	for i, m := range closure {
		below[i] = g.nodes.at(m).id
	}
	return below
}

// Stays tells whether id stays because of [Graph.Keep] or [Graph.Busy]: it is such content,
// below or attached to some, or an index of such an image, or belongs to that.
func (g *Graph) Stays(id ID) bool {
	n, ok := g.find(id)
	if !ok {
		return false
	}
	g.prepare()
	if !g.settled {
		g.hold(isKept, inKept)
		g.hold(isBusy, inBusy)
		g.bind()
		g.held, g.settled = true, true
	}
	return g.flags[n]&stays != 0
}
