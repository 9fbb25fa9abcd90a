package access_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/auth/access"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

func TestThroughCatalog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, access.Options{})
		b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
		for name, r := range map[string]*http.Request{"line1": b.line1(), "wrong": b.wrong()} {
			c, err := b.gate.Authorize(r, access.Ask{Catalog: true})
			if err != nil {
				t.Fatal(err)
			}
			for place, want := range map[[2]string]bool{
				{"r.example", "team/app"}: name == "line1", {"r.example", "team/other"}: false, {"open.example", "team/app"}: true,
			} {
				if got := c.MayPull([]string{place[1]}, place[0], place[1]); got != want {
					t.Errorf("%s sees %v: %v, want %v", name, place, got, want)
				}
			}
		}
	})
}

// TestThroughCatalogOfOthers shows that who is known to a remote does not see what is not of
// it because of that.
func TestThroughCatalogOfOthers(t *testing.T) {
	_, htpasswd := newController(t, "local")
	withPolicy := htpasswd
	withPolicy.Policy = newPolicy(t, `rules: [{users: [line1, local], pull: ["**"], catalog: true}, {anonymous: true, pull: [public/*]}]`)
	for name, tt := range map[string]struct {
		opts access.Options
		user string
		want map[[2]string]bool
	}{
		"alone":                {access.Options{}, "line1", map[[2]string]bool{{"r.example", "team/app"}: true, {"open.example", "a/b"}: true}},
		"htpasswd: remote's":   {htpasswd, "line1", map[[2]string]bool{{"r.example", "team/app"}: true, {"open.example", "a/b"}: false}},
		"htpasswd: its own":    {htpasswd, "local", map[[2]string]bool{{"r.example", "team/app"}: false, {"open.example", "a/b"}: true}},
		"policy: remote's":     {withPolicy, "line1", map[[2]string]bool{{"r.example", "team/app"}: true, {"open.example", "a/b"}: false, {"open.example", "public/a"}: true}},
		"policy: htpasswd own": {withPolicy, "local", map[[2]string]bool{{"r.example", "team/app"}: false, {"open.example", "a/b"}: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, tt.opts)
				b.try(b.line1(), of("team/app", "v1"), "200", 0, 1)
				c, err := b.gate.Authorize(from(t.Context(), tt.user, "secret-"+tt.user), access.Ask{Catalog: true})
				if err != nil {
					t.Fatal(err)
				}
				for place, want := range tt.want {
					if got := c.MayPull([]string{place[1]}, place[0], place[1]); got != want {
						t.Errorf("%s sees %v: %v, want %v", tt.user, place, got, want)
					}
				}
			})
		})
	}
}

// TestThroughRegistry lets callers in by a registry.
func TestThroughRegistry(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			reg := ut.New(t)
			img := reg.AddRandomImage("team/app", "v1", 1, 1000)
			reg.SetAuth(ut.Auth{Scheme: scheme, Username: "line1", Password: "secret-line1"})
			r, err := upstream.New(upstream.Options{URL: reg.URL()})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			g := newGate(t, access.Options{PassThrough: map[string]access.PassThrough{r.Host(): {Checker: r, Grace: time.Hour}}})
			ask := access.Ask{Resource: "team/app", Names: []string{"team/app"}, Host: r.Host(), Repo: "team/app", Kind: "manifest", Reference: "v1"}
			tries := []struct {
				user, password, kind, reference, want string
				tokens, others                        int
			}{
				{"line1", "secret-line1", "manifest", "v1", "200", 1, 1},
				{"line1", "secret-line1", "blob", img.Config.String(), "200", 0, 0},
				{"other", "secret-line1", "blob", img.Config.String(), "401 Basic", 1, 1},
				{"third", "secret", "tags", "", "401 Basic", 1, 1},
				{"", "", "manifest", "v1", "401 Basic", 0, 0},
			}
			if _, err := r.Challenge(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, tt := range tries {
				reg.ResetCounts()
				ask.Kind, ask.Reference = tt.kind, tt.reference
				_, err := g.Authorize(from(t.Context(), tt.user, tt.password), ask)
				if got := outcome(t, err); got != tt.want {
					t.Errorf("%s: %s of %s is %s, want %s (%v)", tt.user, tt.kind, tt.reference, got, tt.want, err)
				}
				if scheme == "Basic" {
					tt.tokens = 0
				} else if tt.want != "200" {
					tt.others = 0 // the token service refuses
				}
				if tokens, all := reg.Requests(ut.Token), reg.Requests(); tokens != tt.tokens || all != tokens+tt.others {
					t.Errorf("%s: %d requests, %d of them for tokens, want %d and %d", tt.user, all, tokens, tt.tokens+tt.others, tt.tokens)
				}
			}
			reg.Offline()
			if _, err := g.Authorize(from(t.Context(), "line1", "secret-line1"), ask); err != nil {
				t.Errorf("while the registry is away: %v", err)
			}
		})
	}
}
