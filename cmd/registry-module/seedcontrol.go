package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"registry-module/seed"
)

// errBusy is the kind of errors for what one at a time can do.
var errBusy = errors.New("busy")

// seedControl is the seeding of a running server: one job at a time, and none while it is
// offline.
type seedControl struct {
	seeding
	// offline is why remotes are left alone, nil where they are not.
	offline func() error
	// fetched is how many bytes have come from remotes by all jobs.
	fetched atomic.Int64

	turn     turn
	patience time.Duration // with who has it
	mu       sync.Mutex    // guards what follows
	who      string        // has the job that runs done, for messages
	from     time.Time
}

func newSeedControl(s seeding, offline func() error) *seedControl {
	return &seedControl{seeding: s, offline: offline, turn: newTurn(), patience: turnPatience}
}

// replaceableSeeding is the seeding of the current configuration. A job that has begun goes
// on as it has.
type replaceableSeeding struct{ now atomic.Pointer[seed.Seeder] }

// Plan implements seeding.
func (s *replaceableSeeding) Plan(ctx context.Context, job seed.Job) (seed.Plan, error) {
	return s.now.Load().Plan(ctx, job)
}

// Seed implements seeding.
func (s *replaceableSeeding) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	return s.now.Load().Seed(ctx, job, progress)
}

// Plan implements seeding.
func (c *seedControl) Plan(ctx context.Context, job seed.Job) (seed.Plan, error) {
	if err := c.offline(); err != nil {
		return seed.Plan{}, err
	}
	return c.seeding.Plan(ctx, job)
}

// begin takes the turn for who, for messages, until end is called, be it more than once.
// Where another job goes on running the error is errBusy, unless wait is set.
func (c *seedControl) begin(ctx context.Context, who string, wait bool) (end func(), err error) {
	if err := c.offline(); err != nil {
		return nil, err
	}
	patience := c.patience
	if wait {
		patience = 0
	}
	if !c.turn.take(ctx, patience) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return nil, &saidError{errBusy, fmt.Sprintf("another job is seeding this server, %s, since %s: run this again when it has ended, or end that one", c.who, c.from.Format(time.RFC3339))}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.who, c.from = who, time.Now().Round(time.Second)
	return sync.OnceFunc(c.turn.leave), nil
}

// run does a job whose turn it is.
func (c *seedControl) run(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	var counted int64
	count := func(fetched int64) {
		if fetched > counted {
			c.fetched.Add(fetched - counted)
			counted = fetched
		}
	}
	report, err := c.seeding.Seed(ctx, job, func(p seed.Progress) {
		count(p.Fetched)
		if progress != nil {
			progress(p)
		}
	})
	count(report.Fetched)
	return report, err
}

// seedEvent is a line of the answer to a job. One of the second group is the last; the
// report can come with an error.
type seedEvent struct {
	Progress *seed.Progress `json:"progress,omitempty"`

	Plan   *seed.Plan   `json:"plan,omitempty"`
	Report *seed.Report `json:"report,omitempty"`
	Error  string       `json:"error,omitempty"`
}

// send writes any event, and has it sent. It fails where the client is gone, or takes
// nothing for long.
func (e *events) send(ev any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hurry()
	if err := e.enc.Encode(ev); err != nil {
		return err
	}
	return e.rc.Flush()
}

// maxJob bounds, in bytes, what is read of a job: far more than the most images take.
const maxJob = 16 << 20

// maxWants is how many images a job names at most, as package seed has it for those that
// it comes to.
const maxWants = 10_000

// handler does the jobs that come by POST, for who, for messages. A client that leaves
// cancels its job.
func (c *seedControl) handler(who string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		job, status, err := readJob(w, r)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		if isSet(r, "dryrun") {
			c.answerPlan(w, r, job)
			return
		}
		end, err := c.begin(r.Context(), who, false)
		if err != nil {
			refuse(w, r, err)
			return
		}
		defer end()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		out := newEvents(w)
		out.flush() // who waits knows that it goes on
		report, err := c.run(ctx, job, func(p seed.Progress) {
			if out.send(seedEvent{Progress: &p}) != nil {
				cancel()
			}
		})
		last := seedEvent{Report: &report}
		if err != nil {
			last.Error = reasonOf(r.Context(), err)
		}
		end()              // who reads the last event can begin another job at once
		_ = out.send(last) // the client may be gone
	})
}

func (c *seedControl) answerPlan(w http.ResponseWriter, r *http.Request, job seed.Job) {
	if err := c.offline(); err != nil {
		refuse(w, r, err)
		return
	}
	out := newEvents(w)
	out.flush() // who waits knows that it goes on
	plan, err := c.seeding.Plan(r.Context(), job)
	last := seedEvent{Plan: &plan}
	if err != nil {
		last = seedEvent{Error: reasonOf(r.Context(), err)}
	}
	_ = out.send(last) // the client may be gone
}

// refuse answers with an error of a job that was not begun.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, errBusy):
		status = http.StatusConflict
	case errors.Is(err, errOffline):
		status = http.StatusServiceUnavailable
	}
	http.Error(w, reasonOf(r.Context(), err), status)
}

