package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
	"registry-module/e2e/lab"
)

// variant is a module that is looked at in some way.
type variant struct {
	metric string
	env    lab.Env
	// watched: its metrics are read each second, and somebody looks at its dashboard.
	watched bool
}

// overhead: what it costs to be looked at. Modules that differ in nothing else take
// turns, and each measurement of one that is looked at stands between two of one that is
// not.
func (b *bench) overhead(ctx context.Context) (rows []report.Row, err error) {
	size := pick[int64](b, 64*mib, 16*mib)
	b.describe("overhead: a module whose metrics are read each second and whose dashboard somebody has open, with and without a line in a file for each request, "+
		"against one that nobody looks at, which is measured before and after each. Clients: 8 that download a cached blob of %d MiB again and again, "+
		"and 16 connections that ask for its manifest by tag as fast as they can. The processes are new for each round.", size/mib)
	if b.binaries[module] == "" {
		return nil, nil // it could not be built, and that is noted
	}
	quiet := variant{"", lab.Env{"REGISTRY_LOG_LEVEL": "warn", "REGISTRY_LOG_ACCESSLOG_DISABLED": "true"}, false}
	looked := []variant{
		{"metrics, dashboard", lab.Env{"REGISTRY_LOG_LEVEL": "info", "REGISTRY_LOG_ACCESSLOG_SAMPLE": "0"}, true},
		{"metrics, dashboard, a line for each request", lab.Env{"REGISTRY_LOG_LEVEL": "info", "REGISTRY_LOG_ACCESSLOG_SAMPLE": "100%"}, true},
	}
	type figures struct{ blob, manifest, rate report.Row }
	all := make([]figures, len(looked))
	for i, v := range looked {
		var most *report.Bar
		if i == 0 { // what is on by default
			most = &report.Bar{Server: module, Limit: 1.03}
		}
		all[i] = figures{
			report.Row{Metric: v.metric + ": CPU per GB of a blob / without", Bar: most},
			report.Row{Metric: v.metric + ": CPU per manifest / without", Bar: most},
			report.Row{Metric: v.metric + ": manifests/s / without"},
		}
	}
	noise := report.Row{Metric: "without, after / before: CPU per manifest"}
	dashboards := 0
	for round := range pick(b, 3, 1) {
		if err := b.upstream.SetShape(ctx, synth.Shape{}); err != nil {
			return nil, err
		}
		img, err := b.freshImage(ctx, size)
		if err != nil {
			return nil, err
		}
		plain, err := b.warmModule(ctx, img, quiet.env)
		if err != nil {
			return nil, err
		}
		for i, v := range looked {
			s, err := b.warmModule(ctx, img, v.env)
			if err != nil {
				return nil, joinStop(err, fleet{plain})
			}
			w := watch(ctx, s)
			for range pick(b, 3, 1) {
				before, err1 := b.cost(ctx, plain, img)
				with, err2 := b.cost(ctx, s, img)
				after, err3 := b.cost(ctx, plain, img)
				if err := errors.Join(err1, err2, err3); err != nil {
					b.fail(fmt.Errorf("overhead: %s: %w", v.metric, err))
					continue
				}
				all[i].blob.Add(module, 2*with.blob/(before.blob+after.blob))
				all[i].manifest.Add(module, 2*with.manifest/(before.manifest+after.manifest))
				all[i].rate.Add(module, 2*with.rate/(before.rate+after.rate))
				noise.Add(module, after.manifest/before.manifest)
				b.logf("overhead %d: %s: blob %.3f s/GB, %.3f without; manifest %.1f µs, %.1f without (%.1f, %.1f); %.0f/s, %.0f without", round, v.metric,
					with.blob, (before.blob+after.blob)/2, with.manifest, (before.manifest+after.manifest)/2, before.manifest, after.manifest, with.rate, (before.rate+after.rate)/2)
			}
			scrapes, seen, watchErr := w.stop()
			if seen > 0 {
				dashboards++
			}
			b.logf("overhead %d: metrics were read %d times, the dashboard got %d bytes: %v", round, scrapes, seen, watchErr)
			if err := s.stop(); err != nil {
				b.fail(fmt.Errorf("overhead: %w", err))
			}
		}
		if err := plain.stop(); err != nil {
			b.fail(fmt.Errorf("overhead: %w", err))
		}
	}
	if dashboards == 0 {
		b.describe("overhead: the dashboard is not measured: this build has none at its admin address (GET /events).")
	}
	for _, f := range all {
		rows = append(rows, f.blob, f.manifest, f.rate)
	}
	return append(rows, noise), nil
}

