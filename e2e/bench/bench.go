package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/report"
	"registry-module/e2e/bench/internal/synth"
	"registry-module/e2e/lab"
)

// The names of what is compared, and of the table's columns.
const (
	direct      = "direct" // no proxy: clients pull from the upstream
	module      = "module"
	stock       = "stock"
	zot         = "zot"
	nginxCached = "nginx cache" // in front of the upstream
	nginx       = "nginx"       // with the same bytes as files: no registry could do better

	wrk = "wrk" // not a server: a load
)

// bench is one run: its programs, its directory and what it has found out.
type bench struct {
	options
	log io.Writer
	dir string
	// binaries has the path of each program that could be built or found.
	binaries map[string]string
	upstream synth.Remote
	origin   *lab.Process
	clients  load.Command
	table    report.Table
	about    []string // what each scenario has done, for the reader
	failures []error  // what could not be measured, and why
	busy     float64  // the load average when the run began
	images   int      // how many were made so far
	scenario string   // that runs
	modules  int      // how many were started so far
	// noProfile tells that the module gives none, which is said once.
	noProfile atomic.Bool
}

// options are what the command line says.
type options struct {
	quick   bool
	blobs   int    // in the volume of many-blobs
	profile string // directory for profiles of the module; empty is none
}

// scenario is one thing that is measured.
type scenario struct {
	name string
	run  func(*bench, context.Context) ([]report.Row, error)
}

func scenarios() []scenario {
	return []scenario{
		{"herd", (*bench).herd},
		{"cold", (*bench).cold},
		{"slow-first", (*bench).slowFirst},
		{"far", (*bench).far},
		{"no-ranges", (*bench).noRanges},
		{"bandwidth", (*bench).bandwidth},
		{"warm-blob", (*bench).warmBlob},
		{"warm-manifest", (*bench).warmManifest},
		{"memory", (*bench).memory},
		{"seed", (*bench).seed},
		{"overhead", (*bench).overhead},
		{"idle", (*bench).idle},
		{"idle-cost", (*bench).idleCost},
		{"many-blobs", (*bench).manyBlobs},
	}
}

