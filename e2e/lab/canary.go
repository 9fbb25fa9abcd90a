package lab

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Canary knows secrets, each with the servers that it is meant for, and what each
// server was sent. It finds the secrets that were seen elsewhere. The zero value
// knows none; it may be used by many goroutines. All methods may be called on nil,
// and do nothing then.
type Canary struct {
	mu      sync.Mutex
	secrets []secret // guarded by mu
	seen    []seen   // guarded by mu
}

type secret struct {
	label   string
	forms   []string
	servers []string
	open    bool // no secret but for other servers
}

// seen is a request that a server was sent.
type seen struct {
	server  string
	request Request
}

// NewSecret returns a text that is no other's, of characters that some encoding or
// other changes.
func NewSecret() string { return "s3cret/+" + rand.Text() + "=%&~" }

// NewUser returns the name of a user that is no other's.
func NewUser() string { return "user-" + strings.ToLower(rand.Text()) }

// Secret adds a secret of at least 16 bytes, which only those servers may see. The
// label is what it is called in messages.
func (c *Canary) Secret(label, value string, servers ...string) { c.add(label, value, false, servers) }

// Name is as Secret, for what is no secret at the machine itself: it may be in logs.
func (c *Canary) Name(label, value string, servers ...string) { c.add(label, value, true, servers) }

func (c *Canary) add(label, value string, open bool, servers []string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets = append(c.secrets, secret{label, formsOf(value), servers, open})
}

// credentials adds those of an upstream.
func (c *Canary) credentials(u *Upstream, o UpstreamOptions) {
	for label, value := range map[string]string{"the password of ": u.Password, "the identity token of ": u.IdentityToken} {
		if value != "" {
			c.Secret(label+o.Name, value, o.Name+o.Auth.asks())
		}
	}
	c.Name("the user of "+o.Name, u.Username, o.Name+o.Auth.asks(),
		o.Name) // tokens name the user
}

// asks is which of an upstream's servers is given credentials.
func (a Auth) asks() string {
	if a == Basic {
		return ""
	}
	return "/" + string(Token)
}

// Saw notes a request that a server was sent.
func (c *Canary) Saw(server string, r Request) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, seen{server, r})
}

// tap notes the requests to an upstream.
func (c *Canary) tap(name string) func(Request) {
	if c == nil {
		return nil
	}
	return func(r Request) {
		switch r.Kind {
		case Token, Signed:
			c.Saw(name+"/"+string(r.Kind), r)
		default:
			c.Saw(name, r)
		}
	}
}

// Requests returns how many requests a server was sent.
func (c *Canary) Requests(server string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.seen {
		if s.server == server {
			n++
		}
	}
	return n
}

// Leaks lists the secrets that a server has seen that they are not meant for, each
// with the first request that it was in.
func (c *Canary) Leaks() (leaks []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := map[string]bool{}
	for _, s := range c.seen {
		text := s.request.dump()
		for _, secret := range c.secrets {
			what := s.server + " has seen " + secret.label
			if !slices.Contains(secret.servers, s.server) && !known[what] && secret.in(text) {
				known[what] = true
				leaks = append(leaks, fmt.Sprintf("%s: %s %s", what, s.request.Method, s.request.URI))
			}
		}
	}
	return leaks
}

// Find lists the secrets that are in a text, where none is meant to be.
func (c *Canary) Find(text string) (labels []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range c.secrets {
		if !secret.open && secret.in(text) {
			labels = append(labels, secret.label)
		}
	}
	return labels
}

func (s secret) in(text string) bool {
	return slices.ContainsFunc(s.forms, func(form string) bool { return strings.Contains(text, form) })
}

// dump is all that a request says.
func (r Request) dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\nHost: %s\n", r.Method, r.URI, r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	b.WriteString(r.Body)
	return b.String()
}

// formsOf are the ways that a secret can be written in: as it is, as part of a URL,
// of JSON, in hexadecimal digits, and in base64 at any place of a longer text.
func formsOf(value string) []string {
	quoted, err := json.Marshal(value)
	if err != nil {
		panic(err) // a string is always JSON
	}
	forms := []string{
		value, url.QueryEscape(value), url.PathEscape(value), (&url.URL{Path: value}).EscapedPath(),
		strings.Trim(string(quoted), `"`),
		hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value))),
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			// A character stands for six bits: the first ones have some of what comes
			// before, and the last one of what follows.
			text := encoding.EncodeToString([]byte(strings.Repeat("\x00", before) + value))
			first := (before*8 + 5) / 6
			last := (before + len(value)) * 8 / 6
			forms = append(forms, text[first:last])
		}
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}
