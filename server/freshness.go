package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
)

// The kinds of answer that can be stale.
const (
	tagAnswer       = "tag"
	tagsAnswer      = "tags"
	referrersAnswer = "referrers"
)

// newAnswers counts answers that can be stale.
func newAnswers() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_module_answers_total",
		Help: "Answers that can change at the remote registry, by kind (tag, tags, referrers) and freshness (fresh, revalidating, stale).",
	}, []string{"kind", "freshness"})
}

// show tells the client, and who counts, how far an answer can be relied on.
func (s *Server) show(x *exchange, kind string, f cache.Freshness) {
	x.freshness = f
	freshness := "fresh"
	h := x.Header()
	if !f.Confirmed.IsZero() {
		// Seconds since the answer was validated at its origin (RFC 9111, section 5.1).
		age := max(s.now().Sub(f.Confirmed), 0)
		h.Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
	}
	if f.Stale != nil {
		freshness = "stale"
		h.Set("Warning", `110 - "Response is Stale"`) // RFC 7234, section 5.5.1
		if errors.Is(f.Stale, cache.ErrRevalidating) {
			freshness = "revalidating"
		} else {
			// The form in which clients of registries show it to their users (OCI
			// distribution specification, "Warnings").
			h.Add("Warning", `299 - "`+warnText(f)+`"`)
		}
	}
	s.answers.WithLabelValues(kind, freshness).Inc()
}

// forget takes back what was shown, for an answer that has become another one.
func (x *exchange) forget() {
	x.freshness = cache.Freshness{}
	x.Header().Del("Age")
	x.Header().Del("Warning")
}

// warnText says what is stale, and why, as the content of a quoted string.
func warnText(f cache.Freshness) string {
	const most = 400
	var when string
	if !f.Confirmed.IsZero() {
		when = ", last confirmed at " + f.Confirmed.UTC().Format(time.RFC3339)
	}
	text := fmt.Sprintf("stale answer%s: %v", when, f.Stale)
	text = strings.Map(func(c rune) rune {
		switch {
		case c == '"':
			return '\''
		case c < ' ', c > '~', c == '\\':
			return ' '
		}
		return c
	}, text)
	return text[:min(len(text), most)]
}

// wantsFresh tells whether a client wants the remote to be asked (RFC 9111, sections
// 5.2.1.1 and 5.2.1.4).
func wantsFresh(r *http.Request) bool {
	for _, line := range r.Header["Cache-Control"] {
		for directive := range strings.SplitSeq(line, ",") {
			switch strings.ToLower(strings.TrimSpace(directive)) {
			case "no-cache", "max-age=0":
				return true
			}
		}
	}
	return false
}
