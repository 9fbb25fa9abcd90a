package server_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// patient notes how long who takes nothing is waited for.
type patient struct {
	*httptest.ResponseRecorder
	waits []time.Duration
}

// SetWriteDeadline implements what http.ResponseController looks for.
func (p *patient) SetWriteDeadline(t time.Time) error {
	p.waits = append(p.waits, time.Until(t))
	return nil
}

// Only blobs may be taken as slowly as a chain of proxies does.
func TestStall(t *testing.T) {
	s := newSite(t)
	h := s.handler(t)
	for path, want := range map[string]time.Duration{
		"/v2/":                 2 * time.Minute,
		"/v2/a/b/manifests/v1": 2 * time.Minute,
		"/v2/a/b/tags/list":    2 * time.Minute,
		"/v2/a/b/blobs/" + s.layerDigest.String(): time.Hour,
	} {
		for _, state := range []string{"cold", "stored"} {
			p := &patient{ResponseRecorder: httptest.NewRecorder()}
			h.ServeHTTP(p, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			if p.Code != http.StatusOK || len(p.waits) == 0 {
				t.Errorf("%s, %s: status %d, %d deadlines", path, state, p.Code, len(p.waits))
			}
			for _, got := range p.waits {
				if got > want || got < want-30*time.Second {
					t.Errorf("%s, %s: waits for %v, want %v", path, state, got, want)
				}
			}
		}
	}
}
