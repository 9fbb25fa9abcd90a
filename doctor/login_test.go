package doctor_test

import (
	"errors"

	"github.com/google/go-containerregistry/pkg/authn"
)

// unreadable are credentials that cannot be had.
type unreadable struct{}

// Authorization implements [authn.Authenticator].
func (unreadable) Authorization() (*authn.AuthConfig, error) {
	return nil, errors.New("helper is missing")
}
