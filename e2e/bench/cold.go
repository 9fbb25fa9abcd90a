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

// herd: many clients pull one cold image of four layers at once, from an
// upstream of 100 MB/s. What direct shows is one client alone.
func (b *bench) herd(ctx context.Context) (rows []report.Row, err error) {
	const clients = 50
	layer := pick[int64](b, 25*mib, 6*mib)
	b.describe("herd: %d clients pull a cold image of 4 layers of %d MiB at once, upstream at 100 MB/s; direct is one client alone.", clients, layer/mib)
	seconds := report.Row{Metric: "wall time, s", Better: report.Lower}
	amplification := report.Row{
		Metric: "upstream bytes / unique bytes", Worst: true, Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 1},
	}
	// A config is too small to show in the ratio.
	repeated := report.Row{Metric: "blob bytes downloaded again", Worst: true, Better: report.Lower, Bar: &report.Bar{Server: module, Limit: 0}}
	requests := report.Row{Metric: "upstream requests", Better: report.Lower}
	cost := report.Row{Metric: "server's CPU, s", Better: report.Lower}
	failures := report.Row{Metric: "clients that failed", Worst: true, Better: report.Lower, Bar: &report.Bar{Server: module, Limit: 0}}
	peak := report.Row{Metric: "peak RSS, MiB", Better: report.Lower, Bar: &report.Bar{Server: module, Limit: 64}}

	servers := b.launch(ctx, direct, module, stock, zot, nginxCached)
	defer func() { err = joinStop(err, servers) }()
	if err := b.upstream.SetShape(ctx, synth.Shape{BytesPerSecond: wan}); err != nil {
		return nil, err
	}
	for i := range pick(b, 3, 1) {
		img, err := b.freshImage(ctx, layer, layer, layer, layer)
		if err != nil {
			return nil, err
		}
		for _, s := range servers.turns(i) {
			n := clients
			switch {
			case s.name == direct:
				n = 1
			case (s.name == stock || s.name == zot) && i > 0:
				continue // it takes a minute, and is not close to anything
			}
			result, counters, cpu, err := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: n, Verify: 1})
			if err != nil {
				b.fail(fmt.Errorf("herd: %s: %w", s.name, err))
				continue
			}
			failed := 0
			for _, c := range result.Clients {
				if c.Error != "" {
					failed++
					b.logf("herd: %s: a client failed: %s", s.name, c.Error)
				}
			}
			failures.Add(s.name, float64(failed))
			if failed > 0 { // it is no use being quick
				continue
			}
			seconds.Add(s.name, result.Seconds)
			amplification.Add(s.name, float64(counters.BlobBytes)/float64(counters.UniqueBlobBytes))
			repeated.Add(s.name, float64(counters.BlobBytes-counters.UniqueBlobBytes))
			requests.Add(s.name, float64(counters.Requests))
			if s.proc != nil {
				cost.Add(s.name, cpu.Seconds())
			}
			b.logf("herd %d: %s: %.2f s, %d failed, server's CPU %.2f s, clients' %.2f s, upstream: %s",
				i, s.name, result.Seconds, failed, cpu.Seconds(), result.CPUSeconds, counters.Counts)
		}
	}
	b.peaks(servers, &peak)
	ratio := seconds.Ratio("wall time / direct", direct, &report.Bar{Server: module, Limit: 2})
	return []report.Row{seconds, ratio, amplification, repeated, requests, failures, cost, peak}, nil
}

// peaks adds the most memory that each of the servers has had.
func (b *bench) peaks(servers fleet, peak *report.Row) {
	for _, s := range servers {
		if s.proc == nil {
			continue
		}
		u, err := s.usage()
		if err != nil {
			b.fail(fmt.Errorf("%s: %s: %w", b.scenario, s.name, err))
			continue
		}
		peak.Add(s.name, float64(u.PeakRSS)/mib)
	}
}

