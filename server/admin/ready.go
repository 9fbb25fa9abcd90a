package admin

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
)

// readiness is what GET /readyz answers as JSON.
type readiness struct {
	Ready    bool     `json:"ready"`
	Reasons  []string `json:"reasons,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// ready tells whether requests should be sent here.
func (s *Server) ready() readiness {
	var r readiness
	if s.stopping.Load() {
		r.Reasons = append(r.Reasons, "the module is stopping")
	}
	if s.opts.Ready != nil {
		reasons, warnings := s.opts.Ready()
		for _, text := range reasons {
			r.Reasons = append(r.Reasons, cleanText(text))
		}
		for _, text := range warnings {
			r.Warnings = append(r.Warnings, cleanText(text))
		}
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	is := s.ready()
	status := http.StatusOK
	if !is.Ready {
		status = http.StatusServiceUnavailable
	}
	w.Header().Add("Vary", "Accept")
	if AcceptsJSON(r.Header) {
		writeJSON(w, status, is)
		return
	}
	lines := is.Reasons
	if is.Ready {
		lines = []string{"ready"}
	}
	for _, text := range is.Warnings {
		lines = append(lines, "warning: "+text)
	}
	writeText(w, status, strings.Join(lines, "\n")+"\n")
}

// AcceptsJSON tells whether JSON is named in Accept (RFC 9110, section 12.5.1). What
// takes anything, as curl does, gets text.
func AcceptsJSON(header http.Header) bool {
	for _, field := range header.Values("Accept") {
		for part := range strings.SplitSeq(field, ",") {
			if mediaType, params, err := mime.ParseMediaType(part); err == nil && mediaType == "application/json" && params["q"] != "0" {
				return true
			}
		}
	}
	return false
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client may be gone
}

// writeJSON answers with v, in which <, > and & are escaped, so that no reader of it can
// take a name for markup.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
