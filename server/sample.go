package server

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
)

// Sample is how many of the requests get a line in the log: all, for the zero value.
// Those that have failed get one in any case: with a status of 500 and more, or not
// answered to their end.
type Sample struct {
	// skipped is how many of 1<<32 get none.
	skipped uint64
}

// allOf is the unit of [Sample].
const allOf = 1 << 32

// SampleOf makes a Sample of a share: 1 is all, 0 none, and 0.01 one of a hundred, which are
// picked by chance: each has the same, whatever order requests come in.
func SampleOf(share float64) (Sample, error) {
	if !(share >= 0 && share <= 1) {
		return Sample{}, fmt.Errorf("a share of requests is between 0 (none) and 1 (all), not %v", share)
	}
	return Sample{skipped: allOf - uint64(math.Round(share*allOf))}, nil
}

// has tells whether a request is in the sample that has drawn a number.
func (s Sample) has(drawn uint32) bool { return uint64(drawn) >= s.skipped }

// logs tells whether a request gets a line. Lost tells that it was not answered to its
// end.
func (s Sample) logs(status int, lost bool) bool {
	return lost || status >= http.StatusInternalServerError || s.skipped == 0 || s.has(rand.Uint32())
}
