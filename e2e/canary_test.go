package e2e

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// trap is a server that nobody is to give anything secret to.
type trap struct {
	lab.Ledger
	*lab.Gateway
	v6 string // its host:port on [::1]
}

// newTrap starts it. It answers all with a handler.
func newTrap(t *testing.T, canary *lab.Canary, name string, h http.HandlerFunc) *trap {
	t.Helper()
	s := new(trap)
	s.Tap = func(r lab.Request) { canary.Saw(name, r) }
	recorded := s.Record("", h)
	s.Gateway = must(lab.NewGateway(recorded))(t)
	t.Cleanup(func() {
		if err := s.Down(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("requests to %s:\n%v", name, &s.Ledger)
		}
	})
	v6 := httptest.NewUnstartedServer(recorded)
	if err := v6.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	v6.Listener = must(net.Listen("tcp", "[::1]:0"))(t)
	v6.Start()
	t.Cleanup(v6.Close)
	s.v6 = v6.Listener.Addr().String()
	return s
}

// port is where it listens on 127.0.0.1.
func (s *trap) port() string {
	_, port, _ := strings.Cut(s.Addr, ":")
	return port
}

// bait asks for credentials in all ways.
func bait(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("WWW-Authenticate", `Basic realm="trap"`)
	w.Header().Add("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="trap",scope="repository:a:pull"`, r.Host))
	w.Header().Add("Set-Cookie", "session=1")
	refuse(http.StatusUnauthorized)(w, r)
}

// hostile is a registry that tries to have its own credentials, or another's, sent
// elsewhere.
type hostile struct {
	lab.Ledger
	settings // for it
	alias    string
	// Of the one user. The password or the identity token is set.
	user, password, identity string
}

// newHostile starts one. The handler is made when its host is known.
func newHostile(t *testing.T, canary *lab.Canary, alias string, tls, identity bool, handler func(h *hostile, host string) http.HandlerFunc) *hostile {
	t.Helper()
	h := &hostile{alias: alias, user: lab.NewUser()}
	h.Tap = func(r lab.Request) { canary.Saw(alias, r) }
	if identity {
		h.identity = lab.NewSecret()
		canary.Secret("the identity token of "+alias, h.identity, alias)
		h.settings = settings{"REGISTRY_PROXY_IDENTITYTOKEN": h.identity}
	} else {
		h.password = lab.NewSecret()
		canary.Secret("the password of "+alias, h.password, alias)
		canary.Name("the user of "+alias, h.user, alias)
		h.settings = settings{"REGISTRY_PROXY_USERNAME": h.user, "REGISTRY_PROXY_PASSWORD": h.password}
	}
	h.settings["REGISTRY_PROXY_ALIAS"] = alias
	h.settings["REGISTRY_PROXY_DEFAULT"] = "false"
	h.settings["REGISTRY_PROXY_RETRYFOR"] = "100ms"

	var serve http.HandlerFunc // set before the first request
	s := httptest.NewUnstartedServer(h.Record("", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r) })))
	t.Cleanup(s.Close)
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	if tls {
		serve = handler(h, "127.0.0.1:"+port) // is in the certificate
		s.StartTLS()
		ca := filepath.Join(tempDir(t), "ca.pem")
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := os.WriteFile(ca, cert, 0o644); err != nil {
			t.Fatal(err)
		}
		h.settings["REGISTRY_PROXY_CA"] = ca
		h.settings["REGISTRY_PROXY_REMOTEURL"] = "https://127.0.0.1:" + port
		return h
	}
	serve = handler(h, "localhost:"+port)
	s.Start()
	h.settings["REGISTRY_PROXY_REMOTEURL"] = "http://localhost:" + port
	return h
}

// named is a challenge for a token of the service at a realm.
func named(realm string) func(*hostile, string) http.HandlerFunc {
	return func(_ *hostile, host string) http.HandlerFunc {
		realm := strings.ReplaceAll(realm, "SELF", host)
		return refuse(http.StatusUnauthorized, "WWW-Authenticate",
			fmt.Sprintf(`Bearer realm="%s",service="hostile",scope="repository:team/app:pull"`, realm))
	}
}

