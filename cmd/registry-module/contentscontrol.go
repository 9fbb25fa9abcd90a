package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/seed/bundle"
)

// contentEvent is a line of an answer about contents. One of the second group is the last.
type contentEvent struct {
	Content  *bundle.Content  `json:"content,omitempty"`
	Progress *bundle.Progress `json:"progress,omitempty"`
	Receipt  *bundle.Receipt  `json:"receipt,omitempty"`

	Error string `json:"error,omitempty"`
	// Partly tells that the error is bundle.ErrPartly.
	Partly bool `json:"partly,omitempty"`
	End    bool `json:"end,omitempty"`
}

// maxAsked is of how many contents is asked at a time which are missing, and
// maxAskedBytes what that takes at most.
const (
	maxAsked      = 1000
	maxAskedBytes = maxAsked * 512
)

// progressEvery is how often a client is told at most how far it is.
const progressEvery = 200 * time.Millisecond

// missingTeller is what tells what is missing without loading it.
type missingTeller interface {
	missing(ctx context.Context, contents []bundle.Content) ([]bundle.Content, error)
}

// missing returns those of contents that are not stored, in their order.
func (s *contents) missing(ctx context.Context, contents []bundle.Content) ([]bundle.Content, error) {
	return (&cacheSink{contents: s}).Missing(ctx, contents)
}

// handleContents answers commands about contents.
func handleContents(mux *http.ServeMux, c contentControl) {
	mux.HandleFunc("GET /contents", func(w http.ResponseWriter, r *http.Request) {
		out := newEvents(w)
		last := contentEvent{End: true}
		for content, err := range c.Contents(r.Context()) {
			if err != nil {
				last = contentEvent{Error: reasonOf(r.Context(), err)}
				break
			}
			if out.writeAny(contentEvent{Content: &content}) != nil {
				return // nobody reads it
			}
		}
		_ = out.writeAny(last) // the client may be gone
	})
	mux.HandleFunc("GET /content", func(w http.ResponseWriter, r *http.Request) { sendContent(w, r, c) })
	mux.HandleFunc("POST /contents/missing", func(w http.ResponseWriter, r *http.Request) {
		teller, ok := c.(missingTeller)
		var asked []bundle.Content
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAskedBytes)).Decode(&asked)
		if !ok || err != nil || len(asked) > maxAsked {
			http.Error(w, "not a list of contents", http.StatusBadRequest)
			return
		}
		answer(w, r, func(ctx context.Context) ([]bundle.Content, error) {
			missing, err := teller.missing(ctx, asked)
			return append([]bundle.Content{}, missing...), err
		})
	})
	mux.HandleFunc("POST /load", func(w http.ResponseWriter, r *http.Request) { loadStream(w, r, c) })
}

// sendContent sends one content, which the client compares with its digest.
func sendContent(w http.ResponseWriter, r *http.Request, c contentControl) {
	dgst, err := digest.Parse(r.FormValue("digest"))
	if err != nil {
		http.Error(w, "not a digest", http.StatusBadRequest)
		return
	}
	content, err := c.Open(r.Context(), dgst)
	if err != nil {
		fail(r.Context(), w, err)
		return
	}
	defer func() { _ = content.Close() }() // it was only read
	w.Header().Set("Content-Type", "application/octet-stream")
	if s, ok := content.(interface{ Size() int64 }); ok {
		w.Header().Set("Content-Length", strconv.FormatInt(s.Size(), 10))
	}
	if _, err := io.Copy(w, content); err != nil {
		panic(http.ErrAbortHandler) // so that it does not look whole
	}
}

