package main

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"strings"
	"time"

	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
)

// idle: what a server needs while nobody asks it anything.
func (b *bench) idle(ctx context.Context) (rows []report.Row, err error) {
	if err := b.upstream.SetShape(ctx, synth.Shape{}); err != nil {
		return nil, err
	}
	b.describe("idle: processes just started, in an empty directory, nobody asks. The memory of nginx counts what its processes share once for each.")
	ready := report.Row{
		Metric: "start to first answer, ms", Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 100},
	}
	rss := report.Row{
		Metric: "RSS 5 s after the start, MiB", Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 30},
	}
	size := report.Row{
		Metric: "stripped binary, MiB", Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 40},
	}
	var running fleet
	defer func() { err = joinStop(err, running) }()
	names := b.available(module, stock, zot, nginxCached)
	repetitions := pick(b, 5, 2)
	for i := range repetitions {
		for _, name := range names {
			settle()
			begin := time.Now()
			s, err := b.start(ctx, name)
			if err != nil {
				b.fail(fmt.Errorf("idle: %w", err))
				continue
			}
			ready.Add(name, time.Since(begin).Seconds()*1000)
			if i == repetitions-1 { // the last ones stay
				running = append(running, s)
			} else if err := s.stop(); err != nil {
				b.fail(fmt.Errorf("idle: %w", err))
			}
		}
	}
	select {
	case <-time.After(5 * time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for _, s := range running {
		u, err := s.usage()
		if err != nil {
			b.fail(fmt.Errorf("idle: %s: %w", s.name, err))
			continue
		}
		rss.Add(s.name, float64(u.RSS)/mib)
		n, err := strippedSize(b.binaries[s.name])
		if err != nil {
			b.fail(fmt.Errorf("idle: %s: %w", s.name, err))
			continue
		}
		size.Add(s.name, float64(n)/mib)
		b.logf("idle: %s: ready after %.0f ms, RSS %d KiB, binary %d KiB", s.name, report.Median(ready.Samples[s.name]), u.RSS>>10, n>>10)
	}
	return []report.Row{ready, rss, size}, nil
}

// strippedSize is the length of a binary in bytes, less what strip(1) would
// remove: symbols and debugging information.
func strippedSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("measuring a binary: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return 0, fmt.Errorf("measuring a binary: %w", err)
	}
	defer f.Close()
	size := info.Size()
	for _, s := range f.Sections {
		if s.Name == ".symtab" || s.Name == ".strtab" || strings.HasPrefix(s.Name, ".debug_") {
			size -= int64(s.FileSize)
		}
	}
	return size, nil
}
