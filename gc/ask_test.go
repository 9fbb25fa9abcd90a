package gc_test

import (
	"slices"
	"testing"

	"registry-module/gc"
)

// What stays by Stays is what no plan takes, however much is to be freed.
func TestStays(t *testing.T) {
	graph := func() *gc.Graph {
		g := new(gc.Graph)
		for id := gc.ID(1); id <= 12; id++ {
			g.Add(id, 1<<20, gc.Use{})
		}
		g.Index(1, []gc.ID{2, 3})
		g.Manifest(2, []gc.ID{4, 5})
		g.Manifest(3, []gc.ID{5, 6})
		g.Manifest(7, []gc.ID{8})
		g.Attach(7, 1) // a signature of the index
		g.Manifest(9, []gc.ID{10})
		return g
	}
	for name, tt := range map[string]struct {
		mark func(*gc.Graph)
		want []gc.ID
	}{
		"nothing": {mark: func(*gc.Graph) {}},
		"pinned":  {mark: func(g *gc.Graph) { g.Keep(9) }, want: []gc.ID{9, 10}},
		"held":    {mark: func(g *gc.Graph) { g.Busy(9); g.Busy(11) }, want: []gc.ID{9, 10, 11}},
		"one of an index": {mark: func(g *gc.Graph) { g.Keep(2) },
			want: []gc.ID{1, 2, 4, 5, 7, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			g := graph()
			tt.mark(g)
			var got []gc.ID
			for id := gc.ID(0); id <= 13; id++ {
				if g.Stays(id) {
					got = append(got, id)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v stay, want %v", got, tt.want)
			}
			var gone []gc.ID
			for _, v := range g.Plan(gc.PlanOptions{Free: 1 << 40, Unused: true}).Victims {
				gone = append(gone, v.Content...)
			}
			if len(gone)+len(got) != 12 || slices.ContainsFunc(gone, func(id gc.ID) bool { return slices.Contains(got, id) }) {
				t.Errorf("%v stay, and %v go", got, gone)
			}
		})
	}
}
