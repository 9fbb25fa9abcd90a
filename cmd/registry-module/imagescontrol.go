package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"registry-module/cache"
)

// event is a line of an answer that comes in lines, of which there can be any number
// and some come late. One of the second group is the last.
type event struct {
	Image    *cache.Image          `json:"image,omitempty"`
	Victim   *cache.Victim         `json:"victim,omitempty"`
	Progress *cache.VerifyProgress `json:"progress,omitempty"`

	Collection *cache.Collection   `json:"collection,omitempty"` // without its victims
	Report     *cache.VerifyReport `json:"report,omitempty"`
	Error      string              `json:"error,omitempty"`
	End        bool                `json:"end,omitempty"`
}

// events writes events. It can be used by several goroutines.
type events struct {
	mu  sync.Mutex
	enc *json.Encoder
	rc  *http.ResponseController
}

func newEvents(w http.ResponseWriter) *events {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &events{enc: enc, rc: http.NewResponseController(w)}
}

// write returns an error where the client is gone.
func (e *events) write(ev event) error { return e.writeAny(ev) }

// writeAny is write for events of other kinds.
func (e *events) writeAny(ev any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hurry()
	return e.enc.Encode(ev)
}

// hurry bounds how long the next write waits for a client that takes nothing: what is done
// for him keeps others from it.
func (e *events) hurry() {
	const patience = time.Minute
	_ = e.rc.SetWriteDeadline(time.Now().Add(patience)) // not every writer has one
}

// flush has what was written sent.
func (e *events) flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hurry()
	_ = e.rc.Flush() // the client may be gone
}

// end writes the last event, or why it does not come to that.
func (e *events) end(ctx context.Context, last event, err error) {
	if err != nil {
		last = event{Error: reasonOf(ctx, err)}
	}
	_ = e.write(last) // the client may be gone
}

// reasonOf is the text of err. A request whose client is still there can only have been
// cancelled for one reason.
func reasonOf(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return "interrupted: the server is being stopped"
	}
	return err.Error()
}

// Statuses for the kinds of errors that callers know.
var kinds = []struct {
	kind   error
	status int
}{
	{cache.ErrNotFound, http.StatusNotFound},
	{cache.ErrPinned, http.StatusConflict},
	{errBadPattern, http.StatusUnprocessableEntity},
}

// fail answers with an error.
func fail(ctx context.Context, w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			status = k.status
			break
		}
	}
	http.Error(w, reasonOf(ctx, err), status)
}

// handleImages answers commands about images.
func handleImages(mux *http.ServeMux, i imageControl) {
	mux.HandleFunc("GET /images", func(w http.ResponseWriter, r *http.Request) {
		out := newEvents(w)
		for image, err := range i.Images(r.Context()) {
			if err != nil {
				out.end(r.Context(), event{}, err)
				return
			}
			if out.write(event{Image: &image}) != nil {
				return // nobody reads it
			}
		}
		out.end(r.Context(), event{End: true}, nil)
	})
	mux.HandleFunc("GET /image", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(ctx context.Context) (cache.ImageDetail, error) { return i.Inspect(ctx, r.FormValue("name")) })
	})
	mux.HandleFunc("GET /explain", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(ctx context.Context) (explanation, error) { return i.Explain(ctx, r.FormValue("name")) })
	})
	mux.HandleFunc("DELETE /image", func(w http.ResponseWriter, r *http.Request) {
		o := removeOptions{Image: r.FormValue("name"), All: isSet(r, "all"), Force: isSet(r, "force")}
		answer(w, r, func(ctx context.Context) (removal, error) { return i.Remove(ctx, o) })
	})
	mux.HandleFunc("GET /pins", func(w http.ResponseWriter, r *http.Request) { answer(w, r, i.Pins) })
	mux.HandleFunc("PUT /pins", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(ctx context.Context) ([]pinned, error) { return i.Pin(ctx, r.FormValue("pattern")) })
	})
	mux.HandleFunc("DELETE /pins", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(ctx context.Context) (unpinned, error) { return i.Unpin(ctx, r.FormValue("pattern")) })
	})
	mux.HandleFunc("POST /collect", func(w http.ResponseWriter, r *http.Request) {
		free, err := number(r, "free")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c, err := i.Collect(r.Context(), cache.CollectOptions{Free: free, DryRun: isSet(r, "dryrun")})
		if err != nil {
			fail(r.Context(), w, err)
			return
		}
		out := newEvents(w)
		for _, v := range c.Victims {
			if out.write(event{Victim: &v}) != nil {
				return // nobody reads it
			}
		}
		c.Victims = nil
		out.end(r.Context(), event{Collection: &c}, nil)
	})
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) {
		rate, err := number(r, "rate")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out := newEvents(w)
		out.flush() // who waits knows that it goes on
		report, err := i.Verify(r.Context(), cache.VerifyOptions{
			Repair: isSet(r, "repair"), Rate: rate,
			Progress: func(p cache.VerifyProgress) {
				_ = out.write(event{Progress: &p}) // who has left cancels the work
				out.flush()
			},
		})
		out.end(r.Context(), event{Report: &report}, err)
	})
}

// answer answers with what do returns.
func answer[T any](w http.ResponseWriter, r *http.Request, do func(context.Context) (T, error)) {
	v, err := do(r.Context())
	if err != nil {
		fail(r.Context(), w, err)
		return
	}
	writeJSON(w, v)
}

func isSet(r *http.Request, parameter string) bool { return r.FormValue(parameter) == "true" }

// number reads a number that is not negative, 0 where there is none.
func number(r *http.Request, parameter string) (int64, error) {
	text := r.FormValue(parameter)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is not a number of bytes", parameter)
	}
	return n, nil
}

