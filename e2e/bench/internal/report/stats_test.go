package report

import (
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 2, 100}, 3},
	} {
		given := slices.Clone(c.samples)
		if got := Median(c.samples); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.samples, got, c.want)
		}
		if !slices.Equal(given, c.samples) {
			t.Errorf("Median has reordered %v to %v", given, c.samples)
		}
	}
}

func TestRatiosAndDifferences(t *testing.T) {
	for _, c := range []struct {
		name                string
		samples, base       []float64
		ratios, differences []float64
	}{
		{"pairs", []float64{10, 40}, []float64{5, 10}, []float64{2, 4}, []float64{5, 30}},
		{"unequal numbers use the median", []float64{10}, []float64{1, 2, 99}, []float64{5}, []float64{8}},
		{"nothing to compare with", []float64{10}, nil, nil, nil},
		{"nothing to compare", nil, []float64{1}, nil, nil},
		{"a base of zero", []float64{10, 6}, []float64{0, 3}, []float64{2}, []float64{10, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Ratios(c.samples, c.base); !slices.Equal(got, c.ratios) {
				t.Errorf("ratios are %v, want %v", got, c.ratios)
			}
			if got := Differences(c.samples, c.base); !slices.Equal(got, c.differences) {
				t.Errorf("differences are %v, want %v", got, c.differences)
			}
		})
	}
}
