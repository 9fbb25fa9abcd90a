package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/lab"
)

// many is a module on a volume with many blobs.
type many struct {
	*bench
	volume *volume
	dir    string
	server *lab.Server
	// warm are images that were asked for before.
	warm []volumeImage
	// free is how many bytes are to be made free to remove a tenth of the blobs.
	free int64
}

// manyBlobs: a module on a volume with many small images, which it has not written
// itself. It is not connected to anything.
func (b *bench) manyBlobs(ctx context.Context) (rows []report.Row, err error) {
	count := b.blobs
	b.describe("many-blobs: a volume of %d blobs in images of 10, as the stock registry writes it, is adopted by the module, which is offline. "+
		"Lookups are of 500 images that were asked for before, one at a time over one connection. Anonymous memory has no file behind it; "+
		"the rest of RSS is mapped files, which the kernel takes back. While evicting: gc removes a tenth of all blobs. The stock registry starts on the same volume without a remote, without which it would not start.", count)
	if b.binaries[module] == "" {
		return nil, nil // it could not be built, and that is noted
	}
	dir, err := os.MkdirTemp(b.dir, "many-")
	if err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	begin := time.Now()
	v, err := newVolume(ctx, filepath.Join(dir, "data"), count)
	if err != nil {
		return nil, err
	}
	settle()
	b.logf("many-blobs: wrote %d images, %d blobs, %d bytes in %.0f s", v.images, v.blobs, v.bytes, time.Since(begin).Seconds())
	m := &many{bench: b, volume: v, dir: dir}
	defer func() {
		if m.server != nil {
			err = errors.Join(err, m.server.Stop())
		}
	}()
	for _, part := range []func(context.Context) ([]report.Row, error){m.adopt, m.lookups, m.starts, m.commands, m.evict} {
		more, err := part(ctx)
		rows = append(rows, more...)
		if err != nil {
			b.fail(fmt.Errorf("many-blobs: %w", err))
		}
		if m.server == nil || ctx.Err() != nil {
			break
		}
	}
	for i := range rows {
		rows[i].Scenario = fmt.Sprintf("many-blobs, %d", count)
	}
	return rows, nil
}

// single is a row of one value.
func single(metric string, value float64, bar *report.Bar) report.Row {
	r := report.Row{Metric: metric, Bar: bar}
	r.Add(module, value)
	return r
}

// atMost is a bar for the module.
func atMost(limit float64) *report.Bar { return &report.Bar{Server: module, Limit: limit} }

// start starts the module, and returns how long it has taken to give the first manifest.
func (m *many) start(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	var err error
	m.server, err = lab.StartModuleWith(ctx, lab.ModuleOptions{
		Binary: m.binaries[module], Dir: m.dir, Patience: 20 * time.Minute,
		Env: lab.Env{
			"REGISTRY_PROXY_REMOTEURL":        "http://127.0.0.1:1",
			"REGISTRY_PROXY_OFFLINE":          "true",
			"REGISTRY_CACHE_MINFREE":          "0%",
			"REGISTRY_LOG_LEVEL":              "warn",
			"REGISTRY_LOG_ACCESSLOG_DISABLED": "true",
		},
	})
	if err != nil {
		return 0, err
	}
	img := m.volume.numbered(0)
	err = m.ask(ctx, http.DefaultClient, "/v2/"+img.repo+"/manifests/"+img.tag, img.manifest)
	return time.Since(begin), err
}

// end ends it, by a signal or in order.
func (m *many) end(kill bool) error {
	server := m.server
	m.server = nil
	if kill {
		return server.Kill()
	}
	return server.Stop()
}

// ask sends a GET to the module and compares the answer.
func (m *many) ask(ctx context.Context, client *http.Client, path string, want []byte) error {
	return m.askAt(ctx, client, m.server.URL(), path, want)
}

// askAt sends it to any server.
func (m *many) askAt(ctx context.Context, client *http.Client, server, path string, want []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+path, nil)
	if err != nil {
		return err
	}
	// The stock registry says that there is none where its type is not named.
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest+", */*")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		return fmt.Errorf("%s: %s, %d bytes, want %d", path, resp.Status, len(got), len(want))
	}
	return nil
}

