package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/e2e/bench/internal/report"
)

func TestKeep(t *testing.T) {
	const hand = "\n## By hand\n\ntext\n"
	for _, c := range []struct{ name, old, want string }{
		{"new", "", "Nothing was looked into yet."},
		{"kept", "head\n" + keepBegin + hand + keepEnd + "\n", keepBegin + hand + keepEnd},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := keep(c.old)
			if err != nil || !strings.Contains(got, c.want) {
				t.Errorf("got %q, %v; want %q in it", got, err, c.want)
			}
			if again, err := keep(got); err != nil || again != got {
				t.Errorf("kept once more it is %q, %v; want %q", again, err, got)
			}
		})
	}
	for name, old := range map[string]string{
		"no end": keepBegin + hand, "no begin": hand + keepEnd, "the wrong way round": keepEnd + hand + keepBegin,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := keep(old); err == nil {
				t.Errorf("got %q, want an error: it would be lost", got)
			}
		})
	}
}

func TestPaper(t *testing.T) {
	b := &bench{table: report.Table{Servers: []string{module, stock}, Ours: module, Theirs: stock}}
	b.table.Add(
		report.Row{Scenario: "pull", Metric: "s", Better: report.Lower, Samples: report.Samples{module: {2}, stock: {1}}},
		report.Row{Scenario: "pull", Metric: "ratio", Samples: report.Samples{module: {2}}, Bar: atMost(1)},
	)
	b.about = []string{"pull: somebody pulls."}
	b.failures = []error{errors.New("zot: it does not build\nfor many reasons")}
	path := filepath.Join(t.TempDir(), "performance.md")
	const hand = keepBegin + "\nby hand\n" + keepEnd
	if err := os.WriteFile(path, []byte("old\n"+hand+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var last string
	for range 2 {
		if err := b.writePaper(path, "one day"); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		for _, want := range []string{
			hand, "| date | one day |", "| pull     | s      |", "- short of its bar: pull, ratio: 2, bar ≤ 1",
			"- worse than stock: pull, s: 2, stock 1", "- pull: somebody pulls.", "- zot: it does not build\n", "`warm-blob`",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
		if strings.Contains(text, "for many reasons") || strings.HasPrefix(text, "old") {
			t.Errorf("too much is in\n%s", text)
		}
		if last != "" && text != last {
			t.Error("made twice, it is not the same")
		}
		last = text
	}
}

func TestTakeUp(t *testing.T) {
	b := &bench{}
	dir := t.TempDir()
	path := filepath.Join(dir, "earlier.json")
	if err := os.WriteFile(path, []byte(`{"about": ["a"], "servers": ["module"], "rows": [{"scenario": "s", "metric": "m", "samples": {"module": [1, 3]}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.takeUp(path); err != nil {
		t.Fatal(err)
	}
	if v, ok := b.table.Rows[0].Value(module); !ok || v != 2 || len(b.about) != 1 {
		t.Errorf("got %+v, %v", b.table.Rows, b.about)
	}
	bad := filepath.Join(dir, "bad.json")
	for _, content := range []string{"", "{}", "no JSON"} {
		if err := os.WriteFile(bad, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := b.takeUp(bad); err == nil {
			t.Errorf("%q is taken for a run", content)
		}
	}
}

func TestField(t *testing.T) {
	if got := field("processor\t: 0\nmodel name\t: Some CPU: 2 GHz\n", "model name"); got != "Some CPU: 2 GHz" {
		t.Errorf("got %q", got)
	}
	if got := field("a: b\n", "c"); got != "" {
		t.Errorf("got %q of what is not there", got)
	}
}
