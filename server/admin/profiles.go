package admin

import (
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"
)

// MaxProfile is how many seconds a profile is made of at most.
const MaxProfile = 60

// newProfiles has the profiles of package runtime/pprof, one at a time.
func newProfiles() http.Handler {
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text := r.URL.Query().Get("seconds"); text != "" {
			if n, err := strconv.Atoi(text); err != nil || n < 1 || n > MaxProfile {
				http.Error(w, "seconds is how long to look: write a number from 1 to "+strconv.Itoa(MaxProfile), http.StatusBadRequest)
				return
			}
		}
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "a profile is made by GET", http.StatusMethodNotAllowed)
			return
		}
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		default:
			w.Header().Set("Retry-After", strconv.Itoa(MaxProfile))
			http.Error(w, "another profile is being made: try again when it is done", http.StatusServiceUnavailable)
			return
		}
		hurry(w, answerTimeout+MaxProfile*time.Second)
		switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
		case "cmdline":
			http.NotFound(w, r) // of no use, and what it has is others' business
		case "profile":
			pprof.Profile(w, r)
		case "trace":
			pprof.Trace(w, r)
		case "symbol":
			pprof.Symbol(w, r)
		default:
			pprof.Index(w, r)
		}
	})
}
