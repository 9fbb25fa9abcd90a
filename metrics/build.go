package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// NewBuild exports which version of the program runs, as registry_module_build_info, whose
// value is 1. Since when it runs is in process_start_time_seconds of the collector for
// processes.
func NewBuild(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "registry_module_build_info",
		Help:        "Which version runs, and which Go it was built with; always 1.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}
