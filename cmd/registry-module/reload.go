package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/config"
)

// reloading says how a running program comes by another configuration. With the zero value
// it does not.
type reloading struct {
	// load reads it again.
	load func() (*config.Config, error)
	// hangups are signals to do so.
	hangups <-chan os.Signal
	// every is how often it is looked whether files have changed; 0 is never.
	every time.Duration
}

// reloadState is what has become of the last change of the configuration.
type reloadState struct {
	// Source is the file, empty for none, and Loaded when what is in force was read.
	Source string
	Loaded time.Time
	// Error says why a later version is not in force; empty where there is none.
	Error string
	// Restart are the settings whose later values wait for a restart.
	Restart []string
	// Reloads counts the changes, and Failures those that could not be made.
	Reloads, Failures int64
}

// reloadReport is what one reload has come to.
type reloadReport struct {
	Source string `json:"source,omitempty"`
	// Changed are the settings and files that have changed.
	Changed []string `json:"changed"`
	Restart []string `json:"restart,omitempty"`
	// Warnings are those that were not there before.
	Warnings []string `json:"warnings,omitempty"`
	// Errors say why nothing has changed.
	Errors []string `json:"errors,omitempty"`
}

// reloader replaces the configuration of a program: as a whole, or not at all. It is safe for
// use by several goroutines.
type reloader struct {
	program *program
	reloading
	state atomic.Pointer[reloadState]

	mu sync.Mutex // guards following
	// next is the reload that those wait for who have come since the last one has begun; nil
	// for none. Running tells that somebody does it, and all others before.
	next    *reload
	running bool

	// What follows is for the one who reloads, one at a time.
	warnings []string
	restart  []string
	// files are what the configuration hangs on, see watch.
	files fileWatch
}

// reload is one that several may wait for.
type reload struct {
	done   chan struct{}
	report reloadReport
}

// errNoReload is for a program that has no way to read its configuration again.
var errNoReload = errors.New("the configuration cannot be read again: start the server anew")

// errEnds is that the program is being closed.
var errEnds = errors.New("the program ends")

// reloadBy has the program come by another configuration as how says.
func (p *program) reloadBy(how reloading) (*reloader, error) {
	r := &reloader{program: p, reloading: how}
	cfg := p.current.Load().cfg
	r.warnings = cfg.Warnings
	r.state.Store(&reloadState{Source: cfg.Source, Loaded: time.Now().Round(0)})
	// Of what was read before, so that what has changed since then is noticed.
	r.files.read(cfg.Files)
	if err := p.metrics.Register(reloadMetrics{r}); err != nil {
		return nil, err
	}
	p.reloader = r
	return r, nil
}

// State returns what has become of the last change.
func (r *reloader) State() reloadState { return *r.state.Load() }

// Reload reads the configuration again, and has it hold. Who comes while another reload is
// under way gets what the next one comes to, together with all others who do.
func (r *reloader) Reload(ctx context.Context) (reloadReport, error) {
	if r.load == nil {
		return reloadReport{}, errNoReload
	}
	r.mu.Lock()
	if r.next == nil {
		r.next = &reload{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = true
		go r.work()
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.report, nil
	case <-ctx.Done():
		return reloadReport{}, ctx.Err()
	}
}

// work reloads until nobody waits for it.
func (r *reloader) work() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		if now == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		now.report = r.reload()
		close(now.done)
	}
}

// reload is Reload for the one who does it.
func (r *reloader) reload() reloadReport {
	before := r.program.current.Load().cfg
	r.files.look() // first, so that what changes while it is read is noticed
	cfg, err := r.load()
	if err == nil {
		r.files.read(cfg.Files)
	} else if errs, ok := errors.AsType[*config.Errors](err); ok {
		files := maps.Clone(before.Files)
		for _, path := range errs.Files {
			files[path] = "" // with another content it may be good
		}
		r.files.read(files)
	}
	var report reloadReport
	if err == nil {
		report = reloadReport{Source: cfg.Source, Changed: cfg.Changed(before)}
		report.Restart = keepFixed(cfg, before)
		report.Changed = slices.DeleteFunc(report.Changed, func(key string) bool {
			return slices.ContainsFunc(report.Restart, func(waits string) bool { return key == waits || strings.HasPrefix(key, waits+".") })
		})
		err = r.program.change(cfg)
	}
	state := r.State()
	state.Reloads++
	if errors.Is(err, errEnds) { // which is no fault of the configuration
		return reloadReport{Source: state.Source, Changed: []string{}, Restart: state.Restart, Errors: []string{err.Error()}}
	}
	if err != nil {
		state.Failures++
		state.Error = err.Error()
		r.state.Store(&state)
		r.program.recorder.Problem("The configuration stays as it is, since what was read is no good: "+joinLines(err.Error()), "")
		r.program.log.Errorf("the configuration stays as it is, since what was read is no good: %s", joinLines(err.Error()))
		return reloadReport{Source: state.Source, Changed: []string{}, Restart: state.Restart, Errors: linesOf(err)}
	}
	state.Source, state.Loaded, state.Error, state.Restart = cfg.Source, time.Now().Round(0), "", report.Restart
	r.state.Store(&state)
	r.tell(cfg, &report)
	return report
}

