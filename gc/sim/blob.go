package sim

import (
	"container/heap"
	"slices"
)

// ByBlob returns how many bytes are fetched from upstream by a cache that knows
// files only, and evicts those that are worth least to the policy.
func ByBlob(t Trace, limit int64, p Policy) (upstream int64) {
	states := make([]State, len(t.Sizes))
	has := make([]bool, len(t.Sizes))
	var cheapest ranking
	used, floor := int64(0), 0.0
	for i, pull := range t.Pulls {
		for _, b := range pull.Blobs {
			turns := float64(upstream) / float64(limit)
			s := &states[b]
			if !has[b] && (p.Forget == nil || p.Forget(*s, turns)) {
				*s = State{}
			}
			*s = p.Touch(*s, Now{Number: i + 1, Turns: turns, Size: t.Sizes[b], Floor: floor})
			s.Last = turns
			if !has[b] {
				upstream += t.Sizes[b]
				if used+t.Sizes[b] > limit {
					low := limit - max(t.Sizes[b], int64(Slack*float64(limit)))
					for used > low && len(cheapest) > 0 {
						r := heap.Pop(&cheapest).(ranked)
						if has[r.blob] && -states[r.blob].Use.Score == r.rank { // else it was used since
							has[r.blob] = false
							used -= t.Sizes[r.blob]
							floor = max(floor, -r.rank)
						}
					}
				}
				if used+t.Sizes[b] > limit {
					continue
				}
				has[b] = true
				used += t.Sizes[b]
			}
			heap.Push(&cheapest, ranked{b, -s.Use.Score})
		}
	}
	return upstream
}

// never is the time of a use that does not come.
const never = 1 << 30

// nextUses returns for each blob of each pull when it is used next, in pulls.
func nextUses(t Trace) [][]int {
	next := make([]int, len(t.Sizes))
	for i := range next {
		next[i] = never
	}
	uses := make([][]int, len(t.Pulls))
	for i, p := range slices.Backward(t.Pulls) {
		for _, b := range p.Blobs {
			uses[i] = append(uses[i], next[b])
		}
		for _, b := range p.Blobs {
			next[b] = i
		}
	}
	return uses
}

// Belady returns how many bytes are fetched from upstream by one who knows all
// pulls that are to come, and evicts the blob whose next use is farthest away,
// or does not store it. A cache can do as well as this at least, if it could
// know.
func Belady(t Trace, limit int64) (upstream int64) {
	uses := nextUses(t)
	next := make([]int, len(t.Sizes)) // next use of what is stored, or 0
	var far ranking
	used := int64(0)
	for i, p := range t.Pulls {
		for j, b := range p.Blobs {
			if next[b] == 0 {
				upstream += t.Sizes[b]
				used += t.Sizes[b]
			}
			next[b] = uses[i][j]
			heap.Push(&far, ranked{b, float64(uses[i][j])})
			for used > limit {
				r := heap.Pop(&far).(ranked)
				if float64(next[r.blob]) == r.rank { // else it was used since
					next[r.blob] = 0
					used -= t.Sizes[r.blob]
				}
			}
		}
	}
	return upstream
}

type ranked struct {
	blob int
	rank float64
}

// ranking is a heap, the highest rank first.
type ranking []ranked

func (r ranking) Len() int           { return len(r) }
func (r ranking) Less(i, j int) bool { return r[i].rank > r[j].rank }
func (r ranking) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ranking) Push(x any)        { *r = append(*r, x.(ranked)) }
func (r *ranking) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

// Bound returns how many bytes any cache has to fetch at least. To have a blob
// from one use to the next takes its size for that time. The limit for the time
// of the whole trace is spent on the shortest such times first, a part of the
// last; that the limit holds at each moment is not asked. This is PFOO-L of
// Berger, Beckmann, Harchol-Balter: Practical Bounds on Optimal Caching with
// Variable Object Sizes (2018), with bytes instead of requests as the gain.
func Bound(t Trace, limit int64) (upstream int64) {
	sizes := map[int]float64{} // bytes that are used again after so many pulls
	for i, uses := range nextUses(t) {
		for j, next := range uses {
			if next != never {
				sizes[next-i] += float64(t.Sizes[t.Pulls[i].Blobs[j]])
			}
		}
	}
	var times []int
	for time := range sizes {
		times = append(times, time)
	}
	slices.Sort(times)
	space, hits := float64(limit)*float64(len(t.Pulls)), 0.0
	for _, time := range times {
		bytes := min(sizes[time], space/float64(time))
		hits += bytes
		space -= bytes * float64(time)
	}
	return t.Requested() - int64(hits)
}
