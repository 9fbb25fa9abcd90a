package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/durable"
	"registry-module/seed"
	"registry-module/seed/source"
	"registry-module/upstream/router"
)

// seedStateName is the file in the data directory that has when was last seeded, and with
// what outcome.
const seedStateName = "registry-module.seed.json"

// sourceOptions is how documents that name images are read.
func sourceOptions() source.Options {
	return source.Options{
		Lookup:        os.LookupEnv,
		CheckTags:     func(t seed.Tags) error { return t.Validate() },
		CheckSchedule: func(expression string) error { return seed.CheckSchedule([]string{expression}) },
	}
}

// newScheduler does what the seed file says, when it says so; nil where there is none.
func newScheduler(cfg *config.Config, seeds *seedControl, doc cache.Document, log logrus.FieldLogger) *seed.Scheduler {
	if cfg.SeedFile == "" {
		return nil
	}
	f := &seedFile{path: cfg.SeedFile, log: log}
	return &seed.Scheduler{
		Runner: scheduled{seeds, cfg.SeedFile}, File: cfg.SeedFile, Read: f.read, Document: doc, Log: log,
	}
}

// scheduled does the jobs of the schedule. It waits for others to end.
type scheduled struct {
	control *seedControl
	file    string
}

// Seed implements seed.Runner.
func (s scheduled) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	end, err := s.control.begin(ctx, "that of the seed file "+s.file, true)
	if err != nil {
		return seed.Report{}, err
	}
	defer end()
	return s.control.run(ctx, job, progress)
}

// seedFile is the seed file of a server.
type seedFile struct {
	path string
	log  logrus.FieldLogger

	mu     sync.Mutex
	warned string // what was last logged
}

// read reads it anew.
func (f *seedFile) read(context.Context) (seed.Job, []string, error) {
	file, _, err := durable.Open(durable.OS{}, f.path, 0)
	if err != nil {
		return seed.Job{}, nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	doc, err := source.Read(filepath.Base(f.path), file, sourceOptions())
	if err != nil {
		return seed.Job{}, nil, err
	}
	if len(doc.Schedule) == 0 {
		doc.Warnings = append(doc.Warnings, f.path+" has no schedule, so that nothing is seeded by it until there is one")
	}
	f.warn(doc.Warnings)
	return seed.Job{Wants: doc.Wants, Prune: doc.Prune != nil && *doc.Prune}, doc.Schedule, nil
}

// warn logs warnings that are new.
func (f *seedFile) warn(warnings []string) {
	text := strings.Join(warnings, "\n")
	f.mu.Lock()
	defer f.mu.Unlock()
	if text == f.warned {
		return
	}
	f.warned = text
	for _, w := range warnings {
		f.log.Warn(w)
	}
}

// runner is something that goes on from one generation to the next, or ends with the first.
type runner struct {
	run     func(context.Context)
	running *running // nil before it was started; guarded by program.changing
}

// start starts what goes on in the background now, and with each generation from now on.
func (p *program) start() {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.started = true
	p.runInstead(p.current.Load(), nil)
}

// stop ends all that.
func (p *program) stop() error {
	p.changing.Lock()
	defer p.changing.Unlock()
	if g := p.current.Load(); g != nil {
		for _, r := range slices.Backward(g.runners) {
			r.end()
		}
	}
	return nil
}

// runInstead ends what before has and g has not, and then starts what only g has: two
// schedulers would have one document. Changing is held.
func (p *program) runInstead(g, before *generation) {
	if before != nil {
		for _, r := range before.runners {
			if !slices.Contains(g.runners, r) {
				r.end()
			}
		}
	}
	for _, r := range g.runners {
		if p.started && r.running == nil {
			r.running = start(p.ctx, r.run)
		}
	}
}

// end ends it, if it runs.
func (r *runner) end() {
	if r.running != nil {
		_ = r.running.Close() // which never fails
		r.running = nil
	}
}

// running is something that goes on until it is closed.
type running struct {
	stop context.CancelFunc
	done chan struct{}
}

// start runs run, which returns when its context ends.
func start(ctx context.Context, run func(context.Context)) *running {
	ctx, stop := context.WithCancel(ctx)
	r := &running{stop, make(chan struct{})}
	go func() {
		defer close(r.done)
		run(ctx)
	}()
	return r
}

// Close implements io.Closer.
func (r *running) Close() error {
	r.stop()
	<-r.done
	return nil
}

// seedStates tell how the schedule stands; a file that is empty is none.
type seedStates interface {
	SeedState(ctx context.Context) (seed.ScheduleState, error)
}

// storedSeedState is the state while no server runs.
type storedSeedState struct {
	file string
	doc  cache.Document
}

// SeedState implements seedStates.
func (s storedSeedState) SeedState(ctx context.Context) (state seed.ScheduleState, err error) {
	if s.file == "" {
		return state, nil
	}
	content, err := s.doc.Read(ctx)
	if err == nil {
		err = json.Unmarshal(content, &state) // what is kept has the same names
	}
	state.File = s.file
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return state, err
}

// SeedState implements seedStates. A server that is too old to know gives none.
func (c *controlClient) SeedState(ctx context.Context) (state seed.ScheduleState, _ error) {
	resp, err := c.do(ctx, http.MethodGet, "/seed")
	if err != nil {
		return state, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return state, nil
	default:
		return state, unexpected(resp)
	}
	err = json.NewDecoder(resp.Body).Decode(&state)
	return state, err
}

// seedStateHandler answers with how the schedule stands; nil where there is none.
func seedStateHandler(s *seed.Scheduler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var state seed.ScheduleState
		if s != nil {
			state = s.State()
		}
		writeJSON(w, state)
	})
}

