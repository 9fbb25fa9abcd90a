package gc

import "math"

// halfLife is after how many turns a use counts half: the virtual time in which
// the cache's limit is filled from remotes so many times. docs/eviction.md shows
// how it was chosen.
const halfLife = 0.5

// Use is what is remembered of the use of content. The zero value is: never
// used.
type Use struct {
	// Last is when it was last used, in Unix seconds; 0 is never or unknown.
	Last int64
	// Score is what its uses are worth, in half-lives: the binary logarithm of
	// their number, of which each counts half as much for each half-life that
	// it is older than another. It does not change while content is not used,
	// so that the scores of any two contents can be compared at any time. 0 is
	// never used; a single use is worth at least 1.
	Score float64
}

// Touch returns u after one more use at the time now, in Unix seconds. turns is
// how many times the cache's limit has been filled from remotes so far: a clock
// that stands still while nothing has to make room, so that an idle site does
// not forget what it uses.
func (u Use) Touch(now int64, turns float64) Use {
	one := 1 + max(turns, 0)/halfLife
	if u.Score <= 0 {
		return Use{Last: now, Score: one}
	}
	// log2(2^a + 2^b), of numbers too large to be raised.
	high, low := max(u.Score, one), min(u.Score, one)
	return Use{Last: now, Score: high + math.Log2(1+math.Exp2(low-high))}
}
