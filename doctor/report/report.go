package report

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is all that was found. Its form in JSON stays the same from version to
// version, but for what is added.
type Report struct {
	// Status is the worst one of all.
	Status Status `json:"status"`
	// Local is what was found on this machine.
	Local []Finding `json:"local"`
	// Remotes has the remotes that were looked at, in the order of their numbers.
	Remotes []RemoteReport `json:"remotes"`
}

// RemoteReport is what was found for one remote.
type RemoteReport struct {
	Number int       `json:"number"`
	Host   string    `json:"host"`
	Alias  string    `json:"alias,omitempty"`
	Image  string    `json:"image,omitempty"`
	Status Status    `json:"status"`
	Checks []Finding `json:"checks"`
}

// NewReport puts findings together and fills in the statuses.
func NewReport(local []Finding, remotes []RemoteReport) Report {
	r := Report{Status: Worst(local), Local: local, Remotes: make([]RemoteReport, 0, len(remotes))}
	if local == nil {
		r.Local = []Finding{}
	}
	for _, remote := range remotes {
		remote.Status = Worst(remote.Checks)
		r.Remotes = append(r.Remotes, remote)
		if remote.Status == Failed || remote.Status == Warning && r.Status == OK {
			r.Status = remote.Status
		}
	}
	return r
}

// Count tells how many checks have that status.
func (r Report) Count(s Status) int {
	n := 0
	count := func(findings []Finding) {
		for _, f := range findings {
			if f.Status == s {
				n++
			}
		}
	}
	count(r.Local)
	for _, remote := range r.Remotes {
		count(remote.Checks)
	}
	return n
}

// WriteText writes the report for a person to read: one line for each check, with
// a mark, and an indented one with what to do. With ascii it has no other
// characters.
func (r Report) WriteText(w io.Writer, ascii bool) error {
	var b strings.Builder
	for _, remote := range r.Remotes {
		title := fmt.Sprintf("Remote %d: %s", remote.Number, remote.Host)
		if remote.Alias != "" {
			title += " (" + remote.Alias + ")"
		}
		writeSection(&b, title, remote.Checks)
		b.WriteByte('\n')
	}
	writeSection(&b, "This machine", r.Local)
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	text := b.String()
	if ascii {
		text = asciiMarks.Replace(text)
		text = strings.Map(func(c rune) rune {
			if c > '~' {
				return '?'
			}
			return c
		}, text)
	}
	_, err := io.WriteString(w, text)
	return err
}

var asciiMarks = strings.NewReplacer("  ✓ ", "  + ", "  ✗ ", "  x ", "→", "->", "←", "<-", "…", "...")

var marks = map[Status]string{OK: "✓", Warning: "!", Failed: "✗", Skipped: "-"}

func writeSection(b *strings.Builder, title string, findings []Finding) {
	b.WriteString(title + "\n")
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Step))
	}
	for _, f := range findings {
		fmt.Fprintf(b, "  %s %-*s  %s", marks[f.Status], width, f.Step, f.Text)
		if took := readable(f.Took); took != "" {
			fmt.Fprintf(b, " (%s)", took)
		}
		b.WriteByte('\n')
		if f.Advice != "" {
			fmt.Fprintf(b, "    %*s  → %s\n", width, "", f.Advice)
		}
	}
}

// readable writes how long something took, nothing where nobody would notice.
func readable(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return ""
	case d < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%d s", int64(d/time.Second))
	}
}

func (r Report) summary() string {
	failures, warnings := r.Count(Failed), r.Count(Warning)
	if failures == 0 && warnings == 0 {
		return "Everything is in order."
	}
	text := Plural(failures, "check has failed", "checks have failed")
	if failures == 0 {
		text = "Nothing has failed"
	}
	if warnings > 0 {
		text += ", " + Plural(warnings, "warning", "warnings")
	}
	return text + "."
}
