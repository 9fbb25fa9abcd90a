package auth

import "github.com/google/go-containerregistry/pkg/authn"

// Static returns credentials that do not change, or [authn.Anonymous] where
// both are empty.
func Static(username, password string) authn.Authenticator {
	if username == "" && password == "" {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: username, Password: password})
}
