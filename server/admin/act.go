package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"registry-module/cache"
)

// TokenField is the field of a form that has the token, and SaidParameter the parameter of
// the page's address that has the number for [Server.Said].
const (
	TokenField    = "token"
	SaidParameter = "said"
)

const (
	// maxAction bounds, in bytes, what is asked for at once, and maxForm what is read where
	// the token is in it, so that anybody can have it read. maxNames is how many images can
	// be named, and maxName how long the name of one is.
	maxAction = 1 << 20
	maxForm   = 64 << 10
	maxNames  = 10_000
	maxName   = 1 << 10
	// bodyTimeout is how long it may take to send that.
	bodyTimeout = 30 * time.Second
	// maxSaid bounds, in bytes, what is said of an action.
	maxSaid = 2000
)

// noToken says how to get actions.
const noToken = "nothing can be changed here, since no token is configured: set REGISTRY_ADMIN_TOKENFILE to the path of a file that holds one, for example of openssl rand -hex 32"

// request is what an action is given, as JSON.
type request struct {
	Image     string   `json:"image"`
	All       bool     `json:"all"`
	Force     bool     `json:"force"`
	Images    []string `json:"images"`
	Platforms []string `json:"platforms"`
	Mode      string   `json:"mode"`
}

// answer is what an action answers as JSON.
type answer struct {
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

// serveAction changes something. Browsers send the token of no cookie, so that a page of
// somebody else cannot have anything changed; that its requests are refused before they are
// looked at keeps it from trying tokens.
func (s *Server) serveAction(w http.ResponseWriter, r *http.Request) {
	do, ok := actions[r.PathValue("action")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if err := s.csrf.Check(r); err != nil {
		writeJSON(w, http.StatusForbidden, answer{Error: "another page has sent this, or a proxy in front has changed the Host: " +
			"use the page of this address, and have a proxy leave the Host as it is"})
		return
	}
	said, err := s.act(w, r, do)
	hurry(w, answerTimeout) // from now: it may have taken long
	text := cleanTo(maxSaid, said)
	if err != nil {
		text = cleanTo(maxSaid, err.Error())
	}
	if form, _ := isForm(r.Header); form && acceptsHTML(r.Header) {
		id := s.said.keep(Said{OK: err == nil, Text: text})
		w.Header().Set("Location", "/?"+url.Values{SaidParameter: {id}}.Encode()+"#said")
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, answer{Message: text})
}

// act does what is asked for, if that may be.
func (s *Server) act(w http.ResponseWriter, r *http.Request, do action) (said string, err error) {
	if !s.acts(r.Context()) {
		return "", &Refusal{Status: http.StatusForbidden, Text: noToken}
	}
	form, err := isForm(r.Header)
	if err != nil {
		return "", err
	}
	token, given := Bearer(r.Header)
	if given || !form { // who does not have it has nothing read
		if no := s.gate.Admit(r.Context(), token, given, r.RemoteAddr); no != nil {
			return "", no
		}
	}
	most := int64(maxAction)
	if !given {
		most = maxForm
	}
	body, err := readBody(w, r, most)
	if err != nil {
		return "", err
	}
	var fields url.Values
	if form {
		if fields, err = url.ParseQuery(string(body)); err != nil {
			return "", fmt.Errorf("%w: the form cannot be read: %w", ErrInvalid, err)
		}
	}
	if form && !given {
		token = strings.TrimSpace(fields.Get(TokenField))
		if no := s.gate.Admit(r.Context(), token, token != "", r.RemoteAddr); no != nil {
			return "", no
		}
	}
	var asked request
	if form {
		asked, err = formRequest(fields)
	} else {
		asked, err = jsonRequest(body)
	}
	if err != nil {
		return "", err
	}
	log := s.log.WithField("action", r.PathValue("action")).WithField("client", r.RemoteAddr)
	if about := asked.about(); about != "" {
		log = log.WithField("about", cleanText(about))
	}
	said, err = do(r.Context(), s.opts.Actions, asked)
	// Also where it has failed: part of it may have been done.
	s.lister.forget()
	s.looker.forget()
	if err != nil {
		log.WithField("error", cleanText(err.Error())).Warn("what was asked for by the admin address was not done")
		return "", err
	}
	log.Info("done, as asked for by the admin address")
	return said, nil
}

// action does one of the things that can be asked for.
type action func(context.Context, Actions, request) (string, error)

var actions = map[string]action{
	"pin":   named(func(ctx context.Context, a Actions, r request) (string, error) { return a.Pin(ctx, r.Image) }),
	"unpin": named(func(ctx context.Context, a Actions, r request) (string, error) { return a.Unpin(ctx, r.Image) }),
	"remove": named(func(ctx context.Context, a Actions, r request) (string, error) {
		return a.Remove(ctx, Removal{Image: r.Image, All: r.All, Force: r.Force})
	}),
	"refresh": named(func(ctx context.Context, a Actions, r request) (string, error) { return a.Refresh(ctx, r.Image) }),
	"seed": func(ctx context.Context, a Actions, r request) (string, error) {
		if len(r.Images) == 0 || len(r.Images) > maxNames {
			return "", fmt.Errorf("%w: write 1 to %d images in the field images", ErrInvalid, maxNames)
		}
		for _, name := range slices.Concat(r.Images, r.Platforms) {
			if err := checkName(name); err != nil {
				return "", err
			}
		}
		return a.Seed(ctx, SeedJob{Images: r.Images, Platforms: r.Platforms})
	},
	"offline": func(ctx context.Context, a Actions, r request) (string, error) {
		switch r.Mode {
		case "on", "off", "auto":
			return a.SetOffline(ctx, r.Mode)
		}
		return "", fmt.Errorf("%w: there is no such mode: write on, off or auto in the field mode", ErrInvalid)
	},
	"reload": func(ctx context.Context, a Actions, _ request) (string, error) { return a.Reload(ctx) },
}

// named is an action on one image.
func named(do action) action {
	return func(ctx context.Context, a Actions, r request) (string, error) {
		if err := checkName(r.Image); err != nil {
			return "", err
		}
		return do(ctx, a, r)
	}
}

// checkName refuses what cannot be a name, whatever the grammar of names is.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: write the name of an image in the field image", ErrInvalid)
	case len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) || unicode.IsSpace(c) }):
		return fmt.Errorf("%w: a name is at most %d bytes long, without spaces and characters that cannot be seen", ErrInvalid, maxName)
	}
	return nil
}

