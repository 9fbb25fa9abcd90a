package admin

import "time"

const (
	minute      = int64(time.Minute / time.Second)
	perQuarter  = 15 // minutes
	minutesKept = spreadOver + perQuarter
	spreadOver  = 120 // minutes
	quartersMax = 48 * 4
)

// The counters of a Traffic.
func hits(t *Traffic) *int64     { return &t.Hits }
func misses(t *Traffic) *int64   { return &t.Misses }
func stale(t *Traffic) *int64    { return &t.Stale }
func failures(t *Traffic) *int64 { return &t.Failed }
func served(t *Traffic) *int64   { return &t.Served }
func fetched(t *Traffic) *int64  { return &t.Fetched }

// bucket is the traffic of a span of time, which is the number of it since 1970.
type bucket struct {
	number int64
	Traffic
}

// history has the last hours in minutes, and the last days in quarters of an hour. The zero
// value is one without traffic.
type history struct {
	minutes  [minutesKept]bucket
	quarters [quartersMax]bucket
}

func minuteOf(t time.Time) int64 { return t.Unix() / minute }

// at is the bucket of a number, emptied where it was an older one's.
func at(ring []bucket, number int64) *Traffic {
	b := &ring[int(((number%int64(len(ring)))+int64(len(ring)))%int64(len(ring)))]
	if b.number != number {
		*b = bucket{number: number}
	}
	return &b.Traffic
}

// add counts n, spread evenly over the time from from to to, or what of it is not long ago.
func (h *history) add(from, to time.Time, n int64, counter func(*Traffic) *int64) {
	if earliest := to.Add(-spreadOver * time.Minute); from.Before(earliest) {
		from = earliest
	}
	last := minuteOf(to)
	total := to.Sub(from)
	for m := minuteOf(from); m < last; m++ {
		end := time.Unix((m+1)*minute, 0)
		part := end.Sub(from)
		from = end
		share := int64(float64(n) * (float64(part) / float64(total)))
		total -= part
		share = max(0, min(share, n))
		n -= share
		h.count(m, share, counter)
	}
	h.count(last, n, counter)
}

func (h *history) count(m, n int64, counter func(*Traffic) *int64) {
	if n == 0 {
		return
	}
	*counter(at(h.minutes[:], m)) += n
	*counter(at(h.quarters[:], m/perQuarter)) += n
}

// samples are those with traffic, the oldest first.
func (h *history) samples(now time.Time) []Sample {
	last := minuteOf(now)
	// The first minute that is given is the first of a quarter.
	firstMinute := (last - minutesKept + perQuarter) / perQuarter * perQuarter
	all := []Sample{}
	for q := last/perQuarter - quartersMax + 1; q < firstMinute/perQuarter; q++ {
		all = sample(all, h.quarters[:], q, perQuarter)
	}
	for m := firstMinute; m <= last; m++ {
		all = sample(all, h.minutes[:], m, 1)
	}
	return all
}

// sample appends that of a bucket which is so many minutes long, if it has traffic.
func sample(all []Sample, ring []bucket, number, minutes int64) []Sample {
	if number < 0 {
		return all
	}
	b := ring[int(number%int64(len(ring)))]
	if b.number != number || b.Traffic == (Traffic{}) {
		return all
	}
	seconds := minutes * minute
	return append(all, Sample{At: time.Unix((number+1)*seconds, 0).UTC(), Seconds: int(seconds), Traffic: b.Traffic})
}
