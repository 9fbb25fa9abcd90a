package server

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"

	"registry-module/internal/tracing"
)

// trace begins the span of a request, with attributes of the semantic conventions of
// OpenTelemetry for HTTP servers. What the query says is not told, nor any header.
func (s *Server) trace(x *exchange, r *http.Request) *http.Request {
	method := methodName(r.Method)
	ctx, span := tracing.StartServer(r.Context(), s.tracing, r.Header, method,
		tracing.String("http.request.method", method), tracing.String("url.path", r.URL.EscapedPath()))
	x.span = span
	return r.WithContext(ctx)
}

// methodName is a method as a part of the name of a span: there are few of them.
func methodName(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "_OTHER"
}

// describe tells what the request is about.
func (x *exchange) describe(r *http.Request, rt route, ns string) {
	if !x.span.On() {
		return
	}
	kind, pattern := rt.described()
	x.span.Rename(methodName(r.Method) + " " + kind)
	x.span.Set(tracing.String("http.route", pattern))
	if rt.name != "" {
		x.span.Set(tracing.String("oci.repository", rt.name))
	}
	if rt.reference != "" {
		x.span.Set(tracing.String("oci.reference", rt.reference))
	}
	if ns != "" {
		x.span.Set(tracing.String("oci.namespace", ns))
	}
}

// described is a kind of routes in a word, and as a pattern.
func (rt route) described() (kind, pattern string) {
	switch rt.kind {
	case manifestRoute:
		return "manifest", "/v2/{name}/manifests/{reference}"
	case blobRoute:
		return "blob", "/v2/{name}/blobs/{digest}"
	case tagsRoute:
		return "tags", "/v2/{name}/tags/list"
	case referrersRoute:
		return "referrers", "/v2/{name}/referrers/{digest}"
	case uploadsRoute:
		return "upload", "/v2/{name}/blobs/uploads/"
	}
	return "api", "/v2/"
}

// errServer is what has failed where nobody says more.
var errServer = errors.New("the request could not be answered")

// endSpan tells how the request was answered. That a client has asked for what it cannot
// have is no failure of the server.
func (x *exchange) endSpan() {
	if !x.span.On() {
		return
	}
	x.span.Set(tracing.Int("http.response.body.size", x.bytes))
	if x.status != 0 {
		x.span.Set(tracing.Int("http.response.status_code", x.status))
	}
	if x.route.kind.content() != "" {
		x.span.Set(tracing.String("cache.result", string(x.result(x.status, x.told().Source))))
	}
	err := x.err
	switch {
	case errors.Is(err, errClientLeft):
		x.span.Event("the client has left")
		err = nil
	case x.status >= http.StatusInternalServerError:
		x.span.Set(tracing.String("error.type", strconv.Itoa(x.status)))
		err = cmp.Or(err, errServer)
	case x.failed != nil:
		err = nil
	}
	x.span.End(err)
}