// leads wants credentials, and then sends what is asked for elsewhere. The URL
// carries a secret, as signed URLs do.
func leads(canary *lab.Canary, status int, bearer bool, to string, servers ...string) func(*hostile, string) http.HandlerFunc {
	return func(h *hostile, host string) http.HandlerFunc {
		signature, token := lab.NewSecret(), lab.NewSecret()
		canary.Secret("a signed URL of "+h.alias, signature, append(servers, h.alias, "trap")...)
		canary.Secret("a token of "+h.alias, token, h.alias)
		to := strings.ReplaceAll(to, "SELF", host) + "?signature=" + url.QueryEscape(signature)
		challenge := `Basic realm="hostile"`
		if bearer {
			challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="hostile",scope="repository:team/app:pull"`, host)
		}
		return func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			known := password == h.password && h.password != "" || r.FormValue("refresh_token") == h.identity && h.identity != ""
			if bearer && r.URL.Path != "/token" {
				known = r.Header.Get("Authorization") == "Bearer "+token
			}
			switch {
			case !known:
				refuse(http.StatusUnauthorized, "WWW-Authenticate", challenge)(w, r)
			case r.URL.Path == "/token":
				fmt.Fprintf(w, `{"token":%q,"access_token":%[1]q}`, token)
			case lab.KindOf(r.URL.Path) == lab.Ping:
				fmt.Fprint(w, "{}")
			case strings.HasPrefix(r.URL.Path, "/elsewhere"):
				refuse(http.StatusNotFound)(w, r)
			default:
				w.Header().Set("Location", to)
				w.WriteHeader(status)
			}
		}
	}
}

// byCommand are the settings for an upstream whose credentials a command prints.
func byCommand(t *testing.T, r *lab.Upstream) settings {
	t.Helper()
	command := filepath.Join(tempDir(t), "helper")
	script := fmt.Sprintf("#!/bin/sh\ncat > /dev/null\necho '{\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", r.Username, r.Password)
	if err := os.WriteFile(command, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return settings{"REGISTRY_PROXY_REMOTEURL": r.Env()["REGISTRY_PROXY_REMOTEURL"], "REGISTRY_PROXY_EXEC_COMMAND": command}
}

// town is where hostile registries live beside an honest one, and traps.
type town struct {
	canary           *lab.Canary
	private          lab.Image
	honest, helped   *lab.Upstream
	asking, bouncing *trap
	// place fills in the addresses in a URL.
	place *strings.Replacer
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{canary: new(lab.Canary), private: app(t, "honest and private")}
	w.honest = upstream(t, lab.UpstreamOptions{Auth: lab.Basic, Canary: w.canary, Name: "honest"}, w.private)
	w.helped = upstream(t, lab.UpstreamOptions{Auth: lab.Bearer, Canary: w.canary, Name: "helped"}, w.private)
	w.asking = newTrap(t, w.canary, "trap", bait)
	w.bouncing = newTrap(t, w.canary, "trap", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Set-Cookie", "session=1")
		http.Redirect(rw, r, w.asking.URL()+"/bounced", http.StatusTemporaryRedirect)
	})
	w.place = strings.NewReplacer("BOUNCEPORT", w.bouncing.port(), "BOUNCE", w.bouncing.Addr, "PORT", w.asking.port(),
		"V6", w.asking.v6, "HONEST", w.honest.Addr, "NOBODY", must(lab.FreeAddr())(t))
	return w
}

// TestCanary has modules in front of many hostile registries and honest ones, each
// with a secret of its own. No secret is seen by a server that it is not meant for,
// and none is in what the module says.
func TestCanary(t *testing.T) {
	t.Run("realms", func(t *testing.T) {
		t.Parallel()
		w := newTown(t)
		var all []*hostile
		// A realm may be on the registry's own host, on any port: that is where token
		// services are.
		for name, realm := range map[string]string{
			"host":           "http://127.0.0.1:PORT/token",
			"ipv6":           "http://V6/token",
			"userinfo":       "http://SELF@127.0.0.1:PORT/token",
			"userinfo-own":   "http://user:pass@localhost:PORT/token",
			"userinfo-tab":   "http://SELF%09@127.0.0.1:PORT/token",
			"no-scheme":      "//127.0.0.1:PORT/token",
			"path":           "/token",
			"relative":       "token",
			"backslash":      `http://SELF\\@127.0.0.1:PORT/token`,
			"file":           "file:///etc/hostname",
			"empty":          "",
			"honest":         "http://HONEST/token",
			"nobody":         "http://NOBODY/token",
			"fragment":       "http://127.0.0.1:PORT/#SELF",
			"downgrade":      "http://127.0.0.1:PORT/token", // over TLS
			"downgrade-self": "http://SELF/token",           // over TLS
		} {
			for kind, identity := range map[string]bool{"password": false, "identity": true} {
				tls := strings.HasPrefix(name, "downgrade")
				all = append(all, newHostile(t, w.canary, name+"-"+kind, tls, identity, named(w.place.Replace(realm))))
			}
		}
		w.visit(t, all)
		for _, s := range []*trap{w.asking, w.bouncing} {
			if s.Counts().Requests > 0 {
				t.Errorf("a token service of another host was asked:\n%v", &s.Ledger)
			}
		}
	})

	t.Run("redirects", func(t *testing.T) {
		t.Parallel()
		w := newTown(t)
		var all []*hostile
		for name, to := range map[string]string{
			"host":         "http://127.0.0.1:PORT/x",
			"port":         "http://localhost:PORT/x",
			"ipv6":         "http://V6/x",
			"userinfo":     "http://SELF@127.0.0.1:PORT/x",
			"userinfo-own": "http://user:pass@localhost:PORT/x",
			"no-scheme":    "//127.0.0.1:PORT/x",
			"path":         "/elsewhere",
			"relative":     "elsewhere",
			"bounce":       "http://BOUNCE/x",
			"bounce-port":  "http://localhost:BOUNCEPORT/x",
			"honest":       "http://HONEST/v2/team/app/manifests/1.0",
			"nobody":       "http://NOBODY/x",
			"downgrade":    "http://127.0.0.1:PORT/x", // over TLS
		} {
			also := "trap"
			if name == "honest" {
				also = "honest"
			}
			for kind, o := range map[string]struct {
				status           int
				bearer, identity bool
			}{
				"basic":    {http.StatusTemporaryRedirect, false, false},
				"bearer":   {http.StatusFound, true, false},
				"identity": {http.StatusTemporaryRedirect, true, true},
			} {
				tls := name == "downgrade"
				if tls && o.bearer {
					continue // its token service would have to have TLS as well
				}
				all = append(all, newHostile(t, w.canary, name+"-"+kind, tls, o.identity,
					leads(w.canary, o.status, o.bearer, w.place.Replace(to), also)))
			}
		}
		w.visit(t, all)
		for _, h := range all {
			led := slices.ContainsFunc(h.Requests(), func(r lab.Request) bool { return r.Status/100 == 3 })
			if !led {
				t.Errorf("%s has sent us nowhere, so that nothing was tried:\n%v", h.alias, &h.Ledger)
			}
		}
		for _, s := range []*trap{w.asking, w.bouncing} {
			if s.Counts().Requests == 0 {
				t.Error("nobody went into a trap, so that there is nothing to see")
			}
			for _, r := range s.Requests() {
				for _, name := range []string{"Authorization", "Cookie", "Referer"} {
					if r.Header.Get(name) != "" {
						t.Errorf("a trap was sent %s %q: %v", name, r.Header.Get(name), r)
					}
				}
				if r.Body != "" || strings.Contains(r.URI, "/token") {
					t.Errorf("a trap was asked for a token: %v", r)
				}
			}
		}
	})
}

