package upstream_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// What no host may see that it is not meant for, nor an error or a log show. They
// have no characters that a URL would change.
const (
	canaryPassword  = "canaryPassword"
	canaryIdentity  = "canaryIdentity"
	canaryRegistry  = "canaryRegistryToken"
	canaryAccess    = "canaryAccess"    // what the token service gives out
	canaryUserinfo  = "canaryUserinfo"  // what a URL of a challenge or redirect holds
	canarySignature = "canarySignature" // what the URL of a blob host holds
)

var canaries = []string{canaryPassword, canaryIdentity, canaryRegistry, canaryAccess, canaryUserinfo, canarySignature}

// The hosts of a canary test, by what they are for the remote.
const (
	home  = "home"       // the registry itself
	plain = "plain"      // its host, over http where the registry has https
	port  = "other port" // of its host
	token = "auth"       // a token service of the same domain
	evil  = "evil"       // a host of another domain
	cdn   = "cdn"        // another one, for blobs
	local = "local"      // an address of this machine
)

// script is how a registry and those around it behave.
type script struct {
	https bool
	basic bool
	realm string // of the challenge
	// Where redirects of the registry lead, empty for none.
	ping, manifest, blob string
	// Where the token service's lead, and with which status.
	token       string
	tokenStatus int
	// link is where the next page of tags is said to be.
	link string
	// demand makes the other hosts want credentials, and back send what comes to the
	// one for blobs back to the registry.
	demand bool
	back   string

	// services are the hosts that may have what token services get.
	services []string
	// visited are the hosts, beside the registry, that are asked with a password.
	visited []string
	// works says that the manifest and the blob are got with a password.
	works bool
}

const theBlob = "blob"

var theDigest = digest.FromString(theBlob)

// around are the hosts around a registry, each of which takes down all that it sees.
type around struct {
	script script
	addrs  map[string]string // by host:port

	mu   sync.Mutex
	seen map[string]string // by host
}

func newAround(t *testing.T, s script) *around {
	t.Helper()
	a := &around{addrs: make(map[string]string), seen: make(map[string]string)}
	serve := func(name string, handler http.HandlerFunc, tls bool) string {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			a.takeDown(t, name, req)
			handler(w, req)
		}))
		if tls {
			srv.TLS = ut.NewCA(t).ServerConfig(nil)
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	own, own80 := ":443", plain
	if !s.https {
		own, own80 = ":80", ""
	}
	a.addrs["registry.example.com"+own] = serve(home, a.registry, s.https)
	a.addrs["auth.example.com"+own] = serve(token, a.tokens, s.https)
	a.addrs["registry.example.com:8080"] = serve(port, a.tokens, s.https)
	if own80 != "" {
		a.addrs["registry.example.com:80"] = serve(own80, a.tokens, false)
	}
	a.addrs["evil.example.net:80"] = serve(evil, a.stranger, false)
	a.addrs["cdn.example.net:80"] = serve(cdn, a.blobs, false)
	here := serve(local, a.stranger, false)
	a.addrs[here] = here
	here = strings.TrimPrefix(here, "127.0.0.1")
	for _, s := range []*string{&s.realm, &s.ping, &s.manifest, &s.blob, &s.token, &s.link, &s.back} {
		*s = strings.ReplaceAll(*s, ":LOCAL", here)
	}
	a.script = s
	return a
}

