package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Samples holds what was measured, one value for each repetition, by the name
// of the server that was measured.
type Samples map[string][]float64

// Row is one line of a [Table].
type Row struct {
	// Scenario is what was done, Metric what was measured, with its unit.
	Scenario string  `json:"scenario"`
	Metric   string  `json:"metric"`
	Samples  Samples `json:"samples"`
	// Worst tells that a row's value is the largest sample and not the median:
	// for what must not happen even once.
	Worst bool `json:"worst,omitempty"`
	// Better tells which values are the better ones, for [Row.Against].
	Better Better `json:"better,omitempty"`
	// Bar is what is asked of one server, or nil.
	Bar *Bar `json:"bar,omitempty"`
}

// Better is the direction in which values get better.
type Better string

// The directions. The zero value is neither.
const (
	Lower  Better = "lower"
	Higher Better = "higher"
)

// Value is the one number that stands for the samples of a server; ok is false
// where there are none.
func (r Row) Value(server string) (v float64, ok bool) {
	samples := r.Samples[server]
	if len(samples) == 0 {
		return 0, false
	}
	if r.Worst {
		return slices.Max(samples), true
	}
	return Median(samples), true
}

// Bar is a limit for the value of one server.
type Bar struct {
	// Server is the name of the server that it is for.
	Server string `json:"server"`
	// AtLeast tells that Limit is the least, not the most, that is good.
	AtLeast bool    `json:"atLeast,omitempty"`
	Limit   float64 `json:"limit"`
}

// Verdict is the outcome of a [Bar].
type Verdict string

// The verdicts.
const (
	Met         Verdict = "met"
	Missed      Verdict = "MISSED"
	NotMeasured Verdict = "not measured"
)

// Comparison is how one server does against another.
type Comparison string

// The comparisons. Unknown is that of a row in which one of them has no value, or in
// which no value is better than another.
const (
	Unknown Comparison = ""
	Ahead   Comparison = "better"
	Even    Comparison = "even"
	Behind  Comparison = "WORSE"
)

// noise is by which part two values differ that are taken for the same: what two runs of
// the same program differ by.
const noise = 0.05

// Against compares a server with another one, by what [Row.Better] says.
func (r Row) Against(server, other string) Comparison {
	v, ok1 := r.Value(server)
	o, ok2 := r.Value(other)
	if !ok1 || !ok2 || r.Better == "" {
		return Unknown
	}
	switch difference := v - o; {
	case math.Abs(difference) <= noise*math.Max(math.Abs(v), math.Abs(o)):
		return Even
	case (difference < 0) == (r.Better == Lower):
		return Ahead
	}
	return Behind
}

// Add appends a sample of a server. What is not a number, as a ratio to nothing,
// is no sample.
func (r *Row) Add(server string, sample float64) {
	if math.IsNaN(sample) || math.IsInf(sample, 0) {
		return
	}
	if r.Samples == nil {
		r.Samples = Samples{}
	}
	r.Samples[server] = append(r.Samples[server], sample)
}

// Verdict compares the value with the bar. Values are compared as they are
// shown, so that the table does not contradict itself. A row without a bar has
// the empty verdict.
func (r Row) Verdict() Verdict {
	if r.Bar == nil {
		return ""
	}
	v, ok := r.Value(r.Bar.Server)
	if !ok {
		return NotMeasured
	}
	v = round(v)
	if v == r.Bar.Limit || (v > r.Bar.Limit) == r.Bar.AtLeast {
		return Met
	}
	return Missed
}

// String is the bar in a few characters.
func (b *Bar) String() string {
	if b == nil {
		return ""
	}
	if b.AtLeast {
		return "≥ " + Format(b.Limit)
	}
	return "≤ " + Format(b.Limit)
}

// Ratio makes the row of the samples relative to those of base.
func (r Row) Ratio(metric, base string, bar *Bar) Row {
	return r.derive(metric, bar, func(s []float64) []float64 { return Ratios(s, r.Samples[base]) })
}

