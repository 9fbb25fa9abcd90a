// Package schedule knows times that come again each week, such as "Mon-Fri
// 08:00-18:00, daily 22:00-24:00".
//
// It promises that what it has read means one thing, and to say when that changes
// next, across changes of the clock (daylight saving time), too. What it reads may
// come from anybody. It imports nothing of this module.
package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Windows are times of the week: those at which a clock on the wall shows a time in
// them. So an hour that the clock shows twice is in them twice, and one that it skips
// is not. In the zero value there are none. A value is not changed.
type Windows struct {
	text string
	// spans are in order, and do not touch.
	spans []span
}

// span is from start to before end, since the start of Monday.
type span struct{ start, end time.Duration }

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// days are in the order of [span].
var days = [...]string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// maxText bounds, in bytes, what Parse reads: arbitrary, far more than anyone writes.
const maxText = 4 << 10

// Parse reads windows, with commas in between, each of days and times:
//
//	Mon 08:00-18:00       one day
//	Fri-Mon 22:00-06:00   days in a row, also across the end of the week
//	daily 00:00-24:00     all days
//
// Days have three letters, in any case. A window whose end is not after its begin goes
// on into the next day: it is of the day that it begins on. Days that are not in a row
// are windows of their own. Where windows overlap or touch they are one. Empty text is
// no window.
func Parse(text string) (Windows, error) {
	if len(text) > maxText {
		return Windows{}, fmt.Errorf("is longer than %d characters", maxText)
	}
	if strings.TrimSpace(text) == "" {
		return Windows{}, nil
	}
	var all []span
	var parts []string
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		if len(words) != 2 {
			return Windows{}, fmt.Errorf("has %q, which is not days and times: write for example Mon-Fri 08:00-18:00, and a comma between windows", strings.TrimSpace(part))
		}
		first, number, err := parseDays(words[0])
		if err != nil {
			return Windows{}, err
		}
		begin, end, err := parseTimes(words[1])
		if err != nil {
			return Windows{}, err
		}
		for i := range number {
			start := time.Duration((first+i)%len(days)) * day
			all = append(all, span{start + begin, start + end})
		}
		parts = append(parts, strings.Join(words, " "))
	}
	return Windows{strings.Join(parts, ", "), merge(all)}, nil
}

// parseDays reads days in a row: the first of them, and how many they are.
func parseDays(text string) (first, number int, _ error) {
	if strings.EqualFold(text, "daily") {
		return 0, len(days), nil
	}
	from, to, ranged := strings.Cut(strings.ToLower(text), "-")
	first = slices.Index(days[:], from)
	last := first
	if ranged {
		last = slices.Index(days[:], to)
	}
	if first < 0 || last < 0 {
		return 0, 0, fmt.Errorf("has %q, which is no day of the week: write Mon, Tue, Wed, Thu, Fri, Sat or Sun, a range such as Mon-Fri, or daily", text)
	}
	return first, (last-first+len(days))%len(days) + 1, nil
}

// parseTimes reads two times of the day. The end is after begin, if need be on the next
// day.
func parseTimes(text string) (begin, end time.Duration, _ error) {
	from, to, _ := strings.Cut(text, "-")
	begin, err := parseTime(from)
	if err == nil {
		end, err = parseTime(to)
	}
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("has %q, which is not two times of the day: write for example 08:00-18:00", text)
	case begin == day:
		return 0, 0, fmt.Errorf("has %q: a window that begins at midnight begins at 00:00", text)
	case end <= begin:
		end += day
	}
	return begin, end, nil
}

var errNoTime = errors.New("not a time of the day")

// parseTime reads HH:MM, from 00:00 to 24:00.
func parseTime(text string) (time.Duration, error) {
	if text == "24:00" {
		return day, nil
	}
	if len(text) != len("15:04") { // which would take 8:00, too
		return 0, errNoTime
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, errNoTime
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// merge puts spans, which may go on into the next week, into their order, and makes one
// of those that touch.
func merge(all []span) []span {
	for i, s := range all {
		if s.end > week {
			all[i].end = week
			all = append(all, span{0, s.end - week})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return int((a.start - b.start) / time.Minute) })
	merged := all[:0]
	for _, s := range all {
		if n := len(merged); n > 0 && s.start <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, s.end)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// String returns what Parse has read.
func (w Windows) String() string { return w.text }

// IsZero tells that there are no windows.
func (w Windows) IsZero() bool { return len(w.spans) == 0 }

// At returns whether t is in one of the windows by the clock of t's location, and when
// that changes next; that is the zero Time where it never does.
func (w Windows) At(t time.Time) (in bool, until time.Time) {
	t = t.Round(0) // the clock on the wall is what counts
	in, left := w.at(t)
	if left < 0 {
		return in, time.Time{}
	}
	// Between two of its changes, the clock goes on as time does. Locations have a few
	// of those a year; what is in their data may be anything.
	for range 1000 {
		next := t.Add(left)
		_, change := t.ZoneBounds()
		if change.IsZero() || next.Before(change) {
			return in, next
		}
		t = change
		now, then := w.at(t)
		if now != in {
			return in, t
		}
		left = then
	}
	return in, t
}

// at returns whether the clock at t shows a time in a window, and for how long that
// stays so while the clock is not changed; negative is for ever.
func (w Windows) at(t time.Time) (in bool, left time.Duration) {
	hour, minute, second := t.Clock()
	pos := time.Duration((int(t.Weekday())+6)%7)*day + time.Duration(hour)*time.Hour +
		time.Duration(minute)*time.Minute + time.Duration(second)*time.Second + time.Duration(t.Nanosecond())
	n := len(w.spans)
	if n == 0 || w.spans[0] == (span{0, week}) {
		return n > 0, -1
	}
	for i, s := range w.spans {
		switch {
		case pos < s.start:
			return false, s.start - pos
		case pos < s.end && s.end == week && w.spans[0].start == 0: // it goes on into the next one
			return true, week + w.spans[0].end - pos
		case pos < s.end:
			return true, s.end - pos
		case i == n-1:
			return false, week + w.spans[0].start - pos
		}
	}
	return false, -1 // not reached: the last span is either before pos or not
}
