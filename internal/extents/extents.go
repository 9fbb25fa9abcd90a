// Package extents keeps account of which bytes of something are there, as a set
// of spans.
//
// It promises that a [Set] is in order and as short as it can be. It trusts its
// caller to give it spans that are in the range of int64, and to guard it: a Set
// is not safe for use by several goroutines. It imports nothing of this module.
package extents

import (
	"cmp"
	"iter"
	"slices"
)

// Span is the bytes from Start to before End.
type Span struct{ Start, End int64 }

// Len is the number of bytes.
func (s Span) Len() int64 { return max(s.End-s.Start, 0) }

// Set is a set of bytes: spans in order that neither overlap nor touch. The zero
// value is empty. Its methods are quick for the few spans that a download has.
type Set []Span

// Add adds the bytes of a span.
func (s *Set) Add(n Span) {
	if n.Len() == 0 {
		return
	}
	// from is the first span that n overlaps or touches, to the first behind
	// those.
	from, _ := slices.BinarySearchFunc(*s, n.Start, func(a Span, start int64) int { return cmp.Compare(a.End, start) })
	to := from
	for to < len(*s) && (*s)[to].Start <= n.End {
		n.Start, n.End = min(n.Start, (*s)[to].Start), max(n.End, (*s)[to].End)
		to++
	}
	*s = slices.Replace(*s, from, to, n)
}

// Remove takes the bytes of a span out.
func (s *Set) Remove(n Span) {
	if n.Len() == 0 {
		return
	}
	var left Set
	for _, a := range *s {
		for _, rest := range []Span{{a.Start, min(a.End, n.Start)}, {max(a.Start, n.End), a.End}} {
			if rest.Len() > 0 {
				left = append(left, rest)
			}
		}
	}
	*s = left
}

// Len is the number of bytes in the set.
func (s Set) Len() int64 {
	var n int64
	for _, a := range s {
		n += a.Len()
	}
	return n
}

// End is where the last span ends, 0 where there is none.
func (s Set) End() int64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].End
}

// EndAt returns the end of the span that pos is in, or pos where it is in none.
func (s Set) EndAt(pos int64) int64 {
	i, _ := slices.BinarySearchFunc(s, pos, func(a Span, pos int64) int { return cmp.Compare(a.End, pos+1) })
	if i < len(s) && s[i].Start <= pos {
		return s[i].End
	}
	return pos
}

// Gaps yields the spans of whole that are not in the set, in order.
func (s Set) Gaps(whole Span) iter.Seq[Span] {
	return func(yield func(Span) bool) {
		at := whole.Start
		for _, a := range s {
			if a.End <= at {
				continue
			}
			if a.Start >= whole.End {
				break
			}
			if a.Start > at && !yield(Span{at, a.Start}) {
				return
			}
			at = a.End
		}
		if at < whole.End {
			yield(Span{at, whole.End})
		}
	}
}