// warmModule starts a module and puts an image into it.
func (b *bench) warmModule(ctx context.Context, img synth.Image, env lab.Env) (*server, error) {
	s, err := b.start(ctx, module, env)
	if err != nil {
		return nil, err
	}
	result, _, _, err := b.pull(ctx, s, load.Pull{Repo: img.Repo, Tag: img.Tag, Clients: 1, Verify: 1})
	if err := errors.Join(err, result.Err()); err != nil {
		return nil, joinStop(err, fleet{s})
	}
	return s, nil
}

// costs are CPU seconds for each GB of blobs, microseconds for each manifest, and
// manifests per second.
type costs struct{ blob, manifest, rate float64 }

// cost measures a warm server once.
func (b *bench) cost(ctx context.Context, s *server, img synth.Image) (c costs, err error) {
	d := pick(b, 2*time.Second, time.Second)
	layer := img.Layers[0]
	var result load.RepeatResult
	cpu, err := s.cpuDuring(func() (err error) {
		result, err = b.clients.Repeat(ctx, load.Repeat{
			URL:  s.url + "/v2/" + img.Repo + "/blobs/" + layer.Digest.String(),
			Size: layer.Size, Digest: layer.Digest, Clients: 8, For: d,
		})
		if err == nil && result.Error != "" {
			err = errors.New(result.Error)
		}
		return err
	})
	if err != nil {
		return c, err
	}
	c.blob = cpu.Seconds() / (float64(result.Bytes+layer.Size) / 1e9)
	r, cpu, err := b.wrk(ctx, s, "/v2/"+img.Repo+"/manifests/"+img.Tag, img.MediaType, d)
	if err == nil && r.Failures > 0 {
		err = fmt.Errorf("%d requests for a manifest have failed", r.Failures)
	}
	c.manifest, c.rate = 1e6*cpu.Seconds()/float64(r.Requests), r.Rate
	return c, err
}

// watcher reads the metrics of a module each second, and has its dashboard open.
type watcher struct {
	cancel  context.CancelFunc
	errs    chan error // of the one and of the other, when they have ended
	scrapes atomic.Int64
	seen    atomic.Int64 // bytes of the dashboard
}

// watch begins.
func watch(ctx context.Context, s *server) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel, errs: make(chan error, 2)}
	go func() { w.errs <- w.scrape(ctx, s.admin+"/metrics") }()
	go func() { w.errs <- w.look(ctx, s.admin+"/events") }()
	return w
}

// watchDashboard begins with the dashboard only.
func watchDashboard(ctx context.Context, s *server) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel, errs: make(chan error, 2)}
	w.errs <- nil
	go func() { w.errs <- w.look(ctx, s.admin+"/events") }()
	return w
}

// stop ends, and tells how often metrics were read, how much was seen of the dashboard, and
// what went wrong.
func (w *watcher) stop() (scrapes, seen int64, err error) {
	w.cancel()
	err = errors.Join(<-w.errs, <-w.errs)
	return w.scrapes.Load(), w.seen.Load(), err
}

func (w *watcher) scrape(ctx context.Context, url string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		body, err := open(ctx, url, "")
		if err == nil {
			_, err = io.Copy(io.Discard, body)
			_ = body.Close() // it was only read
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading metrics: %w", err)
		}
		w.scrapes.Add(1)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look has the stream of events of the dashboard open. That there is none is an error.
func (w *watcher) look(ctx context.Context, url string) error {
	body, err := open(ctx, url, "text/event-stream")
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("looking at the dashboard: %w", err)
	}
	defer body.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		w.seen.Add(int64(n))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("looking at the dashboard: %w", err)
		}
	}
}

// open sends a GET and returns the body of a good answer.
func open(ctx context.Context, url, accept string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close() // its status says all
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp.Body, nil
}
