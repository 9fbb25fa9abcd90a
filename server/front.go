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
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

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
	defer func() {
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			x.err = fmt.Errorf("panic: %v", p)
			s.log.WithField("stack", string(debug.Stack())).Errorf("%s %s has failed: %v", r.Method, r.URL.Path, x.err)
		}
		x.endSpan()
		now := s.now()
		if s.accessLog && s.sample.logs(x.status, p != nil) {
			s.logRequest(x, r, now.Sub(x.begun).Milliseconds())
		}
		s.end(x, r, now, p != nil)
		if p != nil {
			panic(http.ErrAbortHandler) // net/http does not log this one again
		}
		x.extend() // for what net/http has not sent yet
	}()
	s.serve(x, r)
}

func (s *Server) serve(x *exchange, r *http.Request) {
	rt, bad := parseRoute(r.URL.EscapedPath(), s.prefix)
	ns, err := namespaceOf(r)
	x.route = rt
	x.seen.size = measure(r)
	s.begin(x, r, ns)
	for name, values := range r.Header {
		for _, v := range values {
			x.seen.size += int64(len(name) + len(v))
			if len(name)+len(v) > maxHeaderLine {
				s.refuse(x, http.StatusRequestHeaderFieldsTooLarge, errcode.ErrorCodeUnsupported,
					fmt.Sprintf("header %.40q is longer than %d bytes", name, maxHeaderLine))
				return
			}
		}
	}
	if r.URL.Path == "/" { // the stock registry's sign of life
		x.Header().Set("Cache-Control", "no-cache")
		x.WriteHeader(http.StatusOK)
		return
	}
	if bad != nil {
		s.refuse(x, bad.status, bad.code, bad.message)
		return
	}
	if err != nil {
		s.refuse(x, http.StatusBadRequest, errcode.ErrorCodeNameInvalid, err.Error())
		return
	}
	if rt.kind == tagsRoute {
		x.asked = r.URL
	}
	x.describe(r, rt, ns)
	asked := rt.asked()
	var refused error
	if rt.name != "" {
		var ctx context.Context
		if ctx, refused = s.onBehalf(r); refused == nil {
			r = r.WithContext(ctx)
		}
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
	x.looking, x.isHead = x.looksFor(r.Method), r.Method == http.MethodHead
	switch {
	case rt.kind == referrersRoute:
		s.serveReferrers(x, r, rt)
		return
	case rt.kind == uploadsRoute && r.Method == http.MethodPost:
		// Docker takes the app's message, which is that of the specification, for a
		// failure that passes, and tries for a minute.
		s.refuse(x, http.StatusMethodNotAllowed, errcode.ErrorCodeUnsupported, "this registry can only be pulled from: push to the registry that it fetches from")
		return
	}
	if !s.shortcut || r.Method != http.MethodGet && r.Method != http.MethodHead || !s.serveStored(x, r, rt) {
		s.setHeaders(x.Header())
		s.app.ServeHTTP(x, forApp(x, r))
	}
	// Only now, so that the manifest is on its way before its blobs are.
	if r.Method == http.MethodGet && x.status == http.StatusOK && len(x.manifest.Bytes) > 0 {
		x.repo.Prefetch(r.Context(), x.manifest)
	}
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

// onBehalf returns the request's context with what it has passed on its way to us, for
// what we ask of others because of it. One that has passed us before goes round in a
// circle (RFC 9110, section 7.6.3).
func (s *Server) onBehalf(r *http.Request) (context.Context, error) {
	chain := via.Parse(r.Header)
	switch at := slices.Index(chain, s.name); {
	case len(chain) == 0:
		return r.Context(), nil
	case at >= 0 && s.name != "":
		way := append(slices.Clone(chain[at:]), s.name)
		return nil, fmt.Errorf("%w: %s; change the remote (REGISTRY_PROXY_REMOTEURL) of one of them", cache.ErrLoop, strings.Join(way, ", then "))
	case len(chain) > via.MaxHops:
		return nil, fmt.Errorf("%w: the request has passed more than %d registries", cache.ErrLoop, via.MaxHops)
	}
	return via.With(r.Context(), via.Ours(chain)), nil
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
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
}

// serveStored answers from the store what needs no remote, as the app would, at
// a fraction of its cost. It returns false, having sent nothing, where the app
// has to take over.
func (s *Server) serveStored(x *exchange, r *http.Request, rt route) bool {
	switch rt.kind {
	case manifestRoute:
		t, err := x.storedManifest(r.Context(), rt.reference)
		if err != nil {
			return false
		}
		s.setCommonHeader(x.Header())
		if isTag(rt.reference) {
			s.show(x, tagAnswer, t.Freshness)
		}
		s.serveManifest(x, r, t.Manifest)
		x.manifest = t.Manifest
		return true
	case blobRoute:
		return s.serveStoredBlob(x, r, rt)
	default:
		return false
	}
}

// serveStoredBlob is serveStored for a blob.
func (s *Server) serveStoredBlob(x *exchange, r *http.Request, rt route) bool {
	dgst := digest.Digest(rt.reference)
	content, err := x.storedBlob(r.Context(), dgst)
	if err != nil {
		return false
	}
	defer func() { _ = content.Close() }() // it was only read
	s.setCommonHeader(x.Header())
	if r.Method == http.MethodHead {
		headBlob(x, r, cache.Descriptor{Digest: dgst, Size: content.Size()})
		return true
	}
	if err := serveBlob(x, r, content, dgst); err != nil {
		if x.status != 0 {
			x.abandon(r.Context(), blobName(rt.name, dgst), err)
		}
		s.fail(x, blobContent, err)
	}
	return true
}

// isTag tells a tag from a digest.
func isTag(reference string) bool { return !strings.Contains(reference, ":") }

// storedManifest is a manifest for which nobody has to be asked.
func (x *exchange) storedManifest(ctx context.Context, reference string) (t cache.Tagged, err error) {
	x.tried = true
	if isTag(reference) {
		t, err = x.repo.CachedTag(ctx, reference)
	} else {
		t.Manifest, err = x.repo.CachedManifest(ctx, digest.Digest(reference))
	}
	x.stored = err == nil
	return t, err
}

// storedBlob is a blob for which nobody has to be asked.
func (x *exchange) storedBlob(ctx context.Context, dgst digest.Digest) (*cache.Reader, error) {
	x.tried = true
	content, err := x.repo.CachedBlob(ctx, dgst)
	x.stored = err == nil
	return content, err
}

// serveManifest sends m with the headers of the app.
func (s *Server) serveManifest(x *exchange, r *http.Request, m cache.Manifest) {
	etag := `"` + m.Digest.String() + `"`
	if matches(r.Header["If-None-Match"], etag) {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	h := x.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(m.Bytes)))
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Etag", etag)
	x.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = x.Write(m.Bytes) // the client may be gone
	}
}

