package disk

import (
	"cmp"
	"slices"

	"registry-module/cache"
	"registry-module/internal/extents"
)

// parts knows of each part of a download how much of it was written in order. The
// zero value is that of nothing.
type parts struct {
	done extents.Set     // the complete ones
	open map[int64]*part // the others, by their offsets
}

// part is what is known of one part: sum is the CRC-32C of the first length bytes,
// which were written in order. The journal says so of the first recorded ones.
type part struct {
	length, recorded uint32
	sum              uint32
}

// add takes note of what the journal says.
func (ps *parts) add(r record) {
	if r.length == cache.PartSize {
		ps.done.Add(extents.Span{Start: r.offset, End: r.end()})
		return
	}
	ps.set(r.offset, &part{length: r.length, recorded: r.length, sum: r.sum})
}

func (ps *parts) set(start int64, q *part) {
	if ps.open == nil {
		ps.open = make(map[int64]*part)
	}
	ps.open[start] = q
}

// extend takes note of b, which was written within bytes behind the start of a
// part, and does not reach behind its end. Bytes that do not follow what is known
// of the part are not remembered. It returns the part when it is complete.
func (ps *parts) extend(start, within int64, b []byte) (q *part, complete bool) {
	if ps.done.EndAt(start) > start {
		return nil, false
	}
	if q = ps.open[start]; q == nil {
		q = new(part)
	}
	known := int64(q.length) - within
	if known < 0 || known >= int64(len(b)) {
		return nil, false
	}
	q.length, q.sum = q.length+uint32(int64(len(b))-known), addSum(q.sum, b[known:])
	if q.length < cache.PartSize {
		ps.set(start, q)
		return nil, false
	}
	delete(ps.open, start)
	ps.done.Add(extents.Span{Start: start, End: start + cache.PartSize})
	return q, true
}

// rest returns records of the parts that are not complete, in order, and by how
// many bytes they exceed what the journal says.
func (ps *parts) rest() (records []record, grown int64) {
	for start, q := range ps.open {
		if q.length > q.recorded {
			records = append(records, record{start, q.length, q.sum})
			grown += int64(q.length - q.recorded)
		}
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.offset, b.offset) })
	return records, grown
}
