package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	stockauth "github.com/distribution/distribution/v3/registry/auth"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sirupsen/logrus"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/cache/index"
	"registry-module/config"
	"registry-module/server"
	"registry-module/upstream"
	"registry-module/upstream/metered"
	"registry-module/upstream/patient"
	"registry-module/upstream/throttled"
)

// program is the running registry-module: the one place where its parts meet.
type program struct {
	handler http.Handler
	// metrics are those of this program; the embedded app has its own.
	metrics *prometheus.Registry
	// closers are closed in reverse order.
	closers []io.Closer
}

// wire puts the program together. It makes no connection.
func wire(ctx context.Context, cfg *config.Config, log logrus.FieldLogger) (_ *program, err error) {
	p := &program{metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()

	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	access, err := accessController(cfg.Stock.Auth)
	if err != nil {
		return nil, err
	}
	store, err := disk.Open(cfg.DataDir, disk.Options{})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, store)
	idx, err := index.Open(filepath.Join(cfg.DataDir, "index"), log)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, idx)

	opts := cache.Options{
		Blobs: store, Partials: store.Partials(), Refs: store.Refs(), Index: idx,
		MaxSize:    cfg.MaxSize,
		MinFree:    cfg.MinFree.Of,
		PartialTTL: orNever(cfg.PartialTTL),
		Resume:     cfg.Resume,
		Prefetch:   cfg.Prefetch,
		Log:        log,
	}
	var namespaces []string
	if len(cfg.Remotes) > 0 {
		host, err := p.wireRemote(cfg, store, &opts, log)
		if err != nil {
			return nil, err
		}
		namespaces = namespacesOf(host, cfg.Remotes[0].Alias)
	} else {
		host, err := store.BareRemote()
		if err != nil {
			return nil, err
		}
		namespaces = namespacesOf(host, "")
	}
	c, err := cache.New(ctx, opts)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, c)

	srv, err := server.New(ctx, server.Options{
		Cache:      c,
		Config:     cfg.Stock,
		Access:     access,
		Namespaces: namespaces,
		Log:        log,
	})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, srv)
	p.handler = srv
	return p, nil
}

// wireRemote connects the cache's options with the configured remote registry,
// and returns its host.
func (p *program) wireRemote(cfg *config.Config, store *disk.Store, opts *cache.Options, log logrus.FieldLogger) (host string, err error) {
	remoteCfg := cfg.Remotes[0]
	remote, err := upstream.New(upstream.Options{
		URL:           remoteCfg.URL.String(),
		Credentials:   auth.Static(remoteCfg.Credentials.Username, string(remoteCfg.Credentials.Password)),
		AllowedRealms: remoteCfg.AllowedRealms,
		CAFile:        remoteCfg.CAFile,
		CertFile:      remoteCfg.CertFile,
		KeyFile:       remoteCfg.KeyFile,
		StallTimeout:  remoteCfg.StallTimeout,
		UserAgent:     "registry-module/" + version,
		Log:           log,
	})
	if err != nil {
		return "", err
	}
	p.closers = append(p.closers, remote)
	opts.Prefix, err = store.Prefix(remote.Host())
	if err != nil {
		return "", err
	}
	opts.TagTTL = remoteCfg.TagTTL
	opts.Connections, opts.MaxConnections = remoteCfg.Connections, remoteCfg.MaxConnections
	opts.RetryFor = orNever(remoteCfg.RetryFor)
	var up cache.Upstream = remote
	if cfg.Offline {
		up = upstream.NewOffline(remote.Host())
	}
	// From the inside: what is counted has been asked for, and is what the link
	// carries; who is to wait for long does not even get to it.
	if up, err = metered.New(up, p.metrics); err != nil {
		return "", err
	}
	up = throttled.New(up, throttled.NewLimiter(remoteCfg.Bandwidth), throttled.NewLimiter(cfg.Bandwidth))
	opts.Upstream = patient.New(up, patient.Options{Log: log})
	return remote.Host(), nil
}

// orNever is a duration of the configuration, where 0 is never, for options, where
// 0 is the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// namespacesOf are the values of the ns parameter that mean the remote host.
func namespacesOf(host, alias string) []string {
	var names []string
	if host != "" {
		names = append(names, host)
	}
	if host == "registry-1.docker.io" { // what clients call Docker Hub
		names = append(names, "docker.io", "index.docker.io")
	}
	if alias != "" {
		names = append(names, alias)
	}
	return slices.Compact(names)
}

func accessController(cfg configuration.Auth) (stockauth.AccessController, error) {
	if t := cfg.Type(); t != "" && t != "none" {
		return auth.NewAccessController(t, cfg.Parameters())
	}
	return nil, nil
}

// Close ends the program's parts, the last first.
func (p *program) Close() error {
	var errs []error
	for _, c := range slices.Backward(p.closers) {
		errs = append(errs, c.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}
