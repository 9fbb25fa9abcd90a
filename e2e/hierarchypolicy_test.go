package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// htpasswd writes a file with users and their passwords.
func htpasswd(t *testing.T, users map[string]string) string {
	t.Helper()
	dir := tempDir(t)
	var lines []byte
	for user, password := range users {
		one := filepath.Join(dir, "one")
		if err := lab.WriteHtpasswd(one, user, password); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, must(os.ReadFile(one))(t)...)
	}
	file := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(file, lines, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// what a client can ask about a repository; the first argument is its name.
func questions(img lab.Image) map[string]func(repo string) (method, target string) {
	digest := img.Root().Digest.String()
	about := func(method, rest string) func(string) (string, string) {
		return func(repo string) (string, string) { return method, "/v2/" + repo + rest }
	}
	return map[string]func(string) (string, string){
		"manifest by tag":    about(http.MethodGet, "/manifests/"+img.Tag),
		"manifest by digest": about(http.MethodGet, "/manifests/"+digest),
		"HEAD of a manifest": about(http.MethodHead, "/manifests/"+img.Tag),
		"blob":               about(http.MethodGet, "/blobs/"+img.Blobs[0].Digest.String()),
		"HEAD of a blob":     about(http.MethodHead, "/blobs/"+img.Blobs[0].Digest.String()),
		"tags":               about(http.MethodGet, "/tags/list"),
		"referrers":          about(http.MethodGet, "/referrers/"+digest),
	}
}

// TestHierarchyPolicy asks the top for everything about repositories that a caller may
// pull, that it may not, and that do not exist, through the proxies and with passwords,
// when nothing is cached and when all is. Who may not pull something cannot tell whether
// it exists, and causes no request to upstream.
func TestHierarchyPolicy(t *testing.T) {
	t.Parallel()
	users := map[string]string{"line1": "pass-of-one", "line-7": "pass-of-seven", "audit": "pass-of-audit", "guest": "pass-of-guest"}
	app, secret, other := noise(t, "app", 5000).In("team/app", "1.0"), noise(t, "secret", 5000).In("team/secret/app", "1.0"), noise(t, "other", 5000).In("other/app", "1.0")
	agent := noise(t, "agent", 5000).In("azureiotedge-agent", "1.5")
	policy := filepath.Join(tempDir(t), "policy.yml")
	write := func(rules string) {
		t.Helper()
		next := policy + ".next"
		if err := os.WriteFile(next, []byte(rules), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, policy); err != nil {
			t.Fatal(err)
		}
	}
	const rules = `rules:
  - users: [line1, "line-*"]
    pull: ["team/**", "azureiotedge-*"]
    deny: ["team/secret/**"]
    catalog: true
  - users: [audit]
    pull: ["other/**"]
`
	write(rules)
	h := hierarchy(t, lab.HierarchyOptions{
		Lower: sized(1, 3),
		Env: lab.Env{
			"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM": "plant", "REGISTRY_AUTH_HTPASSWD_PATH": htpasswd(t, users),
			"REGISTRY_ACCESS_POLICY": policy,
		},
		Registries: []lab.RegistryHost{
			{Host: "plant.azurecr.io", Images: []lab.Image{app, secret, other}},
			{Host: "mcr.microsoft.com", Images: []lab.Image{agent}, Env: lab.Env{"REGISTRY_PROXY_DEFAULT": "true"}},
		},
	})
	anonymous := newBottom(t, h, h.Lowest())
	as := func(user string) *bottom {
		b := *anonymous
		b.user, b.password = user, users[user]
		return &b
	}
	// Those that may not are first: nothing that they get comes from what others have pulled.
	callers := []string{"", "guest", "audit", "line1", "line-7"}
	repositories := []struct {
		name   string
		img    lab.Image // what is asked for
		exists bool
		may    string // who may pull it, by the beginning of the name
	}{
		{"team/app", app, true, "line"},
		{"plant.azurecr.io/team/app", app, true, "line"},
		{"team/none", app, false, "line"},
		{"azureiotedge-agent", agent, true, "line"},
		{"team/secret/app", secret, true, "none"},
		{"plant.azurecr.io/team/secret/app", secret, true, "none"},
		{"team/secret/none", secret, false, "none"},
		{"other/app", other, true, "audit"},
		{"other/none", other, false, "audit"},
	}
	refusals := map[string]string{} // by caller and question
	asked := 0
	for _, round := range []string{"not cached", "cached"} {
		for _, caller := range callers {
			b := as(caller)
			for _, r := range repositories {
				may := caller != "" && strings.HasPrefix(caller, r.may)
				for what, question := range questions(r.img) {
					method, target := question(r.name)
					before := h.Origins[0].Counts().Requests + h.Origins[1].Counts().Requests
					a := b.do(t, method, target, nil)
					asked++
					cell := fmt.Sprintf("%s, %q, %s of %s", round, caller, what, r.name)
					if may {
						found := a.Status == http.StatusOK
						// The list of referrers of what nobody refers to is empty.
						if found != r.exists && what != "referrers" || !found && a.Status != http.StatusNotFound && a.Status != http.StatusOK {
							t.Errorf("%s: status %d, exists: %v\n%.300s", cell, a.Status, r.exists, a.Body)
						}
						continue
					}
					if caused := h.Origins[0].Counts().Requests + h.Origins[1].Counts().Requests - before; caused != 0 {
						t.Errorf("%s: %d requests to upstream", cell, caused)
					}
					want, challenge := http.StatusForbidden, ""
					if caller == "" {
						want, challenge = http.StatusUnauthorized, `Basic realm="plant"`
					}
					if a.Status != want || a.Header.Get("WWW-Authenticate") != challenge {
						t.Errorf("%s: status %d, challenge %q, want %d, %q\n%.300s", cell, a.Status, a.Header.Get("WWW-Authenticate"), want, challenge, a.Body)
					}
					// The same for all, but for what was asked for.
					a.Header.Del("Date")
					a.Header.Del("Content-Length")
					text := strings.NewReplacer(r.name, "NAME", r.img.Root().Digest.String(), "DIGEST", r.img.Blobs[0].Digest.String(), "DIGEST", r.img.Tag, "TAG").
						Replace(fmt.Sprint(a.Status, a.Header, string(a.Body)))
					key := fmt.Sprint(caller, " ", what)
					if refusals[key] == "" {
						refusals[key] = text
					} else if refusals[key] != text {
						t.Errorf("%s: refused by\n%s\nand another time by\n%s", cell, text, refusals[key])
					}
				}
			}
		}
		// What is stored now: all, by who may.
		for user, img := range map[string]lab.Image{"line1": app, "line-7": agent, "audit": other} {
			if err := as(user).pull(t.Context(), img); err != nil {
				t.Errorf("%s: %v", user, err)
			}
		}
	}
	t.Logf("%d questions of %d callers; %v; %v", asked, len(callers), h.Origins[0].Counts(), h.Origins[1].Counts())

	catalogs := map[string][]string{"line1": {"azureiotedge-agent", "team/app"}, "line-7": {"azureiotedge-agent", "team/app"}}
	for _, caller := range callers {
		a := as(caller).get(t, "/v2/_catalog")
		var list struct{ Repositories []string }
		if want := catalogs[caller]; want != nil {
			a.decode(t, &list)
			// It may name a repository by its host, too.
			var names []string
			for _, name := range list.Repositories {
				names = append(names, strings.TrimPrefix(strings.TrimPrefix(name, "plant.azurecr.io/"), "mcr.microsoft.com/"))
			}
			slices.Sort(names)
			if names = slices.Compact(names); !slices.Equal(names, want) {
				t.Errorf("%s: the catalog has %v, want %v", caller, list.Repositories, want)
			}
		} else if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusForbidden}[caller == ""]; a.Status != want {
			t.Errorf("%q: the catalog, status %d, want %d\n%s", caller, a.Status, want, a.Body)
		}
	}

	// With the policy changed, and nothing restarted.
	write(strings.Replace(rules, "users: [audit]", "users: [audit, guest]", 1))
	start := time.Now()
	eventually(t, "the guest is let in", func() bool { return as("guest").pull(t.Context(), other) == nil })
	t.Logf("a changed policy is in force after %v", time.Since(start).Round(time.Millisecond))
	write("rules:\n  - users: [line1\n")
	if err := as("guest").pull(t.Context(), other); err != nil {
		t.Errorf("with a policy that cannot be read: %v, want what was before", err)
	}
	write(rules)
	eventually(t, "the guest is locked out", func() bool { return as("guest").pull(t.Context(), other) != nil })

	// A password that is wrong.
	wrong := as("line1")
	wrong.password = "pass-of-two"
	start = time.Now()
	for range 3 {
		if a := wrong.get(t, "/v2/"+app.Repo+"/manifests/"+app.Tag); a.Status != http.StatusUnauthorized {
			t.Errorf("a wrong password: status %d, want 401\n%s", a.Status, a.Body)
		}
	}
	t.Logf("three wrong passwords are refused after %v", time.Since(start).Round(time.Millisecond))
	log := must(os.ReadFile(h.Top().Module.Log()))(t)
	if !bytes.Contains(log, []byte("line1")) || bytes.Contains(log, []byte("pass-of-")) {
		t.Error("the log does not say who has failed to log in, or has the password")
	}
}

