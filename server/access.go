package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/distribution/v3/registry/auth"

	"registry-module/cache"
)

var (
	// ErrForbidden is why somebody who is known may not have what he asks for.
	ErrForbidden = errors.New("access is not allowed")

	// ErrUndecided is why it is not known whether he may, for now.
	ErrUndecided = errors.New("whether access is allowed is not known")
)

// BusyError is why nobody has looked whether somebody may have what he asks for.
type BusyError struct {
	// RetryAfter is how long he is to wait.
	RetryAfter time.Duration
	Err        error
}

// Error implements error.
func (e *BusyError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *BusyError) Unwrap() error { return e.Err }

// Asked is what a request wants. Where it is neither a repository nor the catalog, it is to
// know whether the client is let in at all (OCI distribution specification, "Determining
// Support").
type Asked struct {
	// Resource is the repository as access control calls it: the name in the path, with
	// the remote's host in front where a namespace is given. It is empty for all but
	// repositories.
	Resource string

	// Places are what the repository's name can mean, in order of preference. There is
	// none where the configuration rules it out, which who may not pull is not told.
	Places []cache.Place

	// Content is what of the repository is wanted: [ManifestContent] and the others, or
	// empty for what this registry does not do. Reference is a tag or a digest.
	Content, Reference string

	// Catalog tells that the names of repositories are wanted.
	Catalog bool
}

// What can be asked of a repository.
const (
	ManifestContent  = "manifest"
	BlobContent      = "blob"
	TagsContent      = "tags"
	ReferrersContent = "referrers"
)

// Access decides who may do what. It is asked once about each request, before anything is
// looked up, so that its answer cannot depend on what is stored.
type Access interface {
	// Authorize returns who has sent the request, where he may have what is asked. Errors
	// are or wrap an [auth.Challenge] for who may come back with other credentials,
	// [ErrForbidden], [ErrUndecided] or a [*BusyError]. Others are bugs or mistakes in
	// files, of which the client is not told more.
	Authorize(r *http.Request, asked Asked) (Caller, error)
}

// Caller is somebody who was let in.
type Caller interface {
	// Name is who it is, for the log and notifications; empty if nobody has said so.
	Name() string
	// MayPull tells whether a repository is listed to him.
	MayPull(cache.Place) bool
}

// asked is what the request for rt wants.
func (rt route) asked() Asked {
	return Asked{Reference: rt.reference, Content: rt.kind.content(), Catalog: rt.kind == catalogRoute}
}

// admit finds out whether the request is answered. Where it is not, it has been.
func (s *Server) admit(x *exchange, r *http.Request, asked Asked) bool {
	if s.access == nil {
		return true
	}
	caller, err := s.access.Authorize(r, asked)
	if err == nil {
		x.caller = caller
		return true
	}
	if challenge, ok := errors.AsType[auth.Challenge](err); ok {
		challenge.SetHeaders(r, x)
		s.refuse(x, http.StatusUnauthorized, errcode.ErrorCodeUnauthorized, errcode.ErrorCodeUnauthorized.Message())
		return false
	}
	s.setCommonHeader(x.Header())
	s.fail(x, repositoryContent, err)
	return false
}

// identified has the app know who has sent a request, which it tells to those who are
// notified.
type identified struct {
	context.Context
	name string
}

// Value implements context.Context.
func (c identified) Value(key any) any {
	if key == "auth.user.name" {
		return c.name
	}
	return c.Context.Value(key)
}
