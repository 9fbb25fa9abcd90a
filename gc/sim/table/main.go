// Command table prints the tables of docs/eviction.md: byte hit ratios of
// policies of eviction, in generated traces.
package main

import (
	"flag"
	"fmt"
	"strings"

	"registry-module/gc/sim"
)

func main() {
	pulls := flag.Int("pulls", 8000, "pulls of each trace")
	seeds := flag.Uint64("seeds", 3, "how many traces of each kind the figures are a mean of")
	flag.Parse()

	traces := columns{
		{"LRU by file", func(t sim.Trace, limit int64) int64 { return sim.ByBlob(t, limit, sim.LRU()) }},
		byImage(sim.LRU()),
		byImage(sim.Untold()),
		byImage(sim.Chosen()),
		{"Belady", sim.Belady},
		{"bound", sim.Bound},
	}
	fmt.Println("Byte hit ratio in percent (and upstream bytes in GB).")
	fmt.Println()
	traces.header("trace", "limit")
	for _, o := range sim.Traces(*pulls) {
		parts := []float64{0.05, 0.1, 0.2, 0.4}
		if o.Loop {
			parts = []float64{0.4, 0.9}
		}
		for _, part := range parts {
			fmt.Printf("| %s | %.0f %% |", o.Name, 100*part)
			for _, c := range traces {
				ratio, upstream := mean(o, part, *seeds, c.run)
				fmt.Printf(" %.1f (%.0f) |", ratio, upstream/1e9)
			}
			fmt.Println()
		}
	}

	fmt.Println()
	fmt.Println("Byte hit ratio in percent: the mixed trace, and Zipf 1.2.")
	fmt.Println()
	fmt.Println("| policy | mixed 5 % | 10 % | 20 % | 40 % | Zipf 5 % | 10 % | 20 % | 40 % |")
	fmt.Println(strings.Repeat("| --- ", 9) + "|")
	tried := columns{traces[0], {"chosen, by file", func(t sim.Trace, limit int64) int64 { return sim.ByBlob(t, limit, sim.Untold()) }}}
	for _, p := range sim.Candidates() {
		tried = append(tried, byImage(p))
	}
	for _, c := range append(tried, traces[4:]...) {
		fmt.Printf("| %s |", c.name)
		for _, o := range []sim.Options{sim.Mixed(*pulls), sim.Traces(*pulls)[3]} {
			for _, part := range []float64{0.05, 0.1, 0.2, 0.4} {
				ratio, _ := mean(o, part, *seeds, c.run)
				fmt.Printf(" %.1f |", ratio)
			}
		}
		fmt.Println()
	}
}

// column is one way to cache.
type column struct {
	name string
	run  func(t sim.Trace, limit int64) (upstream int64)
}

type columns []column

func byImage(p sim.Policy) column {
	return column{p.Name, func(t sim.Trace, limit int64) int64 { return sim.ByImage(t, limit, p) }}
}

func (c columns) header(first ...string) {
	names := first
	for _, column := range c {
		names = append(names, column.name)
	}
	fmt.Println("| " + strings.Join(names, " | ") + " |")
	fmt.Println(strings.Repeat("| --- ", len(names)) + "|")
}

// mean returns the mean of byte hit ratios, in percent, and of upstream bytes.
func mean(o sim.Options, part float64, seeds uint64, run func(sim.Trace, int64) int64) (ratio, upstream float64) {
	for seed := range seeds {
		t := sim.Generate(o, seed+1)
		bytes := float64(run(t, int64(part*float64(t.Footprint()))))
		ratio += 100 * (1 - bytes/float64(t.Requested())) / float64(seeds)
		upstream += bytes / float64(seeds)
	}
	return ratio, upstream
}