// readJob reads a valid job, or says with which status it is refused.
func readJob(w http.ResponseWriter, r *http.Request) (job seed.Job, status int, err error) {
	// What is not read to its end hides that the client has left.
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJob))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return job, http.StatusRequestEntityTooLarge, fmt.Errorf("the job is larger than %s: seed in parts", sizeText(maxJob))
	}
	if err == nil {
		job, err = decodeJob(text)
	}
	if err != nil {
		return job, http.StatusBadRequest, fmt.Errorf("the job cannot be read, since it is of another version or damaged: %w", err)
	}
	if err := job.Validate(); err != nil {
		return job, http.StatusUnprocessableEntity, err
	}
	return job, 0, nil
}

// decodeJob reads a job in JSON, of which no more is made than there can be.
func decodeJob(text []byte) (job seed.Job, err error) {
	var raw struct {
		Wants json.RawMessage `json:"wants"`
		Prune bool            `json:"prune"`
	}
	if err := strictly(text).Decode(&raw); err != nil {
		return job, err
	}
	job.Prune = raw.Prune
	if len(raw.Wants) == 0 || string(raw.Wants) == "null" {
		return job, nil
	}
	wants := strictly(raw.Wants)
	if start, err := wants.Token(); err != nil || start != json.Delim('[') {
		return job, errors.Join(errors.New("wants is no list"), err)
	}
	for wants.More() {
		if len(job.Wants) == maxWants {
			return job, fmt.Errorf("it names more than %d images: seed in parts", maxWants)
		}
		var w seed.Want
		if err := wants.Decode(&w); err != nil {
			return job, err
		}
		job.Wants = append(job.Wants, w)
	}
	return job, nil
}

// strictly decodes JSON that says nothing of a newer version, which would not be done.
func strictly(text []byte) *json.Decoder {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec
}

// seedClient has a server seed.
type seedClient struct {
	// send sends a job to a path of the server.
	send func(ctx context.Context, target string, job []byte) (*http.Response, error)
	// server is how it is called, and absent what to do where it has no such path.
	server, absent string
}

var _ seeding = (*seedClient)(nil)

// sendJob is seedClient.send by the socket of the running server.
func (c *controlClient) sendJob(ctx context.Context, target string, job []byte) (*http.Response, error) {
	return c.send(ctx, http.MethodPost, target, bytes.NewReader(job))
}

// withoutURL is an error of an HTTP client without the URL, which says nothing to anybody.
func withoutURL(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// Plan implements seeding.
func (c *seedClient) Plan(ctx context.Context, job seed.Job) (seed.Plan, error) {
	last, err := c.do(ctx, "/seed?dryrun=true", job, nil)
	switch {
	case err != nil:
		return seed.Plan{}, err
	case last.Plan == nil:
		return seed.Plan{}, errors.New(last.Error)
	}
	return *last.Plan, nil
}

// Seed implements seeding.
func (c *seedClient) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (report seed.Report, err error) {
	last, err := c.do(ctx, "/seed", job, progress)
	if last.Report != nil {
		report = *last.Report
	}
	if err == nil && last.Error != "" {
		err = errors.New(last.Error)
	}
	return report, err
}

// do sends a job, and returns the last event of the answer.
func (c *seedClient) do(ctx context.Context, target string, job seed.Job, progress func(seed.Progress)) (last seedEvent, err error) {
	text, err := json.Marshal(job)
	if err != nil {
		return last, err
	}
	resp, err := c.send(ctx, target, text)
	if err != nil {
		return last, interrupted(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return last, c.refused(resp)
	}
	lines := json.NewDecoder(resp.Body)
	for {
		var e seedEvent
		if err := lines.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // there was no last one
			}
			return last, interrupted(ctx, fmt.Errorf("%s has not told all, since it has ended, the connection was lost, or it is of another version: %w; run this again, which goes on where that was", c.server, err))
		}
		switch {
		case e.Progress == nil:
			return e, nil
		case progress != nil:
			progress(*e.Progress)
		}
	}
}

// refused is why a job was not begun.
func (c *seedClient) refused(resp *http.Response) error {
	const enough = 64 << 10
	body, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	text := strings.TrimSpace(string(body))
	switch {
	case err != nil:
		return fmt.Errorf("%s answers %s: %w", c.server, resp.Status, err)
	case resp.StatusCode == http.StatusUnprocessableEntity:
		return usageError{errors.New(text)}
	case resp.StatusCode == http.StatusNotFound && c.absent != "":
		return errors.New(c.absent)
	case resp.StatusCode == http.StatusNotFound:
		return errors.New("the running server does not know this command, since it is of another version: restart it with this one")
	case resp.StatusCode == http.StatusConflict, resp.StatusCode == http.StatusServiceUnavailable && text != "":
		return errors.New(text)
	}
	return fmt.Errorf("%s answers %s: %s", c.server, resp.Status, printable(text))
}
