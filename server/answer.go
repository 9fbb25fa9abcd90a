package server

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"registry-module/cache"
)

// memParts is of how many manifests it is remembered how many parts they have, so that
// those that are pulled all the time are not read each time.
const memParts = 256

// observation is what the [Observer] of a server is told of a request beside what its
// exchange knows anyway.
type observation struct {
	called    string // the repository, as the client calls it
	client    string // without port
	agent     string
	size      int64 // of the request
	places    []cache.Place
	began     bool      // the observer knows of it
	answering time.Time // when the answer began
}

// begin tells who wants to know that there is a request, of size bytes.
func (s *Server) begin(x *exchange, r *http.Request, ns string, size int64) {
	if s.observer == nil {
		return
	}
	x.seen.began, x.seen.size = true, size
	x.seen.called = x.route.name
	if ns != "" && x.route.name != "" {
		x.seen.called = ns + "/" + x.route.name
	}
	x.seen.client = r.RemoteAddr
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		x.seen.client = host
	}
	if agent := r.Header["User-Agent"]; len(agent) > 0 {
		x.seen.agent = agent[0]
	}
	if s.beginner != nil {
		s.beginner.Began(x.asAsked(r))
	}
}

// end tells how the request was answered, which is over now. Lost tells that it was not
// answered to its end.
func (s *Server) end(x *exchange, r *http.Request, now time.Time, lost bool) {
	if !x.seen.began {
		return
	}
	a := x.asAsked(r)
	a.Took = now.Sub(x.begun)
	a.Waited = a.Took
	if !x.seen.answering.IsZero() {
		a.Waited = x.seen.answering.Sub(x.begun)
	}
	a.Status = x.status
	if a.Status == 0 && !lost {
		a.Status = http.StatusOK // of net/http
	}
	told := x.told()
	a.Bytes, a.Err = x.bytes, x.err
	a.Result = x.result(a.Status, told.Source)
	a.Fetched = a.Bytes > 0 && a.Status < http.StatusBadRequest && x.source(told.Source) == cache.FromRemote
	a.Joined = a.Fetched && told.Joined
	a.Place = told.Place
	if a.Place == (cache.Place{}) && len(x.seen.places) == 1 {
		a.Place = x.seen.places[0]
	}
	a.Age = -1
	if x.route.kind == manifestRoute && isTag(x.route.reference) && !x.freshness.Confirmed.IsZero() {
		a.Age = max(now.Sub(x.freshness.Confirmed), 0)
	}
	if len(x.manifest.Bytes) > 0 && a.Status < http.StatusBadRequest {
		a.Manifest = x.manifest.Descriptor
		a.Parts = s.partsOf(x.manifest)
	}
	if x.caller != nil {
		a.User = x.caller.Name()
	}
	s.observer.Answered(a)
}

// asAsked is what is known of an answer before there is one.
func (x *exchange) asAsked(r *http.Request) Answer {
	return Answer{
		Begun: x.begun, Method: r.Method, Kind: x.route.kind.wanted(), Route: x.route.kind.stock(),
		Name: x.seen.called, Reference: x.route.reference, RequestSize: x.seen.size,
		Client: x.seen.client, Agent: x.seen.agent,
	}
}

// wanted is the kind as an [Answer] has it.
func (k routeKind) wanted() string {
	if k == catalogRoute {
		return CatalogContent
	}
	return cmp.Or(k.content(), OtherContent)
}

// partsOf is how many parts m has.
func (s *Server) partsOf(m cache.Manifest) int {
	if n, ok := s.parts.Get(m.Digest); ok {
		return n
	}
	n := len(m.References())
	s.parts.Add(m.Digest, n)
	return n
}

// source is where the answer comes from, as far as that is known.
func (x *exchange) source(told cache.Source) cache.Source {
	switch {
	case x.stored && x.freshness.Stale != nil && !errors.Is(x.freshness.Stale, cache.ErrRevalidating):
		return cache.FromStaleStore
	case x.stored:
		return cache.FromStore
	case told != "":
		return told
	case x.freshness.Stale != nil:
		return cache.FromStaleStore
	case x.route.kind.content() != "":
		return cache.FromRemote // what is stored has gone the short way
	}
	return cache.FromStore
}

// result is how the request was answered, in one word.
func (x *exchange) result(status int, told cache.Source) Result {
	switch {
	case errors.Is(x.err, errClientLeft), errors.Is(x.err, context.Canceled) && x.status == statusClientClosed:
		return Left
	case x.err != nil && (x.failed == nil || x.failed.status == http.StatusInternalServerError):
		return Failed
	case x.err != nil && refusal(x.err):
		return Refused
	case errors.Is(x.err, cache.ErrNotFound):
		return Absent
	case x.err != nil:
		return Failed
	case status == 0, status >= http.StatusInternalServerError:
		return Failed
	case status == http.StatusNotFound && !x.refused:
		return Absent
	case status >= http.StatusBadRequest:
		return Refused
	}
	switch x.source(told) {
	case cache.FromRemote:
		return Miss
	case cache.Confirmed:
		return Revalidated
	case cache.FromStaleStore:
		if !errors.Is(x.freshness.Stale, cache.ErrRevalidating) {
			return Stale
		}
	}
	return Hit
}

// refusal tells whether err is our word, and not that of a remote.
func refusal(err error) bool {
	_, busy := errors.AsType[*BusyError](err)
	return busy || errors.Is(err, ErrForbidden) || errors.Is(err, cache.ErrRefused) || errors.Is(err, cache.ErrNotServed)
}
