package upstreamtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
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
	// IdentityToken is what the token service takes by POST, as a refresh token of
	// OAuth 2.0. Where it is empty, the token service knows no POST.
	IdentityToken string
	// Rotate makes the token service replace the identity token with each token:
	// each is good once. See [Registry.IdentityToken].
	Rotate bool
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

// IdentityToken is the identity token that the token service takes now.
func (r *Registry) IdentityToken() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.auth.IdentityToken
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

// serveToken answers for the token service: to GET as Docker has it, and to POST with
// an identity token.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	parsed := parse(req)
	parsed.Kind = Token
	form, body := readForm(req)
	parsed.Body = body
	s, ok := r.begin(w, req, parsed)
	if !ok {
		return
	}
	r.mu.Lock()
	a := r.auth
	r.mu.Unlock()
	q := req.URL.Query()
	answer := map[string]any{}
	name := "token"
	switch user, password, ok := req.BasicAuth(); {
	case req.Method == http.MethodPost && a.IdentityToken != "":
		next, ok := r.refresh(form)
		if !ok {
			s.oauthError("invalid_grant")
			return
		}
		q, name = form, "access_token"
		q["scope"] = strings.Fields(q.Get("scope"))
		answer["refresh_token"] = next
	case req.Method != http.MethodGet:
		s.error(http.StatusNotFound, "UNSUPPORTED", "tokens are given by GET")
		return
	case a.Username != "" && !(ok && user == a.Username && password == a.Password):
		s.error(http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	case a.AccessToken:
		name = "access_token"
	}
	answer[name] = r.issue(q["scope"], q.Get("service"), a.Lifetime)
	if a.ExpiresIn != 0 {
		answer["expires_in"] = a.ExpiresIn
	}
	content, err := json.Marshal(answer)
	if err != nil {
		panic(err) // strings and numbers can always be marshalled
	}
	if s.fault.Body != nil {
		content = s.fault.Body
	}
	s.Header().Set("Content-Type", "application/json")
	s.Header().Set("Content-Length", strconv.Itoa(len(content)))
	s.WriteHeader(http.StatusOK)
	s.body(content)
}

// maxForm bounds, in bytes, the body of a request that is read.
const maxForm = 64 << 10

// readForm reads the body of a POST.
func readForm(req *http.Request) (form url.Values, body string) {
	if req.Method != http.MethodPost {
		return nil, ""
	}
	// Who breaks off gets no answer, whatever was read.
	content, _ := io.ReadAll(io.LimitReader(req.Body, maxForm))
	form, _ = url.ParseQuery(string(content)) // what cannot be read is missing
	return form, string(content)
}

// refresh takes the identity token in form, and returns the one for the next time.
func (r *Registry) refresh(form url.Values) (next string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if form.Get("grant_type") != "refresh_token" || form.Get("refresh_token") != r.auth.IdentityToken || form.Get("client_id") == "" {
		return "", false
	}
	if r.auth.Rotate {
		r.auth.IdentityToken = "secret-" + rand.Text()
	}
	return r.auth.IdentityToken, true
}

// oauthError answers as RFC 6749 section 5.2 says.
func (s *sender) oauthError(code string) {
	body := []byte(`{"error":"` + code + `"}`)
	s.Header().Set("Content-Type", "application/json")
	s.Header().Set("Content-Length", strconv.Itoa(len(body)))
	s.WriteHeader(http.StatusBadRequest)
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
