package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"registry-module/cache"
	"registry-module/internal/via"
)

// errStalled is why a request is given up whose body has stopped coming.
var errStalled = errors.New("the connection has stalled")

// clean makes a text that the remote may have made fit to be repeated.
func (r *Remote) clean(text string) string { return r.secrets.Clean(text) }

// invalid is an answer that is not what was asked for.
func (r *Remote) invalid(op string, status int, format string, args ...any) error {
	return r.failure(cache.ErrInvalid, op, status, fmt.Errorf(format, args...))
}

func (r *Remote) failure(kind error, op string, status int, err error) *cache.UpstreamError {
	return &cache.UpstreamError{Kind: kind, Remote: r.base.Host, Op: op, Status: status, Err: err}
}

// local is why nobody was asked: it says nothing of the remote.
type local struct{ error }

func (e local) Unwrap() []error { return []error{cache.ErrNotAsked, e.error} }

// unasked is invalid for what the remote was not asked for.
func (r *Remote) unasked(op string, format string, args ...any) error {
	return r.failure(cache.ErrInvalid, op, 0, local{fmt.Errorf(format, args...)})
}

// broken is an exchange that ended without an answer, or within one. ctx is the
// caller's.
func (r *Remote) broken(ctx context.Context, op string, status int, err error) error {
	if known, ok := errors.AsType[*cache.UpstreamError](err); ok {
		return known
	}
	switch ctxErr := ctx.Err(); {
	case errors.Is(ctxErr, context.Canceled):
		// Not the remote's doing, and so not an UpstreamError.
		return fmt.Errorf("%s at %s: %w", op, r.base.Host, ctxErr)
	case ctxErr != nil:
		return r.failure(cache.ErrUnavailable, op, status, fmt.Errorf("not done in time: %w", ctxErr))
	}
	return r.failure(cache.ErrUnavailable, op, status, r.explain(err))
}

// explained is an error whose text is fit to be shown. The error that it stands
// for can be found by errors.Is and errors.As only.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.err }

// explain makes an error of the transport fit to be shown, with what to do
// about it where that is known.
func (r *Remote) explain(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // it repeats the URL, with its query
	}
	text := r.clean(err.Error())
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		text = "malformed HTTP headers" // it repeats one of them, whichever that is
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		text += " (if the registry has a certificate of your own CA, configure the CA's file for this remote)"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		text += " (if the registry has no TLS, write its URL with http://)"
	}
	return &explained{text: text, err: err}
}

// maxRealmText bounds, in bytes, what is said of a token service that is refused: its
// host is named twice.
const maxRealmText = 1 << 10

// refusedRealm makes an error of a [auth.RealmPolicy] fit to be repeated: the remote
// has chosen the names in it.
func (r *Remote) refusedRealm(err error) error {
	return &explained{text: r.secrets.CleanTo(maxRealmText, err.Error()), err: local{err}}
}

// refused is an answer with a status that is not one of success. It reads the
// body: by its form, a 404 is that of a registry or a vague one, as proxies say 404,
// too, when nothing is behind them.
func (r *Remote) refused(op string, resp *reply) error {
	if resp.StatusCode == http.StatusLoopDetected {
		return r.refusal(op, resp, r.loopText(resp.Response))
	}
	text, registry := r.ociErrors(resp.Response)
	e := r.refusal(op, resp, text)
	e.Vague = e.Kind == cache.ErrNotFound && (!registry || resp.foreign)
	return e
}

// refusedBlob is refused for a blob. What the remote has to say beside the status is
// left out: it cannot say it in the answer to a HEAD, so that it would tell which
// blobs are stored for others, and need no GET. For the same reason each 404 is vague.
func (r *Remote) refusedBlob(op string, resp *reply) error {
	if resp.StatusCode == http.StatusLoopDetected {
		return r.refused(op, resp)
	}
	e := r.refusal(op, resp, "")
	e.Vague = e.Kind == cache.ErrNotFound
	return e
}

