package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/distribution/distribution/v3/registry/api/errcode"

	"registry-module/cache"
	"registry-module/internal/via"
)

// maxHeaderLine is how long one header field may be in bytes. The proxies that
// such a request would have to pass do not let more through either.
const maxHeaderLine = 8 << 10

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := newExchange(w, s.log)
	x.name, x.ns = s.name, s.ns
	x.begun = s.now()
	if s.tracing != nil {
		r = s.trace(x, r)
	}
	defer func() { s.finish(x, r, recover()) }()
	s.serve(x, r)
}

// finish tells all who want to know how the request was answered. Panicked is what it has
// panicked with, nil where it has not.
func (s *Server) finish(x *exchange, r *http.Request, panicked any) {
	lost := panicked != nil // the answer, or its end
	if lost && panicked != http.ErrAbortHandler {
		x.err = fmt.Errorf("panic: %v", panicked)
		s.log.WithField("stack", string(debug.Stack())).Errorf("%s %s has failed: %v", r.Method, r.URL.Path, x.err)
	}
	x.endSpan()
	now := s.now()
	if s.accessLog && s.sample.logs(x.status, lost) {
		s.logRequest(x, r, now.Sub(x.begun).Milliseconds())
	}
	s.end(x, r, now, lost)
	if lost {
		panic(http.ErrAbortHandler) // net/http does not log this one again
	}
	x.extendFrom(now) // for what net/http has not sent yet
}

// serve answers what is no request of the API, and leaves the others to serveRoute.
func (s *Server) serve(x *exchange, r *http.Request) {
	rt, bad := parseRoute(r.URL.EscapedPath(), s.prefix)
	ns, err := namespaceOf(r)
	size, tooLong := measure(r)
	x.route = rt
	s.begin(x, r, ns, size)
	switch {
	case tooLong != "":
		s.refuse(x, http.StatusRequestHeaderFieldsTooLarge, errcode.ErrorCodeUnsupported,
			fmt.Sprintf("header %.40q is longer than %d bytes", tooLong, maxHeaderLine))
	case r.URL.Path == "/": // the stock registry's sign of life
		x.Header().Set("Cache-Control", "no-cache")
		x.WriteHeader(http.StatusOK)
	case bad != nil:
		s.refuse(x, bad.status, bad.code, bad.message)
	case err != nil:
		s.refuse(x, http.StatusBadRequest, errcode.ErrorCodeNameInvalid, err.Error())
	default:
		s.serveRoute(x, r, rt, ns)
	}
}

// serveRoute finds out which repository is meant, and whether the client may have what it
// asks for.
func (s *Server) serveRoute(x *exchange, r *http.Request, rt route, ns string) {
	if rt.kind == tagsRoute {
		x.asked = r.URL
	}
	x.describe(r, rt, ns)
	asked := rt.asked()
	var refused error
	if rt.name != "" {
		r, refused = s.onBehalf(r)
		places, err := s.direct(x, ns, rt, wantsFresh(r))
		x.seen.places = places
		asked.Resource, asked.Places = resource(ns, rt, places), places
		refused = cmp.Or(refused, err)
	}
	// Who is not let in is not told what is configured.
	if !s.admit(x, r, asked) {
		return
	}
	if ns != "" && len(asked.Places) > 0 {
		x.Header().Set("OCI-Namespace", ns)
	}
	if refused != nil {
		s.setCommonHeader(x.Header())
		s.fail(x, repositoryContent, refused)
		return
	}
	if s.observer != nil && len(asked.Places) > 1 {
		// The short way, too, has to tell which one it was.
		r = r.WithContext(cache.WithOutcome(r.Context(), &x.outcome))
	}
	s.serveAdmitted(x, r, rt)
}

// serveAdmitted answers in one of three ways: with what the app lacks, from the store, and
// by the app.
func (s *Server) serveAdmitted(x *exchange, r *http.Request, rt route) {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	x.looking, x.isHead = reads && rt.kind.content() != "", r.Method == http.MethodHead
	switch {
	case rt.kind == referrersRoute:
		s.serveReferrers(x, r, rt)
	case rt.kind == uploadsRoute && r.Method == http.MethodPost:
		// Docker takes the app's message, which is that of the specification, for a
		// failure that passes, and tries for a minute.
		s.refuse(x, http.StatusMethodNotAllowed, errcode.ErrorCodeUnsupported, "this registry can only be pulled from: push to the registry that it fetches from")
	case s.shortcut && reads && s.serveStored(x, r, rt):
	default:
		s.setHeaders(x.Header())
		s.app.ServeHTTP(x, forApp(x, r))
	}
	// Only now, so that the manifest is on its way before its blobs are.
	if r.Method == http.MethodGet && x.status == http.StatusOK && len(x.manifest.Bytes) > 0 {
		x.repo.Prefetch(r.Context(), x.manifest)
	}
}