// visit asks for things at each hostile registry, through one module in front of all
// of them and the honest ones, and looks for secrets.
func (w *town) visit(t *testing.T, all []*hostile) {
	t.Helper()
	envs := []lab.Env{called("honest", true, w.honest), called("helped", false, byCommand(t, w.helped))}
	for _, h := range all {
		envs = append(envs, h.Env())
	}
	env := merge(inFrontOf(envs...), lab.Env{"REGISTRY_LOG_LEVEL": "debug"})
	m := module(t, env)
	wholeImage(t, m, way{}, w.private)
	wholeImage(t, m, way{alias: "helped"}, w.private)
	w.honest.Reset()
	w.helped.Reset()

	for _, h := range all {
		by := way{alias: h.alias}
		for _, url := range []string{
			by.manifest(m, "team/app", "1.0"), by.manifest(m, "team/app", w.private.Root().Digest.String()),
			by.blob(m, "team/app", w.private.Blobs[0].Digest), by.blob(m, "team/app", digest.FromString(h.alias)),
			by.url(m, "team/app", "/tags/list"),
		} {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				a := do(t, method, url)
				if a.Status < 400 {
					t.Errorf("%s %s: status %d, want an error\n%.300s", method, url, a.Status, a.Body)
				}
				if method == http.MethodGet {
					a.code(t)
				}
				for _, label := range w.canary.Find(fmt.Sprint(a.Header, string(a.Body))) {
					t.Errorf("%s %s: there is %s in the answer\n%v\n%s", method, url, label, a.Header, a.Body)
				}
			}
		}
		if len(h.Requests()) == 0 {
			t.Errorf("%s was not asked", h.alias)
		}
	}
	// One remote must not be able to use the credentials of another one.
	for _, r := range slices.Concat(w.honest.Requests(), w.helped.Requests()) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("on behalf of another remote, an honest one was sent credentials: %v", r)
		}
	}
	w.examine(t, env, all)
	noSecrets(t, w.canary, m)
}

// examine lets the command doctor try the remotes, all of them at once and then each
// with an image, and looks for secrets in what it says.
func (w *town) examine(t *testing.T, env lab.Env, all []*hostile) {
	t.Helper()
	dir := tempDir(t)
	env = merge(env, lab.Env{
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": filepath.Join(dir, "data"),
		"REGISTRY_HTTP_ADDR":                        must(lab.FreeAddr())(t),
		"REGISTRY_HTTP_DEBUG_ADDR":                  must(lab.FreeAddr())(t),
	})
	start := time.Now()
	doctor := func(remote string, args ...string) {
		t.Helper()
		said, err := lab.Run(t.Context(), dir, env, bin.module, append([]string{"doctor"}, args...)...)
		if err != nil { // a remote is not well; this has all that was printed
			said = err.Error()
		}
		for _, label := range w.canary.Find(said) {
			t.Errorf("doctor %v: there is %s in what it says", args, label)
		}
		if !strings.Contains(said, remote) {
			t.Errorf("doctor %v: it says nothing of %s\n%.2000s", args, remote, said)
		}
	}
	doctor(hostOf(w.helped))
	doctor(hostOf(w.helped), "-o", "json")
	for _, h := range all {
		doctor(hostOf(h), h.alias, "--image", "team/app:1.0")
	}
	t.Logf("doctor took %v for %d remotes", time.Since(start).Round(time.Millisecond), len(all))
}