// refusal is a refused answer, of which the remote says text.
func (r *Remote) refusal(op string, resp *reply, text string) *cache.UpstreamError {
	e := r.failure(kindOf(resp.StatusCode), op, resp.StatusCode, nil)
	e.RetryAfter = retryAfter(resp.Header, time.Now())
	if resp.foreign {
		text = join(text, "answered by "+r.clean(resp.url.Host)+", where the remote has redirected us")
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized && !resp.foreign, resp.StatusCode == http.StatusForbidden && !resp.foreign:
		text = join(text, r.auth.hint())
	case resp.StatusCode == http.StatusTooManyRequests && r.auth.anonymous():
		text = join(text, "many registries give more to those who log in: "+r.auth.noCredentials())
	case resp.StatusCode == http.StatusProxyAuthRequired:
		text = join(text, r.refusedByProxy(resp.url, resp.StatusCode).Error())
	}
	if resp.StatusCode == http.StatusNetworkAuthenticationRequired { // RFC 6585 section 6
		text = join(text, "the network wants a log-in before it lets anybody through: open any page with a browser there, and log in")
		e.Err = &explained{text: text, err: cache.ErrIntercepted}
		return e
	}
	if text != "" {
		e.Err = errors.New(text)
	}
	// A registry like us says so where it is not itself that has failed, but one that
	// it fetches from.
	e.Elsewhere = resp.elsewhere || via.Named(resp.Header)
	return e
}

// retryAfter is how long an answer that came now asks to wait. A date is that of its
// sender's clock, which Date shows (RFC 9110 section 6.6.1): ours may be wrong.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return parseRetryAfter(h.Get("Retry-After"), now)
}

// kindOf gives the sentinel for a status that is not one of success.
func kindOf(status int) error {
	switch {
	case status == http.StatusNotFound:
		return cache.ErrNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return cache.ErrDenied
	case status == http.StatusTooManyRequests:
		return cache.ErrRateLimited
	case status == http.StatusLoopDetected: // RFC 5842 section 7.2
		return cache.ErrLoop
	case status == http.StatusNetworkAuthenticationRequired:
		return cache.ErrInvalid // not the remote's: it is not known whether that is there
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusProxyAuthRequired:
		return cache.ErrUnavailable
	default:
		return cache.ErrInvalid
	}
}

// maxErrors is how many of the errors that an answer lists are repeated.
const maxErrors = 3

// ociErrors reads the codes and messages of an error body in the form of the
// OCI distribution specification ("Error Codes"), and reports whether it has that
// form: there is an error, and it has a code. Other bodies are not repeated: those of
// object stores quote what was signed, and pages help nobody.
func (r *Remote) ociErrors(resp *http.Response) (text string, registry bool) {
	terr, ok := errors.AsType[*transport.Error](transport.CheckError(resp))
	if !ok {
		return "", false // the body could not be read; the status has been
	}
	return r.diagnostics(terr), len(terr.Errors) > 0 && terr.Errors[0].Code != ""
}

// maxLoopText bounds, in bytes, what is repeated of how a request went round: each
// registry on the way adds itself.
const maxLoopText = 4 << 10

// loopText reads which way a request took that came back, from the answer of a
// registry that was on it.
func (r *Remote) loopText(resp *http.Response) string {
	terr, ok := errors.AsType[*transport.Error](transport.CheckError(resp))
	if !ok || len(terr.Errors) == 0 {
		return ""
	}
	return r.secrets.CleanTo(maxLoopText, terr.Errors[0].Message)
}

func (r *Remote) diagnostics(terr *transport.Error) string {
	var text string
	for _, d := range terr.Errors[:min(len(terr.Errors), maxErrors)] {
		text = join(text, r.clean(fmt.Sprintf("%s: %s", d.Code, d.Message)))
	}
	return text
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
