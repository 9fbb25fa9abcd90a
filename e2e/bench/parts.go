package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
	"registry-module/e2e/lab"
)

// far: one client pulls one large layer from an upstream that is a long way off,
// and gives no connection more than 10 MB/s.
func (b *bench) far(ctx context.Context) ([]report.Row, error) {
	layer := pick[int64](b, 200*mib, 100*mib)
	b.describe("far: one client pulls a layer of %d MiB, upstream at 10 MB/s for each connection and a round trip of 200 ms, "+
		"to open a connection too.", layer/mib)
	return b.largeLayer(ctx, layer, 0.35, synth.Shape{
		ConnBytesPerSecond: 10e6, Latency: 200 * time.Millisecond, Connect: 200 * time.Millisecond,
	})
}

// noRanges: the same from an upstream that does not know ranges, at the rate of the
// other cold scenarios.
func (b *bench) noRanges(ctx context.Context) ([]report.Row, error) {
	layer := pick[int64](b, 200*mib, 100*mib)
	b.describe("no-ranges: one client pulls a layer of %d MiB, upstream at 100 MB/s and 20 ms to answer, with all of a blob where a range is asked for.", layer/mib)
	return b.largeLayer(ctx, layer, 1.03, synth.Shape{BytesPerSecond: wan, Latency: latency, NoRanges: true})
}

// largeLayer has one layer pulled from an upstream, through each of the servers and
// directly. The module may take ratio times as long as that.
func (b *bench) largeLayer(ctx context.Context, layer int64, ratio float64, shape synth.Shape) (rows []report.Row, err error) {
	seconds := report.Row{Metric: "pull, s", Better: report.Lower}
	amplification := report.Row{
		Metric: "upstream bytes / unique bytes", Worst: true, Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 1},
	}
	requests := report.Row{Metric: "upstream requests"}

	servers := b.launch(ctx, direct, module, stock, zot, nginxCached)
	defer func() { err = joinStop(err, servers) }()
	if err := b.upstream.SetShape(ctx, shape); err != nil {
		return nil, err
	}
	for i := range pick(b, 3, 1) {
		img, err := b.freshImage(ctx, layer)
		if err != nil {
			return nil, err
		}
		for _, s := range servers.turns(i) {
			if i > 0 && s.name != direct && s.name != module {
				continue // it waits for the link, and there is no bar for it
			}
			result, counters, _, err := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
			if err := errors.Join(err, result.Err()); err != nil {
				b.fail(fmt.Errorf("a layer of %d MiB: %s: %w", layer/mib, s.name, err))
				continue
			}
			seconds.Add(s.name, result.Seconds)
			amplification.Add(s.name, float64(counters.BlobBytes)/float64(counters.UniqueBlobBytes))
			requests.Add(s.name, float64(counters.Requests))
			b.logf("a layer of %d MiB, %d: %s: %.2f s, upstream: %s", layer/mib, i, s.name, result.Seconds, counters.Counts)
		}
	}
	return []report.Row{
		seconds,
		seconds.Ratio("pull / direct", direct, &report.Bar{Server: module, Limit: ratio}),
		amplification, requests,
	}, nil
}

// bandwidth: one client pulls an image through a module that may use 20 MiB/s.
func (b *bench) bandwidth(ctx context.Context) (rows []report.Row, err error) {
	const limit = 20 * mib
	layer := pick[int64](b, 50*mib, 20*mib)
	b.describe("bandwidth: one client pulls an image of 4 layers of %d MiB through a module with REGISTRY_PROXY_BANDWIDTH=20MiB/s, upstream as fast as it can.", layer/mib)
	rate := report.Row{Metric: "rate / limit", Bar: &report.Bar{Server: module, AtLeast: true, Limit: 0.9}}
	if err := b.upstream.SetShape(ctx, synth.Shape{}); err != nil {
		return nil, err
	}
	s, err := b.start(ctx, module, lab.Env{"REGISTRY_PROXY_BANDWIDTH": "20MiB/s"})
	if err != nil {
		return nil, err
	}
	defer func() { err = joinStop(err, fleet{s}) }()
	for i := range pick(b, 3, 1) {
		img, err := b.freshImage(ctx, layer, layer, layer, layer)
		if err != nil {
			return nil, err
		}
		result, counters, _, err := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
		if err := errors.Join(err, result.Err()); err != nil {
			return nil, err
		}
		rate.Add(s.name, float64(counters.BlobBytes)/result.Seconds/limit)
		b.logf("bandwidth %d: %.2f s, upstream: %s", i, result.Seconds, counters.Counts)
	}
	most := rate
	most.Metric, most.Worst = "rate / limit, at the most", true
	most.Bar = &report.Bar{Server: module, Limit: 1.1}
	return []report.Row{rate, most}, nil
}
