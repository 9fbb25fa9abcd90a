package gc_test

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"registry-module/gc"
)

// world is a random graph, in the plainest form there is.
type world struct {
	size    map[gc.ID]int64
	parts   map[gc.ID][]gc.ID
	index   map[gc.ID]bool
	attach  map[gc.ID]gc.ID // as it is told
	subject map[gc.ID]gc.ID // as it counts
	held    []gc.ID         // kept, then busy
	kept    int             // how many are kept
	expired map[gc.ID]bool
	score   map[gc.ID]float64
}

// newWorld makes a graph of blobs, images of blobs, indexes of images and of
// indexes, and what is attached to any of that. Some of it is not stored.
func newWorld(r *rand.Rand) *world {
	w := &world{
		size: map[gc.ID]int64{}, parts: map[gc.ID][]gc.ID{}, index: map[gc.ID]bool{}, subject: map[gc.ID]gc.ID{},
		expired: map[gc.ID]bool{}, score: map[gc.ID]float64{},
	}
	var all, stored []gc.ID
	add := func() gc.ID {
		id := gc.ID(r.Uint64())
		if r.IntN(4) == 0 {
			id = gc.ID(len(all)) // IDs need not be spread
		}
		if r.IntN(8) > 0 {
			w.size[id] = r.Int64N(1 << 18)
			w.score[id] = float64(r.IntN(5))
			stored = append(stored, id)
		}
		all = append(all, id)
		return id
	}
	pick := func(from []gc.ID) []gc.ID {
		var ids []gc.ID
		for range r.IntN(5) {
			if len(from) > 0 {
				ids = append(ids, from[r.IntN(len(from))])
			}
		}
		return ids
	}
	for range r.IntN(12) {
		add()
	}
	blobs := slices.Clone(all)
	for range r.IntN(8) {
		w.parts[add()] = pick(blobs)
	}
	for range r.IntN(10) {
		if r.IntN(2) == 0 {
			from := all[len(blobs):]
			if r.IntN(4) == 0 {
				from = all
			}
			parts := pick(from)
			id := add()
			w.parts[id], w.index[id] = parts, true
			continue
		}
		subject := pick(all)
		id := add()
		w.parts[id] = pick(all[:len(all)-1])
		w.index[id] = r.IntN(4) == 0
		if len(subject) > 0 {
			w.subject[id] = subject[0]
		}
	}
	hold := func() {
		if ids := pick(stored); r.IntN(2) == 0 && len(ids) > 0 {
			w.held = append(w.held, ids[0])
		}
	}
	hold()
	w.kept = len(w.held)
	hold()
	for _, id := range pick(stored) {
		w.expired[id] = r.IntN(2) == 0
	}
	for id := range w.parts {
		if _, ok := w.size[id]; !ok {
			delete(w.parts, id)
			delete(w.subject, id)
		}
	}
	w.attach = maps.Clone(w.subject)
	for id, subject := range w.subject {
		if _, ok := w.parts[subject]; !ok {
			delete(w.subject, id) // see Attach
		}
	}
	return w
}

func (w *world) graph() *gc.Graph {
	g := new(gc.Graph)
	for id, size := range w.size {
		g.Add(id, size, gc.Use{Score: w.score[id]})
	}
	for id, subject := range w.attach {
		g.Attach(id, subject)
	}
	for id, parts := range w.parts {
		if w.index[id] {
			g.Index(id, parts)
		} else {
			g.Manifest(id, parts)
		}
	}
	for i, id := range w.held {
		if i < w.kept {
			g.Keep(id)
		} else {
			g.Busy(id)
		}
	}
	for id, expired := range w.expired {
		g.Expired(id, expired)
	}
	return g
}

// reach returns what is stored of roots, with all below and all attached to
// that, without ever entering what is not to be.
func (w *world) reach(not func(gc.ID) bool, roots ...gc.ID) map[gc.ID]bool {
	reached := map[gc.ID]bool{}
	roots = slices.Clone(roots)
	for len(roots) > 0 {
		id := roots[0]
		roots = roots[1:]
		if _, ok := w.size[id]; !ok || reached[id] || not(id) {
			continue
		}
		reached[id] = true
		roots = append(roots, w.parts[id]...)
		for follower, subject := range w.subject {
			if subject == id {
				roots = append(roots, follower)
			}
		}
	}
	return reached
}

func (w *world) sum(ids map[gc.ID]bool) (sum int64) {
	for id := range ids {
		sum += w.size[id]
	}
	return sum
}

func nothing(gc.ID) bool { return false }

