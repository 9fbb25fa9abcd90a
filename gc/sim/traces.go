package sim

// Traces returns the options of all traces, with so many pulls each.
func Traces(pulls int) []Options {
	zipf := func(name string, alpha float64) Options {
		return Options{Name: name, Pulls: pulls, Repos: 400, Clients: 30, Local: 30, Alpha: alpha, Release: 0.05}
	}
	scan := zipf("scan", 0.8)
	scan.Scan = 0.3
	return []Options{
		zipf("Zipf 0.6", 0.6), zipf("Zipf 0.8", 0.8), zipf("Zipf 1.0", 1), zipf("Zipf 1.2", 1.2),
		scan,
		Mixed(pulls),
		{Name: "loop", Pulls: pulls, Repos: 400, Loop: true},
	}
}

// Mixed returns the options of the trace by which policies are judged.
func Mixed(pulls int) Options {
	return Options{
		Name: "mixed", Pulls: pulls, Repos: 400, Clients: 30, Local: 30, Alpha: 0.8, Release: 0.05,
		Scan: 0.25, Drift: 0.02, Shift: true,
	}
}
