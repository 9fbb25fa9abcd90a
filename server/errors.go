package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"

	"registry-module/cache"
)

// contentKind is what a request was about, for the code of its error.
type contentKind int

const (
	manifestContent contentKind = iota
	blobContent
	repositoryContent
)

// unknown is the code that says that content of the kind does not exist.
func (k contentKind) unknown() errcode.ErrorCode {
	switch k {
	case blobContent:
		return errcode.ErrorCodeBlobUnknown
	case repositoryContent:
		return errcode.ErrorCodeNameUnknown
	default:
		return errcode.ErrorCodeManifestUnknown
	}
}

// retryUnavailable is what clients are told to wait when a remote is away.
const retryUnavailable = 10 * time.Second

// answer is an error as a client gets it.
type answer struct {
	status     int
	code       errcode.ErrorCode
	retryAfter time.Duration // 0 for none
	hint       string        // what to do, beside the error's own text
	text       string        // instead of the error's own text
}

// answerFor is the table from what went wrong to what a client is told. It is
// the only place where the two meet.
func answerFor(kind contentKind, err error) answer {
	var busy *BusyError
	var up *cache.UpstreamError
	wait := time.Duration(0)
	if errors.As(err, &up) {
		wait = up.RetryAfter
	}
	switch {
	case errors.As(err, &busy):
		return answer{status: http.StatusTooManyRequests, code: errcode.ErrorCodeTooManyRequests, retryAfter: max(busy.RetryAfter, time.Second)}
	case errors.Is(err, ErrUndecided):
		return answer{status: http.StatusServiceUnavailable, code: errcode.ErrorCodeUnavailable, retryAfter: retryUnavailable}
	case errors.Is(err, cache.ErrNotServed):
		return answer{status: http.StatusNotFound, code: errcode.ErrorCodeNameUnknown}
	case errors.Is(err, ErrForbidden), errors.Is(err, cache.ErrRefused):
		return answer{status: http.StatusForbidden, code: errcode.ErrorCodeDenied}
	case errors.Is(err, cache.ErrLoop):
		a := answer{status: http.StatusLoopDetected, code: errcode.ErrorCodeUnavailable}
		if up != nil && up.Err != nil {
			// One of those above has noticed it. Each on the way back adds its remote.
			a.text = fmt.Sprintf("%s: %v", up.Remote, up.Err)
		}
		return a
	case errors.Is(err, cache.ErrNotFound):
		return answer{status: http.StatusNotFound, code: kind.unknown()}
	case errors.Is(err, cache.ErrDenied):
		// Never a 401 with a challenge: the client's credentials are not
		// those that the remote has refused.
		return answer{status: http.StatusForbidden, code: errcode.ErrorCodeDenied,
			hint: "check the repository's name and the credentials that this registry uses for the remote"}
	case errors.Is(err, cache.ErrRateLimited):
		return answer{status: http.StatusTooManyRequests, code: errcode.ErrorCodeTooManyRequests, retryAfter: max(wait, time.Second)}
	case errors.Is(err, cache.ErrInvalid):
		return answer{status: http.StatusBadGateway, code: errcode.ErrorCodeUnavailable,
			hint: "nothing of it was stored; ask the remote registry directly to compare"}
	case errors.Is(err, cache.ErrUnavailable), errors.Is(err, cache.ErrClosed):
		return answer{status: http.StatusServiceUnavailable, code: errcode.ErrorCodeUnavailable, retryAfter: max(wait, retryUnavailable),
			hint: "it is not in the cache, and whether it exists is not known"}
	case errors.Is(err, context.Canceled):
		return answer{status: statusClientClosed, code: errcode.ErrorCodeUnknown}
	}
	return answer{status: http.StatusInternalServerError, code: errcode.ErrorCodeUnknown}
}

// ofRemote tells whether an answer with the status is about a remote, and not about us.
// Such answers say whom they have passed (Via, RFC 9110, section 7.6.3), so that
// another registry in front of us knows that it need not leave us alone.
func ofRemote(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusLoopDetected:
		return true
	}
	return false
}

// statusClientClosed is nginx's status, for logs, of a request whose client has
// left. Nobody receives it.
const statusClientClosed = 499

// appError makes err one that the app passes on with the right code, and leaves
// status and headers, which the app has no way to express, with the exchange.
func appError(ctx context.Context, kind contentKind, err error) error {
	a := answerFor(kind, err)
	if x := exchangeFrom(ctx); x != nil {
		x.override(a, err)
	}
	return a.apiError(err)
}

// apiError is the body of the answer.
func (a answer) apiError(err error) errcode.Error {
	if a.status == http.StatusInternalServerError {
		// It may have paths of this machine in it.
		return a.code.WithMessage("internal error; the log of the registry has the details")
	}
	message := cmp.Or(a.text, err.Error())
	if a.hint != "" {
		message = fmt.Sprintf("%s; %s", message, a.hint)
	}
	return a.code.WithMessage(message)
}

// header sets what belongs to the answer beside its body.
func (a answer) header(h http.Header) {
	if a.retryAfter > 0 {
		seconds := (a.retryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
}
