package report

import (
	"encoding/json"
	"fmt"
	"time"
)

// Status is what came of a check.
type Status string

// From good to bad, but for Skipped.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
	// Skipped means that nothing was found out, because something else has failed
	// before or because there is nothing to look at.
	Skipped Status = "skipped"
)

// Finding is what came of one step. It has no secrets.
type Finding struct {
	// Step names the step, and stays the same from version to version.
	Step   string `json:"step"`
	Status Status `json:"status"`
	// Text says what was found, on one line.
	Text string `json:"text"`
	// Advice says what to do. It is there for all that has failed.
	Advice string `json:"advice,omitempty"`
	// Took is how long the step took.
	Took time.Duration `json:"-"`
}

// MarshalJSON implements [json.Marshaler]. The duration is in milliseconds.
func (f Finding) MarshalJSON() ([]byte, error) {
	type fields Finding
	return json.Marshal(struct {
		fields
		TookMs float64 `json:"tookMs"`
	}{fields(f), float64(f.Took.Microseconds()) / 1000})
}

// Passed is for what is in order. Like the ones below, it names no step: [Steps.Do] does.
func Passed(format string, args ...any) Finding {
	return Finding{Status: OK, Text: fmt.Sprintf(format, args...)}
}

// Skip is for what was not found out.
func Skip(format string, args ...any) Finding {
	return Finding{Status: Skipped, Text: fmt.Sprintf(format, args...)}
}

// Warn is for what works, but should not be so.
func Warn(advice, format string, args ...any) Finding {
	return Finding{Status: Warning, Text: fmt.Sprintf(format, args...), Advice: advice}
}

// Fail is for what does not work.
func Fail(advice, format string, args ...any) Finding {
	return Finding{Status: Failed, Text: fmt.Sprintf(format, args...), Advice: advice}
}

// Worst is the worst status of findings: Failed, Warning or OK.
func Worst(findings []Finding) Status {
	worst := OK
	for _, f := range findings {
		switch f.Status {
		case Failed:
			return Failed
		case Warning:
			worst = Warning
		}
	}
	return worst
}
