package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
	"registry-module/e2e/lab"
)

// warmBlob: clients download a cached blob again and again. nginx sends the
// same bytes from a file.
func (b *bench) warmBlob(ctx context.Context) (rows []report.Row, err error) {
	size := pick[int64](b, 64*mib, 16*mib)
	img, servers, err := b.warm(ctx, size)
	if err != nil {
		return nil, err
	}
	defer func() { err = joinStop(err, servers) }()

	layer := img.Layers[0]
	b.describe("warm-blob: clients download a cached blob of %d MiB again and again, each over one connection; nginx sends it from a file.", size/mib)
	for _, clients := range []int{1, 8, 32} {
		throughput := report.Row{
			Metric: fmt.Sprintf("%d client(s): throughput, GB/s", clients), Better: report.Higher,
		}
		cost := report.Row{Metric: fmt.Sprintf("%d client(s): server's CPU, s/GB", clients), Better: report.Lower}
		clientCost := report.Row{Metric: fmt.Sprintf("%d client(s): clients' CPU, s/GB", clients)}
		for i := range pick(b, 5, 1) {
			for _, s := range servers.turns(i) {
				var result load.RepeatResult
				cpu, err := s.cpuDuring(func() (err error) {
					result, err = b.clients.Repeat(ctx, load.Repeat{
						URL:  s.url + "/v2/" + img.Repo + "/blobs/" + layer.Digest.String(),
						Size: layer.Size, Digest: layer.Digest, Clients: clients,
						For: pick(b, 2*time.Second, time.Second),
					})
					if err == nil && result.Error != "" {
						err = errors.New(result.Error)
					}
					return err
				})
				if err != nil {
					b.fail(fmt.Errorf("warm-blob: %d client(s): %s: %w", clients, s.name, err))
					continue
				}
				// The blob went out once more before the clock started, to have
				// its digest computed.
				gb := float64(result.Bytes) / 1e9
				throughput.Add(s.name, gb/result.Seconds)
				cost.Add(s.name, cpu.Seconds()/(gb+float64(layer.Size)/1e9))
				clientCost.Add(s.name, result.CPUSeconds/gb)
				b.logf("warm-blob %d: %d client(s): %s: %.2f GB/s, server's CPU %.3f s/GB, clients' %.3f s/GB",
					i, clients, s.name, gb/result.Seconds, cpu.Seconds()/gb, result.CPUSeconds/gb)
			}
		}
		var least, most *report.Bar
		if clients > 1 {
			least = &report.Bar{Server: module, AtLeast: true, Limit: 0.9}
			most = &report.Bar{Server: module, Limit: 1.2}
		}
		rows = append(rows,
			throughput, throughput.Ratio(fmt.Sprintf("%d client(s): throughput / nginx", clients), nginx, least),
			cost, cost.Ratio(fmt.Sprintf("%d client(s): CPU per GB / nginx", clients), nginx, most),
			clientCost)
	}
	return rows, nil
}

