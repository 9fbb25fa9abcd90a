package access_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	stock "github.com/distribution/distribution/v3/registry/auth"

	"registry-module/auth/access"
	"registry-module/auth/policy"
)

const rules = `
rules:
  - {users: [line1], certificates: [press-*], pull: [team/**], deny: [team/secret/**], catalog: true}
  - {users: [boss], pull: [team/secret/**]}
  - {anonymous: true, pull: [public/*]}
`

// asks are what can be asked for of a repository.
func asks(repo string) map[string]access.Ask {
	all := map[string]access.Ask{}
	for _, kind := range []string{"manifest", "blob", "tags", "referrers", ""} {
		all[kind] = access.Ask{Resource: repo, Names: []string{repo, "r.example/" + repo}, Host: "r.example", Repo: repo, Kind: kind, Reference: "x"}
	}
	return all
}

// TestCallersAndRepositories is the table of who gets what under a policy: the same for
// whatever of a repository is asked for, by GET and by HEAD.
func TestCallersAndRepositories(t *testing.T) {
	_, opts := newController(t, "line1", "boss", "other")
	opts.Policy = newPolicy(t, rules)
	g := newGate(t, opts)
	callers := map[string]func() *http.Request{
		"nobody":            func() *http.Request { return from(t.Context(), "", "") },
		"empty credentials": func() *http.Request { r := from(t.Context(), "", ""); r.SetBasicAuth("", ""); return r },
		"line1":             func() *http.Request { return from(t.Context(), "line1", "secret-line1") },
		"boss":              func() *http.Request { return from(t.Context(), "boss", "secret-boss") },
		"other":             func() *http.Request { return from(t.Context(), "other", "secret-other") },
		"press-1":           func() *http.Request { return showing(from(t.Context(), "", ""), "x", "press-1") },
		"other certificate": func() *http.Request { return showing(from(t.Context(), "", ""), "x", "y") },
		"press-1 as boss":   func() *http.Request { return showing(from(t.Context(), "boss", "secret-boss"), "press-1") },
		"unverified certificate": func() *http.Request {
			r := showing(from(t.Context(), "", ""), "press-1")
			r.TLS.VerifiedChains = nil
			return r
		},
		"token where none is had": func() *http.Request {
			r := from(t.Context(), "", "")
			r.Header.Set("Authorization", "Bearer x")
			return r
		},
	}
	want := map[string]struct{ team, secret, public, unknown, catalog, ping string }{
		"nobody":                  {"401 Basic", "401 Basic", "200", "401 Basic", "401 Basic", "401 Basic"},
		"empty credentials":       {"401 Basic", "401 Basic", "200", "401 Basic", "401 Basic", "401 Basic"},
		"line1":                   {"200", "403", "200", "403", "200", "200"},
		"boss":                    {"403", "200", "200", "403", "403", "200"},
		"other":                   {"403", "403", "200", "403", "403", "200"},
		"press-1":                 {"200", "401 Basic", "200", "401 Basic", "200", "200"},
		"other certificate":       {"401 Basic", "401 Basic", "200", "401 Basic", "401 Basic", "401 Basic"},
		"press-1 as boss":         {"200", "200", "200", "403", "200", "200"},
		"unverified certificate":  {"401 Basic", "401 Basic", "200", "401 Basic", "401 Basic", "401 Basic"},
		"token where none is had": {"401 Basic", "401 Basic", "401 Basic", "401 Basic", "401 Basic", "401 Basic"},
	}
	for name, request := range callers {
		t.Run(name, func(t *testing.T) {
			check := func(what string, ask access.Ask, want string) {
				t.Helper()
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					r := request()
					r.Method = method
					c, err := g.Authorize(r, ask)
					if got := outcome(t, err); got != want {
						t.Errorf("%s of %s: %s, want %s", method, what, got, want)
					}
					if (c == nil) != (err != nil) {
						t.Errorf("%s of %s: caller %v with %v", method, what, c, err)
					}
				}
			}
			w := want[name]
			for repo, want := range map[string]string{"team/app": w.team, "team/secret/app": w.secret, "public/app": w.public, "no/such": w.unknown} {
				for kind, ask := range asks(repo) {
					check(kind+" "+repo, ask, want)
				}
			}
			check("catalog", access.Ask{Catalog: true}, w.catalog)
			check("ping", access.Ask{}, w.ping)
		})
	}
}