// newBench builds what is compared and starts the upstream. Call close.
func newBench(ctx context.Context, o options, log io.Writer) (*bench, error) {
	dir, err := os.MkdirTemp("", "registry-module-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	b := &bench{
		options: o, log: log, dir: dir,
		binaries: map[string]string{},
		clients:  loadProcess,
		table: report.Table{
			Servers: []string{direct, module, stock, zot, nginxCached, nginx},
			Ours:    module, Theirs: stock,
		},
	}
	if b.busy, err = loadAverage(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.build(ctx)
	if err := b.startUpstream(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// build finds or builds what is compared. What cannot be had is missing from
// the table, and the run ends with an error.
func (b *bench) build(ctx context.Context) {
	b.logf("building registry-module, the stock registry and zot")
	for name, get := range map[string]func() (string, error){
		module: func() (string, error) { return lab.Module(ctx) },
		stock:  func() (string, error) { return lab.StockRegistry().Install(ctx) },
		zot:    func() (string, error) { return lab.Zot(ctx) },
		nginx:  func() (string, error) { return lab.System("nginx", "nginx-light") },
		wrk:    func() (string, error) { return lab.System("wrk", "wrk") },
	} {
		path, err := get()
		if err != nil {
			b.fail(err)
			continue
		}
		b.binaries[name] = path
	}
	b.binaries[nginxCached] = b.binaries[nginx]
}

func (b *bench) startUpstream(ctx context.Context) error {
	registry, err := lab.FreeAddr()
	if err != nil {
		return err
	}
	control, err := lab.FreeAddr()
	if err != nil {
		return err
	}
	b.upstream = synth.Remote{Registry: "http://" + registry, URL: "http://" + control}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for this program: %w", err)
	}
	b.origin, err = lab.Start(ctx, lab.Spec{
		Name: "upstream", Path: exe, Dir: filepath.Join(b.dir, "upstream"),
		Args: []string{upstreamCommand, "-registry", registry, "-control", control},
		Ready: func(ctx context.Context) error {
			return errors.Join(
				lab.AnswersHTTP(b.upstream.Registry+"/v2/", http.StatusOK)(ctx),
				lab.AnswersHTTP(b.upstream.URL+"/counters", http.StatusOK)(ctx))
		},
	})
	return err
}

// close ends the upstream and removes all files.
func (b *bench) close() error {
	var err error
	if b.origin != nil {
		err = b.origin.Stop()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// runAll runs the scenarios that match and fills the table. The error tells
// what could not be measured.
func (b *bench) runAll(ctx context.Context, pattern *regexp.Regexp) error {
	for _, s := range scenarios() {
		if !pattern.MatchString(s.name) || ctx.Err() != nil {
			continue
		}
		begin := time.Now()
		b.scenario = s.name
		rows, err := s.run(b, ctx)
		if err != nil {
			b.fail(fmt.Errorf("%s: %w", s.name, err))
		}
		for i := range rows {
			rows[i].Scenario = cmp.Or(rows[i].Scenario, s.name)
		}
		b.table.Add(rows...)
		b.logf("%s: took %.0f s", s.name, time.Since(begin).Seconds())
	}
	return errors.Join(append(b.failures, ctx.Err())...)
}

// fail notes that something could not be measured. The rest still can.
func (b *bench) fail(err error) {
	b.logf("FAILED: %v", err)
	b.failures = append(b.failures, err)
}

// describe keeps a sentence about a scenario for the notes.
func (b *bench) describe(format string, args ...any) {
	b.about = append(b.about, fmt.Sprintf(format, args...))
}

// notes writes what a reader of the table has to know.
func (b *bench) notes(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "\n%d bars met, %d missed, %d not measured. Of the rows in which the stock registry has a value, the module's is better in %d, the same within 5 %% in %d, worse in %d.\n\n",
		b.table.Count(report.Met), b.table.Count(report.Missed), b.table.Count(report.NotMeasured),
		b.table.Compared(report.Ahead), b.table.Compared(report.Even), b.table.Compared(report.Behind))
	for _, about := range b.about {
		fmt.Fprintf(&text, "- %s\n", about)
	}
	fmt.Fprintf(&text, `- Shown are medians, and the worst of what must not happen at all; ratios and differences
  are those of single repetitions, within which the servers take turns. MB and GB are decimal, MiB is binary.
- Clients and upstream are processes of their own on the same %d CPUs (%s/%s). Clients
  check the length of all that they get, some its digest; the others let the kernel
  drop it, so that they take as little CPU time from the server as they can.
- stock is registry %s in proxy mode, zot is %s with its extension sync, which fetches images
  when they are asked for, and nginx cache is proxy_cache in front of the same upstream.
`, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, lab.StockRegistry().Version, zotVersion)
	if b.busy > 1 {
		fmt.Fprintf(&text, "- The machine was busy with other things (load average %.1f at the start): the times are not to be trusted.\n", b.busy)
	}
	if b.quick {
		text.WriteString("- This was a -quick run: too small, and too few repetitions, to judge by.\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// samples is the run for other programs to read.
func (b *bench) samples() saved {
	return saved{b.quick, runtime.NumCPU(), b.about, b.table}
}

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.log, "bench: "+format+"\n", args...) // progress; nobody may be watching
}

// pick returns the first value, or the second in a quick run.
func pick[T any](b *bench, full, quick T) T {
	if b.quick {
		return quick
	}
	return full
}

// image makes an image that no server has seen, on the upstream, with layers
// of the given sizes in bytes.
func (b *bench) image(ctx context.Context, layers ...int64) (synth.Image, error) {
	b.images++
	return b.upstream.Add(ctx, fmt.Sprintf("bench/image-%d", b.images), "latest", uint64(b.images), layers)
}

// resetCounters sets the upstream's counters to zero once it is quiet: what the
// server before has still asked for when its clients were gone is not to be
// counted for the next one.
func (b *bench) resetCounters(ctx context.Context) error {
	const quiet = 5 * latency
	for before := (synth.Counters{}); ; {
		now, err := b.upstream.Counters(ctx)
		if err != nil {
			return err
		}
		if now == before {
			return b.upstream.Reset(ctx)
		}
		before = now
		select {
		case <-time.After(quiet):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	mib = 1 << 20
	// wan is the rate of the upstream in the cold scenarios, in bytes per
	// second.
	wan = 100e6
	// latency is what the upstream takes to answer, where it is not at hand.
	latency = 20 * time.Millisecond
)
