package seed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// lookEvery is how often it is looked at what the seed file says. It is also how late a
	// run can be after the machine has slept.
	lookEvery = time.Minute
	// retryAfter is how long after a run of which something has failed there is another
	// one, doubled each time, for at most retries times: links come back.
	retryAfter = 5 * time.Minute
	retries    = 3
)

// Runner does jobs. It is what a [Seeder] has for a [Scheduler].
type Runner interface {
	Seed(ctx context.Context, job Job, progress func(Progress)) (Report, error)
}

// Document is a small file that is kept durably, see package cache.
type Document interface {
	// Read returns what was last written. Where nothing ever was, the error is
	// [io/fs.ErrNotExist].
	Read(ctx context.Context) ([]byte, error)
	// Write replaces the content as a whole.
	Write(ctx context.Context, content []byte) error
}

// Scheduler does what a seed file says at the times that it says. Runner and Read must be
// set, and nothing may be changed once Run was called.
type Scheduler struct {
	Runner Runner
	// File is how the seed file is called, for people.
	File string
	// Read returns what the seed file says now: the job, and cron expressions, of which
	// there may be none. It is called about once a minute.
	Read func(ctx context.Context) (Job, []string, error)
	// Document is where it is kept when the last run was, so that one is made up for which
	// was missed while nothing ran. Default: it is not kept.
	Document Document
	// Log tells of the runs. Default: nobody is told.
	Log logrus.FieldLogger
	// Progress and Done, unless nil, are called as a run goes on, and with what has come
	// of it.
	Progress func(Progress)
	Done     func(Report, error)
	// Now is the clock, with the location by which the times are meant. Default: time.Now.
	Now func() time.Time

	mu    sync.Mutex
	state ScheduleState
}

// ScheduleState is how a [Scheduler] stands.
type ScheduleState struct {
	// File is how the seed file is called.
	File string `json:"file"`
	// Schedule are its cron expressions.
	Schedule []string `json:"schedule,omitempty"`
	// Running tells that there is a run now.
	Running bool `json:"running"`
	// Next is when the next run is to begin, and Last when the last one has begun; zero
	// where there is none.
	Next time.Time `json:"next,omitzero"`
	Last time.Time `json:"last,omitzero"`
	// Summary is what has come of the last run.
	Summary *Summary `json:"summary,omitempty"`
	// Error is why the seed file cannot be used, or why the last run has ended before its
	// end.
	Error string `json:"error,omitempty"`
}

// Summary is a [Report] in figures.
type Summary struct {
	Images   int           `json:"images"`
	Failures int           `json:"failures"` // see [Report.Failures]
	Fetched  int64         `json:"fetched"`  // bytes
	Size     int64         `json:"size"`     // bytes
	Pruned   int           `json:"pruned"`
	Took     time.Duration `json:"took"` // nanoseconds
	Warning  string        `json:"warning,omitempty"`
}

// Summary returns the figures of r.
func (r Report) Summary() Summary {
	return Summary{
		Images: len(r.Images), Failures: r.Failures(), Fetched: r.Fetched, Size: r.Size,
		Pruned: len(r.Pruned), Took: r.Took, Warning: r.Warning,
	}
}

// State returns how it stands. It can be called at any time.
func (s *Scheduler) State() ScheduleState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	state.File = s.File
	return state
}

