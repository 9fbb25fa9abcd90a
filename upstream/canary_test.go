package upstream_test

import (
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
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
	canaryProxy     = "canaryProxy"     // the password of the HTTP proxy
)

var canaries = []string{canaryPassword, canaryIdentity, canaryRegistry, canaryAccess, canaryUserinfo, canarySignature, canaryProxy}

// The hosts of a canary test, by what they are for the remote.
const (
	home  = "home"       // the registry itself
	plain = "plain"      // its host, over http where the registry has https
	port  = "other port" // of its host
	token = "auth"       // a token service of the same domain
	evil  = "evil"       // a host of another domain
	cdn   = "cdn"        // another one, for blobs
	gate  = "proxy"      // an HTTP proxy
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

	// echo makes the registry, and tokens makes its token services, answer what they
	// are asked with all of it: with that status, and in each place that has room.
	echo, tokenEcho int
	// proxyEcho makes everything go through an HTTP proxy that answers so, and tunnel
	// through one that does what it is for.
	proxyEcho int
	tunnel    bool
	// withoutPost says that the service does not work with an identity token, which
	// is asked for by POST, and stays where it is.
	withoutPost bool

	// services are the hosts that may have what token services get.
	services []string
	// visited are the hosts, beside the registry, that are asked with a password.
	visited []string
	// works says that the manifest and the blob are got with a password.
	works bool
}

// always returns the hosts that are asked in any case.
func (s script) always() []string {
	if s.proxyEcho != 0 {
		return []string{gate}
	}
	return []string{home}
}

// outcome returns what comes of a script with a kind of credentials.
func (s script) outcome(kind string) (works bool, visited []string) {
	services := func(host string) bool {
		return slices.Contains(s.services, host) && !strings.Contains(s.back, "http://"+host+".")
	}
	switch {
	case s.proxyEcho != 0:
		return false, s.visited
	case kind == canaryPassword:
		return s.works, s.visited
	case s.basic && s.ping == "":
		return false, nil // a token is no password
	case s.basic:
		return false, s.visited
	case kind == canaryIdentity && s.withoutPost:
		return false, s.services
	case kind == canaryIdentity:
		return s.works, s.visited
	case s.blob == "" && s.manifest == "":
		visited := slices.DeleteFunc(slices.Clone(s.visited), func(host string) bool { return host != gate })
		return s.echo == 0, visited // whatever the token service does
	}
	return s.works, slices.DeleteFunc(slices.Clone(s.visited), services)
}

const theBlob = "blob"

