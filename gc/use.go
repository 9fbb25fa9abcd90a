package gc

import "math"

// These were chosen by simulation, all in half-lives but for the first:
// docs/eviction.md.
const (
	// halfLife is after how many turns a use counts half.
	halfLife = 1
	// probation is how much less the first use counts. Most content that is used
	// once is not used again.
	probation = 2
	// ceiling is how much more than one use now all uses together can count.
	// What was used most a while ago, and not since, makes way sooner for it.
	ceiling = 1
	// succession is what content loses when its tag moves on.
	succession = 6
	// oblivion is how much less than a first use now a use counts that is not
	// worth to be remembered.
	oblivion = 2
)

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
	first := firstScore(turns)
	if !(u.Score > 0) { // nor a NaN
		return Use{Last: now, Score: first}
	}
	// log2(2^a + 2^b), of numbers too large to be raised.
	again := first + probation
	high, low := max(u.Score, again), min(u.Score, again)
	sum := high + math.Log2(1+math.Exp2(low-high))
	return Use{Last: now, Score: min(sum, max(u.Score, again+ceiling))}
}

// Succeed returns what u and the use of its successor are worth once a tag has
// moved from the one content to the other: the successor was used and is worth as
// much as what it takes the place of, which is hardly worth anything more. It is for
// when the move is noticed, before the use is counted.
func (u Use) Succeed(successor Use) (old, new Use) {
	new = Use{Last: max(u.Last, successor.Last), Score: max(u.Score, successor.Score)}
	if u.Score > 0 {
		// Above 0, which is never used.
		u.Score = max(u.Score-succession, math.SmallestNonzeroFloat32)
	}
	return u, new
}

// Faded tells whether u is not worth to be remembered of content that is not
// stored any more: it would hardly change what one more use makes of it. That
// is so two turns after a single use, and at most five after many.
func (u Use) Faded(turns float64) bool {
	return !(u.Score > firstScore(turns)-oblivion) || !(u.Score > 0)
}

// firstScore returns what the first use of content is worth.
func firstScore(turns float64) float64 { return 1 + max(turns, 0)/halfLife }