// Run runs until ctx ends. A seed file that cannot be read is logged, and read again later.
func (s *Scheduler) Run(ctx context.Context) {
	r := scheduled{Scheduler: s, log: s.Log, now: s.Now}
	if r.log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		r.log = discard
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.load(ctx)
	for ctx.Err() == nil {
		wait := r.step(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// scheduled is a Scheduler that runs.
type scheduled struct {
	*Scheduler
	log logrus.FieldLogger
	now func() time.Time

	// since is what the next time comes after: the last run, or when there was first
	// something to look at, or when the times were changed.
	since time.Time
	// expressions are those that were read last, and times what they mean, nil before.
	expressions []string
	times       schedule
	nextOf      upcoming
	retry       time.Time // when to try again; zero is not at all
	retried     int
	problem     string // what is wrong with the seed file, as it was logged
}

// step does what is due, and returns how long nothing is.
func (s *scheduled) step(ctx context.Context) time.Duration {
	job, expressions, err := s.Read(ctx)
	times := s.times
	if err == nil && (times == nil || !slices.Equal(s.expressions, expressions)) {
		times, err = parseSchedule(expressions)
	}
	if err == nil {
		err = job.Validate()
	}
	if err != nil {
		if ctx.Err() == nil {
			s.unreadable(err)
		}
		return lookEvery
	}
	if s.problem != "" {
		s.problem = ""
		s.log.Infof("the seed file %s can be read again", s.File)
		s.set(func(state *ScheduleState) { state.Error = "" })
	}
	now := s.now()
	if s.since.After(now) || s.times != nil && !slices.Equal(s.times, times) {
		s.since = now.Round(0) // the clock was wrong, or these times were not meant then
	}
	s.expressions, s.times = slices.Clone(expressions), append(schedule{}, times...) // which is not nil
	next := s.next()
	if !s.retry.IsZero() && (next.IsZero() || s.retry.Before(next)) {
		next = s.retry
	}
	s.set(func(state *ScheduleState) { state.Next, state.Schedule = next, s.times })
	if next.IsZero() {
		return lookEvery
	}
	if wait := next.Sub(now.Round(0)); wait > 0 {
		return min(wait, lookEvery)
	}
	s.seed(ctx, job, now.Round(0))
	return 0
}

// next is when the next run is to begin.
func (s *scheduled) next() time.Time {
	if s.nextOf.since.Equal(s.since) && slices.Equal(s.nextOf.times, s.times) {
		return s.nextOf.at
	}
	at := s.times.next(s.since.In(s.now().Location()))
	s.nextOf = upcoming{s.since, s.times, at}
	return at
}

// upcoming is the time of a schedule that comes after another one.
type upcoming struct {
	since time.Time
	times schedule
	at    time.Time
}

// seed does a run.
func (s *scheduled) seed(ctx context.Context, job Job, began time.Time) {
	again := !s.retry.IsZero() && !s.retry.After(began)
	s.set(func(state *ScheduleState) { state.Running, state.Last = true, began })
	s.log.Infof("seeding begins: %d entries of %s", len(job.Wants), s.File)
	report, err := s.Runner.Seed(ctx, job, s.Progress)
	if ctx.Err() != nil {
		s.set(func(state *ScheduleState) { state.Running = false })
		return // it is made up for at the next start
	}
	summary := report.Summary()
	failed := err != nil || summary.Failures > 0
	s.since, s.retry = began, time.Time{}
	if !again {
		s.retried = 0
	}
	if failed && s.retried < retries && !errors.Is(err, ErrNoRoom) {
		s.retry = s.now().Round(0).Add(retryAfter << s.retried)
		s.retried++
	}
	s.set(func(state *ScheduleState) {
		state.Running, state.Summary, state.Error = false, &summary, ""
		if err != nil {
			state.Error = err.Error()
		}
	})
	s.save(ctx)
	s.logEnd(summary, err)
	if s.Done != nil {
		s.Done(report, err)
	}
}

// logEnd says what has come of a run.
func (s *scheduled) logEnd(sum Summary, err error) {
	log := s.log
	if !s.retry.IsZero() {
		log = log.WithField("again", s.retry.Format(time.RFC3339))
	}
	switch {
	case err != nil:
		log.WithError(err).Errorf("seeding from %s has failed", s.File)
	case sum.Failures > 0:
		log.Warnf("seeding has ended: %d of %d images of %s are not there, or could not be confirmed; %s fetched in %v",
			sum.Failures, sum.Images, s.File, bytesText(sum.Fetched), sum.Took.Round(time.Second))
	default:
		log.Infof("seeding has ended: all %d images of %s are there; %s fetched in %v",
			sum.Images, s.File, bytesText(sum.Fetched), sum.Took.Round(time.Second))
	}
	if sum.Warning != "" {
		s.log.Warn(sum.Warning)
	}
}

// unreadable notes what is wrong with the seed file, and logs it once.
func (s *scheduled) unreadable(err error) {
	s.set(func(state *ScheduleState) { state.Error, state.Next = err.Error(), time.Time{} })
	if text := err.Error(); text != s.problem {
		s.problem = text
		s.log.WithError(err).Errorf("the seed file %s cannot be used; it is read again each minute", s.File)
	}
}

func (s *scheduled) set(change func(*ScheduleState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

// kept is what the document has.
type kept struct {
	Version int       `json:"version"`
	Since   time.Time `json:"since"` // see scheduled.since
	Last    time.Time `json:"last,omitzero"`
	Summary *Summary  `json:"summary,omitempty"`
	Error   string    `json:"error,omitempty"`
}

const keptVersion = 1

// load reads when the last run was. Where that is not known, the times begin now.
func (s *scheduled) load(ctx context.Context) {
	s.since = s.now().Round(0)
	if s.Document == nil {
		return
	}
	content, err := s.Document.Read(ctx)
	var k kept
	if err == nil {
		err = json.Unmarshal(content, &k)
	}
	if err == nil && k.Version != keptVersion {
		err = fmt.Errorf("it is of version %d, and this program knows version %d", k.Version, keptVersion)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.WithError(err).Warn("when was seeded last is not known")
		}
		s.save(ctx)
		return
	}
	s.since = k.Since
	s.set(func(state *ScheduleState) { state.Last, state.Summary, state.Error = k.Last, k.Summary, k.Error })
}

// save keeps when the last run was.
func (s *scheduled) save(ctx context.Context) {
	if s.Document == nil {
		return
	}
	state := s.State()
	content, err := json.MarshalIndent(kept{keptVersion, s.since, state.Last, state.Summary, state.Error}, "", "  ")
	if err == nil {
		err = s.Document.Write(ctx, append(content, '\n'))
	}
	if err != nil {
		s.log.WithError(err).Warn("when was seeded last could not be kept")
	}
}
