package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// forbids makes reg answer 403 to all passwords but one, as some registries do where a
// log-in has run out.
func forbids(reg *ut.Registry, kind ut.Kind, good string) {
	reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, Status: http.StatusForbidden, Match: func(req ut.Request) bool {
		_, p, ok := basicAuth(req)
		return ok && p != good
	}})
}

func TestCredentialsAreRenewedWhere403(t *testing.T) {
	const good, bad, worse = "secret-good", "secret-bad", "secret-worse"
	for name, tt := range map[string]struct {
		scheme   string
		configs  []authn.AuthConfig
		fixed    bool // they cannot change
		denied   bool
		rejected int
		requests map[ut.Kind]int
	}{
		"Basic, others are good":  {"Basic", []authn.AuthConfig{password(bad), password(good)}, false, false, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2}},
		"Basic, others are bad":   {"Basic", []authn.AuthConfig{password(bad), password(worse), password(good)}, false, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2}},
		"Basic, no others":        {"Basic", []authn.AuthConfig{password(bad)}, false, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
		"Basic, fixed":            {"Basic", []authn.AuthConfig{password(bad)}, true, true, 0, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1}},
		"Bearer, others are good": {"Bearer", []authn.AuthConfig{password(bad), password(good)}, false, false, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.ManifestGet: 1}},
		"Bearer, others are bad":  {"Bearer", []authn.AuthConfig{password(bad), password(worse), password(good)}, false, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2}},
		"Bearer, no others":       {"Bearer", []authn.AuthConfig{password(bad)}, false, true, 1, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		"Bearer, fixed":           {"Bearer", []authn.AuthConfig{password(bad)}, true, true, 0, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.SetAuth(ut.Auth{Scheme: tt.scheme, Username: "me", Password: good})
			forbids(reg, map[string]ut.Kind{"Basic": ut.ManifestGet, "Bearer": ut.Token}[tt.scheme], good)
			creds := &changing{configs: tt.configs}
			opts := upstream.Options{URL: reg.URL(), Credentials: creds}
			if tt.fixed {
				opts.Credentials = authn.FromConfig(tt.configs[0])
			}
			_, err := newRemote(t, opts).Manifest(t.Context(), "a/b", "v1")
			if tt.denied {
				if e := wantKind(t, err, cache.ErrDenied); e.Status != http.StatusForbidden {
					t.Errorf("the status is %d", e.Status)
				}
			} else if err != nil {
				t.Error(err)
			}
			wantRequests(t, reg, tt.requests)
			if creds.rejected != tt.rejected {
				t.Errorf("the credentials were told %d times that they were rejected, want %d", creds.rejected, tt.rejected)
			}
		})
	}
}

// TestDoubtIsBounded has somebody ask for what is not for us, again and again, where
// each log-in is another one.
func TestDoubtIsBounded(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Status: http.StatusForbidden})
	creds := new(changing)
	for i := range 100 {
		creds.configs = append(creds.configs, password(fmt.Sprintf("secret-%d", i)))
	}
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: creds})
	var c clock
	r.SetNow(c.now)
	for range 3 {
		for range 10 {
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, cache.ErrDenied)
		}
		c.advance(time.Minute)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 3 * (10 + 1)})
	if creds.renewed != 3 {
		t.Errorf("the credentials were renewed %d times, want 3", creds.renewed)
	}
}

// TestManyAreForbiddenAtOnce has a log-in run out under many requests. Nobody waits for
// credentials that are only doubted, so that who comes while one of them gets new ones may
// be told no.
func TestManyAreForbiddenAtOnce(t *testing.T) {
	const callers = 20
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret-two"})
	creds := &changing{configs: []authn.AuthConfig{password("secret-one"), password("secret-two"), password("secret-three")}}
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: creds})
	gate, come, left := ut.NewGate(), make(chan struct{}), callers
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Times: callers, Gate: gate, Status: http.StatusForbidden, Match: func(ut.Request) bool {
		if left--; left == 0 {
			close(come)
		}
		return true
	}})
	var all sync.WaitGroup
	var denied atomic.Int64
	for range callers {
		all.Go(func() {
			if _, err := r.Manifest(t.Context(), "a/b", "v1"); err != nil {
				wantKind(t, err, cache.ErrDenied)
				denied.Add(1)
			}
		})
	}
	<-come
	gate.Open()
	all.Wait()
	told := int(denied.Load())
	if told == callers {
		t.Error("all are told no")
	}
	get(t, r, "a/b", "v1")
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 2*callers - told + 1})
	if creds.renewed != 1 {
		t.Errorf("the credentials were renewed %d times, want 1", creds.renewed)
	}
}

