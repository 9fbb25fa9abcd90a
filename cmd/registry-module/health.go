package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"registry-module/doctor/report"
	"registry-module/server/admin"
	"registry-module/upstream"
	"registry-module/upstream/breaker"
)

// statuses are those of the remotes, in the order of the configuration. It never
// returns nil.
func (p *program) statuses() []breaker.Status {
	breakers := p.breakers()
	all := make([]breaker.Status, 0, len(breakers))
	for _, b := range breakers {
		all = append(all, b.Status())
	}
	return all
}

// health is what healthHandler answers as JSON.
type health struct {
	// Status is "ok": who answers is alive.
	Status  string           `json:"status"`
	Remotes []breaker.Status `json:"remotes"`
}

// healthHandler tells that the program runs, whatever the remotes do, and what is known
// of them: one line for each after the first one, "ok", or JSON where that is asked for.
func healthHandler(statuses func() []breaker.Status) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Add("Vary", "Accept")
		if admin.AcceptsJSON(r.Header) {
			writeJSON(w, health{"ok", statuses()})
			return
		}
		text := "ok\n"
		for _, s := range statuses() {
			text += s.Remote + ": " + statusText(s) + "\n"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text) // the client may be gone
	})
}

// remotesHandler answers with what is known of the remotes, as a list.
func remotesHandler(statuses func() []breaker.Status) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, statuses()) })
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// statusText writes what is known of a remote on one line.
func statusText(s breaker.Status) string {
	text := fmt.Sprintf("%s since %s", s.State, s.Since.Format(time.RFC3339))
	if s.Reason != "" {
		text += " (" + oneLine(s.Reason) + ")"
	}
	if !s.NextTry.IsZero() {
		text += ", next try " + s.NextTry.Format(time.RFC3339)
	}
	return text
}

// maxStatuses bounds, in bytes, what is read of the answer to GET /remotes.
const maxStatuses = 1 << 20

// Remotes asks the running server what it knows of the remotes. One that is too old to
// know gives none.
func (c *controlClient) Remotes(ctx context.Context) ([]breaker.Status, error) {
	resp, err := c.do(ctx, http.MethodGet, "/remotes")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, nil
	default:
		return nil, unexpected(resp)
	}
	var all []breaker.Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatuses)).Decode(&all); err != nil {
		return nil, fmt.Errorf("reading the answer of the running server: %w", err)
	}
	return all, nil
}

// checkServer is what the server that runs on the data directory says of the remote at
// host; ok is false where none does, or it does not know.
func checkServer(ctx context.Context, dataDir, host string, timeout time.Duration) (f report.Finding, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begun := time.Now()
	all, err := newControlClient(controlPath(dataDir)).Remotes(ctx)
	i := slices.IndexFunc(all, func(s breaker.Status) bool { return s.Remote == host })
	if err != nil || i < 0 {
		return report.Finding{}, false // whether one runs is for other steps to say
	}
	s := all[i]
	text := "the running server has it as " + new(upstream.Secrets).Clean(statusText(s))
	switch s.State {
	case breaker.Online, breaker.Unknown:
		f = report.Passed("%s", text)
	case breaker.Held:
		f = report.Skip("%s", text)
	case breaker.Limited:
		f = report.Warn("Nothing is asked before then, and what is stored is served; log in, or ask the registry's operator, for a higher limit.", "%s", text)
	default:
		f = report.Warn("See above for what is wrong; where all is in order by now, the server finds out by itself, at the next try at the latest.", "%s", text)
	}
	f.Step, f.Took = "server", time.Since(begun)
	return f, true
}
