package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
	"registry-module/e2e/lab"
)

// seed: images are fetched ahead of time over a link of 100 MB/s, by the module's command
// into an empty directory. Nothing is like it in the others: what there is instead is a
// loop that pulls one image after the other, through them or directly.
func (b *bench) seed(ctx context.Context) (rows []report.Row, err error) {
	images := pick(b, 10, 3)
	layer := pick[int64](b, 25*mib, 5*mib)
	b.describe("seed: %d images of 4 layers of %d MiB are fetched over a link of 100 MB/s, by `registry-module seed` into an empty directory. "+
		"In the others it is a loop that pulls one after the other. All that takes time is in it, the start of the commands too.", images, layer/mib)
	seconds := report.Row{Metric: "all images, s", Better: report.Lower}
	part := report.Row{
		Metric: "rate / the link's", Better: report.Higher,
		Bar: &report.Bar{Server: module, AtLeast: true, Limit: 0.95},
	}
	amplification := report.Row{
		Metric: "upstream bytes / unique bytes", Worst: true, Better: report.Lower,
		Bar: &report.Bar{Server: module, Limit: 1},
	}
	peak := report.Row{Metric: "peak RSS of the command, MiB"}
	if err := b.upstream.SetShape(ctx, synth.Shape{BytesPerSecond: wan}); err != nil {
		return nil, err
	}
	servers := b.launch(ctx, direct, stock, zot, nginxCached)
	defer func() { err = joinStop(err, servers) }()
	if b.binaries[module] != "" {
		servers = append(servers, &server{name: module}) // a command, for each repetition
	}
	for i := range pick(b, 3, 1) {
		if err := b.upstream.Clear(ctx); err != nil {
			return nil, err
		}
		var all []synth.Image
		for range images {
			img, err := b.image(ctx, layer, layer, layer, layer)
			if err != nil {
				return nil, err
			}
			all = append(all, img)
		}
		for _, s := range servers.turns(i) {
			if i > 0 && s.name != direct && s.name != module {
				continue // it waits for the link, and there is no bar for it
			}
			if err := b.resetCounters(ctx); err != nil {
				return nil, err
			}
			settle()
			begin := time.Now()
			var o lab.Outcome
			if s.name == module {
				o, err = b.seedAll(ctx, all)
			} else {
				err = b.pullAll(ctx, s, all)
			}
			took := time.Since(begin).Seconds()
			if err != nil {
				b.fail(fmt.Errorf("seed: %s: %w", s.name, err))
				continue
			}
			counters, err := b.upstream.Counters(ctx)
			if err != nil {
				return nil, err
			}
			seconds.Add(s.name, took)
			part.Add(s.name, float64(counters.UniqueBlobBytes)/took/wan)
			amplification.Add(s.name, float64(counters.BlobBytes)/float64(counters.UniqueBlobBytes))
			if s.name == module {
				peak.Add(s.name, float64(o.PeakRSS)/mib)
			}
			b.logf("seed %d: %s: %.2f s, %.3f of the link's rate, upstream: %s", i, s.name, took, float64(counters.UniqueBlobBytes)/took/wan, counters.Counts)
		}
	}
	return []report.Row{seconds, seconds.Ratio("all images / direct", direct, nil), part, amplification, peak}, b.upstream.Clear(ctx)
}

// pullAll pulls images, one after the other.
func (b *bench) pullAll(ctx context.Context, s *server, images []synth.Image) error {
	for _, img := range images {
		result, err := b.clients.Pull(ctx, load.Pull{Registry: s.url, Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
		if err := errors.Join(err, result.Err()); err != nil {
			return err
		}
	}
	return nil
}

// seedAll has the module's command fetch images into an empty directory.
func (b *bench) seedAll(ctx context.Context, images []synth.Image) (o lab.Outcome, err error) {
	dir, err := os.MkdirTemp(b.dir, "seed-")
	if err != nil {
		return o, fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	host := strings.TrimPrefix(b.upstream.Registry, "http://")
	var list strings.Builder
	for _, img := range images {
		fmt.Fprintf(&list, "%s/%s:%s\n", host, img.Repo, img.Tag)
	}
	path := filepath.Join(dir, "images.txt")
	if err := os.WriteFile(path, []byte(list.String()), 0o644); err != nil {
		return o, fmt.Errorf("writing the list: %w", err)
	}
	o, err = lab.Command{
		Path: b.binaries[module], Args: []string{"seed", "-f", path}, Dir: dir,
		Env: lab.Env{
			"REGISTRY_PROXY_REMOTEURL":                  b.upstream.Registry,
			"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": filepath.Join(dir, "data"),
			"REGISTRY_CACHE_MINFREE":                    "0%",
		},
	}.Do(ctx)
	if err == nil && o.Status != 0 {
		err = fmt.Errorf("registry-module seed: %v", o)
	}
	return o, err
}
