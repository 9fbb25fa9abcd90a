package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/via"
	"registry-module/seed"
)

// seeding fills a cache. It is what a [seed.Seeder] has for commands.
type seeding interface {
	Plan(ctx context.Context, job seed.Job) (seed.Plan, error)
	Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error)
}

var _ seeding = (*seed.Seeder)(nil)

// Kinds of errors of who cannot seed now.
var (
	errSeeding = errors.New("something is being seeded already")
	errOffline = errors.New("offline mode is on")
)

// oneSeeding lets one job run at a time, and none in offline mode: plans can be made
// meanwhile.
type oneSeeding struct {
	seeding
	turn    chan struct{}
	offline func() bool
}

func newOneSeeding(s seeding, offline func() bool) *oneSeeding {
	return &oneSeeding{s, make(chan struct{}, 1), offline}
}

// Plan implements seeding.
func (o *oneSeeding) Plan(ctx context.Context, job seed.Job) (seed.Plan, error) {
	if err := o.allowed(); err != nil {
		return seed.Plan{}, err
	}
	return o.seeding.Plan(ctx, job)
}

// Seed implements seeding.
func (o *oneSeeding) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	if err := o.allowed(); err != nil {
		return seed.Report{}, err
	}
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
		return o.seeding.Seed(ctx, job, progress)
	default:
		return seed.Report{}, &saidError{errSeeding, "this server is seeding already, by the schedule of its seed file or for somebody else: run this again when that has ended"}
	}
}

func (o *oneSeeding) allowed() error {
	if o.offline() {
		return &saidError{errOffline, "offline mode is on, and no remote is contacted: `registry-module offline` says why, and `registry-module offline off` ends it"}
	}
	return nil
}

// withSeeding does something with who fills the cache of the data directory: by way of
// the server that runs on it, or directly where none does, and then with remotes for all
// registries that are named.
func withSeeding(ctx context.Context, cfg *config.Config, wants []seed.Want, do func(openedImages) error) error {
	return withData(ctx, cfg,
		func(c *controlClient) error { return do(openedImages{imageControl: c, seeding: c}) },
		func(d dataDir) error {
			return directly(ctx, cfg, d, wants, func(p *program) error {
				return do(openedImages{imageControl: p.images, seeding: p.seeding, direct: true})
			})
		})
}

// directly fills the cache of a data directory that no server runs on.
func directly(ctx context.Context, cfg *config.Config, d dataDir, wants []seed.Want, do func(*program) error) (err error) {
	cfg, err = withNamed(cfg, wants)
	if err != nil {
		return usageError{err}
	}
	p := &program{metrics: prometheus.NewRegistry(), name: via.NewName()}
	defer func() { err = errors.Join(err, p.Close()) }()
	p.offline = startOfflineControl(cfg, &p.contact, d.log)
	p.closers = append(p.closers, p.offline)
	remotes, routes, err := p.wireRemotes(cfg, d.store, d.log)
	if err != nil {
		return err
	}
	opts, err := cacheOptions(cfg, d.store, d.index, remotes, routes, d.log)
	if err != nil {
		return err
	}
	// A command does what it is told, and nothing on the side.
	opts.Resume, opts.Prefetch, opts.Attached, opts.ScrubInterval = false, false, false, 0
	c, err := cache.New(ctx, opts)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, c)
	p.cache = c
	served, err := newServedRemotes(d.store, remotes, routes, len(cfg.Remotes) == 0)
	if err != nil {
		return err
	}
	images, err := newCachedImages(c, served, cfg)
	if err != nil {
		return err
	}
	p.images = images
	p.wireSeeding(images.names, d.log)
	if err := do(p); err != nil {
		if _, partly := errors.AsType[partlyError](err); !partly && errors.Is(err, context.Canceled) {
			err = interrupted(ctx, err)
		}
		return err
	}
	return nil
}

// wireSeeding makes who fills the program's cache.
func (p *program) wireSeeding(names *imageNames, log logrus.FieldLogger) {
	s := seed.New(seed.Options{Cache: seedCache{Cache: p.cache, names: names}, Log: log})
	p.seeding = newOneSeeding(s, func() bool { return p.contact.Offline() != nil })
}

// dataDirFor makes sure that there is a data directory to fill. One that was made for a
// plan only is removed again by done.
func dataDirFor(cfg *config.Config, planOnly bool) (_ *config.Config, done func() error, err error) {
	nothing := func() error { return nil }
	if _, err := os.Stat(cfg.DataDir); !errors.Is(err, os.ErrNotExist) {
		return cfg, nothing, nil // what else is wrong with it is found out by who opens it
	}
	if !planOnly {
		return cfg, nothing, os.MkdirAll(cfg.DataDir, 0o755)
	}
	above := filepath.Dir(cfg.DataDir)
	for { // of the same file system, since a plan says what has room there
		if _, err := os.Stat(above); err == nil || above == filepath.Dir(above) {
			break
		}
		above = filepath.Dir(above)
	}
	dir, err := os.MkdirTemp(above, ".registry-module-plan-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "registry-module-plan-"); err != nil {
			return nil, nil, err
		}
	}
	other := *cfg
	other.DataDir = dir
	return &other, func() error { return os.RemoveAll(dir) }, nil
}
