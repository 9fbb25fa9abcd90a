package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/seed"
	"registry-module/server/admin"
)

// fakeSeeding does what a test tells it to.
type fakeSeeding struct {
	seed func(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error)
}

func (f *fakeSeeding) Plan(context.Context, seed.Job) (seed.Plan, error) {
	return seed.Plan{}, errors.New("disk on fire")
}

func (f *fakeSeeding) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	return f.seed(ctx, job, progress)
}

// seededBy is a client of a server that seeds by s.
func seededBy(t *testing.T, s seeding) (*seedClient, *seedControl) {
	t.Helper()
	control := newSeedControl(s, func() error { return nil })
	srv := httptest.NewServer(control.handler("by a test"))
	t.Cleanup(srv.Close)
	tr := &http.Transport{DisableKeepAlives: true}
	return &seedClient{server: "the server", send: func(ctx context.Context, target string, job []byte) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+target, bytes.NewReader(job))
		if err != nil {
			return nil, err
		}
		return tr.RoundTrip(req)
	}}, control
}

var oneJob = seed.Job{Wants: []seed.Want{{Image: "team/app:v1"}}}

// One job runs at a time, who leaves cancels it, and then it is another one's turn.
func TestSeedTurns(t *testing.T) {
	cancelled := make(chan struct{})
	s := &fakeSeeding{seed: func(ctx context.Context, _ seed.Job, progress func(seed.Progress)) (seed.Report, error) {
		progress(seed.Progress{Fetched: 7})
		<-ctx.Done()
		close(cancelled)
		return seed.Report{Fetched: 9}, ctx.Err()
	}}
	client, control := seededBy(t, s)
	control.patience = time.Millisecond
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := client.Seed(ctx, oneJob, func(seed.Progress) { close(begun) })
		ended <- err
	}()
	<-begun
	if _, err := client.Seed(t.Context(), oneJob, nil); err == nil || !strings.Contains(err.Error(), "another job is seeding this server, by a test, since") {
		t.Errorf("a second job: %v", err)
	}
	// The schedule waits.
	waiting := make(chan error, 1)
	go func() {
		end, err := control.begin(t.Context(), "the schedule", true)
		if err == nil {
			end()
		}
		waiting <- err
	}()
	leave()
	if err := <-ended; err == nil || err.Error() != "interrupted" {
		t.Errorf("who has left is told %v", err)
	}
	for what, done := range map[string]<-chan struct{}{"the job": cancelled} {
		select {
		case <-done:
		case <-time.After(enough):
			t.Fatalf("%s goes on", what)
		}
	}
	select {
	case err := <-waiting:
		if err != nil {
			t.Errorf("the schedule: %v", err)
		}
	case <-time.After(enough):
		t.Fatal("it is nobody else's turn")
	}
	if n := control.fetched.Load(); n != 9 {
		t.Errorf("%d bytes counted, want 9", n)
	}
	s.seed = func(context.Context, seed.Job, func(seed.Progress)) (seed.Report, error) {
		return seed.Report{Images: []seed.SeededImage{{Image: "a", State: seed.Seeded}}}, errors.New("disk on fire")
	}
	report, err := client.Seed(t.Context(), oneJob, nil)
	if err == nil || err.Error() != "disk on fire" || len(report.Images) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := client.Plan(t.Context(), oneJob); err == nil || err.Error() != "disk on fire" {
		t.Errorf("a plan: %v", err)
	}
}

// What cannot be read is refused, and costs a bounded amount of memory.
func TestSeedJobs(t *testing.T) {
	client, _ := seededBy(t, &fakeSeeding{})
	for name, tt := range map[string]struct {
		body   io.Reader
		status int
	}{
		"nothing":         {strings.NewReader(""), http.StatusBadRequest},
		"no JSON":         {strings.NewReader("{"), http.StatusBadRequest},
		"another version": {strings.NewReader(`{"wants":[],"later":true}`), http.StatusBadRequest},
		"no image":        {strings.NewReader(`{"wants":[{"image":"../.."}]}`), http.StatusUnprocessableEntity},
		"without end":     {io.LimitReader(endless{}, maxJob+1), http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := io.ReadAll(tt.body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.send(t.Context(), "/seed", body)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // its status is of interest
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// Who has the token can seed. Others are told so, slowly, and the log has neither what was
// right nor what was tried.
func TestSeedGate(t *testing.T) {
	const good, bad = "0123456789abcdefgood", "c0ffee0123456789bad!"
	path := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.TraceLevel)
	passed := 0
	synctest.Test(t, func(t *testing.T) {
		gate := newSeedGate(path, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }), log)
		try := func(header string, status int, challenge string) {
			t.Helper()
			before, r, w := time.Now(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/seed", nil), httptest.NewRecorder()
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			gate.ServeHTTP(w, r)
			if w.Code != status || w.Header().Get("WWW-Authenticate") != challenge {
				t.Errorf("%q: status %d, %q", header, w.Code, w.Header())
			}
			if took := time.Since(before); (took >= admin.FailurePause) != (status == http.StatusUnauthorized) {
				t.Errorf("%q took %v", header, took)
			}
			if text := w.Body.String(); strings.Contains(text, good) || strings.Contains(text, bad) {
				t.Errorf("a token is in %s", text)
			}
		}
		const missing, invalid = `Bearer realm="registry-module seed"`, `Bearer realm="registry-module seed", error="invalid_token"`
		write(good + "\n")
		try("Bearer "+good, http.StatusOK, "")
		try("bearer  "+good, http.StatusOK, "")
		try("", http.StatusUnauthorized, missing)
		try("Basic "+good, http.StatusUnauthorized, missing)
		try("Bearer "+bad, http.StatusUnauthorized, invalid)
		try("Bearer "+good[:16], http.StatusUnauthorized, invalid)
		try("Bearer ", http.StatusUnauthorized, invalid)
		write("another0123456789")
		try("Bearer "+good, http.StatusUnauthorized, invalid)
		try("Bearer another0123456789", http.StatusOK, "")
		write("")
		try("Bearer ", http.StatusServiceUnavailable, "")
		write(good)
		// Many at a time do not hold up who has it.
		for range admin.MaxAttempts {
			go gate.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/seed", nil))
		}
		synctest.Wait()
		try("Bearer "+bad, http.StatusTooManyRequests, "")
		try("Bearer "+good, http.StatusOK, "")
	})
	if passed != 4 {
		t.Errorf("%d have passed", passed)
	}
	for _, e := range hook.AllEntries() {
		text, err := e.String()
		if err != nil || strings.Contains(text, good) || strings.Contains(text, bad) || strings.Contains(text, "another") {
			t.Errorf("%v, a token is in the log: %s", err, text)
		}
	}
	if len(hook.AllEntries()) == 0 {
		t.Error("nothing is logged")
	}
}

// The token goes to nobody else.
func TestSeedTokenIsNotSentOn(t *testing.T) {
	var asked int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL+"/seed", http.StatusTemporaryRedirect))
	defer srv.Close()
	s := newSite(t)
	_, _, err := command(t, "seed", "team/app:v1", "--to", srv.URL, "--token-file", s.tokenFile)
	wantExit(t, err, exitFailed)
	if asked != 0 || !strings.Contains(errorString(err), "sends us elsewhere") {
		t.Errorf("%d requests, %v", asked, err)
	}
}

