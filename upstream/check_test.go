package upstream_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

var (
	basicCaller  = ut.Auth{Scheme: "Basic", Username: "caller", Password: "caller-secret"}
	bearerCaller = ut.Auth{Scheme: "Bearer", Username: "caller", Password: "caller-secret"}
)

func TestCheck(t *testing.T) {
	absent := digest.FromString("absent").String()
	for name, tt := range map[string]struct {
		auth      ut.Auth
		kind      string
		reference func(ut.Image) string
		password  string
		want      error // nil: the remote would serve it
		requests  map[ut.Kind]int
	}{
		"Basic: manifest": {basicCaller, "manifest", tagV1, "caller-secret", nil, map[ut.Kind]int{ut.Ping: 1, ut.ManifestHead: 1}},
		"Basic: blob":     {basicCaller, "blob", config, "caller-secret", nil, map[ut.Kind]int{ut.Ping: 1, ut.BlobHead: 1}},
		"Basic: tags":     {basicCaller, "tags", nothing, "caller-secret", nil, map[ut.Kind]int{ut.Ping: 1, ut.Tags: 1}},
		"Basic: nothing":  {basicCaller, "", nothing, "caller-secret", nil, map[ut.Kind]int{ut.Ping: 1, ut.Tags: 1}},
		"Basic: referrers": {basicCaller, "referrers", func(i ut.Image) string { return i.Digest.String() }, "caller-secret", nil,
			map[ut.Kind]int{ut.Ping: 1, ut.ManifestHead: 1}},
		"Basic: wrong password": {basicCaller, "manifest", tagV1, "wrong-secret", cache.ErrDenied, map[ut.Kind]int{ut.Ping: 1, ut.ManifestHead: 1}},
		"Basic: no password":    {basicCaller, "manifest", tagV1, "", cache.ErrDenied, map[ut.Kind]int{ut.Ping: 1, ut.ManifestHead: 1}},
		"Basic: absent": {basicCaller, "blob", func(ut.Image) string { return absent }, "caller-secret", cache.ErrNotFound,
			map[ut.Kind]int{ut.Ping: 1, ut.BlobHead: 1}},
		"Bearer: manifest":       {bearerCaller, "manifest", tagV1, "caller-secret", nil, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestHead: 1}},
		"Bearer: blob":           {bearerCaller, "blob", config, "caller-secret", nil, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.BlobHead: 1}},
		"Bearer: wrong password": {bearerCaller, "manifest", tagV1, "wrong-secret", cache.ErrDenied, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		"open":                   {ut.Auth{}, "manifest", tagV1, "any-secret", cache.ErrInvalid, map[ut.Kind]int{ut.Ping: 1, ut.ManifestHead: 1}},
		"not a digest":           {basicCaller, "blob", tagV1, "caller-secret", cache.ErrInvalid, map[ut.Kind]int{ut.Ping: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			reg, img := sample(t)
			reg.SetAuth(tt.auth)
			// Its own credentials would do, and have no part in it.
			own := &countedCredentials{Authenticator: auth.Static("caller", "caller-secret")}
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: own})
			err := r.Check(t.Context(), "a/b", tt.kind, tt.reference(img), "caller", tt.password)
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
			} else {
				wantKind(t, err, tt.want)
			}
			wantRequests(t, reg, tt.requests)
			if n := own.asked.Load(); n != 0 {
				t.Errorf("the remote's own credentials were used %d times", n)
			}
		})
	}
}

func tagV1(ut.Image) string      { return "v1" }
func nothing(ut.Image) string    { return "" }
func config(img ut.Image) string { return img.Config.String() }

// countedCredentials count how often they are asked for.
type countedCredentials struct {
	authn.Authenticator
	asked atomic.Int32
}

func (c *countedCredentials) Authorization() (*authn.AuthConfig, error) {
	c.asked.Add(1)
	return c.Authenticator.Authorization()
}

// TestCheckIsApart shows that neither the remote nor a caller profits from the tokens and
// credentials of another.
func TestCheckIsApart(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(bearerCaller)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("caller", "caller-secret")})
	get(t, r, "a/b", "v1") // there is a token now
	reg.ResetCounts()
	wantKind(t, r.Check(t.Context(), "a/b", "manifest", "v1", "other", "x-secret"), cache.ErrDenied)
	wantRequests(t, reg, map[ut.Kind]int{ut.Token: 1})
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("other:x-secret"))
	if seen := reg.Authorizations(); !slices.Equal(seen, []string{want}) {
		t.Errorf("the remote has seen %q, want %q", seen, want)
	}
	reg.ResetCounts()
	for range 2 {
		if err := r.Check(t.Context(), "a/b", "manifest", "v1", "caller", "caller-secret"); err != nil {
			t.Fatal(err)
		}
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Token: 2, ut.ManifestHead: 2}) // no token is kept
	reg.ResetCounts()
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.ManifestGet: 1}) // its own was
}

