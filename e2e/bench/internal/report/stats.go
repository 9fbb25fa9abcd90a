package report

import "slices"

// Median returns the middle of the samples, or the mean of the two in the
// middle. Of none it is 0.
func Median(samples []float64) float64 {
	n := len(samples)
	if n == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// Ratios divides samples by those of a base. Samples of the same repetition
// were taken right after each other, so they are divided pairwise: what else
// the machine did at the time is in both, and cancels out. Where the numbers of
// samples differ, the samples are divided by the base's median. A base of 0
// gives no ratio.
func Ratios(samples, base []float64) []float64 {
	var ratios []float64
	for i, s := range samples {
		b := Median(base)
		if len(samples) == len(base) {
			b = base[i]
		}
		if b != 0 {
			ratios = append(ratios, s/b)
		}
	}
	return ratios
}

// Differences subtracts in the way in which [Ratios] divides.
func Differences(samples, base []float64) []float64 {
	if len(base) == 0 {
		return nil
	}
	var differences []float64
	for i, s := range samples {
		b := Median(base)
		if len(samples) == len(base) {
			b = base[i]
		}
		differences = append(differences, s-b)
	}
	return differences
}