// Difference makes the row of the samples less those of base.
func (r Row) Difference(metric, base string, bar *Bar) Row {
	return r.derive(metric, bar, func(s []float64) []float64 { return Differences(s, r.Samples[base]) })
}

func (r Row) derive(metric string, bar *Bar, f func([]float64) []float64) Row {
	d := Row{Scenario: r.Scenario, Metric: metric, Samples: Samples{}, Bar: bar}
	for server, samples := range r.Samples {
		if v := f(samples); len(v) > 0 {
			d.Samples[server] = v
		}
	}
	return d
}

// Table is the outcome of a benchmark.
type Table struct {
	// Servers are the columns, in order.
	Servers []string `json:"servers"`
	// Ours and Theirs are the servers that the last column compares; empty is no such
	// column.
	Ours   string `json:"ours,omitempty"`
	Theirs string `json:"theirs,omitempty"`
	Rows   []Row  `json:"rows"`
}

// Add appends rows.
func (t *Table) Add(rows ...Row) { t.Rows = append(t.Rows, rows...) }

// Count counts the rows with that verdict.
func (t *Table) Count(v Verdict) int {
	n := 0
	for _, r := range t.Rows {
		if r.Verdict() == v {
			n++
		}
	}
	return n
}

// Compared counts the rows that compare so.
func (t *Table) Compared(c Comparison) int {
	n := 0
	for _, r := range t.Rows {
		if r.Against(t.Ours, t.Theirs) == c {
			n++
		}
	}
	return n
}

// Markdown writes the table with its values, aligned, so that it is readable
// as plain text too.
func (t *Table) Markdown(w io.Writer) error {
	head := slices.Concat([]string{"scenario", "metric"}, t.Servers, []string{"bar", "verdict"})
	if t.Theirs != "" {
		head = append(head, "than "+t.Theirs)
	}
	cells := [][]string{head}
	previous := ""
	for _, r := range t.Rows {
		line := []string{r.Scenario, r.Metric}
		if r.Scenario == previous {
			line[0] = "" // said above
		}
		previous = r.Scenario
		for _, s := range t.Servers {
			line = append(line, r.cell(s))
		}
		line = append(line, r.Bar.String(), string(r.Verdict()))
		if t.Theirs != "" {
			line = append(line, string(r.Against(t.Ours, t.Theirs)))
		}
		cells = append(cells, line)
	}
	widths := make([]int, len(head))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = strings.Repeat("-", widths[i])
	}
	for _, line := range slices.Insert(cells, 1, rule) {
		if _, err := io.WriteString(w, join(line, widths)); err != nil {
			return fmt.Errorf("writing the table: %w", err)
		}
	}
	return nil
}

func join(line []string, widths []int) string {
	var b strings.Builder
	for i, c := range line {
		b.WriteString("| " + c + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+1))
	}
	return b.String() + "|\n"
}

func (r Row) cell(server string) string {
	v, ok := r.Value(server)
	if !ok {
		return "-"
	}
	return Format(v)
}

// Format writes v with three significant digits, and whole numbers from 1000
// on.
func Format(v float64) string {
	r := round(v)
	decimals := 0
	switch a := math.Abs(r); {
	case a >= 100 || a == math.Trunc(a):
	case a >= 10:
		decimals = 1
	case a >= 0.1:
		decimals = 2
	default:
		decimals = 4
	}
	return strconv.FormatFloat(r, 'f', decimals, 64)
}

// round keeps what [Format] shows.
func round(v float64) float64 {
	switch a := math.Abs(v); {
	case a >= 100:
		return math.Round(v)
	case a >= 10:
		return math.Round(v*10) / 10
	case a >= 0.1:
		return math.Round(v*100) / 100
	default:
		return math.Round(v*10000) / 10000
	}
}
