package seed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/seed"
)

func TestCheckSchedule(t *testing.T) {
	tests := map[string]struct{ expression, wrong string }{
		"each night":        {"0 2 * * *", ""},
		"more space":        {" 0  2 * * * ", ""},
		"names":             {"*/15 0-4,22 1 JAN-MAR MON", ""},
		"four fields":       {"0 2 * *", "4 fields instead of 5"},
		"with seconds":      {"0 0 2 * * *", "6 fields instead of 5"},
		"nothing":           {"", "0 fields"},
		"macro":             {"@daily", "1 fields"},
		"hour that is none": {"0 25 * * *", "no cron expression"},
		"words":             {"at two in the night", "no cron expression"},
		"day that is none":  {"0 0 31 2 *", "never comes"},
		"very long":         {strings.Repeat("1,", 200) + "1 * * * *", "longer than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := seed.CheckSchedule([]string{tt.expression})
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%v, want %q", err, tt.wrong)
			}
		})
	}
	if err := seed.CheckSchedule([]string{"a", "0 2 * * *", "b"}); strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not all mistakes: %v", err)
	}
	if err := seed.CheckSchedule(slices.Repeat([]string{"0 2 * * *"}, 101)); err == nil {
		t.Error("101 expressions were accepted")
	}
}

func FuzzSchedule(f *testing.F) {
	for _, s := range []string{"0 2 * * *", "*/15 0-4,22 1 JAN-MAR MON", "0 0 L * 5#2", "0 0 15W * *", "5/7 ? * * ?", "59-0 * * * *"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		if err := seed.CheckSchedule([]string{expression}); err != nil && err.Error() == "" {
			t.Error("no reason")
		}
	})
}

// site is where a Scheduler runs.
type site struct {
	mu       sync.Mutex
	schedule []string
	err      error
	at       []string // when runs have begun
	takes    time.Duration
	report   seed.Report
	failing  error
	location *time.Location
	doc      []byte
	log      bytes.Buffer
}

func (s *site) Read(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doc == nil {
		return nil, fs.ErrNotExist
	}
	return s.doc, nil
}

func (s *site) Write(_ context.Context, content []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doc = content
	return nil
}

func (s *site) Seed(ctx context.Context, _ seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	s.mu.Lock()
	s.at = append(s.at, time.Now().In(s.location).Format("2 15:04 MST"))
	s.mu.Unlock()
	progress(seed.Progress{})
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return seed.Report{}, ctx.Err()
	}
	return s.report, s.failing
}

// change changes s, and reads it.
func (s *site) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// start runs a Scheduler until stop is called.
func (s *site) start(ctx context.Context) (scheduler *seed.Scheduler, stop func()) {
	log := logrus.New()
	log.SetOutput(&s.log)
	scheduler = &seed.Scheduler{
		Runner: s, File: "seed.yml", Document: s, Log: log,
		Read: func(context.Context) (seed.Job, []string, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return images("app:1"), s.schedule, s.err
		},
		Progress: func(seed.Progress) {},
		Now:      func() time.Time { return time.Now().In(s.location) },
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		scheduler.Run(ctx)
	}()
	return scheduler, func() { cancel(); <-over }
}

// until sleeps until the clock of the site shows a time.
func (s *site) until(t *testing.T, text string) {
	t.Helper()
	at, err := time.ParseInLocation("2006-01-02 15:04", text, s.location)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(at))
	synctest.Wait()
}

func (s *site) runs() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := strings.Join(s.at, ", ")
	s.at = nil
	return runs
}

func newSite(t *testing.T, zone string, schedule ...string) *site {
	location, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return &site{location: location, schedule: schedule}
}

