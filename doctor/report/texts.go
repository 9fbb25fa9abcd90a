package report

import (
	"fmt"
	"time"
)

// Plural writes a number of things.
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Minute writes a time, to the minute.
func Minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Roughly writes a duration, or how far back it goes, as people do.
func Roughly(d time.Duration) string {
	switch d = d.Abs().Round(time.Second); {
	case d < 2*time.Minute:
		return Plural(int(d/time.Second), "second", "seconds")
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int64(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int64(d/time.Hour))
	default:
		return fmt.Sprintf("%d days", int64(d/(24*time.Hour)))
	}
}
