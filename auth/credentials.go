package auth

import (
	"context"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Options say where the credentials for one remote registry come from. At most one
// kind is set; the zero value is none, for anonymous access.
type Options struct {
	// Host is the remote registry's, with its port where that is not the scheme's.
	Host string

	// Username goes with Password, or with what the file PasswordFile holds. The
	// file is read again when it has changed.
	Username, Password string
	PasswordFile       string

	// IdentityToken is an OAuth 2.0 refresh token for the remote's token service,
	// or is in the file IdentityTokenFile.
	IdentityToken, IdentityTokenFile string

	// DockerConfig is the path of a Docker config.json. Its auths, credHelpers and
	// credsStore are used as Docker does for Host. What a helper has answered is
	// used for 5 minutes.
	DockerConfig string

	// Command is run by the shell and prints credentials in the form of Docker's
	// credential helpers, as proxy.exec of the stock registry: it gets Host on its
	// standard input, and "get" as its last argument. What is nothing but the path
	// of a program needs no shell.
	Command string
	// CommandLifetime is how long what Command has printed is used: for good where
	// it is nil, not at all where it is 0.
	CommandLifetime *time.Duration
}

// helperLifetime is how long the answer of a Docker credential helper is used. It
// spares one program per request, and is shorter than the life of any password
// that clouds give out.
const helperLifetime = 5 * time.Minute

// New returns the credentials that opts describe: [authn.Anonymous] where that is
// none. It reads no file and runs no command yet.
//
// Credentials that can change have a method Renew(rejected authn.AuthConfig) bool
// as well. It takes note that the remote has rejected what they gave, and tells
// whether others may be had now. Many who come with the same make one command be
// run once. They also have a method Stale() error, which tells why what was read before
// from a file goes on to count, if it does.
func New(opts Options) authn.Authenticator {
	switch {
	case opts.Command != "":
		lifetime := forGood
		if opts.CommandLifetime != nil {
			lifetime = max(*opts.CommandLifetime, 0)
		}
		run := newCommand(opts.Command)
		return changing{newReused(lifetime, func(ctx context.Context) (authn.AuthConfig, error) {
			return run.get(ctx, opts.Host)
		})}
	case opts.DockerConfig != "":
		return changing{newDockerConfig(opts.DockerConfig, opts.Host)}
	case opts.IdentityTokenFile != "":
		return changing{newSecretFile("the identity token", opts.IdentityTokenFile, func(token string) authn.AuthConfig {
			return authn.AuthConfig{IdentityToken: token}
		})}
	case opts.IdentityToken != "":
		return authn.FromConfig(authn.AuthConfig{IdentityToken: opts.IdentityToken})
	case opts.PasswordFile != "":
		return changing{newSecretFile("the password", opts.PasswordFile, func(password string) authn.AuthConfig {
			return authn.AuthConfig{Username: opts.Username, Password: password}
		})}
	}
	return Static(opts.Username, opts.Password)
}

// source is where credentials come from that can change. The zero AuthConfig is
// anonymous access.
type source interface {
	get(ctx context.Context) (authn.AuthConfig, error)
	renew(rejected authn.AuthConfig) bool
	// stale returns why what get has returned is not what there is now.
	stale() error
}

// changing are the credentials of a source, for those who ask for them.
type changing struct{ source source }

var _ authn.ContextAuthenticator = changing{}

// Authorization implements [authn.Authenticator].
func (c changing) Authorization() (*authn.AuthConfig, error) {
	return c.AuthorizationContext(context.Background())
}

// AuthorizationContext implements [authn.ContextAuthenticator].
func (c changing) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	config, err := c.source.get(ctx)
	if err != nil {
		return nil, err
	}
	return &config, nil
}

// Renew takes note that rejected was rejected, and reports whether other
// credentials may be had now.
func (c changing) Renew(rejected authn.AuthConfig) bool { return c.source.renew(rejected) }

// Stale returns why credentials count that were read before: the file that they come from
// has gone, or is no good any more. It is nil where they are what the file holds.
func (c changing) Stale() error { return c.source.stale() }