// The clock in a bubble begins on 2000-01-01.
func TestScheduler(t *testing.T) {
	tests := map[string]struct {
		zone, from, until string
		schedule          []string
		want              string
	}{
		"each night":                 {"UTC", "2000-01-01 00:30", "2000-01-03 12:00", []string{"0 2 * * *"}, "1 02:00 UTC, 2 02:00 UTC, 3 02:00 UTC"},
		"local time":                 {"Europe/Berlin", "2000-01-01 01:30", "2000-01-02 12:00", []string{"0 2 * * *"}, "1 02:00 CET, 2 02:00 CET"},
		"several":                    {"UTC", "2000-01-01 00:30", "2000-01-01 12:00", []string{"30 1 * * *", "0 2,5 * * *"}, "1 01:30 UTC, 1 02:00 UTC, 1 05:00 UTC"},
		"never":                      {"UTC", "2000-01-01 00:30", "2000-01-02 12:00", nil, ""},
		"night without that hour":    {"Europe/Berlin", "2000-03-24 12:00", "2000-03-28 12:00", []string{"30 2 25-28 3 *"}, "25 02:30 CET, 26 03:00 CEST, 27 02:30 CEST, 28 02:30 CEST"},
		"night with that hour twice": {"Europe/Berlin", "2000-10-27 12:00", "2000-10-30 12:00", []string{"30 2 28-30 10 *"}, "28 02:30 CEST, 29 02:30 CEST, 30 02:30 CET"},
		"often, with an hour twice":  {"Europe/Berlin", "2000-10-27 12:00", "2000-10-29 04:00", []string{"0 1-3 29 10 *"}, "29 01:00 CEST, 29 02:00 CEST, 29 03:00 CET"},
		"west, with an hour twice":   {"America/New_York", "2000-10-28 12:00", "2000-10-29 12:00", []string{"30 1 29 10 *"}, "29 01:30 EDT"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, tt.zone, tt.schedule...)
				s.report.Images = []seed.SeededImage{{State: seed.Seeded}}
				s.until(t, tt.from)
				scheduler, stop := s.start(t.Context())
				s.until(t, tt.until)
				stop()
				if got := s.runs(); got != tt.want {
					t.Errorf("%q, want %q", got, tt.want)
				}
				state := scheduler.State()
				if state.File != "seed.yml" || state.Running || state.Error != "" || (state.Summary == nil) != (tt.want == "") || state.Next.IsZero() != (tt.want == "") {
					t.Errorf("%+v", state)
				}
				if _, err := json.Marshal(state); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A time at which the machine was off is made up for, once.
func TestMissedRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "UTC", "0 2 * * *")
		_, stop := s.start(t.Context())
		s.until(t, "2000-01-01 01:00")
		stop()
		s.until(t, "2000-01-03 12:00")
		scheduler, stop := s.start(t.Context())
		s.until(t, "2000-01-04 12:00")
		if got := s.runs(); got != "3 12:00 UTC, 4 02:00 UTC" {
			t.Errorf("%q", got)
		}
		stop()
		_, stop = s.start(t.Context())
		s.until(t, "2000-01-04 13:00")
		stop()
		if got := s.runs(); got != "" {
			t.Errorf("%q", got)
		}
		if state := scheduler.State(); !state.Last.Equal(time.Date(2000, 1, 4, 2, 0, 0, 0, time.UTC)) || !state.Next.Equal(state.Last.Add(24*time.Hour)) {
			t.Errorf("%+v", state)
		}
		// One that was cut off is, too.
		s.takes = time.Hour
		scheduler, stop = s.start(t.Context())
		s.until(t, "2000-01-05 02:30")
		if !scheduler.State().Running {
			t.Error("it does not run")
		}
		stop()
		_, stop = s.start(t.Context())
		s.until(t, "2000-01-05 05:00")
		stop()
		if got := s.runs(); got != "5 02:00 UTC, 5 02:30 UTC" {
			t.Errorf("%q", got)
		}
		s.doc = []byte("damaged")
		_, stop = s.start(t.Context())
		s.until(t, "2000-01-05 06:00")
		stop()
		if got := s.runs(); got != "" || !strings.Contains(s.log.String(), "when was seeded last is not known") {
			t.Errorf("%q, %s", got, s.log.String())
		}
	})
}

// A file that cannot be used is logged once, and used once it can be.
func TestBrokenSeedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "UTC", "0 2 * * *")
		s.err = errors.New("seed.yml, line 3: no image")
		scheduler, stop := s.start(t.Context())
		s.until(t, "2000-01-01 01:00")
		if state := scheduler.State(); state.Error != "seed.yml, line 3: no image" || !state.Next.IsZero() {
			t.Errorf("%+v", state)
		}
		if n := strings.Count(s.log.String(), "line 3"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		s.change(func() { s.err, s.schedule = nil, []string{"x"} })
		s.until(t, "2000-01-01 01:05")
		if state := scheduler.State(); !strings.Contains(state.Error, "1 fields") {
			t.Errorf("%+v", state)
		}
		s.change(func() { s.schedule = []string{"0 2 * * *"} })
		s.until(t, "2000-01-01 03:00")
		if state := scheduler.State(); state.Error != "" {
			t.Errorf("%+v", state)
		}
		// Times that are new are not made up for.
		s.change(func() { s.schedule = []string{"30 2 * * *"} })
		s.until(t, "2000-01-02 03:00")
		stop()
		if got := s.runs(); got != "1 02:00 UTC, 2 02:30 UTC" {
			t.Errorf("%q", got)
		}
	})
}

// A run that has failed is done again a few times, and not at the cost of the schedule.
func TestRunIsRetried(t *testing.T) {
	tests := map[string]struct {
		report   seed.Report
		err      error
		schedule string
		want     string
	}{
		"images fail": {seed.Report{Images: []seed.SeededImage{{State: seed.Failed}}}, nil, "0 2 * * *", "1 02:00 UTC, 1 02:05 UTC, 1 02:15 UTC, 1 02:35 UTC"},
		"all fails":   {seed.Report{}, io.ErrUnexpectedEOF, "0 2 * * *", "1 02:00 UTC, 1 02:05 UTC, 1 02:15 UTC, 1 02:35 UTC"},
		"no room":     {seed.Report{}, seed.ErrNoRoom, "0 2 * * *", "1 02:00 UTC"},
		"next comes":  {seed.Report{}, io.ErrUnexpectedEOF, "0-12/4 2 * * *", "1 02:00 UTC, 1 02:04 UTC, 1 02:08 UTC, 1 02:12 UTC, 1 02:17 UTC, 1 02:27 UTC, 1 02:47 UTC"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "UTC", tt.schedule)
				s.report, s.failing = tt.report, tt.err
				scheduler, stop := s.start(t.Context())
				s.until(t, "2000-01-01 12:00")
				stop()
				if got := s.runs(); got != tt.want {
					t.Errorf("%q, want %q", got, tt.want)
				}
				state := scheduler.State()
				if (state.Error == "") != (tt.err == nil) || state.Summary.Failures != len(tt.report.Images) {
					t.Errorf("%+v", state)
				}
			})
		})
	}
}