// FuzzGraph checks plans and sizes of random graphs against what is said of
// them, in the plainest way.
func FuzzGraph(f *testing.F) {
	for seed := range uint64(2000) {
		f.Add(seed, int64(seed%7)<<17, seed%3 == 0)
	}
	f.Add(uint64(1), int64(math.MaxInt64), true)
	f.Fuzz(func(t *testing.T, seed uint64, free int64, unused bool) {
		w := newWorld(rand.New(rand.NewPCG(seed, 0)))
		g := w.graph()
		w.checkSizes(t, g)
		most := g.Plan(gc.PlanOptions{Free: math.MaxInt64})
		w.checkPlan(t, most)
		if most.Freed != most.Evictable {
			t.Errorf("%d bytes are evictable, and %d evicted", most.Evictable, most.Freed)
		}
		o := gc.PlanOptions{Free: free, Unused: unused}
		p := g.Plan(o)
		w.checkPlan(t, p)
		if p.Evictable != most.Evictable {
			t.Errorf("%d or %d bytes are evictable", p.Evictable, most.Evictable)
		}
		if p.Freed < min(free, p.Evictable) {
			t.Errorf("%d bytes are freed of %d, %d evictable", p.Freed, free, p.Evictable)
		}
		if again := w.graph().Plan(o); line(again) != line(p) {
			t.Errorf("plans differ:\n%s\n%s", line(p), line(again))
		}
	})
}

func (w *world) checkPlan(t *testing.T, p gc.Plan) {
	t.Helper()
	kept := w.reach(nothing, w.held[:w.kept]...)
	busy := w.reach(func(id gc.ID) bool { return kept[id] }, w.held[w.kept:]...)
	if p.Kept != w.sum(kept) || p.Busy != w.sum(busy) {
		t.Errorf("kept %d, busy %d, want %d, %d", p.Kept, p.Busy, w.sum(kept), w.sum(busy))
	}
	gone := map[gc.ID]bool{}
	freed := int64(0)
	why, score := gc.Unused, 0.0
	for _, v := range p.Victims {
		if v.Why < why || v.Why == why && v.Use.Score < score {
			t.Errorf("%x is out of order", v.ID)
		}
		why, score = v.Why, v.Use.Score
		size := int64(0)
		for _, id := range v.Content {
			if gone[id] || kept[id] || busy[id] {
				t.Errorf("%x is evicted; before: %v, kept: %v, busy: %v", id, gone[id], kept[id], busy[id])
			}
			// No manifest is there without its parts at any time.
			for manifest, parts := range w.parts {
				if _, isManifest := w.parts[id]; !gone[manifest] && slices.Contains(parts, id) && manifest != id && !isManifest {
					t.Errorf("%x goes before %x, which names it", id, manifest)
				}
			}
			gone[id] = true
			size += w.size[id]
		}
		if !slices.Contains(v.Content, v.ID) || v.Size != size {
			t.Errorf("%x has %d bytes and content %x of %d", v.ID, v.Size, v.Content, size)
		}
		freed += size
	}
	if p.Freed != freed {
		t.Errorf("freed %d, want %d", p.Freed, freed)
	}
	for id, subject := range w.subject {
		if gone[subject] && !gone[id] && !kept[id] && !busy[id] || gone[id] && !gone[subject] {
			t.Errorf("%x is gone: %v, what it is attached to is: %v", id, gone[id], gone[subject])
		}
	}
	for id := range gone {
		// What only what has gone named has gone, too.
		for _, part := range w.parts[id] {
			if _, isManifest := w.parts[part]; isManifest {
				continue
			}
			_, stored := w.size[part]
			used := kept[part] || busy[part]
			for manifest, parts := range w.parts {
				used = used || !gone[manifest] && slices.Contains(parts, part)
			}
			if stored && gone[part] == used {
				t.Errorf("%x is gone: %v, and used: %v", part, gone[part], used)
			}
		}
	}
}

func (w *world) checkSizes(t *testing.T, g *gc.Graph) {
	t.Helper()
	for id := range w.size {
		closure := w.reach(nothing, id)
		var outside []gc.ID
		for other := range w.size {
			if !closure[other] {
				outside = append(outside, other)
			}
		}
		elsewhere := w.reach(func(other gc.ID) bool { return other == id }, outside...)
		missing := 0
		unique := int64(0)
		for other := range closure {
			if !elsewhere[other] {
				unique += w.size[other]
			}
			if w.index[other] {
				continue
			}
			absent := map[gc.ID]bool{}
			for _, part := range w.parts[other] {
				if _, ok := w.size[part]; !ok {
					absent[part] = true
				}
			}
			missing += len(absent)
		}
		gotSize, gotUnique, gotMissing := g.Sizes(id)
		if gotSize != w.sum(closure) || gotUnique != unique || gotMissing != missing {
			t.Errorf("%x has %d bytes, %d unique, %d missing; want %d, %d, %d", id, gotSize, gotUnique, gotMissing, w.sum(closure), unique, missing)
		}
	}
}