func TestCatalogIsFiltered(t *testing.T) {
	_, opts := newController(t, "line1")
	opts.Policy = newPolicy(t, rules)
	c, err := newGate(t, opts).Authorize(from(t.Context(), "line1", "secret-line1"), access.Ask{Catalog: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.Name() != "line1" {
		t.Errorf("the caller is called %q", c.Name())
	}
	for repo, want := range map[string]bool{"team/app": true, "team/secret/app": false, "public/app": true, "other/app": false} {
		if got := c.MayPull([]string{repo}, "r.example", repo); got != want {
			t.Errorf("%s is listed: %v, want %v", repo, got, want)
		}
	}
}

func TestWithoutPolicy(t *testing.T) {
	repo := access.Ask{Resource: "a/b", Names: []string{"a/b"}, Host: "r.example", Repo: "a/b", Kind: "manifest", Reference: "v1"}
	wrong := func() *http.Request { return showing(from(t.Context(), "line1", "secret-wrong"), "press-1") }
	nobody := func() *http.Request { return from(t.Context(), "", "") }
	line1 := func() *http.Request { return from(t.Context(), "line1", "secret-line1") }
	_, htpasswd := newController(t, "line1")
	withPolicy := func(opts access.Options, text string) access.Options {
		opts.Policy = newPolicy(t, text)
		return opts
	}
	const open, certificates = "rules: [{anonymous: true, pull: [a/*]}]", "rules: [{certificates: [press-1], pull: [a/*]}]"
	for name, tt := range map[string]struct {
		opts          access.Options
		request       func() *http.Request
		ping, pull    string
		catalog, name string
	}{
		"nothing is configured":          {access.Options{}, nobody, "200", "200", "200", ""},
		"nothing, with credentials":      {access.Options{}, line1, "200", "200", "200", ""},
		"policy is nil":                  {access.Options{Policy: func() *policy.Policy { return nil }}, nobody, "200", "200", "200", ""},
		"htpasswd: nobody":               {htpasswd, nobody, "401 Basic", "401 Basic", "401 Basic", ""},
		"htpasswd: line1":                {htpasswd, line1, "200", "200", "200", "line1"},
		"htpasswd: certificate, wrong":   {htpasswd, wrong, "401 Basic", "401 Basic", "401 Basic", ""},
		"htpasswd: certificate alone":    {htpasswd, func() *http.Request { return showing(nobody(), "press-1") }, "401 Basic", "401 Basic", "401 Basic", ""},
		"open policy alone: nobody":      {withPolicy(access.Options{}, open), nobody, "200", "200", "401 Basic", ""},
		"open policy alone: credentials": {withPolicy(access.Options{}, open), line1, "200", "200", "401 Basic", ""},
		"certificates alone: nobody":     {withPolicy(access.Options{}, certificates), nobody, "401 Basic", "401 Basic", "401 Basic", ""},
		"certificates alone: it":         {withPolicy(access.Options{}, certificates), func() *http.Request { return showing(line1(), "press-1") }, "200", "200", "403", "press-1"},
		"certificates alone: another":    {withPolicy(access.Options{}, certificates), func() *http.Request { return showing(nobody(), "press-2") }, "403", "403", "403", ""},
		"policy and certificate, wrong":  {withPolicy(htpasswd, certificates), wrong, "401 Basic", "401 Basic", "401 Basic", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // wrong passwords take their time
			g := newGate(t, tt.opts)
			for what, ask := range map[string]access.Ask{tt.ping + " ping": {}, tt.pull + " pull": repo, tt.catalog + " catalog": {Catalog: true}} {
				want := strings.TrimSuffix(what, " "+what[strings.LastIndex(what, " ")+1:])
				c, err := g.Authorize(tt.request(), ask)
				if got := outcome(t, err); got != want {
					t.Errorf("%s: %s", what, got)
				}
				if err == nil && c.Name() != tt.name {
					t.Errorf("%s: the caller is called %q, want %q", what, c.Name(), tt.name)
				}
			}
		})
	}
}

// tokens is an access controller that wants tokens, which are names of users.
type tokens struct{}

type tokenChallenge struct{ error }

func (tokenChallenge) SetHeaders(_ *http.Request, w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "Bearer realm=x")
}

func (tokens) Authorized(r *http.Request, _ ...stock.Access) (*stock.Grant, error) {
	user, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case user == "nothing":
		return nil, nil
	case user == "broken":
		return nil, errors.New("broken")
	case !ok:
		return nil, tokenChallenge{errors.New("a token is wanted")}
	}
	return &stock.Grant{User: stock.UserInfo{Name: user}}, nil
}

