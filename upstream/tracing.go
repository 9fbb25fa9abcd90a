package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"registry-module/cache"
	"registry-module/internal/tracing"
)

// attempt is one request of several that a question can take.
type attempt struct {
	// op says what is being done, for errors, and what it is about, in one word.
	op, what string
	// home tells that it goes to the remote itself, by its own choice, and so is told
	// what the request is part of.
	home bool
	// token tells that it is one for a token, and resent how many redirects have led to it.
	token  bool
	resent int
}

// start begins the span of an attempt. Of hosts that are not the remote no path is told:
// it can be as good as a signature.
func (r *Remote) start(ctx context.Context, a attempt, method string, u *url.URL) (context.Context, tracing.Span) {
	if !tracing.In(ctx).On() {
		return ctx, tracing.Span{}
	}
	ctx, span := tracing.StartClient(ctx, method+" "+a.what,
		tracing.String("http.request.method", method), tracing.String("server.address", r.clean(u.Hostname())))
	if port, err := strconv.Atoi(portOf(u)); err == nil {
		span.Set(tracing.Int("server.port", port))
	}
	if a.home && !a.token {
		span.Set(tracing.String("url.path", u.EscapedPath()))
	}
	if a.resent > 0 {
		span.Set(tracing.Int("http.request.resend_count", a.resent))
	}
	return ctx, span
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// answered tells what an attempt has brought. The span of one that has an answer ends with
// its body.
func answered(span tracing.Span, resp *http.Response, err error) {
	if !span.On() {
		return
	}
	if err != nil {
		span.Set(tracing.String("error.type", errorType(err)))
		span.End(err)
		return
	}
	span.Set(tracing.Int("http.response.status_code", resp.StatusCode))
	if resp.StatusCode >= http.StatusBadRequest {
		span.Set(tracing.String("error.type", strconv.Itoa(resp.StatusCode)))
		span.Fail(errors.New(http.StatusText(resp.StatusCode)))
	}
	resp.Body.(*body).span = span
}

// errorType is the kind of an error in a word.
func errorType(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, cache.ErrOffline):
		return "offline"
	case errors.Is(err, cache.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, cache.ErrInvalid):
		return "invalid"
	}
	return "_OTHER"
}

// what says what a question is about.
func (q *query) what() string {
	switch what := path.Base(path.Dir(q.url.Path)); what {
	case "manifests", "blobs":
		return strings.TrimSuffix(what, "s")
	case "tags", "referrers":
		return what
	}
	return "api"
}
