package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
)

// idleCost: what servers that have images use while nobody asks them anything.
func (b *bench) idleCost(ctx context.Context) (rows []report.Row, err error) {
	d := pick(b, 30*time.Second, 5*time.Second)
	// What was put off when the image was stored is written by then.
	calm := pick(b, 15*time.Second, 5*time.Second)
	b.describe("idle-cost: servers that have served an image, and have been left alone for %.0f s, for %.0f s more. Files are those of the data directory whose time of modification has changed. "+
		"Then the same of the module with its dashboard open.", calm.Seconds(), d.Seconds())
	cpu := report.Row{Metric: "CPU, % of a core", Better: report.Lower, Bar: &report.Bar{Server: module, Limit: 0.1}}
	written := report.Row{Metric: "bytes written", Better: report.Lower, Worst: true, Bar: &report.Bar{Server: module, Limit: 0}}
	touched := report.Row{Metric: "files written to", Better: report.Lower, Worst: true, Bar: &report.Bar{Server: module, Limit: 0}}
	viewed := report.Row{Metric: "dashboard open: CPU, % of a core"}
	viewedWritten := report.Row{Metric: "dashboard open: bytes written", Worst: true}

	if err := b.upstream.SetShape(ctx, synth.Shape{}); err != nil {
		return nil, err
	}
	img, err := b.freshImage(ctx, 4*mib, 4*mib)
	if err != nil {
		return nil, err
	}
	servers := b.launch(ctx, module, stock, zot, nginxCached)
	defer func() { err = joinStop(err, servers) }()
	for _, s := range servers {
		result, _, _, err := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
		if err := errors.Join(err, result.Err()); err != nil {
			b.fail(fmt.Errorf("idle-cost: %s: %w", s.name, err))
		}
	}
	if err := sleep(ctx, calm); err != nil {
		return nil, err
	}
	quiet, err := b.leaveAlone(ctx, servers, d)
	if err != nil {
		return nil, err
	}
	for i, s := range servers {
		cpu.Add(s.name, 100*quiet[i].cpu.Seconds()/d.Seconds())
		written.Add(s.name, float64(quiet[i].written))
		touched.Add(s.name, float64(quiet[i].files))
		b.logf("idle-cost: %s: %v in %v, %d bytes and %d files written", s.name, quiet[i].cpu, d, quiet[i].written, quiet[i].files)
	}
	for _, s := range servers {
		if s.name != module {
			continue
		}
		w := watchDashboard(ctx, s)
		seen, err := b.leaveAlone(ctx, fleet{s}, d)
		_, bytes, watchErr := w.stop()
		if err := errors.Join(err, watchErr); err != nil {
			b.logf("idle-cost: not measured with the dashboard open: %v", err)
			continue
		}
		viewed.Add(s.name, 100*seen[0].cpu.Seconds()/d.Seconds())
		viewedWritten.Add(s.name, float64(seen[0].written))
		b.logf("idle-cost: with the dashboard open, which got %d bytes: %v in %v, %d bytes written", bytes, seen[0].cpu, d, seen[0].written)
	}
	return []report.Row{cpu, written, touched, viewed, viewedWritten}, nil
}

// idled is what a server has used and written while it was left alone.
type idled struct {
	cpu     time.Duration
	written int64
	files   int
}

// leaveAlone waits.
func (b *bench) leaveAlone(ctx context.Context, servers fleet, d time.Duration) ([]idled, error) {
	all := make([]idled, len(servers))
	begin := time.Now()
	for i, s := range servers {
		cpu, err1 := s.preciseCPU()
		written, err2 := s.written()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		all[i].cpu, all[i].written = -cpu, -written
	}
	if err := sleep(ctx, d); err != nil {
		return nil, err
	}
	for i, s := range servers {
		cpu, err1 := s.preciseCPU()
		written, err2 := s.written()
		files, err3 := modifiedSince(s.dir, begin)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
		all[i].cpu += cpu
		all[i].written += written
		all[i].files = files
	}
	return all, nil
}

// modifiedSince counts the files below dir that were modified since then.
func modifiedSince(dir string, since time.Time) (n int, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile, which its directory shows
			return nil
		case err != nil:
			return fmt.Errorf("looking for modified files: %w", err)
		case info.ModTime().After(since):
			n++
		}
		return nil
	})
	return n, err
}

// sleep waits.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
