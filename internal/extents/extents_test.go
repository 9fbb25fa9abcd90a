package extents_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"registry-module/internal/extents"
)

// A set is compared with a plain map of bytes after each of many random changes.
func TestSet(t *testing.T) {
	const size = 40
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var set extents.Set
		var want [size]bool
		for range 30 {
			span := extents.Span{Start: rnd.Int64N(size), End: rnd.Int64N(size)}
			add := rnd.IntN(3) > 0
			if add {
				set.Add(span)
			} else {
				set.Remove(span)
			}
			for i := span.Start; i < span.End; i++ {
				want[i] = add
			}
			check(t, set, want[:])
		}
	}
}

func check(t *testing.T, set extents.Set, want []bool) {
	t.Helper()
	var got []bool
	for _, gap := range slices.Collect(set.Gaps(extents.Span{End: int64(len(want))})) {
		for int64(len(got)) < gap.Start {
			got = append(got, true)
		}
		for int64(len(got)) < gap.End {
			got = append(got, false)
		}
	}
	for len(got) < len(want) {
		got = append(got, true)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%v: gaps say %v, want %v", set, got, want)
	}
	var n, last int64
	for i, there := range want {
		if there {
			n++
			last = int64(i + 1)
		}
		end := i
		for there && end < len(want) && want[end] {
			end++
		}
		if got := set.EndAt(int64(i)); got != int64(end) {
			t.Fatalf("%v: EndAt(%d) = %d, want %d", set, i, got, end)
		}
	}
	if set.End() != last {
		t.Fatalf("%v: ends at %d, want %d", set, set.End(), last)
	}
	if set.Len() != n {
		t.Fatalf("%v: Len() = %d, want %d", set, set.Len(), n)
	}
	for i := 1; i < len(set); i++ {
		if set[i-1].End >= set[i].Start {
			t.Fatalf("%v is not in order, or not as short as it can be", set)
		}
	}
}

func TestGapsWithin(t *testing.T) {
	set := extents.Set{{Start: 2, End: 4}, {Start: 6, End: 8}}
	got := slices.Collect(set.Gaps(extents.Span{Start: 3, End: 7}))
	if want := []extents.Span{{Start: 4, End: 6}}; !slices.Equal(got, want) {
		t.Errorf("gaps %v, want %v", got, want)
	}
	for range set.Gaps(extents.Span{End: 10}) {
		break // an early end is fine
	}
}
