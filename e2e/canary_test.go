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

// on is the trap under the name of another host.
func (s *trap) on(host string) string {
	_, port, _ := strings.Cut(s.Addr, ":")
	return host + ":" + port
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
	lab.Env // the settings for it
	alias   string
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
		h.Env = lab.Env{"REGISTRY_PROXY_IDENTITYTOKEN": h.identity}
	} else {
		h.password = lab.NewSecret()
		canary.Secret("the password of "+alias, h.password, alias)
		canary.Name("the user of "+alias, h.user, alias)
		h.Env = lab.Env{"REGISTRY_PROXY_USERNAME": h.user, "REGISTRY_PROXY_PASSWORD": h.password}
	}
	h.Env["REGISTRY_PROXY_ALIAS"] = alias
	h.Env["REGISTRY_PROXY_DEFAULT"] = "false"
	h.Env["REGISTRY_PROXY_RETRYFOR"] = "100ms"

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
		h.Env["REGISTRY_PROXY_CA"] = ca
		h.Env["REGISTRY_PROXY_REMOTEURL"] = "https://127.0.0.1:" + port
		return h
	}
	serve = handler(h, "localhost:"+port)
	s.Start()
	h.Env["REGISTRY_PROXY_REMOTEURL"] = "http://localhost:" + port
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

// TestCanary has one module in front of many hostile registries and an honest one,
// each with a secret of its own. No secret is seen by a server that it is not meant
// for, and none is in what the module says.
func TestCanary(t *testing.T) {
	t.Parallel()
	canary := new(lab.Canary)
	private := app(t, "honest and private")
	honest := upstream(t, lab.UpstreamOptions{Auth: lab.Basic, Canary: canary, Name: "honest"}, private)
	helped := upstream(t, lab.UpstreamOptions{Auth: lab.Bearer, Canary: canary, Name: "helped"}, private)
	asking := newTrap(t, canary, "trap", bait)
	bouncing := newTrap(t, canary, "trap", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session=1")
		http.Redirect(w, r, asking.URL()+"/bounced", http.StatusTemporaryRedirect)
	})
	nobody := must(lab.FreeAddr())(t)

	// Realms are of the registry's own host, on any port: that is where token
	// services are.
	realms := map[string]string{
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
	}
	redirects := map[string]string{
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
	}
	_, bouncePort, _ := strings.Cut(bouncing.Addr, ":")
	_, port, _ := strings.Cut(asking.Addr, ":")
	place := strings.NewReplacer("BOUNCEPORT", bouncePort, "BOUNCE", bouncing.Addr, "PORT", port, "V6", asking.v6,
		"HONEST", honest.Addr, "NOBODY", nobody)

	var all []*hostile
	envs := []lab.Env{called("honest", true, honest), called("helped", false, byCommand(t, helped))}
	add := func(h *hostile) {
		all = append(all, h)
		envs = append(envs, h.Env)
	}
	for name, realm := range realms {
		for kind, identity := range map[string]bool{"password": false, "identity": true} {
			add(newHostile(t, canary, "realm-"+name+"-"+kind, strings.HasPrefix(name, "downgrade"), identity, named(place.Replace(realm))))
		}
	}
	for name, to := range redirects {
		var also []string
		if name == "honest" {
			also = []string{"honest"}
		}
		for kind, o := range map[string]struct {
			status           int
			bearer, identity bool
		}{
			"basic":    {http.StatusTemporaryRedirect, false, false},
			"bearer":   {http.StatusFound, true, false},
			"identity": {http.StatusTemporaryRedirect, true, true},
		} {
			// Over TLS there is no token service, which would have to have TLS too.
			tls := name == "downgrade"
			if tls && o.bearer {
				continue
			}
			add(newHostile(t, canary, "redirect-"+name+"-"+kind, tls, o.identity, leads(canary, o.status, o.bearer, place.Replace(to), also...)))
		}
	}
	m := module(t, inFrontOf(envs...), lab.Env{"REGISTRY_LOG_LEVEL": "debug"})
	wholeImage(t, m, way{}, private)
	wholeImage(t, m, way{alias: "helped"}, private)
	honest.Reset()

	blob := private.Blobs[0].Digest
	for _, h := range all {
		t.Run(h.alias, func(t *testing.T) {
			by := way{alias: h.alias}
			for _, url := range []string{
				by.manifest(m, "team/app", "1.0"), by.manifest(m, "team/app", private.Root().Digest.String()),
				by.blob(m, "team/app", blob), by.blob(m, "team/app", digest.FromString(h.alias)), by.url(m, "team/app", "/tags/list"),
			} {
				for _, method := range []string{http.MethodHead, http.MethodGet} {
					a := do(t, method, url)
					if a.Status < 400 {
						t.Errorf("%s %s: status %d, want an error\n%.300s", method, url, a.Status, a.Body)
					}
					if method == http.MethodGet {
						a.code(t)
					}
					for _, label := range canary.Find(fmt.Sprint(a.Header, string(a.Body))) {
						t.Errorf("%s %s: there is %s in the answer\n%v\n%s", method, url, label, a.Header, a.Body)
					}
				}
			}
			led := slices.ContainsFunc(h.Requests(), func(r lab.Request) bool { return r.Status/100 == 3 })
			if want := strings.HasPrefix(h.alias, "redirect"); led != want || len(h.Requests()) == 0 {
				t.Errorf("it was told who asks, and has sent us elsewhere: %v, want %v\n%v", led, want, &h.Ledger)
			}
		})
	}
	for _, s := range []*trap{asking, bouncing} {
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
		if len(s.Requests()) == 0 {
			t.Error("nobody went into a trap, so that there is nothing to see")
		}
	}
	// One remote must not be able to use the credentials of another one.
	for _, r := range honest.Requests() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("on behalf of another remote, the honest one was sent credentials: %v", r)
		}
	}
	noSecrets(t, canary, m)
}
