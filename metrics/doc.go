// Package metrics has what Prometheus is told: what the stock registry counts, under its
// names, and what a cache and its server do, under registry_module_*.
//
// It promises that labels have few values, never those of clients, repositories, tags or
// digests, and that who does not scrape pays for counting only. docs/metrics.md lists all.
// Of this module it imports cache and server.
package metrics