// takeDown notes all of a request, with what its Authorization means.
func (a *around) takeDown(t *testing.T, name string, req *http.Request) {
	dump, err := httputil.DumpRequest(req, true)
	if err != nil {
		t.Error(err)
	}
	text := fmt.Sprintf("%s\n%s\n", req.RequestURI, dump)
	for scheme := range strings.FieldsSeq(req.Header.Get("Authorization")) {
		if plain, err := base64.StdEncoding.DecodeString(scheme); err == nil {
			text += string(plain) + "\n"
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[name] += text
}

func (a *around) registry(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		a.tokens(w, req)
		return
	}
	s := a.script
	to := map[string]string{"/v2/": s.ping, "/v2/a/b/manifests/v1": s.manifest, "/v2/a/b/blobs/" + theDigest.String(): s.blob}[req.URL.Path]
	user, password, ok := req.BasicAuth()
	bearer := req.Header.Get("Authorization")
	switch good := s.basic && ok && user == "me" && password == canaryPassword ||
		!s.basic && (bearer == "Bearer "+canaryAccess || bearer == "Bearer "+canaryRegistry); {
	case req.URL.Path == "/v2/" && to != "", good && to != "":
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case !good && s.basic:
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case !good:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q", s.realm, "x"))
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasSuffix(req.URL.Path, "/tags/list"):
		w.Header().Set("Link", "<"+s.link+`>; rel="next"`)
		_, _ = w.Write([]byte(`{"tags":["v1"]}`))
	default:
		content(w, req)
	}
}

// content serves what there is.
func content(w http.ResponseWriter, req *http.Request) {
	if strings.Contains(req.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte("{}"))
		return
	}
	_, _ = w.Write([]byte(theBlob))
}

