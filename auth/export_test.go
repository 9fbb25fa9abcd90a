package auth

import (
	"context"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Renewer is what credentials are that can change.
type Renewer interface {
	authn.Authenticator
	authn.ContextAuthenticator
	Renew(rejected authn.AuthConfig) bool
}

// ForGood is the lifetime of what is asked for once.
const ForGood = forGood

// NewReused returns credentials that fetch gives.
func NewReused(lifetime time.Duration, fetch func(context.Context) (authn.AuthConfig, error)) Renewer {
	return changing{newReused(lifetime, fetch)}
}

// RunCommand runs a command as New does, with other limits in time.
func RunCommand(ctx context.Context, command, server string, timeout, grace time.Duration) (authn.AuthConfig, error) {
	p := newCommand(command)
	p.timeout, p.grace = timeout, grace
	return p.get(ctx, server)
}

// ParseAnswer reads what a credential helper has answered.
func ParseAnswer(out []byte) (authn.AuthConfig, error) { return parseAnswer(out) }

// LookUpDockerConfig returns what the content of a Docker configuration says
// itself about host, and which helper is asked for what.
func LookUpDockerConfig(content []byte, host string) (_ authn.AuthConfig, helper string, servers []string, _ error) {
	config, err := parseDockerConfig(content)
	if err != nil {
		return authn.AuthConfig{}, "", nil, err
	}
	e := lookUp(config, dockerKeys(host))
	return e.config, e.helper, e.servers, nil
}