// seedStateText is a line about the schedule, empty where there is none.
func seedStateText(s seed.ScheduleState, now time.Time) string {
	if s.File == "" {
		return ""
	}
	text := "seed file " + printable(s.File) + ": "
	switch {
	case s.Running:
		text += "seeding since " + timeText(s.Last)
	case s.Last.IsZero():
		text += "not seeded yet"
	default:
		text += "seeded " + ago(s.Last, now)
	}
	if sum := s.Summary; sum != nil {
		text += fmt.Sprintf(", %s, %d failed, %s fetched", quantity(sum.Images, "image", "images"), sum.Failures, sizeText(sum.Fetched))
	}
	if !s.Next.IsZero() {
		text += ", next " + timeText(s.Next)
	}
	if s.Error != "" {
		text += "; " + printable(oneLine(s.Error))
	}
	return text
}

// seedMetrics are what is known of seeding, when it is asked for.
type seedMetrics struct {
	control   *seedControl
	scheduler func() *seed.Scheduler // nil for none
}

var (
	seedFetched  = prometheus.NewDesc("registry_module_seed_fetched_bytes_total", "Bytes of blobs that were fetched from remotes by seeding.", nil, nil)
	seedLastRun  = prometheus.NewDesc("registry_module_seed_last_run_timestamp_seconds", "When the last run by the seed file has begun.", nil, nil)
	seedNextRun  = prometheus.NewDesc("registry_module_seed_next_run_timestamp_seconds", "When the next run by the seed file is to begin.", nil, nil)
	seedImages   = prometheus.NewDesc("registry_module_seed_images", "Images of the last run by the seed file.", nil, nil)
	seedFailures = prometheus.NewDesc("registry_module_seed_failed_images", "Images of the last run by the seed file that are not there, or could not be confirmed.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m seedMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{seedFetched, seedLastRun, seedNextRun, seedImages, seedFailures} {
		out <- d
	}
}

// Collect implements prometheus.Collector. What is not known is left out.
func (m seedMetrics) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(seedFetched, prometheus.CounterValue, float64(m.control.fetched.Load()))
	scheduler := m.scheduler()
	if scheduler == nil {
		return
	}
	s := scheduler.State()
	at := func(d *prometheus.Desc, t time.Time) {
		if !t.IsZero() {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(t.Unix()))
		}
	}
	at(seedLastRun, s.Last)
	at(seedNextRun, s.Next)
	if s.Summary != nil {
		out <- prometheus.MustNewConstMetric(seedImages, prometheus.GaugeValue, float64(s.Summary.Images))
		out <- prometheus.MustNewConstMetric(seedFailures, prometheus.GaugeValue, float64(s.Summary.Failures))
	}
}

// wireSeeding puts together what fills the cache ahead of time, as far as that goes without
// a configuration.
func (p *program) wireSeeding() error {
	p.seeds = newSeedControl(&p.seeding, func() error {
		return whyOffline(p.offline.apply(), len(p.current.Load().cfg.Remotes) > 0)
	})
	return p.metrics.Register(seedMetrics{p.seeds, func() *seed.Scheduler { return p.current.Load().scheduler }})
}

// seedBy is wireSeeding for what is of g's configuration.
func (p *program) seedBy(g, before *generation, routes []router.Remote) error {
	names, err := newSeedNames(g.cfg, routes)
	if err != nil {
		return err
	}
	g.seeder = newSeeder(p.cache, names, p.log)
	if g.runtime.keeper != nil {
		g.runners = append(g.runners, g.runtime.keeper)
	}
	if before != nil && before.scheduler != nil && before.cfg.SeedFile == g.cfg.SeedFile {
		g.scheduler, g.schedule = before.scheduler, before.schedule
	} else if g.scheduler = newScheduler(g.cfg, p.seeds, p.store.Document(seedStateName), p.log); g.scheduler != nil {
		g.schedule = &runner{run: g.scheduler.Run}
	}
	if g.schedule != nil {
		g.runners = append(g.runners, g.schedule)
	}
	return nil
}

// byAdmin is what those are answered who seed by the admin address; nil where nobody may.
// Who has not had the token before still has to wait.
func (p *program) byAdmin(g, before *generation) http.Handler {
	switch {
	case g.cfg.SeedTokenFile == "":
		return nil
	case before != nil && before.seedGate != nil && before.cfg.SeedTokenFile == g.cfg.SeedTokenFile:
		return before.seedGate
	}
	return newSeedGate(g.cfg.SeedTokenFile, p.seeds.handler("by the admin address"), p.log)
}

// byCommand answers commands about seeding, and others by others.
func (p *program) byCommand(g *generation, others http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", others)
	mux.Handle("POST /seed", p.seeds.handler("by a command"))
	mux.Handle("GET /seed", seedStateHandler(g.scheduler))
	return mux
}