// loadStream loads the bundle that is the body of a request, and tells how that goes.
func loadStream(w http.ResponseWriter, r *http.Request, c contentControl) {
	out := newEvents(w)
	if err := out.rc.EnableFullDuplex(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out.flush() // who waits knows that it goes on
	receipt := bundle.Receipt{Version: bundle.Version}
	b, err := bundle.NewStream(r.Body)
	if err == nil {
		var told time.Time
		receipt, err = c.Load(r.Context(), b, loadOptions{NoPin: isSet(r, "nopin"), Progress: func(p bundle.Progress) {
			if now := time.Now(); now.Sub(told) >= progressEvery {
				told = now
				_ = out.writeAny(contentEvent{Progress: &p}) // who has left cancels the work
				out.flush()
			}
		}})
	}
	_ = out.writeAny(contentEvent{Receipt: &receipt}) // the client may be gone
	last := contentEvent{End: true}
	if err != nil {
		last = contentEvent{Error: reasonOf(r.Context(), err), Partly: errors.Is(err, bundle.ErrPartly)}
	}
	_ = out.writeAny(last)
	out.flush()
	// The client stops sending when it has read that. Before, its connection must not end.
	_, _ = io.Copy(io.Discard, r.Body)
}

// Contents implements contentControl.
func (c *controlClient) Contents(ctx context.Context) iter.Seq2[bundle.Content, error] {
	return func(yield func(bundle.Content, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/contents")
		if err != nil {
			yield(bundle.Content{}, interrupted(ctx, err))
			return
		}
		defer func() { _ = resp.Body.Close() }() // it was only read
		for e, err := range contentEvents(ctx, resp) {
			if err != nil {
				yield(bundle.Content{}, err)
				return
			}
			if e.Error != "" {
				yield(bundle.Content{}, errors.New(e.Error))
				return
			}
			if e.Content != nil && !yield(*e.Content, nil) {
				return
			}
		}
	}
}

// contentEvents gives the events of an answer up to the last, with an error where that
// does not come.
func contentEvents(ctx context.Context, resp *http.Response) iter.Seq2[contentEvent, error] {
	return func(yield func(contentEvent, error) bool) {
		if resp.StatusCode != http.StatusOK {
			yield(contentEvent{}, said(resp))
			return
		}
		lines := json.NewDecoder(resp.Body)
		for {
			var e contentEvent
			if err := lines.Decode(&e); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF // there was no last one
				}
				yield(contentEvent{}, interrupted(ctx, cutOff(err)))
				return
			}
			if last := e.End || e.Error != ""; !yield(e, nil) || last {
				return
			}
		}
	}
}

// Open implements contentControl.
func (c *controlClient) Open(ctx context.Context, dgst digest.Digest) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, target("/content", "digest", dgst.String()))
	if err != nil {
		return nil, interrupted(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	err = said(resp)
	if resp.StatusCode == http.StatusNotFound {
		if s, ok := errors.AsType[*saidError](err); ok {
			err = fmt.Errorf("%w: %w", s, fs.ErrNotExist)
		}
	}
	return nil, err
}

// missing asks which of contents are not stored.
func (c *controlClient) missing(ctx context.Context, contents []bundle.Content) (all []bundle.Content, _ error) {
	for len(contents) > 0 {
		part := contents[:min(len(contents), maxAsked)]
		contents = contents[len(part):]
		body, err := json.Marshal(part)
		if err != nil {
			return nil, err
		}
		missing, err := askWith[[]bundle.Content](ctx, c, http.MethodPost, "/contents/missing", strings.NewReader(string(body)))
		if err != nil {
			return nil, err
		}
		all = append(all, missing...)
	}
	return all, nil
}

// Load implements contentControl. Only what is missing is sent.
func (c *controlClient) Load(ctx context.Context, b *bundle.Bundle, o loadOptions) (receipt bundle.Receipt, err error) {
	receipt.Version = bundle.Version
	missing, err := c.missing(ctx, b.Description().Contents)
	if err != nil {
		return receipt, err
	}
	want := make(map[digest.Digest]struct{}, len(missing))
	for _, m := range missing {
		want[m.Digest] = struct{}{}
	}
	ctx, cancel := context.WithCancel(ctx)
	body, in := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		buffered := bufio.NewWriterSize(in, 256<<10)
		err := bundle.WriteSubset(ctx, buffered, b, func(c bundle.Content) bool { _, ok := want[c.Digest]; return ok })
		lost := (*bundle.LostError)(nil)
		if err == nil || errors.As(err, &lost) {
			err = errors.Join(err, buffered.Flush())
			_ = in.Close() // it has no error
		} else {
			_ = in.CloseWithError(err)
		}
		sent <- err
	}()
	receipt, err = c.loading(ctx, body, o)
	cancel()
	_ = body.CloseWithError(errors.New("the server reads no more")) // it has no error
	sendErr := <-sent
	if lost := (*bundle.LostError)(nil); err != nil && errors.As(sendErr, &lost) {
		err = &saidError{bundle.ErrPartly, err.Error() + "\n" + sendErr.Error()}
	}
	return receipt, err
}

// loading sends a bundle, and follows what becomes of it.
func (c *controlClient) loading(ctx context.Context, body io.Reader, o loadOptions) (receipt bundle.Receipt, _ error) {
	receipt.Version = bundle.Version
	resp, err := c.send(ctx, http.MethodPost, target("/load", "nopin", strconv.FormatBool(o.NoPin)), body)
	if err != nil {
		return receipt, interrupted(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	for e, err := range contentEvents(ctx, resp) {
		switch {
		case err != nil:
			return receipt, err
		case e.Receipt != nil:
			receipt = *e.Receipt
		case e.Progress != nil && o.Progress != nil:
			o.Progress(*e.Progress)
		case e.Partly:
			return receipt, &saidError{bundle.ErrPartly, e.Error}
		case e.Error != "":
			return receipt, errors.New(e.Error)
		}
	}
	return receipt, nil
}
