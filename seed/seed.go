package seed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
)

// ErrNoRoom means that what is to be pinned does not fit, together with all that is pinned
// already. Nothing was fetched.
var ErrNoRoom = errors.New("there is no room for what is to be pinned")

// Options of a [Seeder]. Only Cache must be set.
type Options struct {
	Cache Cache
	// Log says what goes wrong on the way. Default: nobody is told.
	Log logrus.FieldLogger
	// Parallel is how many images are fetched side by side. Default: DefaultParallel.
	Parallel int
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// DefaultParallel is how many images are fetched side by side: more than one, so that small
// answers of one are waited for while the large blobs of another use the link.
const DefaultParallel = 4

// Seeder fills a cache. It is safe for use by several goroutines.
type Seeder struct {
	cache    Cache
	log      logrus.FieldLogger
	parallel int
	now      func() time.Time
}

// New returns a Seeder. Nothing runs until its methods are called.
func New(o Options) *Seeder {
	s := &Seeder{cache: o.Cache, log: o.Log, parallel: o.Parallel, now: o.Now}
	if s.log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		s.log = discard
	}
	if s.parallel <= 0 {
		s.parallel = DefaultParallel
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Plan finds out what job comes to. Remotes are asked for tags and manifests, and nothing
// is kept. That something does not fit, or an image cannot be had, is in the plan; the
// error is of a job that is not valid, of the cache, or that of ctx.
func (s *Seeder) Plan(ctx context.Context, job Job) (Plan, error) {
	r, err := s.begin(ctx, job)
	if err != nil {
		return Plan{}, err
	}
	return r.plan(ctx)
}

// Seed brings what job wants into the cache. Progress, unless it is nil, is called about
// five times a second, and once for each image that has come to its end, by one goroutine
// at a time; it is not called any more when Seed returns.
//
// The report has each image. The error is that of Plan, [ErrNoRoom] with the figures, or
// that of ctx, and then the report says what was done until then. That images have failed
// is only in the report.
func (s *Seeder) Seed(ctx context.Context, job Job, progress func(Progress)) (Report, error) {
	began := s.now()
	r, err := s.begin(ctx, job)
	if err != nil {
		return Report{}, err
	}
	hold := s.cache.Hold()
	defer hold.Release()
	for _, i := range r.images {
		if !i.loose {
			hold.Keep(i.digests()...) // before it is looked at what is there
		}
	}
	plan, err := r.plan(ctx)
	if err != nil {
		return r.failed(err, began), err
	}
	if !plan.Fits {
		err := fmt.Errorf("%w: %s", ErrNoRoom, plan.Why)
		return r.failed(err, began), err
	}
	track := newTracker(r, plan, progress)
	report := Report{Images: r.seed(ctx, track), Size: plan.Size}
	report.Fetched = track.close()
	if err = ctx.Err(); err == nil && job.Prune {
		report.Pruned, report.Warning = r.prune(ctx)
	}
	report.Took = s.now().Sub(began)
	return report, err
}

// begin finds out which images job means, and what they consist of.
func (s *Seeder) begin(ctx context.Context, job Job) (*run, error) {
	if err := job.Validate(); err != nil {
		return nil, err
	}
	if err := s.cache.Ready(ctx); err != nil {
		return nil, fmt.Errorf("waiting for the cache: %w", err)
	}
	r := newRun(s, job)
	if err := r.resolve(ctx); err != nil {
		return nil, err
	}
	r.walk(ctx)
	return r, ctx.Err()
}

// failed is the report where nothing was begun because of err.
func (r *run) failed(err error, began time.Time) Report {
	report := Report{Took: r.now().Sub(began)}
	for _, i := range r.images {
		done := i.report()
		done.State, done.Error = Failed, cmp.Or(i.planned.Error, err.Error())
		report.Images = append(report.Images, done)
	}
	return report
}