// matches tells whether one of the entity tags of If-None-Match is etag (RFC
// 9110, section 13.1.2), with or without quotes, as the stock registry takes it.
func matches(header []string, etag string) bool {
	for _, line := range header {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == etag || tag == "*" || `"`+tag+`"` == etag {
				return true
			}
		}
	}
	return false
}

// logRequest writes the access log.
func (s *Server) logRequest(x *exchange, r *http.Request, millis int64) {
	fields := logrus.Fields{
		"method": r.Method,
		"path":   r.URL.Path, // not the query, which might carry secrets
		"status": x.status,
		"bytes":  x.bytes,
		"ms":     millis,
		"client": r.RemoteAddr,
		"agent":  r.UserAgent(),
	}
	if ns := r.URL.Query().Get("ns"); ns != "" {
		fields["ns"] = fmt.Sprintf("%.100s", ns)
	}
	if x.caller != nil && x.caller.Name() != "" {
		fields["user"] = fmt.Sprintf("%.100s", x.caller.Name())
	}
	if x.freshness.Stale != nil {
		fields["stale"] = x.freshness.Stale.Error()
	}
	entry := s.log.WithFields(fields)
	switch {
	case x.err == nil:
		entry.Info("request")
	case errors.Is(x.err, errClientLeft), x.status < 500 && x.failed != nil:
		entry.WithError(x.err).Info("request")
	default:
		entry.WithError(x.err).Warn("request")
	}
}