func (a *around) tokens(w http.ResponseWriter, req *http.Request) {
	_, password, _ := req.BasicAuth()
	switch s := a.script; {
	case s.token != "" && !strings.Contains(req.URL.RawQuery, "again"):
		w.Header().Set("Location", s.token)
		w.WriteHeader(s.tokenStatus)
	case req.Method == http.MethodPost && req.FormValue("refresh_token") == canaryIdentity, password == canaryPassword:
		_, _ = w.Write([]byte(`{"access_token":"` + canaryAccess + `"}`))
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// stranger is a host that wants what is not for it, or gives what nobody wants.
func (a *around) stranger(w http.ResponseWriter, req *http.Request) {
	switch {
	case a.script.demand:
		w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
		w.Header().Add("WWW-Authenticate", `Bearer realm="http://evil.example.net/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case req.URL.Path == "/token":
		_, _ = w.Write([]byte(`{"token":"evil"}`))
	default:
		content(w, req)
	}
}

func (a *around) blobs(w http.ResponseWriter, req *http.Request) {
	if a.script.back != "" {
		w.Header().Set("Location", a.script.back)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	a.stranger(w, req)
}

// ask puts all questions to the registry, and returns what they have come to.
func (a *around) ask(t *testing.T, config authn.AuthConfig) (works bool, said string) {
	t.Helper()
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetLevel(logrus.TraceLevel)
	scheme := "http"
	if a.script.https {
		scheme = "https"
	}
	r := newRemote(t, upstream.Options{
		URL: scheme + "://registry.example.com", Insecure: a.script.https, Credentials: authn.FromConfig(config),
		DialContext: dialNames(a.addrs, nil), Log: log, Name: "module",
	})
	works = true
	note := func(err error) {
		if err != nil {
			out.WriteString(err.Error() + "\n")
		}
	}
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	works = works && err == nil
	note(err)
	stream, err := r.Blob(t.Context(), "a/b", theDigest, cache.BlobPart{})
	works = works && err == nil
	note(err)
	if err == nil {
		_, err = readBlob(t, stream)
		note(err)
	}
	_, err = r.Resolve(t.Context(), "a/b", "v1")
	note(err)
	_, err = r.StatBlob(t.Context(), "a/b", theDigest)
	note(err)
	_, _, err = r.Tags(t.Context(), "a/b", 1, "")
	note(err)
	_, _, err = r.Tags(t.Context(), "a/b", 1, "v1")
	note(err)
	return works, out.String()
}

func TestCanary(t *testing.T) {
	const auth = "http://auth.example.com/token"
	const blobAt = "http://cdn.example.net/blob?sig=" + canarySignature
	for name, s := range map[string]script{
		"nothing hostile":       {realm: auth, services: []string{token}, visited: []string{token}, works: true},
		"nothing hostile, TLS":  {https: true, realm: "https://auth.example.com/token", services: []string{token}, visited: []string{token}, works: true},
		"nothing hostile, here": {realm: "http://registry.example.com/token", services: []string{home}, works: true},
		"Basic":                 {basic: true, works: true},

		"realm on another host":         {realm: "http://evil.example.net/token"},
		"realm on another port":         {realm: "http://registry.example.com:8080/token", services: []string{port}, visited: []string{port}, works: true},
		"realm over http":               {https: true, realm: "http://registry.example.com/token"},
		"realm with credentials":        {realm: "http://me:" + canaryUserinfo + "@auth.example.com/token"},
		"realm with a disguise":         {realm: "http://registry.example.com@evil.example.net/token"},
		"realm with another disguise":   {realm: `http://evil.example.net\@registry.example.com/token`},
		"realm is relative":             {realm: "/token"},
		"realm without scheme":          {realm: "//evil.example.net/token"},
		"realm by address":              {realm: "http://127.0.0.1:LOCAL/token"},
		"realm of another kind":         {realm: "file:///etc/passwd"},
		"realm is no URL":               {realm: "http://me:" + canaryUserinfo + "@[evil/token"},
		"realm with the name as prefix": {realm: "http://registry.example.com.evil.example.net/token"},

		"blobs on another host":            {realm: auth, services: []string{token}, blob: blobAt, visited: []string{token, cdn}, works: true},
		"blobs on another host, Basic":     {basic: true, blob: blobAt, visited: []string{cdn}, works: true},
		"blobs on a host that demands":     {realm: auth, services: []string{token}, blob: blobAt, demand: true, visited: []string{token, cdn}},
		"blobs on a demanding host, Basic": {basic: true, blob: blobAt, demand: true, visited: []string{cdn}},
		"blobs on another port":            {basic: true, blob: "http://registry.example.com:8080/blob?again", visited: []string{port}},
		"blobs over http":                  {https: true, basic: true, blob: "http://registry.example.com/blob?sig=" + canarySignature},
		"blobs by address":                 {basic: true, blob: "http://127.0.0.1:LOCAL/blob", visited: []string{local}, works: true},
		"blobs without scheme":             {basic: true, blob: "//evil.example.net/blob", visited: []string{evil}, works: true},
		"blobs with credentials":           {basic: true, blob: "http://me:" + canaryUserinfo + "@evil.example.net/blob", visited: []string{evil}, works: true},
		"blobs here, with credentials":     {basic: true, blob: "http://me:" + canaryUserinfo + "@registry.example.com/v2/a/b/blobs/other", works: true},
		"blobs somewhere here":             {basic: true, blob: "/v2/a/b/blobs/other", works: true},
		"blobs with a disguise":            {basic: true, blob: "http://registry.example.com@evil.example.net/blob", visited: []string{evil}, works: true},
		"blobs there and back":             {realm: auth, services: []string{token}, blob: blobAt, back: "http://registry.example.com/v2/private/blobs/x", visited: []string{token, cdn}},
		"blobs there and back, Basic":      {basic: true, blob: blobAt, back: "http://registry.example.com/v2/private/blobs/x", visited: []string{cdn}},
		"blobs there and to the service":   {realm: auth, services: []string{token}, blob: blobAt, back: "http://auth.example.com/token?again", visited: []string{token, cdn}},
		"blobs there and there":            {basic: true, blob: blobAt, back: "http://evil.example.net/blob", visited: []string{cdn, evil}, works: true},

		"manifests on another host":   {basic: true, manifest: "http://evil.example.net/v2/a/b/manifests/v1", visited: []string{evil}, works: true},
		"manifests where one demands": {realm: auth, services: []string{token}, manifest: "http://evil.example.net/v2/a/b/manifests/v1", demand: true, visited: []string{token, evil}},
		"ping on another host":        {basic: true, ping: "http://evil.example.net/v2/", demand: true, visited: []string{evil}, works: true},
		"ping on another port":        {basic: true, ping: "http://registry.example.com:8080/v2/", visited: []string{port}, works: true},

		"tags on another host":       {basic: true, link: "http://evil.example.net/v2/a/b/tags/list?last=v1", works: true},
		"tags on another port":       {basic: true, link: "http://registry.example.com:8080/v2/a/b/tags/list?last=v1", works: true},
		"tags over http":             {https: true, basic: true, link: "http://registry.example.com/v2/a/b/tags/list?last=v1", works: true},
		"tags without scheme":        {basic: true, link: "//evil.example.net/v2/a/b/tags/list?last=v1", works: true},
		"tags here with credentials": {basic: true, link: "http://me:" + canaryUserinfo + "@registry.example.com/v2/a/b/tags/list?last=v1", works: true},
		"tags somewhere else here":   {basic: true, link: "/v2/private/tags/list", works: true},

		"service leads to another host":         {realm: auth, services: []string{token}, token: "http://evil.example.net/token", tokenStatus: 307, visited: []string{token}},
		"service leads to another host, by 302": {realm: auth, services: []string{token}, token: "http://evil.example.net/token", tokenStatus: 302, visited: []string{token}},
		"service leads to a blob host":          {realm: auth, services: []string{token}, token: blobAt, tokenStatus: 302, visited: []string{token}},
		"service leads over http":               {https: true, realm: "https://auth.example.com/token", services: []string{token}, token: "http://registry.example.com/token", tokenStatus: 307, visited: []string{token}},
		"service leads to another of its kind":  {realm: auth, services: []string{token}, token: "http://registry.example.com:8080/token?again", tokenStatus: 307, visited: []string{token, port}},
		"service leads to the registry":         {realm: auth, services: []string{token}, token: "http://registry.example.com/token?again", tokenStatus: 307, visited: []string{token}},
		"service leads to an address":           {realm: auth, services: []string{token}, token: "http://127.0.0.1:LOCAL/token", tokenStatus: 307, visited: []string{token}},
		"service leads on here":                 {realm: auth, services: []string{token}, token: "/token?again", tokenStatus: 308, visited: []string{token}, works: true},
		"service leads here, with credentials":  {realm: auth, services: []string{token}, token: "http://me:" + canaryUserinfo + "@auth.example.com/token?again", tokenStatus: 307, visited: []string{token}, works: true},
		"service leads on here, by 303":         {realm: auth, services: []string{token}, token: "?again", tokenStatus: 303, visited: []string{token}, works: true},
		"service leads in a circle":             {realm: auth, services: []string{token}, token: "/token", tokenStatus: 307, visited: []string{token}},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, config := range map[string]authn.AuthConfig{
				canaryPassword: {Username: "me", Password: canaryPassword},
				canaryIdentity: {IdentityToken: canaryIdentity},
				canaryRegistry: {RegistryToken: canaryRegistry},
			} {
				a := newAround(t, s)
				works, said := a.ask(t, config)
				a.check(t, kind, said)
				if kind != canaryPassword {
					continue
				}
				if works != s.works {
					t.Errorf("with a password it works: %v, want %v\n%s", works, s.works, said)
				}
				visited := slices.Sorted(maps.Keys(a.seen))
				if want := slices.Sorted(slices.Values(append([]string{home}, s.visited...))); !slices.Equal(visited, want) {
					t.Errorf("the hosts %q were asked, want %q\n%s", visited, want, said)
				}
			}
		})
	}
}

// check fails if a host has seen what it is not meant for, or somebody has told.
func (a *around) check(t *testing.T, kind, said string) {
	t.Helper()
	meant := map[string][]string{
		canaryPassword:  a.script.services,
		canaryIdentity:  a.script.services,
		canaryRegistry:  {home},
		canaryAccess:    {home},
		canarySignature: {cdn},
	}
	if a.script.basic {
		meant[canaryPassword] = []string{home}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for host, seen := range a.seen {
		for _, secret := range canaries {
			if strings.Contains(seen, secret) && !slices.Contains(meant[secret], host) {
				t.Errorf("%s: the host %q has seen %s:\n%s", kind, host, secret, seen)
			}
		}
		if via := strings.Contains(seen, "Via: 1.1 module"); via && host != home {
			t.Errorf("%s: the host %q has seen where we come from:\n%s", kind, host, seen)
		}
	}
	for _, secret := range append(canaries, base64.StdEncoding.EncodeToString([]byte("me:"+canaryPassword)), url.QueryEscape(canaryUserinfo+"@")) {
		if strings.Contains(said, secret) {
			t.Errorf("%s: an error or the log tells %s:\n%s", kind, secret, said)
		}
	}
}
