package report_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/doctor/report"
)

func statuses(findings []report.Finding) string {
	var texts []string
	for _, f := range findings {
		texts = append(texts, f.Step+" "+string(f.Status))
	}
	return strings.Join(texts, ", ")
}

func passes(context.Context) report.Finding { return report.Passed("fine") }

// What has failed keeps the steps behind it from being tried.
func TestSteps(t *testing.T) {
	var steps report.Steps
	steps.Do(t.Context(), "a", passes)
	steps.Do(t.Context(), "b", func(context.Context) report.Finding { return report.Warn("mend it", "so so") })
	steps.Do(t.Context(), "c", func(context.Context) report.Finding { return report.Fail("mend it", "bad") })
	steps.Do(t.Context(), "d", func(context.Context) report.Finding {
		t.Error("it was tried")
		return report.Finding{}
	})
	steps.Blocked = false
	steps.Do(t.Context(), "e", passes)
	ctx, cancel := context.WithCancel(t.Context())
	steps.Do(ctx, "f", func(context.Context) report.Finding {
		cancel()
		return report.Fail("mend it", "not done")
	})
	steps.Do(ctx, "g", passes)
	const want = "a ok, b warning, c failed, d skipped, e ok, f skipped, g skipped"
	if got := statuses(steps.Findings); got != want || steps.Blocked || steps.Left {
		t.Errorf("%s, want %s: %+v", got, want, steps)
	}
	if f := steps.Findings[5]; f.Text != "interrupted" {
		t.Errorf("%+v", f)
	}
}

// A step ends in time, whether or not it heeds that its time is over.
func TestStepsEndInTime(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Second, 100 * time.Millisecond, time.Millisecond, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			steps := report.Steps{Timeout: limit}
			began := time.Now()
			steps.Do(t.Context(), "heeds", func(ctx context.Context) report.Finding {
				<-ctx.Done()
				return report.Fail("try again", "it does not answer")
			})
			took := time.Since(began)
			if f := steps.Findings[0]; f.Text != "it does not answer" || took >= steps.Limit() || took < steps.Limit()/2 || f.Took != took || steps.Left {
				t.Errorf("took %v of %v: %+v", took, steps.Limit(), steps)
			}
			steps.Blocked = false
			end := make(chan struct{})
			defer close(end)
			began = time.Now()
			steps.Do(t.Context(), "hangs", func(context.Context) report.Finding {
				<-end
				return report.Passed("late")
			})
			f := steps.Findings[1]
			if f.Status != report.Failed || !strings.Contains(f.Text, "within "+steps.Limit().String()) || !strings.Contains(f.Advice, "--timeout") {
				t.Errorf("%+v", f)
			}
			if took := time.Since(began); took != steps.Limit() || !steps.Left || !steps.Blocked {
				t.Errorf("took %v: %+v", took, steps)
			}
		})
	}
	if got := (&report.Steps{}).Limit(); got != report.DefaultTimeout {
		t.Errorf("%v", got)
	}
}