func TestTokens(t *testing.T) {
	repo := access.Ask{Resource: "team/app", Names: []string{"team/app"}}
	withToken := func(user string) *http.Request {
		r := from(t.Context(), "", "")
		r.Header.Set("Authorization", "Bearer "+user)
		return r
	}
	for name, tt := range map[string]struct {
		policy  string
		method  string
		request *http.Request
		ask     access.Ask
		want    string
		records []string // nil: it is not asked
	}{
		"ping":                  {"", "GET", withToken("line1"), access.Ask{}, "200", []string{}},
		"ping without token":    {"", "GET", from(t.Context(), "", ""), access.Ask{}, "401 Bearer", []string{}},
		"pull":                  {"", "GET", withToken("line1"), repo, "200", []string{"repository:team/app:pull"}},
		"HEAD":                  {"", "HEAD", withToken("line1"), repo, "200", []string{"repository:team/app:pull"}},
		"push":                  {"", "POST", withToken("line1"), repo, "200", []string{"repository:team/app:pull", "repository:team/app:push"}},
		"delete":                {"", "DELETE", withToken("line1"), repo, "200", []string{"repository:team/app:delete"}},
		"catalog":               {"", "GET", withToken("line1"), access.Ask{Catalog: true}, "200", []string{"registry:catalog:*"}},
		"password":              {"", "GET", from(t.Context(), "line1", "secret"), repo, "401 Bearer", []string{"repository:team/app:pull"}},
		"no grant":              {"", "GET", withToken("nothing"), repo, "the access controller has not granted access", []string{"repository:team/app:pull"}},
		"broken":                {"", "GET", withToken("broken"), repo, "broken", []string{"repository:team/app:pull"}},
		"policy":                {rules, "GET", withToken("line1"), repo, "200", []string{"repository:team/app:pull"}},
		"policy, another user":  {rules, "GET", withToken("other"), repo, "403", []string{"repository:team/app:pull"}},
		"policy, nobody":        {rules, "GET", from(t.Context(), "", ""), repo, "401 Bearer", []string{"repository:team/app:pull"}},
		"policy, public":        {rules, "GET", from(t.Context(), "", ""), access.Ask{Resource: "public/a", Names: []string{"public/a"}}, "200", nil},
		"policy, certificate":   {rules, "GET", showing(from(t.Context(), "", ""), "press-1"), repo, "200", nil},
		"policy, ping":          {rules, "GET", from(t.Context(), "", ""), access.Ask{}, "401 Bearer", []string{}},
		"policy, ping with one": {rules, "GET", showing(from(t.Context(), "", ""), "press-1"), access.Ask{}, "200", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := &controller{AccessController: tokens{}}
			opts := access.Options{Controller: c}
			if tt.policy != "" {
				opts.Policy = newPolicy(t, tt.policy)
			}
			tt.request.Method = tt.method
			_, err := newGate(t, opts).Authorize(tt.request, tt.ask)
			if got := outcome(t, err); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if asked := c.count() > 0; asked != (tt.records != nil) || asked && !slices.Equal(c.records, tt.records) {
				t.Errorf("the controller was asked for %q, want %q", c.records, tt.records)
			}
		})
	}
}

// TestPolicyIsReadEachTime shows that a policy counts as soon as it is there.
func TestPolicyIsReadEachTime(t *testing.T) {
	now := newPolicy(t, "rules: [{anonymous: true, pull: [a]}]")
	g := newGate(t, access.Options{Policy: func() *policy.Policy { return now() }})
	ask := access.Ask{Resource: "a", Names: []string{"a"}}
	if _, err := g.Authorize(from(t.Context(), "", ""), ask); err != nil {
		t.Fatal(err)
	}
	now = newPolicy(t, "rules: [{anonymous: true, pull: [b]}]")
	if _, err := g.Authorize(from(t.Context(), "", ""), ask); outcome(t, err) != "401 Basic" {
		t.Errorf("got %v", err)
	}
}

func TestNewErrors(t *testing.T) {
	checker := &remote{}
	for name, tt := range map[string]struct {
		opts access.Options
		want []string
	}{
		"no controller": {access.Options{PasswordFile: "x"}, []string{"nobody who reads it"}},
		"all at once": {access.Options{PassThrough: map[string]access.PassThrough{
			"": {Checker: checker}, "a": {}, "b": {Checker: checker, TTL: -1}, "c": {Checker: checker, Grace: -1}, "d": {Checker: checker},
		}}, []string{"without a host", "ask a about", "what b says", "what c says"}},
	} {
		_, err := access.New(tt.opts)
		if err == nil {
			t.Fatalf("%s: accepted", name)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", name, err, want)
			}
		}
		if lines := strings.Count(err.Error(), "\n") + 1; lines != len(tt.want) {
			t.Errorf("%s: %d mistakes, want %d: %v", name, lines, len(tt.want), err)
		}
	}
}

// remote is a remote registry that a test tells what to say.
type remote struct {
	mu    sync.Mutex
	check answer
	asked counter
}

// answer is what a remote says.
type answer func(ctx context.Context, repo, kind, reference, user, password string) error

func (r *remote) set(check answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.check = check
}

func (r *remote) Check(ctx context.Context, repo, kind, reference, user, password string) error {
	r.asked.add(kind)
	r.mu.Lock()
	check := r.check
	r.mu.Unlock()
	return check(ctx, repo, kind, reference, user, password)
}