// warmManifest: 16 connections ask for a cached manifest as fast as they can.
// nginx sends the same bytes from a file. The upstream takes 20 ms to answer.
func (b *bench) warmManifest(ctx context.Context) (rows []report.Row, err error) {
	img, servers, err := b.warm(ctx, mib, mib, mib, mib)
	if err != nil {
		return nil, err
	}
	defer func() { err = joinStop(err, servers) }()
	// As far away as most are: who asks it for each tag has to wait for it.
	if err := b.upstream.SetShape(ctx, synth.Shape{Latency: latency}); err != nil {
		return nil, err
	}

	b.describe("warm-manifest: 16 connections ask for a cached manifest as fast as they can, upstream at 20 ms to answer; nginx sends it from a file.")
	for _, by := range []struct{ name, ref string }{{"tag", img.Tag}, {"digest", img.Manifest.String()}} {
		rate := report.Row{Metric: "by " + by.name + ": requests/s", Better: report.Higher}
		cost := report.Row{Metric: "by " + by.name + ": server's CPU, µs/request", Better: report.Lower}
		asked := report.Row{
			Metric: "by " + by.name + ": upstream requests", Worst: true, Better: report.Lower,
			Bar: &report.Bar{Server: module, Limit: 0},
		}
		failures := report.Row{
			Metric: "by " + by.name + ": failures", Worst: true, Better: report.Lower,
			Bar: &report.Bar{Server: module, Limit: 0},
		}
		for i := range pick(b, 5, 1) {
			for _, s := range servers.turns(i) {
				if err := b.resetCounters(ctx); err != nil {
					return nil, err
				}
				result, cpu, err := b.wrk(ctx, s, "/v2/"+img.Repo+"/manifests/"+by.ref, img.MediaType, pick(b, 2*time.Second, time.Second))
				if err != nil {
					b.fail(fmt.Errorf("warm-manifest: by %s: %s: %w", by.name, s.name, err))
					continue
				}
				counters, err := b.upstream.Counters(ctx)
				if err != nil {
					return nil, err
				}
				rate.Add(s.name, result.Rate)
				cost.Add(s.name, 1e6*cpu.Seconds()/float64(result.Requests))
				failures.Add(s.name, float64(result.Failures))
				if s.name != nginx { // it has no upstream here
					asked.Add(s.name, float64(counters.Requests))
				}
				b.logf("warm-manifest %d: by %s: %s: %.0f/s, %.1f µs each, %d failures, upstream: %s", i, by.name, s.name, result.Rate, 1e6*cpu.Seconds()/float64(result.Requests), result.Failures, counters.Counts)
			}
		}
		var overStock *report.Bar
		if by.ref == img.Tag {
			overStock = &report.Bar{Server: module, AtLeast: true, Limit: 100}
		}
		rows = append(rows, rate,
			rate.Ratio("by "+by.name+": requests/s / stock", stock, overStock),
			rate.Ratio("by "+by.name+": requests/s / nginx", nginx, &report.Bar{Server: module, AtLeast: true, Limit: 0.33}),
			cost, asked, failures)
	}
	return rows, nil
}

// warm makes an image, puts it into the servers' caches and, as files, behind
// an nginx. The link to the upstream is as fast as it can be.
func (b *bench) warm(ctx context.Context, layers ...int64) (synth.Image, fleet, error) {
	if err := b.upstream.SetShape(ctx, synth.Shape{}); err != nil {
		return synth.Image{}, nil, err
	}
	img, err := b.freshImage(ctx, layers...)
	if err != nil {
		return synth.Image{}, nil, err
	}
	var servers fleet
	for _, s := range b.launch(ctx, module, stock, zot, nginxCached) {
		result, _, _, err := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
		if err := errors.Join(err, result.Err()); err != nil {
			b.fail(fmt.Errorf("warming the cache of %s: %w", s.name, errors.Join(err, s.stop())))
			continue
		}
		servers = append(servers, s)
	}
	files, err := b.serveFiles(ctx, img)
	if err != nil {
		return synth.Image{}, nil, joinStop(err, servers)
	}
	settle()
	return img, append(servers, files), nil
}

// serveFiles starts an nginx that serves the manifest and the layers of img
// from files, under the paths that a registry has them.
func (b *bench) serveFiles(ctx context.Context, img synth.Image) (_ *server, err error) {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return nil, fmt.Errorf("starting nginx: %w", err)
	}
	paths := []string{"manifests/" + img.Tag, "manifests/" + img.Manifest.String()}
	for _, l := range img.Layers {
		paths = append(paths, "blobs/"+l.Digest.String())
	}
	root := filepath.Join(dir, "root")
	for _, path := range paths {
		path = "/v2/" + img.Repo + "/" + path
		if err := download(ctx, b.upstream.Registry+path, filepath.Join(root, filepath.FromSlash(path))); err != nil {
			return nil, err
		}
	}
	s := &server{name: nginx, dir: dir}
	s.proc, s.url, err = lab.StartNginx(ctx, dir, nginxFiles(root, img.MediaType))
	return s, err
}

// download writes what a URL gives to a file.
func download(ctx context.Context, url, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("storing %s: %w", url, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("storing %s: %w", url, err)
	}
	_, err = io.Copy(f, resp.Body)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("storing %s: %w", url, err)
	}
	return nil
}
