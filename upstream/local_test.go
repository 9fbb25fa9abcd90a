package upstream_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/cache"
	"registry-module/internal/via"
	"registry-module/upstream"
	"registry-module/upstream/breaker"
	ut "registry-module/upstream/upstreamtest"
)

// noSuch are credentials that cannot be had.
type noSuch struct{}

func (noSuch) Authorization() (*authn.AuthConfig, error) {
	return nil, errors.New("it has failed (exit status 1)")
}

// TestLocalErrors has errors that say nothing of the remote: the breaker goes on to know
// what it knew.
func TestLocalErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		creds     authn.Authenticator
		challenge string
		repo, ref string
		kind      error
		text      string
	}{
		"no credentials":      {nil, `Basic realm="x"`, "a/b", "v1", cache.ErrDenied, "no credentials are configured"},
		"failing credentials": {noSuch{}, `Basic realm="x"`, "a/b", "v1", cache.ErrUnavailable, "not asked: getting credentials: it has failed (exit status 1)"},
		"unknown scheme":      {nil, `Other realm="x"`, "a/b", "v1", cache.ErrDenied, "not supported"},
		"refused realm":       {nil, `Bearer realm="https://elsewhere.test/token"`, "a/b", "v1", cache.ErrDenied, "elsewhere.test"},
		"no name":             {nil, "", "A b", "v1", cache.ErrInvalid, "not the name of a repository"},
		"no tag":              {nil, "", "a/b", "?", cache.ErrInvalid, "neither a tag nor a digest"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tt.challenge != "" {
					w.Header().Set("WWW-Authenticate", tt.challenge)
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			defer srv.Close()
			b := breaker.New(newRemote(t, upstream.Options{URL: srv.URL, Credentials: tt.creds}), breaker.Options{})
			for range 2 { // the second time the challenge is known
				_, err := b.Manifest(t.Context(), tt.repo, tt.ref)
				wantKind(t, err, tt.kind)
				if !errors.Is(err, cache.ErrNotAsked) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %v", err)
				}
			}
			if s := b.Status(); s.State != breaker.Unknown {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRetryAfterOfTheirClock has a date be one of a clock that is not ours.
func TestRetryAfterOfTheirClock(t *testing.T) {
	theirs := time.Now().Add(-24 * time.Hour).UTC()
	reg, _ := sample(t)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	get(t, r, "a/b", "v1")
	reg.Script(ut.Fault{Status: 429, Header: http.Header{
		"Date": {theirs.Format(http.TimeFormat)}, "Retry-After": {theirs.Add(time.Minute).Format(http.TimeFormat)},
	}})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	if e := wantKind(t, err, cache.ErrRateLimited); e.RetryAfter != time.Minute {
		t.Errorf("to be tried again after %v", e.RetryAfter)
	}
}

// TestBehind has a registry like us say that one that it fetches from has failed.
func TestBehind(t *testing.T) {
	for name, tt := range map[string]struct {
		via  string
		want bool
	}{
		"a registry like us": {"1.1 " + via.NewName(), true},
		"a proxy":            {"1.1 squid", false},
		"nobody":             {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, status := range []int{429, 502, 503, 504} {
				reg, _ := sample(t)
				r := newRemote(t, upstream.Options{URL: reg.URL()})
				get(t, r, "a/b", "v1")
				reg.Script(ut.Fault{Status: status, Header: http.Header{"Via": {tt.via}, "Retry-After": {"60"}}})
				_, err := r.Manifest(t.Context(), "a/b", "v1")
				if e, ok := errors.AsType[*cache.UpstreamError](err); !ok || e.Elsewhere != tt.want || e.RetryAfter != time.Minute {
					t.Errorf("%d: %+v", status, e)
				}
			}
		})
	}
}