var theDigest = digest.FromString(theBlob)

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

		"realm of great length":         {realm: "http://" + strings.Repeat("a", 100_000) + ".example.com/token"},
		"realm with control characters": {realm: "http://\u009b2J\u202e.example.com/token"},

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
		"service leads to another of its kind":  {realm: auth, services: []string{token}, token: "http://registry.example.com:8080/token?again", tokenStatus: 307, visited: []string{token, port}, withoutPost: true},
		"service leads to the registry":         {realm: auth, services: []string{token}, token: "http://registry.example.com/token?again", tokenStatus: 307, visited: []string{token}},
		"service leads to an address":           {realm: auth, services: []string{token}, token: "http://127.0.0.1:LOCAL/token", tokenStatus: 307, visited: []string{token}},
		"service leads on here":                 {realm: auth, services: []string{token}, token: "/token?again", tokenStatus: 308, visited: []string{token}, works: true},
		"service leads here, with credentials":  {realm: auth, services: []string{token}, token: "http://me:" + canaryUserinfo + "@auth.example.com/token?again", tokenStatus: 307, visited: []string{token}, works: true},
		"service leads on here, by 303":         {realm: auth, services: []string{token}, token: "?again", tokenStatus: 303, visited: []string{token}, works: true, withoutPost: true},
		"service leads far away":                {realm: auth, services: []string{token}, token: "http://" + strings.Repeat("a", 100_000) + ".example.com/\u009b", tokenStatus: 302, visited: []string{token}},
		"service leads in a circle":             {realm: auth, services: []string{token}, token: "/token", tokenStatus: 307, visited: []string{token}},

		"registry repeats, 401":          {realm: auth, services: []string{token}, echo: 401, visited: []string{token}},
		"registry repeats, other 401":    {realm: auth, services: []string{token}, echo: statusOther, visited: []string{token}},
		"registry repeats, 403":          {realm: auth, services: []string{token}, echo: 403, visited: []string{token}},
		"registry repeats, 404":          {realm: auth, services: []string{token}, echo: 404, visited: []string{token}},
		"registry repeats, 429":          {realm: auth, services: []string{token}, echo: 429, visited: []string{token}},
		"registry repeats, 503":          {realm: auth, services: []string{token}, echo: 503, visited: []string{token}},
		"registry repeats, 508":          {realm: auth, services: []string{token}, echo: 508, visited: []string{token}},
		"registry repeats, 200":          {realm: auth, services: []string{token}, echo: 200, visited: []string{token}},
		"registry repeats, 206":          {realm: auth, services: []string{token}, echo: 206, visited: []string{token}},
		"registry repeats, 307":          {realm: auth, services: []string{token}, echo: 307, visited: []string{token}},
		"registry repeats, Basic, 401":   {basic: true, echo: 401},
		"registry repeats, Basic, other": {basic: true, echo: statusOther},
		"registry repeats, Basic, 403":   {basic: true, echo: 403},
		"registry repeats, Basic, 508":   {basic: true, echo: 508},
		"registry repeats, Basic, 200":   {basic: true, echo: 200},
		"registry repeats, Basic, 307":   {basic: true, echo: 307},
		"proxy":                          {https: true, tunnel: true, realm: "https://auth.example.com/token", services: []string{token}, visited: []string{gate, token}, works: true},
		"proxy repeats, 401":             {proxyEcho: 401},
		"proxy repeats, 403":             {proxyEcho: 403},
		"proxy repeats, 407":             {proxyEcho: 407},
		"proxy repeats, 502":             {proxyEcho: 502},
		"proxy repeats, TLS, 407":        {https: true, proxyEcho: 407},
		"proxy repeats, TLS, 502":        {https: true, proxyEcho: 502},
		"service repeats, 400":           {realm: auth, services: []string{token}, tokenEcho: 400, visited: []string{token}},
		"service repeats, 401":           {realm: auth, services: []string{token}, tokenEcho: 401, visited: []string{token}},
		"service repeats, 403":           {realm: auth, services: []string{token}, tokenEcho: 403, visited: []string{token}},
		"service repeats, 429":           {realm: auth, services: []string{token}, tokenEcho: 429, visited: []string{token}},
		"service repeats, 503":           {realm: auth, services: []string{token}, tokenEcho: 503, visited: []string{token}},
		"service repeats, 200":           {realm: auth, services: []string{token}, tokenEcho: 200, visited: []string{token}},
		"service repeats, 307":           {realm: auth, services: []string{token}, tokenEcho: 307, visited: []string{token}},
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
				wantWorks, wantVisited := s.outcome(kind)
				if works != wantWorks {
					t.Errorf("with %s it works: %v, want %v\n%s", kind, works, wantWorks, said)
				}
				visited := slices.Sorted(maps.Keys(a.seen))
				if want := slices.Sorted(slices.Values(append(s.always(), wantVisited...))); !slices.Equal(visited, want) {
					t.Errorf("with %s the hosts %q were asked, want %q\n%s", kind, visited, want, said)
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
		canaryProxy:     {gate},
	}
	if a.script.basic {
		meant[canaryPassword] = []string{home}
	}
	if a.script.proxyEcho != 0 && !a.script.https {
		// It sees what is for the registry, and may well be taken for it.
		meant[canaryRegistry] = []string{gate}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for host, seen := range a.seen {
		for _, secret := range canaries {
			if strings.Contains(seen, secret) && !slices.Contains(meant[secret], host) {
				t.Errorf("%s: the host %q has seen %s:\n%s", kind, host, secret, seen)
			}
		}
		if via := strings.Contains(seen, "Via: 1.1 module"); via && host != home && (a.script.proxyEcho == 0 || a.script.https) {
			t.Errorf("%s: the host %q has seen where we come from:\n%s", kind, host, seen)
		}
		if traced := strings.Contains(strings.ToLower(seen), "traceparent: 00-"); traced && host != home && (a.script.proxyEcho == 0 || a.script.https) {
			t.Errorf("%s: the host %q has seen what it is a part of:\n%s", kind, host, seen)
		}
	}
	for line := range strings.Lines(said) {
		if len(line) > 2000 || strings.ContainsAny(line, "\u009b\u202e\x1b\r") {
			t.Errorf("%s: an error or the log has a line that is not fit to be shown: %.3000q", kind, line)
		}
	}
	login := base64.RawStdEncoding.EncodeToString([]byte("me:" + canaryPassword))
	proxyLogin := base64.RawStdEncoding.EncodeToString([]byte("we:" + canaryProxy))
	for _, secret := range append(canaries, login, proxyLogin, login[:20], canaryPassword[:9], canaryAccess[:9], url.QueryEscape(canaryUserinfo+"@")) {
		if strings.Contains(strings.ToLower(said), strings.ToLower(secret)) {
			t.Errorf("%s: an error or the log tells %s:\n%s", kind, secret, said)
		}
	}
}
