package upstreamtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Auth says how the registry wants to be asked. The zero value is: by anybody.
type Auth struct {
	// Scheme is "", "Basic" or "Bearer".
	Scheme string
	// Username and Password are what Basic asks for, and what the token service
	// of Bearer asks for. Where Username is empty, the token service gives
	// tokens to anybody.
	Username, Password string
	// Lifetime is how long a token is good for; 0 is for ever.
	Lifetime time.Duration
	// ExpiresIn is the lifetime, in seconds, that the token service says a
	// token has. 0 says nothing about it.
	ExpiresIn int
	// AccessToken gives tokens under the name that OAuth has for them.
	AccessToken bool
	// Realm replaces the URL of the token service in challenges. The token
	// service also answers under /token of the registry's own URL, which clients
	// need that refuse to go to another port of a loopback address.
	Realm string
	// Service is the service that challenges name; default "upstreamtest".
	Service string
}

type token struct {
	scopes  []string
	service string
	expires time.Time // zero: never
}

// SetAuth changes how the registry wants to be asked. Tokens that were given
// out stay good; see [Registry.RevokeTokens].
func (r *Registry) SetAuth(a Auth) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = a
}

// RevokeTokens makes all tokens bad that have been given out.
func (r *Registry) RevokeTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}

func (a Auth) service() string {
	if a.Service == "" {
		return "upstreamtest"
	}
	return a.Service
}

// admit lets a request pass, or answers it with 401 and a challenge.
func (r *Registry) admit(s *sender, req *http.Request) bool {
	r.mu.Lock()
	a := r.auth
	r.mu.Unlock()
	scope := ""
	if s.req.Repo != "" {
		scope = "repository:" + s.req.Repo + ":pull"
	}
	switch a.Scheme {
	case "":
		return true
	case "Basic":
		user, password, ok := req.BasicAuth()
		if ok && user == a.Username && password == a.Password {
			return true
		}
		s.Header().Set("WWW-Authenticate", `Basic realm="upstreamtest"`)
	case "Bearer":
		value, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if ok && r.allows(value, a.service(), scope) {
			return true
		}
		realm := a.Realm
		if realm == "" {
			realm = r.tokenURL(req)
		}
		challenge := fmt.Sprintf("Bearer realm=%q,service=%q", realm, a.service())
		if scope != "" {
			challenge += fmt.Sprintf(",scope=%q", scope)
		}
		s.Header().Set("WWW-Authenticate", challenge)
	}
	s.error(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// allows reports whether value is a good token for scope.
func (r *Registry) allows(value, service, scope string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tokens[value]
	if !ok || t.service != service || !t.expires.IsZero() && !time.Now().Before(t.expires) {
		return false
	}
	return scope == "" || slices.Contains(t.scopes, scope)
}

// serveToken answers for the token service, by GET as Docker has it.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	parsed := parse(req)
	parsed.Kind = Token
	s, ok := r.begin(w, req, parsed)
	if !ok {
		return
	}
	r.mu.Lock()
	a := r.auth
	r.mu.Unlock()
	if req.Method != http.MethodGet {
		s.error(http.StatusNotFound, "UNSUPPORTED", "tokens are given by GET")
		return
	}
	user, password, ok := req.BasicAuth()
	if a.Username != "" && !(ok && user == a.Username && password == a.Password) {
		s.error(http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	q := req.URL.Query()
	answer := map[string]any{}
	name := "token"
	if a.AccessToken {
		name = "access_token"
	}
	answer[name] = r.issue(q["scope"], q.Get("service"), a.Lifetime)
	if a.ExpiresIn != 0 {
		answer["expires_in"] = a.ExpiresIn
	}
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err) // strings and numbers can always be marshalled
	}
	if s.fault.Body != nil {
		body = s.fault.Body
	}
	s.Header().Set("Content-Type", "application/json")
	s.Header().Set("Content-Length", strconv.Itoa(len(body)))
	s.WriteHeader(http.StatusOK)
	s.body(body)
}

// issue gives out a new token.
func (r *Registry) issue(scopes []string, service string, lifetime time.Duration) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(r.tokens, func(_ string, t token) bool {
		return !t.expires.IsZero() && t.expires.Before(now)
	})
	if r.tokens == nil {
		r.tokens = make(map[string]token)
	}
	t := token{scopes: scopes, service: service}
	if lifetime > 0 {
		t.expires = now.Add(lifetime)
	}
	value := "secret-" + rand.Text()
	r.tokens[value] = t
	return value
}
