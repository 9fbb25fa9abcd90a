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
	// Failures are answers other than 2xx and 3xx, and broken connections.
	Failures int
}

// wrk sends requests for d over 16 connections, one after the other on each.
func (b *bench) wrk(ctx context.Context, url, mediaType string, d time.Duration) (wrkResult, error) {
	out, err := lab.Run(ctx, b.dir, nil, b.binaries[wrk],
		"-H", "Accept: "+mediaType, "-t1", "-c16", fmt.Sprintf("-d%.0fs", d.Seconds()), url)
	if err != nil {
		return wrkResult{}, err
	}
	r, err := parseWrk(out)
	if err != nil {
		return wrkResult{}, fmt.Errorf("reading what wrk says of %s: %w\n%s", url, err, out)
	}
	return r, nil
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
	for _, failed := range regexp.MustCompile(`(?:Non-2xx or 3xx responses:|connect|read|write|timeout) (\d+)`).FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(failed[1])
		if err != nil {
			return r, err
		}
		r.Failures += n
	}
	return r, nil
}
