package sim_test

import (
	"reflect"
	"testing"

	"registry-module/gc/sim"
)

// TestChosen guards what docs/eviction.md claims of the mixed trace: at least 5
// points of byte hit ratio above LRU, of files or of images, and not more than
// 10 below what one could have who knows the future, but for the smallest
// cache.
func TestChosen(t *testing.T) {
	trace := sim.Generate(sim.Mixed(8000), 1)
	tests := map[string]struct {
		part          float64 // of the footprint
		above, toBest float64
	}{
		"5 percent":  {0.05, 5, 15},
		"10 percent": {0.1, 5, 10},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			limit := int64(tt.part * float64(trace.Footprint()))
			ratio := func(upstream int64) float64 {
				return 100 * (1 - float64(upstream)/float64(trace.Requested()))
			}
			chosen := ratio(sim.ByImage(trace, limit, sim.Chosen()))
			file, image := ratio(sim.ByBlob(trace, limit, sim.LRU())), ratio(sim.ByImage(trace, limit, sim.LRU()))
			best, bound := ratio(sim.Belady(trace, limit)), ratio(sim.Bound(trace, limit))
			t.Logf("LRU by file %.1f, by image %.1f, chosen %.1f, Belady %.1f, bound %.1f", file, image, chosen, best, bound)
			if chosen < max(file, image)+tt.above {
				t.Errorf("%.1f points above LRU, want %.0f", chosen-max(file, image), tt.above)
			}
			if chosen < best-tt.toBest {
				t.Errorf("%.1f points below Belady, want %.0f", best-chosen, tt.toBest)
			}
			if chosen > bound || best > bound {
				t.Error("better than can be")
			}
		})
	}
}

// TestSmall counts by hand. Three images of one blob each, of 10 bytes, are
// pulled in turn, into space for two.
func TestSmall(t *testing.T) {
	trace := sim.Trace{Sizes: []int64{10, 10, 10}, Images: [][]int{{0}, {1}, {2}}, Before: []int{-1, -1, -1}}
	for i := range 9 {
		trace.Pulls = append(trace.Pulls, sim.Pull{Image: i % 3, Blobs: []int{i % 3}})
	}
	tests := map[string]struct {
		run         func(sim.Trace, int64) int64
		limit, want int64
	}{
		"enough for all, by file": {func(t sim.Trace, limit int64) int64 { return sim.ByBlob(t, limit, sim.LRU()) }, 30, 30},
		"enough for all, chosen":  {func(t sim.Trace, limit int64) int64 { return sim.ByImage(t, limit, sim.Chosen()) }, 30, 30},
		"nothing fits":            {func(t sim.Trace, limit int64) int64 { return sim.ByImage(t, limit, sim.LRU()) }, 9, 90},
		"LRU by file":             {func(t sim.Trace, limit int64) int64 { return sim.ByBlob(t, limit, sim.LRU()) }, 20, 90},
		"LRU by image":            {func(t sim.Trace, limit int64) int64 { return sim.ByImage(t, limit, sim.LRU()) }, 20, 90},
		// 0 and 1 stay to the end; 2 is not stored.
		"Belady": {sim.Belady, 20, 50},
		// Space for 20 * 9; six times 10 bytes for 3 pulls take all of it.
		"bound":              {sim.Bound, 20, 30},
		"bound of one":       {sim.Bound, 10, 60},
		"bound of unlimited": {sim.Bound, 1000, 30},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.run(trace, tt.limit); got != tt.want {
				t.Errorf("%d bytes from upstream, want %d", got, tt.want)
			}
		})
	}
}

// TestTraces checks that traces are the same for the same seed, and hold what
// they should.
func TestTraces(t *testing.T) {
	for _, o := range sim.Traces(300) {
		candidates := []sim.Policy{sim.LRU(), sim.Chosen()}
		if o.Name == "mixed" {
			candidates = sim.Candidates()
		}
		t.Run(o.Name, func(t *testing.T) {
			trace := sim.Generate(o, 7)
			if !reflect.DeepEqual(trace, sim.Generate(o, 7)) {
				t.Error("a second one differs")
			}
			if len(trace.Pulls) != o.Pulls {
				t.Errorf("%d pulls", len(trace.Pulls))
			}
			if trace.Footprint() > trace.Requested() || trace.Footprint() < 1e9 {
				t.Errorf("%d bytes of %d", trace.Footprint(), trace.Requested())
			}
			limit := trace.Footprint() / 10
			for _, p := range candidates {
				if upstream := sim.ByImage(trace, limit, p); upstream < sim.Bound(trace, limit) || upstream > trace.Requested() {
					t.Errorf("%s: %d bytes from upstream", p.Name, upstream)
				}
			}
			first, second := sim.ByImage(trace, limit, sim.Chosen()), sim.ByImage(trace, limit, sim.Chosen())
			if first != second {
				t.Errorf("%d bytes from upstream, then %d", first, second)
			}
		})
	}
}
