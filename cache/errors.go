package cache

import (
	"errors"
	"fmt"
	"time"
)

// What can go wrong, as seen by a caller. They know nothing of HTTP: package
// server has the table.
var (
	// ErrNotFound means that the remote has said that the content does not
	// exist. An outage is never ErrNotFound.
	ErrNotFound = errors.New("not found")

	// ErrDenied means that the remote does not serve the content to us.
	ErrDenied = errors.New("denied by the remote registry")

	// ErrRateLimited means that the remote asks for fewer requests.
	ErrRateLimited = errors.New("rate limited by the remote registry")

	// ErrUnavailable means that the content is not cached and the remote could
	// not be asked.
	ErrUnavailable = errors.New("remote registry unavailable")

	// ErrInvalid means that the remote has answered with something that is not
	// what was asked for: another digest, another size, no manifest. Nothing
	// of it was stored.
	ErrInvalid = errors.New("invalid answer from the remote registry")

	// ErrLoop means that the remote fetches what it is asked for from us, directly
	// or by way of others. It is not an outage: asking again leads there again.
	ErrLoop = errors.New("registries fetch from each other in a circle")

	// ErrNoPart means that the remote has understood that a part of a blob was
	// asked for, and gives none that can be used: it has another copy by now, or
	// none of those bytes. It is the cause of an ErrInvalid.
	ErrNoPart = errors.New("no such part")

	// ErrIntercepted means that somebody else has answered in the remote's place,
	// such as a login page or a proxy that blocks. It is the cause of an ErrInvalid.
	ErrIntercepted = errors.New("not an answer of the registry")

	// ErrNotAsked means that the remote was left alone, for a reason that the error
	// tells: it says nothing of the remote. It is the cause of an ErrUnavailable,
	// ErrRateLimited, ErrDenied or ErrInvalid.
	ErrNotAsked = errors.New("the remote was not asked")

	// ErrOffline means that the operator has ruled out that anybody is asked. It is
	// the cause of an ErrUnavailable, beside ErrNotAsked.
	ErrOffline = errors.New("offline mode is on")

	// ErrRevalidating is why an answer is stale that is being confirmed while it is
	// given, see [Remote.StaleWhileRevalidate].
	ErrRevalidating = errors.New("it is being confirmed in the background")

	// ErrNotServed means that no configured remote is meant.
	ErrNotServed = errors.New("not served here")

	// ErrRefused means that the configuration rules the repository out.
	ErrRefused = errors.New("refused by the configuration")

	// ErrNoSpace means that content was not stored for want of room.
	ErrNoSpace = errors.New("no space in the cache")

	// ErrClosed means that the cache has been closed.
	ErrClosed = errors.New("cache is closed")
)

// UpstreamError tells what a remote has done to a request.
type UpstreamError struct {
	// Kind is one of the sentinels of this package.
	Kind error
	// Remote is the host of the remote registry.
	Remote string
	// Op says what was being done, for example "fetching manifest a/b:1".
	Op string
	// Status is the HTTP status of the answer, 0 where there was none.
	Status int
	// RetryAfter is how long the remote asked to wait, 0 where it did not.
	RetryAfter time.Duration
	// Vague tells of an ErrNotFound that it need not be the registry's word: a HEAD
	// was answered, or the answer has not the form of a registry's, so that it may
	// be of a proxy in front of it. Nothing that is stored is forgotten because of it.
	Vague bool
	// Elsewhere tells that it was not the remote itself that has failed, but a host
	// behind it: one that it has redirected to, or that it fetches from.
	Elsewhere bool
	// NoConnection tells that no connection to the remote could be made: its name
	// was not found, it or the proxy in between did not let us connect, or TLS was
	// not agreed upon. It is so for all that could be asked of it.
	NoConnection bool
	// Err is the cause. It contains no secrets.
	Err error
}

// Error implements error.
func (e *UpstreamError) Error() string {
	msg := fmt.Sprintf("%s at %s: %v", e.Op, e.Remote, e.Kind)
	if e.Status != 0 {
		msg += fmt.Sprintf(" (HTTP status %d)", e.Status)
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Unwrap gives the kind and the cause.
func (e *UpstreamError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