// target is a path with parameters, in pairs of name and value.
func target(path string, parameters ...string) string {
	values := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		values.Set(parameters[i], parameters[i+1])
	}
	return path + "?" + values.Encode()
}

// unknownPath is what [http.ServeMux] says of a path that it does not have.
const unknownPath = "404 page not found"

// cutOff is the error for an answer that has no end.
func cutOff(err error) error {
	return fmt.Errorf("the running server has not told all, since it has ended or is of another version: %w; see its log, and run this again", err)
}

// said is the error of an answer, of the kind that it was there.
func said(resp *http.Response) error {
	const enough = 64 << 10
	for _, k := range kinds {
		if resp.StatusCode != k.status {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, enough))
		if err != nil {
			return cutOff(err)
		}
		if k.status == http.StatusNotFound && strings.TrimSpace(string(text)) == unknownPath {
			return errors.New("the running server does not know this command, since it is of another version: restart it with this one")
		}
		return &saidError{k.kind, strings.TrimSpace(string(text))}
	}
	return unexpected(resp)
}

// ask asks the running server for one thing.
func ask[T any](ctx context.Context, c *controlClient, method, target string) (v T, _ error) {
	return askWith[T](ctx, c, method, target, nil)
}

// askWith is ask with a body; nil for none.
func askWith[T any](ctx context.Context, c *controlClient, method, target string, body io.Reader) (v T, _ error) {
	resp, err := c.send(ctx, method, target, body)
	if err != nil {
		return v, interrupted(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return v, said(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, interrupted(ctx, cutOff(err))
	}
	return v, nil
}

// follow gives the events of an answer up to the last, with an error where that does
// not come.
func (c *controlClient) follow(ctx context.Context, method, target string) iter.Seq2[event, error] {
	return func(yield func(event, error) bool) {
		resp, err := c.do(ctx, method, target)
		if err != nil {
			yield(event{}, interrupted(ctx, err))
			return
		}
		defer func() { _ = resp.Body.Close() }() // it was only read
		if resp.StatusCode != http.StatusOK {
			yield(event{}, said(resp))
			return
		}
		lines := json.NewDecoder(resp.Body)
		for {
			var e event
			err := lines.Decode(&e)
			switch {
			case errors.Is(err, io.EOF):
				err = io.ErrUnexpectedEOF // there was no last one
				fallthrough
			case err != nil:
				yield(event{}, interrupted(ctx, cutOff(err)))
				return
			case e.Error != "":
				yield(event{}, errors.New(e.Error))
				return
			}
			if last := e.End || e.Collection != nil || e.Report != nil; !yield(e, nil) || last {
				return
			}
		}
	}
}

// interruption is the end of a command whose user does not wait any more.
type interruption struct{ error }

func (i interruption) Error() string { return "interrupted" }
func (i interruption) Unwrap() error { return i.error }

// interrupted is err, or that the user does not wait any more.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return interruption{ctx.Err()}
	}
	return err
}

// Images implements imageControl.
func (c *controlClient) Images(ctx context.Context) iter.Seq2[cache.Image, error] {
	return func(yield func(cache.Image, error) bool) {
		for e, err := range c.follow(ctx, http.MethodGet, "/images") {
			switch {
			case err != nil:
				yield(cache.Image{}, err)
				return
			case e.Image != nil && !yield(*e.Image, nil):
				return
			}
		}
	}
}

// Inspect implements imageControl.
func (c *controlClient) Inspect(ctx context.Context, image string) (cache.ImageDetail, error) {
	return ask[cache.ImageDetail](ctx, c, http.MethodGet, target("/image", "name", image))
}

// Remove implements imageControl.
func (c *controlClient) Remove(ctx context.Context, o removeOptions) (removal, error) {
	return ask[removal](ctx, c, http.MethodDelete,
		target("/image", "name", o.Image, "all", strconv.FormatBool(o.All), "force", strconv.FormatBool(o.Force)))
}

// Pins implements imageControl.
func (c *controlClient) Pins(ctx context.Context) ([]cache.Pin, error) {
	return ask[[]cache.Pin](ctx, c, http.MethodGet, "/pins")
}

// Pin implements imageControl.
func (c *controlClient) Pin(ctx context.Context, pattern string) ([]pinned, error) {
	return ask[[]pinned](ctx, c, http.MethodPut, target("/pins", "pattern", pattern))
}

// Unpin implements imageControl.
func (c *controlClient) Unpin(ctx context.Context, pattern string) (unpinned, error) {
	return ask[unpinned](ctx, c, http.MethodDelete, target("/pins", "pattern", pattern))
}

// Collect implements imageControl.
func (c *controlClient) Collect(ctx context.Context, o cache.CollectOptions) (all cache.Collection, _ error) {
	var victims []cache.Victim
	for e, err := range c.follow(ctx, http.MethodPost,
		target("/collect", "free", strconv.FormatInt(o.Free, 10), "dryrun", strconv.FormatBool(o.DryRun))) {
		switch {
		case err != nil:
			return all, err
		case e.Victim != nil:
			victims = append(victims, *e.Victim)
		case e.Collection != nil:
			all = *e.Collection
		}
	}
	all.Victims = victims
	return all, nil
}

// Verify implements imageControl.
func (c *controlClient) Verify(ctx context.Context, o cache.VerifyOptions) (report cache.VerifyReport, _ error) {
	for e, err := range c.follow(ctx, http.MethodPost,
		target("/verify", "repair", strconv.FormatBool(o.Repair), "rate", strconv.FormatInt(o.Rate, 10))) {
		switch {
		case err != nil:
			return report, err
		case e.Progress != nil && o.Progress != nil:
			o.Progress(*e.Progress)
		case e.Report != nil:
			report = *e.Report
		}
	}
	return report, nil
}