// failing are credentials that cannot be got any more once they were rejected.
type failing struct {
	mu     sync.Mutex
	failed bool
}

func (f *failing) Authorization() (*authn.AuthConfig, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return nil, errors.New("no helper")
	}
	config := password("secret")
	return &config, nil
}

func (f *failing) Renew(authn.AuthConfig) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = true
	return true
}

// TestDoubtLosesNothing keeps what was answered 403 for one repository for the others.
func TestDoubtLosesNothing(t *testing.T) {
	for scheme, requests := range map[string]map[ut.Kind]int{
		"Basic":  {ut.Ping: 1, ut.ManifestGet: 3},
		"Bearer": {ut.Ping: 1, ut.Token: 3, ut.ManifestGet: 2},
	} {
		t.Run(scheme, func(t *testing.T) {
			reg, _ := sample(t)
			reg.AddRandomImage("other", "v1", 1, 10)
			reg.AddRandomImage("third", "v1", 1, 10)
			reg.SetAuth(ut.Auth{Scheme: scheme, Username: "me", Password: "secret"})
			reg.Script(ut.Fault{Kinds: []ut.Kind{map[string]ut.Kind{"Basic": ut.ManifestGet, "Bearer": ut.Token}[scheme]}, Status: http.StatusForbidden, Times: 1})
			r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: new(failing)})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, cache.ErrDenied)
			get(t, r, "other", "v1")
			get(t, r, "third", "v1")
			wantRequests(t, reg, requests)
		})
	}
}

// hanging are credentials that can be had once. Then it calls hangs.
type hanging struct {
	asked atomic.Int64
	hangs func()
}

func (h *hanging) Authorization() (*authn.AuthConfig, error) {
	return h.AuthorizationContext(context.Background())
}

func (h *hanging) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	if h.asked.Add(1) > 1 {
		h.hangs()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &authn.AuthConfig{Username: "me", Password: "secret"}, nil
}

func (h *hanging) Renew(authn.AuthConfig) bool { return true }

// TestDoubtHoldsUpNobody is a program for credentials that hangs when the remote has
// denied something: others go on with what there is, and do not wait for it.
func TestDoubtHoldsUpNobody(t *testing.T) {
	reg, _ := sample(t)
	reg.AddRandomImage("other", "v1", 1, 10)
	reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Repo: "a/b", Status: http.StatusForbidden})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	creds := &hanging{hangs: leave}
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: creds})
	if _, err := r.Manifest(ctx, "a/b", "v1"); err == nil {
		t.Error("what is denied is served")
	}
	for range 5 {
		get(t, r, "other", "v1")
	}
	if n := creds.asked.Load(); n != 2 {
		t.Errorf("credentials were asked for %d times, want twice", n)
	}
}

// TestCommandIsRunAgainAfter403 is a registry whose log-ins are good for 12 hours, and
// that says 403 without a challenge after that.
func TestCommandIsRunAgainAfter403(t *testing.T) {
	dir := t.TempDir()
	answer := filepath.Join(dir, "answer")
	if err := os.WriteFile(filepath.Join(dir, "creds"), []byte("#!/bin/sh\ncat '"+answer+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	reg, _ := sample(t)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{Host: reg.Host(), Command: filepath.Join(dir, "creds")})})
	for _, p := range []string{"secret-one", "secret-two"} {
		reg.Heal()
		reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: p})
		forbids(reg, ut.ManifestGet, p)
		if err := os.WriteFile(answer, fmt.Appendf(nil, `{"Username":"me","Secret":%q}`, p), 0o600); err != nil {
			t.Fatal(err)
		}
		get(t, r, "a/b", "v1")
		get(t, r, "a/b", "v1")
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 5})
}
