package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/crypto/bcrypt"
)

// Auth is how an upstream knows its clients.
type Auth string

// The ways to know a client. Each wants the one user of the [Upstream] for
// pulls and pushes alike.
const (
	Anonymous Auth = ""
	Basic     Auth = "basic"
	// Bearer wants a token, which the token server gives for a password.
	Bearer Auth = "bearer"
	// Identity is Bearer with an identity token (OAuth 2.0 refresh token) in the
	// place of the password.
	Identity Auth = "identity"
)

// UpstreamOptions says what kind of upstream to start. The zero value, with a
// Dir, is an anonymous and fast one.
type UpstreamOptions struct {
	// Dir is an empty directory.
	Dir string
	// Registry is the binary of the stock registry.
	Registry string
	Auth     Auth
	// Redirect is the status (307 or 302) that sends GETs of blobs to another
	// host and port, 0 for none.
	Redirect int
	// Link is the line to it, nil for the machine's own speed. It does not slow
	// down pushes.
	Link *Link
	// Env is added to the stock registry's environment.
	Env Env
	// Canary is told of all secrets and requests; nil is nobody. Name is what the
	// upstream is called there: its token server is Name/token, and its blob host
	// Name/signed.
	Canary *Canary
	Name   string
}

// Upstream is a stock registry with a gateway in front that counts, and with
// what belongs to it: a token server, a blob host.
type Upstream struct {
	// Ledger has every request to the gateway, the token server and the blob
	// host.
	Ledger
	hosts
	// Registry is the stock registry behind the gateway. Push to it directly.
	Registry *Server
	// Username and Password are of the one user, and are nobody else's; empty
	// where none is needed.
	Username, Password string
	// IdentityToken is in their place where it is set.
	IdentityToken string

	tokens *tokenServer // what Realm serves
}

// StartUpstream starts an upstream. Stop ends it.
func StartUpstream(ctx context.Context, o UpstreamOptions) (_ *Upstream, err error) {
	u := new(Upstream)
	u.Tap = o.Canary.tap(o.Name)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting an upstream: %w", err), u.Stop())
		}
	}()

	env := Env{
		// Sparse indexes and layers with urls are to be pushed as well.
		"REGISTRY_VALIDATION_DISABLED":    "true",
		"REGISTRY_STORAGE_DELETE_ENABLED": "true",
		"REGISTRY_LOG_LEVEL":              "warn",
	}
	if err := u.auth(o, env); err != nil {
		return nil, err
	}
	maps.Copy(env, o.Env)
	if u.Registry, err = StartStock(ctx, o.Registry, filepath.Join(o.Dir, "registry"), env); err != nil {
		return nil, err
	}

	link := o.Link
	if link == nil {
		link = new(Link)
	}
	origin := Forward(u.Registry.Addr)
	if o.Redirect != 0 {
		if origin, err = u.redirect(origin, o.Redirect, link); err != nil {
			return nil, err
		}
	}
	u.Gateway, err = NewGateway(origin, u.record(""), link.Middleware)
	return u, err
}

// auth starts what o.Auth needs, and adds the registry's settings for it.
func (u *Upstream) auth(o UpstreamOptions, env Env) error {
	if o.Auth == Anonymous {
		return nil
	}
	u.Username, u.Password = NewUser(), NewSecret()
	if o.Auth == Identity {
		u.IdentityToken, u.Password = u.Password, ""
	}
	o.Canary.credentials(u, o)
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	switch o.Auth {
	case Basic:
		path := filepath.Join(o.Dir, "htpasswd")
		env["REGISTRY_AUTH"] = "htpasswd"
		env["REGISTRY_AUTH_HTPASSWD_REALM"] = "upstream"
		env["REGISTRY_AUTH_HTPASSWD_PATH"] = path
		return WriteHtpasswd(path, u.Username, u.Password)
	case Bearer, Identity:
		const service = "upstream"
		tokens, err := newTokenServer(u.Username, u.Password, service)
		if err != nil {
			return err
		}
		tokens.identity = u.IdentityToken
		tokens.issued = func(token string) { o.Canary.Secret("a token of "+o.Name, token, o.Name) }
		path := filepath.Join(o.Dir, "tokens.pem")
		if err := tokens.writeCert(path); err != nil {
			return err
		}
		u.tokens = tokens
		if u.Realm, err = NewGateway(tokens, u.record(Token)); err != nil {
			return err
		}
		env["REGISTRY_AUTH"] = "token"
		if env["REGISTRY_AUTH_TOKEN_REALM"], err = realmURL(u.Realm); err != nil {
			return err
		}
		env["REGISTRY_AUTH_TOKEN_SERVICE"] = service
		env["REGISTRY_AUTH_TOKEN_ISSUER"] = tokenIssuer
		env["REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE"] = path
		return nil
	}
	return fmt.Errorf("no such kind of authentication: %q", o.Auth)
}

func (u *Upstream) record(kind Kind) Middleware {
	return func(next http.Handler) http.Handler { return u.Record(kind, next) }
}

// Env is the setting of a cache in front of this upstream, with its credentials.
func (u *Upstream) Env() Env {
	env := u.hosts.Env()
	switch {
	case u.IdentityToken != "":
		env["REGISTRY_PROXY_IDENTITYTOKEN"] = u.IdentityToken
	case u.Username != "":
		env["REGISTRY_PROXY_USERNAME"] = u.Username
		env["REGISTRY_PROXY_PASSWORD"] = u.Password
	}
	return env
}

// Stop ends everything that belongs to the upstream.
func (u *Upstream) Stop() error {
	err := u.Down()
	if u.Registry != nil {
		err = errors.Join(err, u.Registry.Stop())
	}
	return err
}

// WriteHtpasswd writes a file with one user as the registry's htpasswd access
// controller reads it.
func WriteHtpasswd(path, username, password string) error {
	// The least cost: this is to be fast, not safe.
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", username, hash), 0o644)
}