// tell logs what has changed, and what is new of what is to be said.
func (r *reloader) tell(cfg *config.Config, report *reloadReport) {
	log := r.program.log
	if report.Changed == nil {
		report.Changed = []string{}
	}
	what := "nothing has changed"
	if len(report.Changed) > 0 {
		what = strings.Join(report.Changed, ", ")
	}
	log.Infof("the configuration was read again: %s", what)
	for _, w := range cfg.Warnings {
		if !slices.Contains(r.warnings, w) {
			report.Warnings = append(report.Warnings, w)
			log.Warn(w)
		}
	}
	r.warnings = cfg.Warnings
	if len(report.Restart) > 0 && !slices.Equal(report.Restart, r.restart) {
		log.Warnf("waits for a restart: %s", strings.Join(report.Restart, ", "))
	}
	r.restart = report.Restart
}

// linesOf are the problems that an error has, one each.
func linesOf(err error) (lines []string) {
	if errs, ok := errors.AsType[*config.Errors](err); ok {
		for _, p := range errs.Problems {
			lines = append(lines, oneLine(p.Error()))
		}
		return lines
	}
	for line := range strings.Lines(err.Error()) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// keepFixed keeps what cannot change while the program runs as it was before, and returns the
// keys of what waits for a restart for that reason.
func keepFixed(cfg, before *config.Config) (waits []string) {
	keep := func(key string, now *string, was string) {
		if *now != was {
			*now = was
			waits = append(waits, key)
		}
	}
	keep("http.addr", &cfg.Addr, before.Addr)
	keep("http.net", &cfg.Net, before.Net)
	keep("http.debug.addr", &cfg.AdminAddr, before.AdminAddr)
	keep("storage.filesystem.rootdirectory", &cfg.DataDir, before.DataDir)
	if cfg.PProf != before.PProf {
		cfg.PProf = before.PProf
		waits = append(waits, "admin.pprof")
	}
	stock := *cfg.Stock
	if stock.HTTP.Debug.Prometheus != before.Stock.HTTP.Debug.Prometheus {
		stock.HTTP.Debug.Prometheus = before.Stock.HTTP.Debug.Prometheus
		waits = append(waits, "http.debug.prometheus")
	}
	stock.HTTP.Addr, stock.HTTP.Net, stock.HTTP.Debug.Addr = before.Stock.HTTP.Addr, before.Stock.HTTP.Net, before.Stock.HTTP.Debug.Addr
	cfg.Stock = &stock
	return waits
}

// change has a configuration hold, as a whole or, with an error, not at all.
func (p *program) change(cfg *config.Config) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	if p.closed {
		return errEnds
	}
	before := p.current.Load()
	g, err := p.newGeneration(cfg, before)
	if err != nil {
		return err
	}
	if err := p.complete(g, before); err != nil {
		return err
	}
	// With the remotes of before, which has requests yet.
	if err := p.reconfigureCache(g); err != nil {
		return err
	}
	p.takeOver(g, before)
	return nil
}

// onTakeOver has tell called for each generation that becomes the current one from now on.
// It holds up the change, and must not begin another one.
func (p *program) onTakeOver(tell func(*generation)) {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.takenOver = append(p.takenOver, tell)
}

// besides answers the command reload, and all else by others.
func (r *reloader) besides(others http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", others)
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, req *http.Request) {
		report, err := r.Reload(req.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, report)
	})
	return mux
}

// reloadMetrics are what is known of changes of the configuration, when it is asked for.
type reloadMetrics struct{ r *reloader }

var (
	reloadsTotal  = prometheus.NewDesc("registry_module_config_reloads_total", "Times that the configuration was read again, by result (ok, failed).", []string{"result"}, nil)
	reloadSuccess = prometheus.NewDesc("registry_module_config_last_reload_success", "1 where the configuration is in force that was read last, otherwise 0.", nil, nil)
	reloadLoaded  = prometheus.NewDesc("registry_module_config_loaded_timestamp_seconds", "When the configuration that is in force was read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (reloadMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{reloadsTotal, reloadSuccess, reloadLoaded} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m reloadMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.r.State()
	success := 1.0
	if s.Error != "" {
		success = 0
	}
	out <- prometheus.MustNewConstMetric(reloadsTotal, prometheus.CounterValue, float64(s.Reloads-s.Failures), "ok")
	out <- prometheus.MustNewConstMetric(reloadsTotal, prometheus.CounterValue, float64(s.Failures), "failed")
	out <- prometheus.MustNewConstMetric(reloadSuccess, prometheus.GaugeValue, success)
	out <- prometheus.MustNewConstMetric(reloadLoaded, prometheus.GaugeValue, float64(s.Loaded.UnixMilli())/1e3)
}

// String is for people.
func (r reloadReport) String() string {
	var b strings.Builder
	if len(r.Errors) > 0 {
		fmt.Fprintf(&b, "nothing was changed:\n")
		for _, e := range r.Errors {
			fmt.Fprintf(&b, "  %s\n", printable(e))
		}
		return b.String()
	}
	if len(r.Changed) == 0 {
		fmt.Fprintf(&b, "nothing has changed\n")
	}
	for _, key := range r.Changed {
		fmt.Fprintf(&b, "changed: %s\n", printable(key))
	}
	for _, key := range r.Restart {
		fmt.Fprintf(&b, "waits for a restart: %s\n", printable(key))
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", printable(oneLine(w)))
	}
	return b.String()
}