// cold: one client pulls a cold image of four layers, from an upstream of
// 100 MB/s that takes 20 ms to answer each request.
func (b *bench) cold(ctx context.Context) (rows []report.Row, err error) {
	layer := pick[int64](b, 50*mib, 25*mib)
	b.describe("cold: one client pulls a cold image of 4 layers of %d MiB, upstream at 100 MB/s and 20 ms to answer.", layer/mib)
	seconds := report.Row{Metric: "pull, s", Better: report.Lower}
	firstByte := report.Row{Metric: "first byte of a layer, ms", Better: report.Lower}
	cost := report.Row{Metric: "server's CPU, s/GB", Better: report.Lower}
	written := report.Row{
		Metric: "bytes written to the disk / bytes of the image", Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 1.05},
	}

	servers := b.launch(ctx, direct, module, stock, zot, nginxCached)
	defer func() { err = joinStop(err, servers) }()
	if err := b.upstream.SetShape(ctx, synth.Shape{BytesPerSecond: wan, Latency: latency}); err != nil {
		return nil, err
	}
	for i := range pick(b, 5, 1) {
		img, err := b.freshImage(ctx, layer, layer, layer, layer)
		if err != nil {
			return nil, err
		}
		for _, s := range servers.turns(i) {
			before, err1 := s.written()
			result, counters, cpu, err2 := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
			settle() // who stores after it has served does so now
			after, err3 := s.written()
			if err := errors.Join(err1, err2, result.Err(), err3); err != nil {
				b.fail(fmt.Errorf("cold: %s: %w", s.name, err))
				continue
			}
			ttfb := 1000 * report.Median(result.Clients[0].FirstByte)
			seconds.Add(s.name, result.Seconds)
			firstByte.Add(s.name, ttfb)
			if s.proc != nil {
				cost.Add(s.name, cpu.Seconds()/(float64(result.Clients[0].Bytes)/1e9))
				written.Add(s.name, float64(after-before)/float64(result.Clients[0].Bytes))
			}
			b.logf("cold %d: %s: %.3f s, first byte after %.1f ms, server's CPU %.2f s, upstream: %s", i, s.name, result.Seconds, ttfb, cpu.Seconds(), counters.Counts)
		}
	}
	return []report.Row{
		seconds,
		seconds.Ratio("pull / direct", direct, &report.Bar{Server: module, Limit: 1.05}),
		firstByte,
		firstByte.Difference("first byte less direct's, ms", direct, &report.Bar{Server: module, Limit: 20}),
		cost, written,
	}, nil
}

// slowFirst: the first client of a cold layer reads at 1 MB/s; nine others come
// 200 ms later. What counts is the last of the nine, against a client that
// pulls another such layer alone.
func (b *bench) slowFirst(ctx context.Context) (rows []report.Row, err error) {
	layer := pick[int64](b, 50*mib, 25*mib)
	b.describe("slow-first: the first client of a cold layer of %d MiB reads at 1 MB/s, nine others come 200 ms later, "+
		"upstream at 100 MB/s; alone is one client with another such layer.", layer/mib)
	alone := report.Row{Metric: "alone, s"}
	others := report.Row{Metric: "last of the nine, s", Better: report.Lower}

	servers := b.launch(ctx, direct, module, stock, zot, nginxCached)
	defer func() { err = joinStop(err, servers) }()
	if err := b.upstream.SetShape(ctx, synth.Shape{BytesPerSecond: wan}); err != nil {
		return nil, err
	}
	for i := range pick(b, 3, 1) {
		img, err := b.freshImage(ctx, layer)
		if err != nil {
			return nil, err
		}
		second, err := b.image(ctx, layer)
		if err != nil {
			return nil, err
		}
		for _, s := range servers.turns(i) {
			one, _, _, err1 := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1})
			ten, _, _, err2 := b.pull(ctx, s, load.Pull{
				Repo: second.Repo, Tag: second.Tag, Clients: 10, Verify: 1, Slow: 1e6, Lag: 200 * time.Millisecond,
			})
			if err := errors.Join(err1, err2, one.Err(), ten.Err()); err != nil {
				b.fail(fmt.Errorf("slow-first: %s: %w", s.name, err))
				continue
			}
			last := 0.0
			for _, c := range ten.Clients[1:] {
				last = max(last, c.Seconds)
			}
			alone.Add(s.name, one.Seconds)
			others.Add(s.name, last)
			b.logf("slow-first %d: %s: alone %.2f s, last of nine %.2f s", i, s.name, one.Seconds, last)
		}
	}
	ratio := report.Row{Metric: "last of the nine / alone", Samples: report.Samples{}, Bar: &report.Bar{Server: module, Limit: 1.1}}
	for name, samples := range others.Samples {
		ratio.Samples[name] = report.Ratios(samples, alone.Samples[name])
	}
	return []report.Row{alone, others, ratio}, nil
}

// freshImage makes an image after removing the earlier ones, which take memory.
func (b *bench) freshImage(ctx context.Context, layers ...int64) (synth.Image, error) {
	if err := b.upstream.Clear(ctx); err != nil {
		return synth.Image{}, err
	}
	return b.image(ctx, layers...)
}

// pull runs a pull from a server, and returns what the upstream has seen of it
// and what CPU time the server has used.
func (b *bench) pull(ctx context.Context, s *server, p load.Pull) (result load.PullResult, counters synth.Counters, cpu time.Duration, err error) {
	settle()
	if err := b.resetCounters(ctx); err != nil {
		return result, counters, 0, err
	}
	p.Registry = s.url
	cpu, err = s.cpuDuring(func() (err error) {
		result, err = b.clients.Pull(ctx, p)
		return err
	})
	if err != nil {
		return result, counters, 0, err
	}
	counters, err = b.upstream.Counters(ctx)
	return result, counters, cpu, err
}