// members has an upstream know users by their passwords, and the repositories of each by
// the beginning of the name.
func members(passwords, repositories map[string]string) lab.Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			switch {
			case user == "" || passwords[user] != password:
				lab.Refuse(http.StatusUnauthorized, "UNAUTHORIZED", "WWW-Authenticate", `Basic realm="upstream"`)(w, r)
			case lab.KindOf(r.URL.Path) != lab.Ping && !strings.HasPrefix(r.URL.Path, "/v2/"+repositories[user]):
				lab.Refuse(http.StatusForbidden, "DENIED")(w, r)
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// TestHierarchyPassThrough has the private registry itself decide who is served, by the
// password that a caller sends through the proxies: also what is cached, also while the
// registry is away, which lets in who was let in before.
func TestHierarchyPassThrough(t *testing.T) {
	t.Parallel()
	passwords := map[string]string{"module": "pass-of-module", "line1": "pass-of-line1", "line2": "pass-of-line2", "late": "pass-of-late"}
	app, other := noise(t, "app", 5000).In("team/app", "1.0"), noise(t, "other", 5000).In("other/app", "1.0")
	h, up := plant(t, nil, lab.Env{
		"REGISTRY_PROXY_PASSTHROUGH": "true", "REGISTRY_PROXY_PASSTHROUGHTTL": "1s",
		"REGISTRY_PROXY_USERNAME": "module", "REGISTRY_PROXY_PASSWORD": passwords["module"],
	}, app, other)
	up.Use(members(passwords, map[string]string{"line1": "team/", "line2": "other/", "late": "team/"}))
	anonymous := newBottom(t, h, h.Lowest())
	as := func(user, password string) *bottom {
		b := *anonymous
		b.user, b.password = user, password
		return &b
	}
	status := func(b *bottom, img lab.Image) int {
		t.Helper()
		a := b.get(t, "/v2/"+img.Repo+"/manifests/"+img.Tag)
		if blob := b.get(t, blobTarget(img.Repo, img.Blobs[0])); blob.Status != a.Status {
			t.Errorf("%q, %s: status %d for the manifest, %d for a blob", b.user, img.Repo, a.Status, blob.Status)
		}
		if a.Status != http.StatusOK {
			a.code(t)
		}
		return a.Status
	}
	line1, line2 := as("line1", passwords["line1"]), as("line2", passwords["line2"])
	steps := func(what string) {
		t.Helper()
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, tt := range []struct {
			b    *bottom
			img  lab.Image
			want int
		}{
			{anonymous, app, http.StatusUnauthorized}, {line1, app, http.StatusOK}, {line2, app, http.StatusForbidden},
			{line2, other, http.StatusOK}, {line1, other, http.StatusForbidden},
			{as("line1", "pass-of-nobody"), app, http.StatusUnauthorized},
		} {
			wg.Go(func() {
				start := time.Now()
				got := status(tt.b, tt.img)
				t.Logf("%s: %q, %s: status %d after %v", what, tt.b.user, tt.img.Repo, got, time.Since(start).Round(time.Millisecond))
				if got != tt.want {
					t.Errorf("%s: %q, %s: status %d, want %d", what, tt.b.user, tt.img.Repo, got, tt.want)
				}
			})
		}
	}
	if a := anonymous.get(t, "/v2/"); a.Status != http.StatusUnauthorized || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("GET /v2/: status %d, challenge %q, want 401, Basic", a.Status, a.Header.Get("WWW-Authenticate"))
	}
	steps("not cached")
	steps("cached")
	if got := up.Counts(); got.BlobBytes != app.Blobs[0].Size+other.Blobs[0].Size {
		t.Errorf("%v\nwant the two blobs once", got)
	}
	t.Logf("with the registry there: %v", up.Counts())
	for _, r := range up.Requests() {
		user, _, _ := strings.Cut(string(must(base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")))(t)), ":")
		if r.Status == http.StatusOK && r.Kind == lab.Blob && r.Method == http.MethodGet && user != "module" {
			t.Errorf("a blob was fetched with the password of %s", user)
		}
	}
	takeDown(t, up)
	// The verdicts are not good any more, but for while nobody can be asked.
	<-time.After(1500 * time.Millisecond)
	start := time.Now()
	if got := status(line1, app); got != http.StatusOK {
		t.Errorf("away: who was let in before, status %d, want 200", got)
	}
	if got := status(as("late", passwords["late"]), app); got < 400 {
		t.Errorf("away: who was never let in, status %d", got)
	} else {
		t.Logf("away: who was never let in gets %d", got)
	}
	if got := status(as("line1", "pass-of-nobody"), app); got < 400 {
		t.Errorf("away: a wrong password, status %d", got)
	}
	if got := status(line2, app); got < 400 {
		t.Errorf("away: who was denied, status %d", got)
	}
	t.Logf("away: all that after %v", time.Since(start).Round(time.Millisecond))
	bringUp(t, up)
	start = time.Now()
	eventually(t, "who is new is let in", func() bool { return status(as("late", passwords["late"]), app) == http.StatusOK })
	t.Logf("there again: who is new is let in after %v", time.Since(start).Round(time.Millisecond))
	if log := must(os.ReadFile(h.Top().Module.Log()))(t); bytes.Contains(log, []byte("pass-of-")) {
		t.Error("the log has a password")
	}
}
