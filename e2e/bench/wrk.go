package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"registry-module/e2e/lab"
)

// wrkResult is what wrk has counted.
type wrkResult struct {
	// Rate is in requests per second.
	Rate float64
	// Requests is how many were answered.
	Requests int
	// Failures are answers other than 2xx and 3xx, and broken connections.
	Failures int
}

// wrk sends requests for d over 16 connections, one after the other on each. CPU is what
// the server has used meanwhile.
func (b *bench) wrk(ctx context.Context, s *server, path, mediaType string, d time.Duration) (r wrkResult, cpu time.Duration, err error) {
	var out string
	cpu, err = s.cpuDuring(func() (err error) {
		out, err = lab.Run(ctx, b.dir, nil, b.binaries[wrk],
			"-H", "Accept: "+mediaType, "-t1", "-c16", fmt.Sprintf("-d%.0fs", d.Seconds()), s.url+path)
		return err
	})
	if err != nil {
		return r, 0, err
	}
	if r, err = parseWrk(out); err != nil {
		return r, 0, fmt.Errorf("reading what wrk says of %s: %w\n%s", path, err, out)
	}
	return r, cpu, nil
}

// parseWrk reads wrk's report.
func parseWrk(out string) (r wrkResult, err error) {
	m := regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		return r, fmt.Errorf("no rate in it")
	}
	if r.Rate, err = strconv.ParseFloat(m[1], 64); err != nil {
		return r, err
	}
	if m = regexp.MustCompile(`(?m)^\s*(\d+) requests in `).FindStringSubmatch(out); m == nil {
		return r, fmt.Errorf("no number of requests in it")
	}
	if r.Requests, err = strconv.Atoi(m[1]); err != nil {
		return r, err
	}
	for _, failed := range regexp.MustCompile(`(?:Non-2xx or 3xx responses:|connect|read|write|timeout) (\d+)`).FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(failed[1])
		if err != nil {
			return r, err
		}
		r.Failures += n
	}
	return r, nil
}
