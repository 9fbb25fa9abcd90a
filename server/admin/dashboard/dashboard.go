package dashboard

import (
	"bytes"
	"context"
	"html/template"
	"io"
	"net/http"
	"strconv"

	"github.com/sirupsen/logrus"

	"registry-module/server/admin"
)

// Source tells what the page shows; [admin.Server] is one. Its methods are called for each page, by several
// goroutines at once.
type Source interface {
	// State is what the module does now.
	State(context.Context) admin.State
	// Images are those that the query asks for.
	Images(context.Context, admin.ImageQuery) (admin.ImagePage, error)
	// Said is what has become of the action that a form has asked for and that has this
	// number; false where that is not known.
	Said(id string) (admin.Said, bool)
}

// Options are what a dashboard is made of.
type Options struct {
	// Source must be set.
	Source Source
	// Log gets what went wrong; nil is nowhere.
	Log logrus.FieldLogger
}

// policy is the Content-Security-Policy of all answers: the page's own script, style and
// icon, and requests and forms to where it has come from. That there is no style-src for
// inline styles is why widths of bars are attributes of progress, meter and SVG.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// New returns a handler for / and /assets/. All paths in the page are relative, so that it
// works below a path of a proxy, too. To everything else it answers 404.
func New(o Options) http.Handler {
	log := o.Log
	if log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		log = silent
	}
	return &handler{
		source: o.Source,
		log:    log,
		words:  words(),
		assets: assets(),
		page:   template.Must(template.New("page.html").Funcs(template.FuncMap{"named": name}).ParseFS(pageFile, "page.html")),
	}
}

type handler struct {
	source Source
	log    logrus.FieldLogger
	words  vocabulary
	assets map[string]asset
	page   *template.Template
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // no-referrer has forms be sent with the origin null
	a, isAsset := h.assets[r.URL.Path]
	switch {
	case !isAsset && r.URL.Path != "/":
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are possible here", http.StatusMethodNotAllowed)
	case isAsset:
		a.serve(w, r)
	default:
		h.servePage(w, r)
	}
}

func (h *handler) servePage(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	query := parseQuery(values)
	page, err := h.source.Images(r.Context(), query)
	if err != nil {
		if r.Context().Err() != nil {
			return // nobody is there to be told
		}
		// The rest of the page is worth showing all the same.
		h.log.WithError(err).Warn("dashboard: the list of images could not be had")
	}
	state := h.source.State(r.Context())
	if state.Images < 0 && err == nil {
		state.Images = page.All
	}
	v := newView(h.words, state)
	v.images(query, page, err)
	if said, ok := h.source.Said(values.Get("said")); ok {
		v.Said, v.SaidTone = clean(said.Text, maxText), map[bool]string{false: bad, true: good}[said.OK]
	}
	if state.Actions {
		v.Removal = values.Get("remove")
		v.RemovalName = clean(v.Removal, maxText)
	}
	var b bytes.Buffer
	if err := h.page.Execute(&b, v); err != nil {
		h.log.WithError(err).Error("dashboard: the page could not be made")
		http.Error(w, "the page could not be made; the log says why", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(b.Len()))
	if r.Method != http.MethodHead {
		w.Write(b.Bytes())
	}
}
