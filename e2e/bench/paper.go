package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/template"

	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/lab"
)

//go:embed performance.md.tmpl
var paperText string

// What is written by hand in the document stands between these.
const (
	keepBegin = "<!-- written by hand: from here -->"
	keepEnd   = "<!-- written by hand: to here -->"
)

// paper is what the template of the document gets.
type paper struct {
	Quick                         bool
	Machine                       []fact
	Busy                          float64 // 0: it was not
	Stock, Zot, Names             string
	Table                         string
	Met, Missed, NotMeasured      int
	Ahead, Even, Behind           int
	Short, Worse, Failures, About []string
	Kept                          string
}

// fact is something about the machine.
type fact struct{ Name, Value string }

// writePaper makes the document at path anew. What is written by hand in the one that is
// there stays. Date is what it says of when it was; empty is nothing.
func (b *bench) writePaper(path, date string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the document: %w", err)
	}
	kept, err := keep(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text, err := b.paper(date, kept)
	if err != nil {
		return fmt.Errorf("writing the document: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the document: %w", err)
	}
	return nil
}

// keep returns the part of a document that is written by hand, with its marks. One that
// has no marks has no such part.
func keep(old string) (string, error) {
	_, rest, begun := strings.Cut(old, keepBegin)
	inner, _, ended := strings.Cut(rest, keepEnd)
	switch {
	case !begun && !strings.Contains(old, keepEnd):
		return keepBegin + "\n## What falls short, and why\n\nNothing was looked into yet.\n" + keepEnd, nil
	case !begun || !ended:
		return "", fmt.Errorf("one of the marks %q and %q is missing: what is between them is to stay", keepBegin, keepEnd)
	}
	return keepBegin + inner + keepEnd, nil
}

// paper is the text of the document.
func (b *bench) paper(date, kept string) (string, error) {
	t, err := template.New("performance.md").Parse(paperText)
	if err != nil {
		return "", err
	}
	var names []string
	for _, s := range scenarios() {
		names = append(names, "`"+s.name+"`")
	}
	p := paper{
		Quick: b.quick, Machine: machine(date), Stock: lab.StockRegistry().Version, Zot: zotVersion,
		Names: strings.Join(names, ", "),
		Met:   b.table.Count(report.Met), Missed: b.table.Count(report.Missed), NotMeasured: b.table.Count(report.NotMeasured),
		Ahead: b.table.Compared(report.Ahead), Even: b.table.Compared(report.Even), Behind: b.table.Compared(report.Behind),
		About: b.about, Kept: kept,
	}
	if b.busy > 1 {
		p.Busy = b.busy
	}
	for _, r := range b.table.Rows {
		ours, _ := r.Value(module)
		if r.Verdict() == report.Missed {
			p.Short = append(p.Short, fmt.Sprintf("%s, %s: %s, bar %s", r.Scenario, r.Metric, report.Format(ours), r.Bar))
		}
		if r.Against(module, stock) == report.Behind {
			theirs, _ := r.Value(stock)
			p.Worse = append(p.Worse, fmt.Sprintf("%s, %s: %s, stock %s", r.Scenario, r.Metric, report.Format(ours), report.Format(theirs)))
		}
	}
	for _, err := range b.failures {
		first, _, _ := strings.Cut(err.Error(), "\n")
		p.Failures = append(p.Failures, first)
	}
	var table, text strings.Builder
	if err := b.table.Markdown(&table); err != nil {
		return "", err
	}
	p.Table = table.String()
	if err := t.Execute(&text, p); err != nil {
		return "", err
	}
	return text.String(), nil
}

// machine is what the figures depend on. What cannot be found out is left out.
func machine(date string) (facts []fact) {
	add := func(name, value string) {
		if value = strings.TrimSpace(value); value != "" {
			facts = append(facts, fact{name, value})
		}
	}
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	memory, _ := os.ReadFile("/proc/meminfo")
	add("processor", field(string(cpus), "model name"))
	add("processors", fmt.Sprintf("%d, all used by servers, clients and upstream together", runtime.NumCPU()))
	add("memory", field(string(memory), "MemTotal"))
	add("system", fmt.Sprintf("%s/%s, kernel %s", runtime.GOOS, runtime.GOARCH, kernel()))
	add("Go", runtime.Version())
	for _, program := range []struct{ name, flag string }{{"nginx", "-v"}, {"wrk", "-v"}} {
		out, _ := exec.Command(program.name, program.flag).CombinedOutput() // wrk -v ends with an error
		first, _, _ := strings.Cut(string(out), "\n")
		first, _, _ = strings.Cut(first, " [")
		add(program.name, strings.TrimPrefix(strings.TrimPrefix(first, "nginx version: "), "wrk "))
	}
	add("date", date)
	return facts
}

// field is the value of the first line "name: value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func kernel() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return cmp.Or(strings.TrimSpace(string(release)), "unknown")
}

// saved is a run for other programs to read, and for a later run to take up.
type saved struct {
	Quick bool     `json:"quick"`
	CPUs  int      `json:"cpus"`
	About []string `json:"about"`
	report.Table
}

// takeUp appends the rows of an earlier run.
func (b *bench) takeUp(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("-with: %w", err)
	}
	var earlier saved
	if err := json.Unmarshal(raw, &earlier); err != nil {
		return fmt.Errorf("-with: %s is not what -json writes: %w", path, err)
	}
	if len(earlier.Rows) == 0 {
		return fmt.Errorf("-with: %s has no rows", path)
	}
	b.quick = b.quick || earlier.Quick
	b.table.Add(earlier.Rows...)
	b.about = append(b.about, earlier.About...)
	return nil
}
