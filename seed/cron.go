package seed

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

const (
	// maxExpressions and maxExpression bound a schedule: arbitrary, far more than is of use.
	maxExpressions = 100
	maxExpression  = 256 // bytes
)

// schedule are times that come again.
type schedule []string

// CheckSchedule returns all that is wrong with cron expressions, joined; nil where nothing
// is. Each has five fields: minute, hour, day of the month, month, day of the week.
func CheckSchedule(expressions []string) error {
	_, err := parseSchedule(expressions)
	return err
}

// parseSchedule reads cron expressions.
func parseSchedule(expressions []string) (schedule, error) {
	if len(expressions) > maxExpressions {
		return nil, fmt.Errorf("the schedule has %d expressions, more than %d", len(expressions), maxExpressions)
	}
	var all schedule
	var wrong []error
	for _, e := range expressions {
		fields := strings.Fields(e)
		clean := strings.Join(fields, " ")
		const example = `write minute, hour, day of the month, month, day of the week, for example "0 2 * * *"`
		switch {
		case len(e) > maxExpression:
			wrong = append(wrong, fmt.Errorf("an expression of the schedule is longer than %d characters", maxExpression))
		case len(fields) != 5:
			wrong = append(wrong, fmt.Errorf("%q in the schedule has %d fields instead of 5: %s", clean, len(fields), example))
		case !gronx.IsValid(clean):
			wrong = append(wrong, fmt.Errorf("%q in the schedule is no cron expression: %s", clean, example))
		default:
			// One that is valid in its form can still name a day that there is not.
			if _, err := gronx.NextTickAfter(clean, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), false); err != nil {
				wrong = append(wrong, fmt.Errorf("%q in the schedule never comes: %s", clean, example))
				continue
			}
			all = append(all, clean)
		}
	}
	return all, errors.Join(wrong...)
}

// next returns the first time after t by the clock of t's location; the zero time where
// there is none.
//
// A time that the clock skips, as it does once a year, is when it skips it. One that it
// shows twice comes once, at first.
func (s schedule) next(t time.Time) (first time.Time) {
	for _, e := range s {
		if next := nextOf(e, t); !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}

// nextOf is next for one expression.
func nextOf(expression string, t time.Time) time.Time {
	at := t.Round(0) // the clock on the wall is what counts
	// What the clock shows, as if it were never put forward or back.
	shown := time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
	// The clock is put back by an hour or two: so many minutes are tried at most.
	const most = 24 * 60
	for range most {
		next, err := gronx.NextTickAfter(expression, shown, false)
		if err != nil {
			return time.Time{}
		}
		if real := atWall(next, at.Location()); real.After(at) {
			return real
		}
		shown = next // it was shown before, and is now again
	}
	return time.Time{}
}

// atWall returns when the clock of a location first shows what wall, in UTC, is.
func atWall(wall time.Time, at *time.Location) time.Time {
	real := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, at)
	begin, end := real.ZoneBounds()
	shown := time.Date(real.Year(), real.Month(), real.Day(), real.Hour(), real.Minute(), real.Second(), 0, time.UTC)
	if !shown.Equal(wall) {
		// It is skipped: real is an hour before or after it, be it on another day.
		if shown.After(wall) {
			return begin
		}
		return end
	}
	if !begin.IsZero() {
		// Before the clock was put back it may have shown the same.
		_, offset := real.Zone()
		_, before := begin.Add(-1).Zone()
		if earlier := real.Add(time.Duration(offset-before) * time.Second); earlier.Before(begin) && before > offset {
			return earlier
		}
	}
	return real
}
