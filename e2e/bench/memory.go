package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
)

// memory: many clients pull a cold image of one large layer at once.
func (b *bench) memory(ctx context.Context) (rows []report.Row, err error) {
	// patience is how long each server gets. By then it has what it needs.
	const patience = 40 * time.Second
	clients := pick(b, 100, 20)
	layer := pick[int64](b, 1e9, 50e6)
	b.describe("memory: %d clients pull a cold image of one layer of %d MB at once, upstream as fast as it can. "+
		"Who takes longer than %.0f s is cut off, and the peak is that until then.", clients, layer/1e6, patience.Seconds())
	peak := report.Row{
		Metric: fmt.Sprintf("peak RSS with %d cold clients, MiB", clients), Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 64},
	}
	seconds := report.Row{Metric: fmt.Sprintf("wall time of %d cold clients, s", clients), Better: report.Lower}
	if err := b.upstream.SetShape(ctx, synth.Shape{}); err != nil {
		return nil, err
	}
	img, err := b.freshImage(ctx, layer)
	if err != nil {
		return nil, err
	}
	for _, name := range b.available(module, stock, zot, nginxCached) {
		s, err := b.start(ctx, name)
		if err != nil {
			b.fail(fmt.Errorf("memory: %w", err))
			continue
		}
		patient, cancel := context.WithTimeout(ctx, patience)
		result, _, _, err := b.pull(patient, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: clients, Verify: 1})
		late := patient.Err() != nil && ctx.Err() == nil
		cancel()
		switch err := errors.Join(err, result.Err()); {
		case late:
			b.logf("memory: %s: cut off after %v", name, patience)
		case err != nil:
			b.fail(fmt.Errorf("memory: %s: %w", name, err))
		default:
			seconds.Add(name, result.Seconds)
		}
		b.peaks(fleet{s}, &peak)
		b.logf("memory: %s: %.1f s, peak RSS %.0f MiB", name, result.Seconds, report.Median(peak.Samples[name]))
		if err := s.stop(); err != nil {
			b.fail(fmt.Errorf("memory: %w", err))
		}
	}
	// The upstream holds the layer in memory.
	return []report.Row{peak, seconds}, b.upstream.Clear(ctx)
}