// A server seeds by its seed file, and tells how that went; a bad one does not end it.
func TestSeedSchedule(t *testing.T) {
	s := newSite(t)
	s.up.AddRandomImage("team/app", "v1", 1, 1<<10)
	file := filepath.Join(t.TempDir(), "seed.yml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg.SeedFile = file
	t.Setenv("REGISTRY_SEED_FILE", file)
	write("version: 1\nimages: [Team/App]\n")
	stop := serving(t, s.cfg)
	until(t, func() bool {
		_, notes, err := command(t, "ls")
		return err == nil && strings.Contains(notes, "seed file "+file+": not seeded yet; ")
	})
	stop()

	// What was missed is made up for at the start.
	write("version: 1\nschedule: '* * * * *'\nimages: [team/app:v1, team/none:v1]\n")
	state := filepath.Join(s.cfg.DataDir, seedStateName)
	if err := os.WriteFile(state, []byte(`{"version":1,"since":"2020-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = serving(t, s.cfg)
	until(t, func() bool {
		_, notes, err := command(t, "ls")
		return err == nil && strings.Contains(notes, ": seeded ") && strings.Contains(notes, ", 2 images, 1 failed, ") && strings.Contains(notes, ", next 20")
	})
	for _, line := range []string{"registry_module_seed_images 2", "registry_module_seed_failed_images 1"} {
		wantMetric(t, s.cfg.AdminAddr, line)
	}
	if list, _, err := command(t, "ls", "-o", "json"); err != nil || !strings.Contains(list, `"team/app"`) || strings.Contains(list, "seed.yml") {
		t.Errorf("%v, listed %s", err, list)
	}
	stop()
	if _, notes, err := command(t, "ls"); err != nil || !strings.Contains(notes, ", 2 images, 1 failed, ") {
		t.Errorf("without a server: %v, %s", err, notes)
	}
}

// until waits until what it is said is true.
func until(t *testing.T, is func() bool) {
	t.Helper()
	limit := time.After(enough)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not come to that")
		}
	}
}

func TestSeedStateText(t *testing.T) {
	for name, tt := range map[string]struct {
		state seed.ScheduleState
		want  string
	}{
		"none":    {seed.ScheduleState{}, ""},
		"new":     {seed.ScheduleState{File: "f", Next: now}, "seed file f: not seeded yet, next 2026-11-27T12:00:00Z"},
		"running": {seed.ScheduleState{File: "f", Running: true, Last: now}, "seed file f: seeding since 2026-11-27T12:00:00Z"},
		"done": {seed.ScheduleState{File: "f", Last: now.Add(-3 * time.Hour), Summary: &seed.Summary{Images: 12, Failures: 1, Fetched: 3 << 20}},
			"seed file f: seeded 3 hours ago, 12 images, 1 failed, 3.0 MiB fetched"},
		"broken": {seed.ScheduleState{File: "f\x1b", Error: "line 1\nline 2\x1b"}, `seed file "f\x1b": not seeded yet; "line 1 line 2\x1b"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := seedStateText(tt.state, now); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	state, err := storedSeedState{file: "f", doc: absentDocument{}}.SeedState(t.Context())
	if err != nil || state.File != "f" {
		t.Errorf("%+v, %v", state, err)
	}
}

type absentDocument struct{}

func (absentDocument) Read(context.Context) ([]byte, error) { return nil, fs.ErrNotExist }
func (absentDocument) Write(context.Context, []byte) error  { return nil }
