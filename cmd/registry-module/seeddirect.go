package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/upstream/router"
)

// withSeeding does something with what fills the data directory with the images of job: the
// server that runs on it, or, where none does, this process.
func withSeeding(ctx context.Context, cfg *config.Config, job seed.Job, do func(openedImages) error) error {
	return withData(ctx, cfg,
		func(c *controlClient) error {
			return do(openedImages{imageControl: c, seeding: &seedClient{send: c.sendJob, server: c.path}})
		},
		func(d dataDir) error { return seedDirectly(ctx, cfg, d, job, do) })
}

// dataDirFor makes sure that there is a data directory to fill. One that was made for a
// plan only is removed again by done.
func dataDirFor(cfg *config.Config, planOnly bool) (_ *config.Config, done func() error, err error) {
	nothing := func() error { return nil }
	if _, err := os.Stat(cfg.DataDir); !errors.Is(err, fs.ErrNotExist) {
		return cfg, nothing, nil // what else is wrong with it is found out by who opens it
	}
	if !planOnly {
		return cfg, nothing, os.MkdirAll(cfg.DataDir, 0o755)
	}
	// On the same file system, since a plan says what has room there.
	above := filepath.Dir(filepath.Clean(cfg.DataDir))
	for above != filepath.Dir(above) {
		if _, err := os.Stat(above); err == nil {
			break
		}
		above = filepath.Dir(above)
	}
	dir, err := os.MkdirTemp(above, ".registry-module-plan-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "registry-module-plan-"); err != nil {
			return nil, nil, fmt.Errorf("planning without a data directory: %w", err)
		}
	}
	other := *cfg
	other.DataDir = dir
	return &other, func() error { return os.RemoveAll(dir) }, nil
}

// seedDirectly does something with what fills a data directory that no server uses.
func seedDirectly(ctx context.Context, cfg *config.Config, d dataDir, job seed.Job, do func(openedImages) error) (err error) {
	_, routes, err := unasked(cfg, d.store)
	if err != nil {
		return err
	}
	if len(cfg.Remotes) == 0 {
		routes = nil // those of the data directory can be asked, too
	}
	names, err := newSeedNames(cfg, routes)
	if err != nil {
		return err
	}
	all := *cfg
	all.Remotes = slices.Clone(cfg.Remotes)
	for _, host := range names.strangers(job) {
		all.Remotes = append(all.Remotes, strangerRemote(host))
	}
	if err := offlineWithoutServer(&all); err != nil {
		return err
	}
	links, err := newLinks(prometheus.NewRegistry(), d.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, links.Close()) }()
	links.limit.Set(all.Bandwidth)
	remotes, routes, err := unasked(&all, d.store)
	if err != nil {
		return err
	}
	stacks, err := links.connect(all.Remotes, func(string) *stack { return nil })
	if err != nil {
		return err
	}
	for i, s := range stacks {
		defer func() { err = errors.Join(err, s.remote.Close()) }()
		remotes[i].Upstream = s.breaker
	}
	if len(cfg.Remotes) == 0 {
		// What is stored of others stays theirs.
		if remotes, routes, err = withMirrored(d, remotes, routes); err != nil {
			return err
		}
	}
	if names.router, err = router.New(routes); err != nil {
		return err
	}
	images, err := d.openCache(ctx, cfg, remotes, routes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, images.cache.Close()) }()
	defer endWarnings(d.log)
	return do(openedImages{imageControl: images, seeding: newSeeder(images.cache, names, nil), direct: true, logTo: logTo(d.log)})
}

// withMirrored adds the remotes that the data directory has content of, with nobody to
// ask.
func withMirrored(d dataDir, remotes []cache.Remote, routes []router.Remote) ([]cache.Remote, []router.Remote, error) {
	others, _, err := mirrored(d.store)
	for _, o := range others {
		if o.Host == "" || slices.ContainsFunc(remotes, func(r cache.Remote) bool { return r.Host == o.Host }) {
			continue
		}
		remotes, routes = append(remotes, o), append(routes, router.Remote{Host: o.Host})
	}
	return remotes, routes, err
}
