package doctor

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"registry-module/doctor/report"
)

const (
	// clockSloppy is a difference of clocks that is worth a warning, clockBroken one
	// by which certificates and tokens are refused: many services give tokens that
	// are valid for five minutes.
	clockSloppy = time.Minute
	clockBroken = 5 * time.Minute
)

// reading is a comparison of two clocks.
type reading struct {
	// here and there are the times of this machine and of a server, at one moment.
	here, there time.Time
}

// ahead is by how much this machine is ahead.
func (r *reading) ahead() time.Duration { return r.here.Sub(r.there) }

func (r *reading) wrong() bool { return r.ahead().Abs() > clockBroken }

// noteDate takes down what time the registry says it is, in its first answer that
// does. sent and came bound when it has written its answer.
func (e *examination) noteDate(header http.Header, sent, came time.Time) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil || e.date != nil {
		return
	}
	// A cache in between says for how long it has kept the answer (RFC 9111, section
	// 5.1).
	if age, err := strconv.ParseInt(header.Get("Age"), 10, 32); err == nil && age > 0 {
		date = date.Add(time.Duration(age) * time.Second)
	}
	// Our clock is read now, as of the middle of the exchange; theirs has no
	// fractions of seconds.
	here := e.now().Add(-time.Since(sent)/2 - time.Since(came)/2)
	e.date = &reading{here: here, there: date.Add(500 * time.Millisecond)}
}

// clocks is the comparison with the registry's clock, nil where there is none.
func (e *examination) clocks() *reading {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.date
}

// clock compares the clock of this machine with the registry's.
func (e *examination) clock(context.Context) report.Finding {
	date := e.clocks()
	if date == nil {
		return report.Skip("the registry does not say what time it is")
	}
	ahead := date.ahead()
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	advice := "Set the clock of this machine, and keep it by NTP (timedatectl set-ntp true; of a virtual machine: on its host)."
	if !e.clockWrong {
		advice += " If it is right, it is the registry's that is wrong: tell its operator."
	}
	text := "the clock of this machine is " + report.Roughly(ahead) + " " + direction + " the registry's"
	detail := fmt.Sprintf("%s (here %s, there %s)", text, report.Minute(date.here), report.Minute(date.there))
	switch {
	case date.wrong() && e.r.URL.Scheme == "http":
		return report.Warn(advice, "%s: nothing here depends on that, for the registry has no certificate", detail)
	case date.wrong():
		return report.Fail(advice, "%s: certificates and tokens seem expired, or not valid yet", detail)
	case ahead.Abs() > clockSloppy:
		return report.Warn(advice, "%s", text)
	case ahead.Abs() < 2*time.Second:
		return report.Passed("agrees with the registry's")
	default:
		return report.Passed("%s", text)
	}
}