// measure returns about how large the request is, its header without what net/http takes
// away, and the name of a header field that is longer than maxHeaderLine.
func measure(r *http.Request) (size int64, tooLong string) {
	size = int64(len(r.Method)+len(r.RequestURI)+len(r.Proto)+len(r.Host)) + max(r.ContentLength, 0)
	for name, values := range r.Header {
		for _, v := range values {
			n := len(name) + len(v)
			size += int64(n)
			if n > maxHeaderLine {
				tooLong = name
			}
		}
	}
	return size, tooLong
}

// namespaceOf returns the namespace parameter (OCI distribution specification, "Registry
// Proxying"). One that cannot be understood is not taken for none: that would be
// another registry.
func namespaceOf(r *http.Request) (string, error) {
	if r.URL.RawQuery == "" {
		return "", nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", fmt.Errorf("the query cannot be read: %w", err)
	}
	ns := query["ns"]
	if len(ns) == 0 {
		return "", nil
	}
	if len(ns) > 1 || ns[0] == "" {
		return "", errors.New("the parameter ns is to be the host of one registry")
	}
	return ns[0], nil
}

// direct finds out which repository of which remote the request is about.
func (s *Server) direct(x *exchange, ns string, rt route, fresh bool) ([]cache.Place, error) {
	places, err := s.router.Route(ns, rt.name)
	if err != nil {
		return nil, err
	}
	x.repo = s.cache.Name(rt.name, places...)
	if x.insists = fresh; fresh {
		x.repo = x.repo.Fresh()
	}
	return places, nil
}

// resource is what access control calls the repository that a request is about: who may
// pull a repository need not be allowed to pull the one of the same name in another
// namespace.
func resource(ns string, rt route, places []cache.Place) string {
	if ns == "" || len(places) == 0 {
		return rt.name
	}
	return places[0].Host + "/" + places[0].Repo // whatever it is called
}

// onBehalf returns the request with what it has passed on its way to us, for what we ask of
// others because of it. One that has passed us before goes round in a circle (RFC 9110,
// section 7.6.3), which is an error.
func (s *Server) onBehalf(r *http.Request) (*http.Request, error) {
	chain := via.Parse(r.Header)
	switch at := slices.Index(chain, s.name); {
	case len(chain) == 0:
		return r, nil
	case at >= 0 && s.name != "":
		way := append(slices.Clone(chain[at:]), s.name)
		return r, fmt.Errorf("%w: %s; change the remote (REGISTRY_PROXY_REMOTEURL) of one of them", cache.ErrLoop, strings.Join(way, ", then "))
	case len(chain) > via.MaxHops:
		return r, fmt.Errorf("%w: the request has passed more than %d registries", cache.ErrLoop, via.MaxHops)
	}
	return r.WithContext(via.With(r.Context(), via.Ours(chain))), nil
}

// forApp returns the request as the app is to see it.
func forApp(x *exchange, r *http.Request) *http.Request {
	ctx := context.WithValue(cache.WithOutcome(r.Context(), &x.outcome), exchangeKey{}, x)
	if x.caller != nil {
		ctx = identified{ctx, x.caller.Name()}
	}
	return r.WithContext(ctx)
}

// fail answers with what went wrong without the app.
func (s *Server) fail(x *exchange, kind contentKind, err error) {
	a := answerFor(kind, err)
	x.override(a, err)
	sendError(x, a.status, a.apiError(err))
}

// refuse answers in the error form of the OCI distribution specification.
func (s *Server) refuse(x *exchange, status int, code errcode.ErrorCode, message string) {
	x.refused, x.looking = true, false
	s.setCommonHeader(x.Header())
	sendError(x, status, code.WithMessage(message))
}

func sendError(x *exchange, status int, err errcode.Error) {
	x.Header().Set("Content-Type", "application/json")
	x.WriteHeader(status)
	_ = json.NewEncoder(x).Encode(errcode.Errors{err}) // the client may be gone
}

// setHeaders sets those of http.headers.
func (s *Server) setHeaders(h http.Header) {
	for name, values := range s.headers {
		for _, v := range values {
			h.Add(name, v)
		}
	}
}

// setCommonHeader sets what is in each answer of the registry.
func (s *Server) setCommonHeader(h http.Header) {
	s.setHeaders(h)
	setAll(h, field{"Docker-Distribution-Api-Version", "registry/2.0"})
}

// field is a field of a header, whose name is as http.CanonicalHeaderKey has it.
type field struct{ name, value string }

// setAll sets fields, which is cheaper than one by one.
func setAll(h http.Header, fields ...field) {
	values := make([]string, len(fields))
	for i, f := range fields {
		values[i] = f.value
		h[f.name] = values[i : i+1 : i+1]
	}
}