func TestCheckAndRedirects(t *testing.T) {
	reg, img := sample(t)
	reg.SetAuth(basicCaller)
	reg.SetRedirect(true)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	if err := r.Check(t.Context(), "a/b", "blob", img.Config.String(), "caller", "caller-secret"); err != nil {
		t.Fatal(err)
	}
	for _, req := range reg.Log() {
		if sent := req.Header.Get("Authorization") != ""; sent != (req.Kind == ut.BlobHead) {
			t.Errorf("%s %s has credentials: %v", req.Host, req.Path, sent)
		}
	}
	// What the host of blobs refuses, the remote has not.
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNHead, ut.CDNGet}, Status: http.StatusForbidden})
	wantKind(t, r.Check(t.Context(), "a/b", "blob", img.Config.String(), "caller", "caller-secret"), cache.ErrUnavailable)
}

func TestCheckFails(t *testing.T) {
	for name, tt := range map[string]struct {
		fault ut.Fault
		want  error
	}{
		"no answer":     {ut.Fault{Drop: true}, cache.ErrUnavailable},
		"500":           {ut.Fault{Status: 500}, cache.ErrUnavailable},
		"429":           {ut.Fault{Status: 429}, cache.ErrRateLimited},
		"403":           {ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 403}, cache.ErrDenied},
		"login page":    {ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}}, cache.ErrInvalid},
		"no HEAD":       {ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 405}, nil},
		"404 of others": {ut.Fault{Kinds: []ut.Kind{ut.Tags}, Status: 404, Body: []byte("nothing")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(basicCaller)
			reg.Script(tt.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			err := r.Check(t.Context(), "a/b", "manifest", "v1", "caller", "caller-secret")
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantKind(t, err, tt.want)
		})
	}
}

func TestCheckRepeatsNoSecret(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(basicCaller)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Tags}, Status: 403, Body: []byte(`{"errors":[{"code":"DENIED","message":"no: caller-secret own-secret"}]}`)})
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("own", "own-secret")})
	_, _, err := r.Tags(t.Context(), "a/b", 1, "")
	if err == nil {
		t.Fatal("listed")
	}
	err = r.Check(t.Context(), "a/b", "", "", "caller", "caller-secret")
	wantKind(t, err, cache.ErrDenied)
	if !strings.Contains(err.Error(), "no: REDACTED REDACTED") {
		t.Errorf("error is %v", err)
	}
}

func TestCheckIsOffline(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(basicCaller)
	var off upstream.Switch
	r := newRemote(t, upstream.Options{URL: reg.URL(), Switch: &off})
	off.Set(errors.New("by a test"))
	err := r.Check(t.Context(), "a/b", "", "", "caller", "caller-secret")
	if wantKind(t, err, cache.ErrUnavailable); !errors.Is(err, cache.ErrOffline) {
		t.Errorf("error is %v", err)
	}
	wantRequests(t, reg, nil)
	off.Set(nil)
	if err := r.Check(t.Context(), "a/b", "", "", "caller", "caller-secret"); err != nil {
		t.Fatal(err)
	}
}

func TestCheckEndsWithItsCaller(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(bearerCaller)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Hang: true})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	if _, err := r.Challenge(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Check(ctx, "a/b", "", "", "caller", "caller-secret") }()
	for reg.Requests(ut.Token) == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

// TestCheckManyCallers shows that callers leave neither connections nor secrets behind.
func TestCheckManyCallers(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(bearerCaller)
	var dials atomic.Int32
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.Static("own", "own-secret"), DialContext: dialNames(nil, &dials)})
	if _, err := r.Manifest(t.Context(), "a/b", "v1"); err == nil {
		t.Fatal("served")
	}
	before := runtime.NumGoroutine()
	for i := range 600 {
		if err := r.Check(t.Context(), "a/b", "", "", "caller", digest.FromString(string(rune(i))).Encoded()); err == nil {
			t.Fatal("let in")
		}
	}
	// The registry, and its token service, which is at another port.
	if n := dials.Load(); n > 4 {
		t.Errorf("%d connections", n)
	}
	if n := runtime.NumGoroutine(); n > before+20 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	// The remote's own password is still known as one.
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 403, Body: []byte(`{"errors":[{"code":"DENIED","message":"own-secret"}]}`)})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrDenied)
}
