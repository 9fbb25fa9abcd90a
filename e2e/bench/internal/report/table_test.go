package report

import (
	"math"
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 50: "50", 1.05: "1.05", 1.054: "1.05", 2.5: "2.50", 0.9: "0.90", 0.33: "0.33",
		12.34: "12.3", 123.4: "123", 54063.2: "54063", 0.0203: "0.0203", -5.314: "-5.31",
	} {
		if got := Format(v); got != want {
			t.Errorf("Format(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	most := &Bar{Server: "ours", Limit: 1.2}
	least := &Bar{Server: "ours", AtLeast: true, Limit: 0.9}
	for _, c := range []struct {
		name   string
		bar    *Bar
		sample float64
		want   Verdict
	}{
		{"no bar", nil, 7, ""},
		{"under the most", most, 1.1, Met},
		{"at the most", most, 1.2, Met},
		{"shown as the most", most, 1.204, Met},
		{"over the most", most, 1.21, Missed},
		{"over the least", least, 1.5, Met},
		{"at the least", least, 0.9, Met},
		{"under the least", least, 0.89, Missed},
		{"nothing at all", &Bar{Server: "ours"}, 0, Met},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Row{Bar: c.bar}
			r.Add("ours", c.sample)
			r.Add("theirs", 1000)
			if got := r.Verdict(); got != c.want {
				t.Errorf("verdict on %v with bar %v is %q, want %q", c.sample, c.bar, got, c.want)
			}
		})
	}
	t.Run("once is too often", func(t *testing.T) {
		r := Row{Bar: &Bar{Server: "ours"}, Worst: true}
		for _, v := range []float64{0, 1, 0} {
			r.Add("ours", v)
		}
		if got := r.Verdict(); got != Missed {
			t.Errorf("verdict is %q, want %q", got, Missed)
		}
	})
	t.Run("no number", func(t *testing.T) {
		r := Row{Bar: most}
		r.Add("ours", math.NaN())
		r.Add("ours", math.Inf(1))
		if got := r.Verdict(); got != NotMeasured {
			t.Errorf("verdict is %q, want %q", got, NotMeasured)
		}
	})
	t.Run("not measured", func(t *testing.T) {
		r := Row{Bar: most}
		r.Add("theirs", 1)
		if got := r.Verdict(); got != NotMeasured {
			t.Errorf("verdict is %q, want %q", got, NotMeasured)
		}
	})
}

func TestDerivedRows(t *testing.T) {
	r := Row{Scenario: "s", Metric: "m"}
	for _, v := range []float64{10, 20} {
		r.Add("ours", 2*v)
		r.Add("theirs", v)
	}
	bar := &Bar{Server: "ours", Limit: 3}
	ratio := r.Ratio("ratio", "theirs", bar)
	if got := Median(ratio.Samples["ours"]); got != 2 || ratio.Scenario != "s" || ratio.Metric != "ratio" || ratio.Bar != bar {
		t.Errorf("ratio row is %+v, want ours at 2", ratio)
	}
	difference := r.Difference("difference", "theirs", nil)
	if got := Median(difference.Samples["ours"]); got != 15 {
		t.Errorf("difference row is %+v, want ours at 15", difference)
	}
	if none := r.Ratio("ratio", "absent", nil); len(none.Samples) != 0 {
		t.Errorf("ratios to what was not measured are %v, want none", none.Samples)
	}
}

func TestMarkdown(t *testing.T) {
	table := Table{Servers: []string{"ours", "theirs"}}
	table.Add(
		Row{Scenario: "pull", Metric: "s", Samples: Samples{"ours": {3, 1, 2}}},
		Row{Scenario: "pull", Metric: "≤ bar", Samples: Samples{"ours": {2}, "theirs": {1}}, Bar: &Bar{Server: "ours", Limit: 1}},
		Row{Scenario: "idle", Metric: "MiB", Samples: Samples{"theirs": {45}}, Bar: &Bar{Server: "ours", Limit: 30}},
	)
	var out strings.Builder
	if err := table.Markdown(&out); err != nil {
		t.Fatal(err)
	}
	const want = `| scenario | metric | ours | theirs | bar  | verdict      |
| -------- | ------ | ---- | ------ | ---- | ------------ |
| pull     | s      | 2    | -      |      |              |
|          | ≤ bar  | 2    | 1      | ≤ 1  | MISSED       |
| idle     | MiB    | -    | 45     | ≤ 30 | not measured |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if n := table.Count(Missed); n != 1 {
		t.Errorf("%d missed, want 1", n)
	}
}

func TestAgainst(t *testing.T) {
	for _, c := range []struct {
		name         string
		better       Better
		ours, theirs []float64
		want         Comparison
	}{
		{"less where that is better", Lower, []float64{1}, []float64{2}, Ahead},
		{"more where less is better", Lower, []float64{3}, []float64{2}, Behind},
		{"more where that is better", Higher, []float64{3}, []float64{2}, Ahead},
		{"less where more is better", Higher, []float64{1}, []float64{2}, Behind},
		{"as good as the same", Lower, []float64{104}, []float64{100}, Even},
		{"both nothing", Lower, []float64{0}, []float64{0}, Even},
		{"nothing to compare with", Lower, []float64{1}, nil, Unknown},
		{"nothing of ours", Lower, nil, []float64{1}, Unknown},
		{"neither is better", "", []float64{1}, []float64{2}, Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Row{Better: c.better, Samples: Samples{"ours": c.ours, "theirs": c.theirs}}
			if got := r.Against("ours", "theirs"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestMarkdownCompares(t *testing.T) {
	table := Table{Servers: []string{"ours", "theirs"}, Ours: "ours", Theirs: "theirs"}
	table.Add(
		Row{Scenario: "pull", Metric: "s", Better: Lower, Samples: Samples{"ours": {1}, "theirs": {2}}},
		Row{Scenario: "pull", Metric: "GB/s", Better: Higher, Samples: Samples{"ours": {1}, "theirs": {2}}},
		Row{Scenario: "idle", Metric: "MiB", Samples: Samples{"theirs": {45}}},
	)
	var out strings.Builder
	if err := table.Markdown(&out); err != nil {
		t.Fatal(err)
	}
	const want = `| scenario | metric | ours | theirs | bar | verdict | than theirs |
| -------- | ------ | ---- | ------ | --- | ------- | ----------- |
| pull     | s      | 1    | 2      |     |         | better      |
|          | GB/s   | 1    | 2      |     |         | WORSE       |
| idle     | MiB    | -    | 45     |     |         |             |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if table.Compared(Ahead) != 1 || table.Compared(Behind) != 1 || table.Compared(Even) != 0 {
		t.Errorf("%d ahead, %d behind, %d even", table.Compared(Ahead), table.Compared(Behind), table.Compared(Even))
	}
}
