package access

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/distribution/distribution/v3/registry/auth"
)

var (
	// ErrDenied means that the caller is known and may not have what it has asked for.
	ErrDenied = errors.New("access is denied")

	// ErrUnavailable means that the remote that has to let the caller in could not be
	// asked. It wraps what the remote has said.
	ErrUnavailable = errors.New("whether the remote registry lets the caller in is not known")
)

// BusyError means that log-ins fail so often that this one was not looked at.
type BusyError struct {
	// RetryAfter is how long the caller is to wait.
	RetryAfter time.Duration
}

// Error implements error.
func (e *BusyError) Error() string {
	return fmt.Sprintf("too many log-ins have failed: try again in %v", e.RetryAfter)
}

// challenge asks for a user name and a password (RFC 7617).
type challenge struct {
	realm string
	err   error
}

var _ auth.Challenge = (*challenge)(nil)

// SetHeaders implements [auth.Challenge].
func (c *challenge) SetHeaders(_ *http.Request, w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", c.realm))
}

// Error implements error.
func (c *challenge) Error() string { return c.err.Error() }

// Unwrap gives the reason.
func (c *challenge) Unwrap() error { return c.err }

// errLogin is why who has not logged in has to.
var errLogin = errors.New("a user name and a password are wanted")

// errRefused is why a log-in has failed that was passed through.
var errRefused = errors.New("the remote registry does not accept the user name and the password")

// isChallenge tells whether an error asks for credentials.
func isChallenge(err error) bool {
	_, ok := errors.AsType[auth.Challenge](err)
	return ok
}
