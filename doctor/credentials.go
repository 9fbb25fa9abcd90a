package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/doctor/report"
	"registry-module/upstream"
)

// given hands the credentials of a remote on to package upstream. What they are is
// looked at once, so that a program that gives them is run once, and is taken down as
// what must not be repeated.
type given struct {
	from    authn.Authenticator
	secrets *upstream.Secrets
	// inUse is [Remote.InUse].
	inUse func(context.Context) bool

	mu     sync.Mutex
	config *authn.AuthConfig // nil: not looked at
}

var _ authn.ContextAuthenticator = (*given)(nil)

// notGiven is why there are no credentials.
type notGiven struct{ error }

// Unwrap gives the cause.
func (e notGiven) Unwrap() error { return e.error }

// errSpared is why an identity token is not handed out.
var errSpared = errors.New("the identity token is left to the server that runs")

// Authorization implements [authn.Authenticator].
func (g *given) Authorization() (*authn.AuthConfig, error) {
	return g.AuthorizationContext(context.Background())
}

// AuthorizationContext implements [authn.ContextAuthenticator].
func (g *given) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.config == nil {
		config, err := authn.Authorization(ctx, g.from)
		if err != nil {
			return nil, notGiven{err}
		}
		if config == nil {
			config = &authn.AuthConfig{}
		}
		g.secrets.AddCredentials(*config)
		g.config = config
	}
	if g.config.IdentityToken != "" && g.inUse != nil && g.inUse(ctx) {
		return nil, errSpared
	}
	return g.config, nil
}

// Renew tells the credentials that what they gave was rejected, and reports whether
// they may give something else now; see [upstream.Options].
func (g *given) Renew(rejected authn.AuthConfig) bool {
	r, ok := g.from.(interface {
		Renew(rejected authn.AuthConfig) bool
	})
	if !ok || !r.Renew(rejected) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.config = nil
	return true
}

// none reports whether there was a look and nothing to be had: a file or a command that
// knows nothing of the registry.
func (g *given) none() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.config != nil && *g.config == authn.AuthConfig{}
}

// known is what was given; empty where that is nothing, or where nobody has looked.
func (g *given) known() authn.AuthConfig {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.config == nil {
		return authn.AuthConfig{}
	}
	return *g.config
}

// helperTime is how long package auth waits for a program that gives credentials.
const helperTime = 30 * time.Second

// passwordSettings are the settings of the simplest credentials.
func (e *examination) passwordSettings() string {
	return e.r.Variable("USERNAME") + " and " + e.r.Variable("PASSWORD")
}

// credentialsSettings are those of the credentials that are configured.
func (e *examination) credentialsSettings() string {
	if e.r.CredentialsSetting != "" {
		return e.r.CredentialsSetting
	}
	return e.passwordSettings()
}

// noneText says why there are no credentials.
func (e *examination) noneText() string {
	if e.r.anonymous() {
		return "none are configured"
	}
	return "the file or command that is configured has none for " + e.r.URL.Host
}

// anonymous reports whether there are no credentials, as far as is known.
func (e *examination) anonymous() bool {
	return e.r.anonymous() || e.given.none()
}

// look gets the credentials. Where there are none to go on with, the finding says why.
func (e *examination) look(ctx context.Context) (config authn.AuthConfig, why *report.Finding) {
	if e.r.anonymous() {
		return authn.AuthConfig{}, nil
	}
	got, err := e.given.AuthorizationContext(ctx)
	if err != nil {
		f := e.notGiven(err)
		return authn.AuthConfig{}, &f
	}
	return *got, nil
}

// notGiven is about credentials that cannot be had, or not here and now.
func (e *examination) notGiven(err error) report.Finding {
	setting := e.credentialsSettings()
	switch {
	case errors.Is(err, errSpared):
		return report.Skip("not tried: the identity token (%s) is left to the server that runs. Its service may take each one only once, so that "+
			"the server would lose its own; stop the server to try it", setting)
	case isTimeout(err) && e.Limit() < helperTime:
		return report.Fail(fmt.Sprintf("Try again with --timeout %s, which is as long as the server waits: if that works, what gives them (%s) is slow, and no more is wrong.",
			helperTime+helperTime/3, setting), "the credentials were not given within %s", e.Limit())
	}
	return report.Fail("Check the settings of the credentials ("+setting+"), and the file or command that gives them.",
		"the credentials cannot be read: %s", e.secrets.Clean(err.Error()))
}

// refused is about credentials that were not accepted by who.
func (e *examination) refused(who string) report.Finding {
	setting := e.credentialsSettings()
	switch {
	case e.r.anonymous():
		return report.Fail("Set "+e.passwordSettings()+" (or "+e.r.Variable("PASSWORD_FILE")+").",
			"%s wants credentials, and %s", who, e.noneText())
	case e.anonymous():
		return report.Fail("Have "+setting+" give some for "+e.r.URL.Host+", or set "+e.passwordSettings()+" in its place.",
			"%s wants credentials, and %s", who, e.noneText())
	case e.given.known().IdentityToken != "":
		return report.Fail("Get a new one, and set "+setting+" to it.",
			"%s does not accept the identity token: it is wrong, used up or revoked, or has expired", who)
	case e.given.known().RegistryToken != "":
		return report.Fail("Get a new one, and set "+setting+" to it.", "%s does not accept the token that is configured", who)
	}
	return report.Fail("Check "+setting+"; many registries want an access token in place of the password.",
		"%s does not accept the credentials: user name or password is wrong, or they have expired", who)
}
