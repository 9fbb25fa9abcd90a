package report

import (
	"context"
	"time"
)

// DefaultTimeout is how long a step may take where nobody says.
const DefaultTimeout = 10 * time.Second

// graceTime is how long a step has at least to say that its time is over.
const graceTime = 250 * time.Millisecond

// Steps are checks that are done one after the other, each in a goroutine of its own
// and in time. The zero value is none yet. It is used by one goroutine.
type Steps struct {
	// Timeout bounds each step. Default: [DefaultTimeout].
	Timeout time.Duration
	// Findings are those of the steps so far.
	Findings []Finding
	// Blocked tells that something has failed, so that nothing more is tried.
	Blocked bool
	// Left tells that a step was left behind. What it may still change is not to be
	// looked at.
	Left bool
}

// Limit is how long a step may take.
func (s *Steps) Limit() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return DefaultTimeout
}

// Do does one step and takes down what came of it. The context of check ends a little
// before the time is over, so that it can say what it was waiting for.
func (s *Steps) Do(ctx context.Context, name string, check func(context.Context) Finding) {
	f := Skip("not tried")
	switch {
	case ctx.Err() != nil:
		f = Skip("interrupted")
	case !s.Blocked:
		start := time.Now()
		f = s.inTime(ctx, check)
		if f.Took == 0 {
			f.Took = time.Since(start)
		}
		if ctx.Err() != nil {
			f = Skip("interrupted")
		}
	}
	f.Step = name
	s.Blocked = s.Blocked || f.Status == Failed
	s.Findings = append(s.Findings, f)
}

// inTime returns what comes of check within the time for a step. Who does not heed the
// context, as reading a file may not, is left behind.
func (s *Steps) inTime(ctx context.Context, check func(context.Context) Finding) Finding {
	limit := s.Limit()
	limited, cancel := context.WithTimeout(ctx, limit-max(limit/16, min(limit/2, graceTime)))
	defer cancel()
	found := make(chan Finding, 1)
	go func() { found <- check(limited) }()
	over := time.NewTimer(limit)
	defer over.Stop()
	select {
	case f := <-found:
		return f
	case <-over.C:
		s.Left = true
		return Fail("Look for a file system that hangs (mount, dmesg), or for a file that is a pipe; or try again with a larger --timeout.",
			"this has not ended within %s, and was left behind: most likely a file cannot be read", limit)
	}
}