// command runs one of the module's commands and returns how long it has taken, and what
// it has printed as JSON.
func (m *many) command(ctx context.Context, into any, args ...string) (time.Duration, error) {
	begin := time.Now()
	out, err := lab.Run(ctx, m.dir, lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": m.server.Data}, m.binaries[module], append(args, "-o", "json")...)
	took := time.Since(begin)
	if err != nil {
		return took, err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return took, fmt.Errorf("reading what %v prints: %w", args, err)
	}
	return took, nil
}

// adopt: the first start, which builds the index.
func (m *many) adopt(ctx context.Context) ([]report.Row, error) {
	begin := time.Now()
	first, err := m.start(ctx)
	if err != nil {
		return nil, err
	}
	rows := []report.Row{single("first start: first manifest, s", first.Seconds(), nil)}
	m.logf("many-blobs: first manifest after %.1f s", first.Seconds())
	// It may go on while it serves.
	for {
		var images []struct{}
		if _, err := m.command(ctx, &images, "ls"); err != nil {
			return rows, err
		}
		if len(images) >= m.volume.images {
			break
		}
		if time.Since(begin) > 20*time.Minute {
			return rows, fmt.Errorf("%d images are listed of %d, after 20 minutes", len(images), m.volume.images)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return rows, ctx.Err()
		}
	}
	all := time.Since(begin)
	m.logf("many-blobs: all images listed after %.1f s", all.Seconds())
	return append(rows, single("first start: all images listed, s", all.Seconds(), nil)), nil
}

// starts: after an end in order, and after kill -9.
func (m *many) starts(ctx context.Context) ([]report.Row, error) {
	clean := report.Row{Metric: "clean start: first manifest, s", Better: report.Lower, Bar: atMost(1)}
	unclean := report.Row{Metric: "start after kill -9: first manifest, s", Bar: atMost(5)}
	for range pick(m.bench, 3, 1) {
		for _, kind := range []struct {
			row  *report.Row
			kill bool
		}{{&clean, false}, {&unclean, true}} {
			if err := m.end(kind.kill); err != nil {
				return nil, err
			}
			took, err := m.start(ctx)
			if err != nil {
				return nil, err
			}
			kind.row.Add(module, took.Seconds())
			m.logf("many-blobs: %s %.2f", kind.row.Metric, took.Seconds())
		}
		if m.binaries[stock] == "" {
			continue
		}
		if err := m.end(false); err != nil {
			return nil, err
		}
		took, err := m.stockStart(ctx)
		if err != nil {
			m.fail(fmt.Errorf("many-blobs: stock: %w", err))
		} else {
			clean.Add(stock, took.Seconds())
		}
		if _, err := m.start(ctx); err != nil {
			return nil, err
		}
	}
	u, err := m.server.Usage()
	if err != nil {
		return nil, err
	}
	return []report.Row{clean, unclean,
		single("after a start: RSS, MiB", float64(u.RSS)/mib, nil),
		single("after a start: anonymous memory, MiB", float64(u.Anonymous)/mib, nil)}, nil
}

// stockStart starts the stock registry on the same volume, and returns how long it has
// taken to give the first manifest. It is no proxy: as one it would not start while its
// remote is away.
func (m *many) stockStart(ctx context.Context) (took time.Duration, err error) {
	begin := time.Now()
	s, err := lab.StartStock(ctx, m.binaries[stock], m.dir, lab.Env{
		"REGISTRY_LOG_LEVEL": "warn", "REGISTRY_LOG_ACCESSLOG_DISABLED": "true",
		"REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "inmemory",
	})
	if err != nil {
		return 0, err
	}
	img := m.volume.numbered(0)
	err = m.askAt(ctx, http.DefaultClient, s.URL(), "/v2/"+img.repo+"/manifests/"+img.tag, img.manifest)
	took = time.Since(begin)
	return took, errors.Join(err, s.Stop())
}

// lookups: answers for what was asked for before.
func (m *many) lookups(ctx context.Context) ([]report.Row, error) {
	m.warm = m.volume.pick(500)
	for _, img := range m.warm { // what was not written by the module is compared first
		if err := m.halfImage(ctx, http.DefaultClient, img, nil); err != nil {
			return nil, err
		}
	}
	times, err := m.load(ctx, 1, pick(m.bench, 5*time.Second, time.Second), nil)
	if err != nil {
		return nil, err
	}
	var rows []report.Row
	for _, kind := range []string{"manifest", "blob"} {
		rows = append(rows,
			single(kind+": p50, ms", quantile(times[kind], 0.5), nil),
			single(kind+": p99, ms", quantile(times[kind], 0.99), nil))
		m.logf("many-blobs: %d lookups of a %s: p50 %.2f ms, p99 %.2f ms", len(times[kind]), kind, quantile(times[kind], 0.5), quantile(times[kind], 0.99))
	}
	u, err := m.server.Usage()
	if err != nil {
		return rows, err
	}
	m.logf("many-blobs: RSS %.0f MiB, anonymous %.0f MiB, peak %.0f MiB", float64(u.RSS)/mib, float64(u.Anonymous)/mib, float64(u.PeakRSS)/mib)
	return append(rows,
		single("RSS, MiB", float64(u.RSS)/mib, atMost(128)),
		single("anonymous memory, MiB", float64(u.Anonymous)/mib, atMost(128)),
		single("peak RSS since the first start, MiB", float64(u.PeakRSS)/mib, nil)), nil
}

// planned is what gc prints.
type planned struct {
	Victims []struct {
		Blobs int   `json:"blobs"`
		Bytes int64 `json:"bytes"`
	} `json:"victims"`
	Freed int64 `json:"freed"`
}

func (p planned) blobs() (n int) {
	for _, v := range p.Victims {
		n += v.Blobs
	}
	return n
}

// room is how much to make free, as commands take it.
func (m *many) room() string { return fmt.Sprintf("%dMiB", max(1, m.free/mib)) }

// aim finds out how much to make free so that a tenth of all blobs has to go: what a blob
// takes on the disk is more than its length.
func (m *many) aim(ctx context.Context) error {
	m.free = m.volume.bytes / 10
	for range 3 {
		var p planned
		_, err := m.command(ctx, &p, "gc", "--dry-run", "--free", m.room())
		n := int64(p.blobs())
		if err != nil || n == 0 {
			m.free = 0
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("gc --dry-run for a tenth of all bytes would remove nothing")
		}
		m.free = m.free * int64(m.volume.blobs/10) / n
	}
	return nil
}

// commands: what operators ask.
func (m *many) commands(ctx context.Context) ([]report.Row, error) {
	list := report.Row{Metric: "ls, s"}
	plan := report.Row{Metric: "gc --dry-run for a tenth, s"}
	victims := report.Row{Metric: "gc --dry-run: blobs to be removed"}
	if err := m.aim(ctx); err != nil {
		return nil, err
	}
	for range pick(m.bench, 3, 1) {
		var images []struct{}
		took, err := m.command(ctx, &images, "ls")
		if err != nil {
			return nil, err
		}
		list.Add(module, took.Seconds())
		var p planned
		if took, err = m.command(ctx, &p, "gc", "--dry-run", "--free", m.room()); err != nil {
			return []report.Row{list}, err
		}
		plan.Add(module, took.Seconds())
		victims.Add(module, float64(p.blobs()))
		m.logf("many-blobs: ls %.2f s, %d images; gc --dry-run %.2f s, %d victims, %d blobs, %d bytes",
			report.Median(list.Samples[module]), len(images), took.Seconds(), len(p.Victims), p.blobs(), p.Freed)
	}
	u, err := m.server.Usage()
	if err != nil {
		return nil, err
	}
	return []report.Row{list, plan, victims, single("anonymous memory after that, MiB", float64(u.Anonymous)/mib, atMost(128))}, nil
}

// evict: pulls of warm images before and while a tenth of all is removed.
func (m *many) evict(ctx context.Context) ([]report.Row, error) {
	const clients = 4
	if m.free == 0 {
		return nil, errors.New("it is not known how much a tenth is, so that nothing is evicted")
	}
	before, err := m.load(ctx, clients, pick(m.bench, 5*time.Second, time.Second), nil)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	var p planned
	var took time.Duration
	var gcErr error
	go func() {
		defer close(done)
		took, gcErr = m.command(ctx, &p, "gc", "--free", m.room())
	}()
	while, err := m.load(ctx, clients, 0, done)
	<-done
	if err := errors.Join(err, gcErr); err != nil {
		return nil, err
	}
	m.logf("many-blobs: evicted %d images, %d blobs, %d bytes in %.1f s", len(p.Victims), p.blobs(), p.Freed, took.Seconds())
	rows := []report.Row{single("gc for a tenth, s", took.Seconds(), nil)}
	for _, kind := range []string{"manifest", "blob"} {
		b, w := quantile(before[kind], 0.99), quantile(while[kind], 0.99)
		m.logf("many-blobs: %s: p99 %.2f ms before, %.2f ms while evicting, of %d", kind, b, w, len(while[kind]))
		rows = append(rows,
			single(kind+" p99 of 4 clients, ms", b, nil),
			single(kind+" p99 of 4 clients while evicting, ms", w, nil),
			single(kind+" p99 while evicting / before", w/b, atMost(2)))
	}
	u, err := m.server.Usage()
	if err != nil {
		return rows, err
	}
	return append(rows, single("anonymous memory after evicting, MiB", float64(u.Anonymous)/mib, atMost(128))), nil
}