// about is what the log says of it.
func (r request) about() string {
	switch {
	case r.Image != "":
		return r.Image
	case len(r.Images) == 1:
		return r.Images[0]
	case len(r.Images) > 1:
		return fmt.Sprintf("%s and %d more", r.Images[0], len(r.Images)-1)
	}
	return r.Mode
}

// isForm tells whether a form was sent; what is neither that nor JSON is an error. Nothing
// need not have a type.
func isForm(header http.Header) (bool, error) {
	text := header.Get("Content-Type")
	if text == "" {
		return false, nil
	}
	switch mediaType, _, _ := mime.ParseMediaType(text); mediaType {
	case "application/json":
		return false, nil
	case "application/x-www-form-urlencoded":
		return true, nil
	}
	return false, &Refusal{Status: http.StatusUnsupportedMediaType, Text: "send application/json, or a form as application/x-www-form-urlencoded"}
}

// acceptsHTML tells whether it is a browser that shows the answer as a page.
func acceptsHTML(header http.Header) bool { return strings.Contains(header.Get("Accept"), "text/html") }

func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every writer has one
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	_ = rc.SetReadDeadline(time.Time{}) // that the client leaves is seen by reading on
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, &Refusal{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("this is larger than %d bytes: ask for less at once", most)}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading what is asked for: %w", ErrInvalid, err)
	}
	return body, nil
}

func jsonRequest(body []byte) (r request, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return r, nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return request{}, fmt.Errorf("%w: write an object of JSON with the fields of the action: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return request{}, fmt.Errorf("%w: there is something behind the object of JSON", ErrInvalid)
	}
	return r, nil
}

// formRequest reads the fields of a form, in which a list is separated by spaces, commas or
// line breaks. A box that is ticked is on or true.
func formRequest(fields url.Values) (r request, err error) {
	flag := func(name string) (is bool) {
		switch text := fields.Get(name); text {
		case "", "false":
		case "on", "true":
			is = true
		default:
			err = fmt.Errorf("%w: write true or false in the field %s", ErrInvalid, name)
		}
		return is
	}
	list := func(name string) []string {
		return strings.FieldsFunc(strings.Join(fields[name], " "), func(c rune) bool { return c == ',' || unicode.IsSpace(c) })
	}
	r = request{
		Image: strings.TrimSpace(fields.Get("image")), All: flag("all"), Force: flag("force"),
		Images: list("images"), Platforms: list("platforms"), Mode: fields.Get("mode"),
	}
	return r, err
}

// statuses are those of kinds of errors; the first that applies is taken.
var statuses = []struct {
	kind   error
	status int
}{
	{ErrInvalid, http.StatusBadRequest},
	{ErrBusy, http.StatusConflict},
	{cache.ErrPinned, http.StatusConflict},
	{cache.ErrOffline, http.StatusServiceUnavailable},
	{cache.ErrNotFound, http.StatusNotFound},
	{cache.ErrNoSpace, http.StatusInsufficientStorage},
	{cache.ErrRateLimited, http.StatusTooManyRequests},
	{cache.ErrUnavailable, http.StatusServiceUnavailable},
	{cache.ErrClosed, http.StatusServiceUnavailable},
	{cache.ErrNotServed, http.StatusNotFound},
	{cache.ErrRefused, http.StatusForbidden},
	{cache.ErrDenied, http.StatusBadGateway}, // to us, not to the client
	{cache.ErrLoop, http.StatusLoopDetected},
	{cache.ErrInvalid, http.StatusBadGateway},
	{context.Canceled, http.StatusServiceUnavailable}, // the client is gone, or the module stops
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
}

func statusOf(err error) int {
	if no, ok := errors.AsType[*Refusal](err); ok {
		return no.Status
	}
	for _, s := range statuses {
		if errors.Is(err, s.kind) {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// writeError answers with an error.
func writeError(w http.ResponseWriter, err error) {
	if no, ok := errors.AsType[*Refusal](err); ok && no.Challenge != "" {
		w.Header().Set("WWW-Authenticate", no.Challenge)
	}
	writeJSON(w, statusOf(err), answer{Error: cleanTo(maxSaid, err.Error())})
}
