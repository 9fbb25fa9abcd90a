package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"registry-module/config"
	"registry-module/seed"
)

// seedPath is where a server takes jobs, as [seed.Job] in JSON: at the socket for
// commands, and for those who have the token at the admin address.
const seedPath = "/seed"

// maxJob bounds, in bytes, a job: some thousand times what a site has.
const maxJob = 64 << 20

// seedHandler does jobs, or with dryrun=true tells what they come to. A client that leaves
// ends its job; what was fetched until then stays.
func seedHandler(s seeding) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var job seed.Job
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJob)).Decode(&job); err != nil {
			http.Error(w, "the job cannot be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		if err := job.Validate(); err != nil {
			fail(r.Context(), w, &saidError{errBadPattern, err.Error()})
			return
		}
		if isSet(r, "dryrun") {
			plan, err := s.Plan(r.Context(), job)
			if err != nil {
				fail(r.Context(), w, err)
				return
			}
			newEvents(w).end(r.Context(), event{Plan: &plan}, nil)
			return
		}
		// The status waits for the first event, so that who cannot begin is told by it.
		var out *events
		report, err := s.Seed(r.Context(), job, func(p seed.Progress) {
			if out == nil {
				out = newEvents(w)
			}
			_ = out.write(event{Seeding: &p}) // who has left cancels the work
			out.flush()
		})
		if out == nil {
			if err != nil {
				fail(r.Context(), w, err)
				return
			}
			out = newEvents(w)
		}
		out.end(r.Context(), event{Seeded: &report}, err)
	})
}

// seedEndpoint is [seedHandler] for those who have the token that is in a file; nil where
// there is no file.
func seedEndpoint(s seeding, tokenFile string, log logrus.FieldLogger) http.Handler {
	if tokenFile == "" {
		return nil
	}
	const wrongBurst = 10
	wrong := rate.NewLimiter(rate.Every(time.Second), wrongBurst)
	next := seedHandler(s)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := config.ReadSeedToken(tokenFile)
		if err != nil {
			log.WithError(err).Error("nobody can seed this server by its admin address (REGISTRY_SEED_TOKENFILE)")
			http.Error(w, "the token of this server cannot be read: see its log", http.StatusServiceUnavailable)
			return
		}
		given, ok := bearer(r.Header)
		if ok && sameSecret(given, token) {
			next.ServeHTTP(w, r)
			return
		}
		log.WithField("client", r.RemoteAddr).Warn("refused to be seeded by who does not have the token")
		if !wrong.Allow() {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "there were too many wrong tokens: try again later", http.StatusTooManyRequests)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="registry-module"`)
		http.Error(w, "this takes the token that the server has in its REGISTRY_SEED_TOKENFILE", http.StatusUnauthorized)
	})
}

// bearer returns the token of a request (RFC 6750, section 2.1).
func bearer(header http.Header) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header.Get("Authorization"), " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

// sameSecret compares in a time that tells nothing.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// Plan implements seeding.
func (c *controlClient) Plan(ctx context.Context, job seed.Job) (seed.Plan, error) {
	return planned(ctx, c.sendJob, job)
}

// Seed implements seeding.
func (c *controlClient) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	return seeded(ctx, c.sendJob, job, progress)
}

func (c *controlClient) sendJob(ctx context.Context, target string, body io.Reader) (*http.Response, error) {
	return c.send(ctx, http.MethodPost, target, body)
}

// sendJob sends a job to a server.
type sendJob func(ctx context.Context, target string, body io.Reader) (*http.Response, error)

// planned asks a server what a job comes to.
func planned(ctx context.Context, send sendJob, job seed.Job) (plan seed.Plan, _ error) {
	for e, err := range send.follow(ctx, job, true) {
		if err != nil {
			return plan, err
		}
		if e.Plan != nil {
			plan = *e.Plan
		}
	}
	return plan, nil
}

// seeded has a server do a job.
func seeded(ctx context.Context, send sendJob, job seed.Job, progress func(seed.Progress)) (report seed.Report, _ error) {
	for e, err := range send.follow(ctx, job, false) {
		switch {
		case err != nil:
			return report, err
		case e.Seeding != nil && progress != nil:
			progress(*e.Seeding)
		case e.Seeded != nil:
			report = *e.Seeded
		}
	}
	return report, nil
}

func (send sendJob) follow(ctx context.Context, job seed.Job, dryRun bool) iter.Seq2[event, error] {
	return followed(ctx, func() (*http.Response, error) {
		body, err := json.Marshal(job)
		if err != nil {
			return nil, err
		}
		return send(ctx, target(seedPath, "dryrun", strconv.FormatBool(dryRun)), bytes.NewReader(body))
	})
}

// seedClient seeds a server by its admin address.
type seedClient struct {
	base  *url.URL
	token string
	http  http.Client
}

// newSeedClient returns one for the server at address, with the token that is in a file.
func newSeedClient(address, tokenFile string) (*seedClient, error) {
	base, err := url.Parse(address)
	switch {
	case err != nil, base.Scheme != "http" && base.Scheme != "https", base.Host == "", base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, usageError{errors.New("--to takes the admin address of the server as a URL, for example http://gateway:5001")}
	case tokenFile == "":
		return nil, usageError{errors.New("--to needs --token-file: a file with the token that the server has in its REGISTRY_SEED_TOKENFILE")}
	}
	token, err := config.ReadSeedToken(tokenFile)
	if err != nil {
		return nil, usageError{fmt.Errorf("--token-file: %w", err)}
	}
	c := &seedClient{base: base, token: token}
	// The token is for this server, and for nobody that it names.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func (c *seedClient) sendJob(ctx context.Context, target string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.base.String(), "/")+target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("talking to the server at %s: %w", c.base.Host, cmp.Or(errors.Unwrap(err), err))
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusTooManyRequests:
		_ = resp.Body.Close() // it says nothing else
		return nil, fmt.Errorf("the server at %s does not take this token (%s): write the one into --token-file that it has in its REGISTRY_SEED_TOKENFILE", c.base.Host, resp.Status)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		_ = resp.Body.Close() // it says nothing else
		return nil, fmt.Errorf("the server at %s cannot be seeded (%s): set REGISTRY_SEED_TOKENFILE there, and write its admin address", c.base.Host, resp.Status)
	}
	return resp, nil
}

// Plan implements seeding.
func (c *seedClient) Plan(ctx context.Context, job seed.Job) (seed.Plan, error) {
	return planned(ctx, c.sendJob, job)
}

// Seed implements seeding.
func (c *seedClient) Seed(ctx context.Context, job seed.Job, progress func(seed.Progress)) (seed.Report, error) {
	return seeded(ctx, c.sendJob, job, progress)
}
