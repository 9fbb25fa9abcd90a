package main

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/server/admin"
	"registry-module/server/admin/dashboard"
	"registry-module/upstream/breaker"
)

// wireAdmin makes what answers on the admin address. It lives as long as the process, and
// shows the current configuration.
func (p *program) wireAdmin(cfg *config.Config) *admin.Server {
	all := prometheus.Gatherers{p.metrics}
	if cfg.Stock.HTTP.Debug.Prometheus.Enabled {
		all = append(all, stockMetrics{}) // beside what of them is ours
	}
	return admin.New(admin.Options{
		Version:     version,
		Health:      healthHandler(p.statuses),
		Ready:       p.readiness,
		Metrics:     promhttp.HandlerFor(all, promhttp.HandlerOpts{}),
		MetricsPath: cfg.Stock.HTTP.Debug.Prometheus.Path,
		Pprof:       cfg.PProf,
		Page: func(s *admin.Server) http.Handler {
			return dashboard.New(dashboard.Options{Source: s, Log: p.log})
		},
		Remotes:  p.shownRemotes,
		Offline:  func() admin.Offline { return shownOffline(p.offline.apply()) },
		Stats:    p.cache.Stats,
		Config:   p.shownConfig,
		Seed:     p.shownSeed,
		Recorder: p.recorder,
		Images:   p.cache.Images,
		Name:     p.nameOf,
		Actions:  adminActions{p},
		Token:    p.adminToken,
		SeedJobs: http.HandlerFunc(p.serveSeedJob),
		Log:      p.log,
	})
}

// readiness is what speaks against sending requests here, and what else is to be known.
func (p *program) readiness() (reasons, warnings []string) {
	if p.store.ReadOnly() {
		warnings = append(warnings, "the file system of the data directory is read-only: what is stored is served, and nothing more is stored")
	}
	return nil, warnings
}

// adminToken is that of those who may change something by the admin address; empty where
// nobody may.
func (p *program) adminToken(context.Context) (string, error) {
	path := p.current.Load().cfg.AdminTokenFile
	if path == "" {
		return "", nil
	}
	return config.ReadToken(path)
}

// nameOf is the name by which clients ask for a repository.
func (p *program) nameOf(at cache.Place) string {
	if name, ok := p.current.Load().served.routing.Listed(at); ok {
		return name
	}
	return at.Repo
}

// serveSeedJob answers those who seed by the admin address, where anybody may.
func (p *program) serveSeedJob(w http.ResponseWriter, r *http.Request) {
	gate := p.current.Load().seedGate
	if gate == nil {
		http.NotFound(w, r)
		return
	}
	gate.ServeHTTP(w, r)
}

func (p *program) shownRemotes() []admin.Remote {
	all := []admin.Remote{}
	for _, s := range p.statuses() {
		r := shownRemote(s)
		r.Requests, r.Fetched = p.links.requests.Of(r.Host)
		all = append(all, r)
	}
	return all
}

func shownRemote(s breaker.Status) admin.Remote {
	return admin.Remote{
		Host: s.Remote, State: string(s.State), Good: s.State == breaker.Online || s.State == breaker.Unknown,
		Since: s.Since, Reason: s.Reason, NextTry: s.NextTry,
	}
}

func shownOffline(s offlineStatus) admin.Offline {
	return admin.Offline{On: s.Offline, Mode: s.Mode, Reason: s.Reason, Until: s.Until}
}

func (p *program) shownConfig() admin.Config {
	r := p.reloader
	if r == nil {
		return admin.Config{Source: p.current.Load().cfg.Source}
	}
	s := r.State()
	return admin.Config{Source: s.Source, Loaded: s.Loaded, Error: joinLines(s.Error), Restart: s.Restart}
}

func (p *program) shownSeed() *admin.Seed {
	scheduler := p.current.Load().scheduler
	if scheduler == nil {
		return nil
	}
	s := scheduler.State()
	shown := &admin.Seed{File: s.File, Running: s.Running, Last: s.Last, Next: s.Next, Error: s.Error}
	if s.Summary != nil {
		shown.Images, shown.Failed = s.Summary.Images, s.Summary.Failures
	}
	return shown
}
