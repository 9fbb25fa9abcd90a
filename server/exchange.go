package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/internal/tracing"
	"registry-module/internal/via"
)

// How long a client may take nothing while something is being sent to it: without end it
// would hold a socket, a file and a goroutine.
const (
	// blobStall is for blobs: a chain of proxies in front of a slow client, each of which
	// writes to its disk first, legitimately stalls for the better part of an hour.
	blobStall = time.Hour
	// stall is for all else, which fits into the buffers of the first proxy.
	stall = 2 * time.Minute
	// stallSlack is by how much earlier the deadline may be that a write has: most
	// requests are over by then, and set one only once.
	stallSlack = time.Second
)

// errClientLeft marks what ended a response that nobody waits for any more.
var errClientLeft = errors.New("the client has left")

// exchange is one request on its way through the server: the connection's own
// ResponseWriter, what was sent, and what the app cannot express.
type exchange struct {
	http.ResponseWriter
	conn  *http.ResponseController // of ResponseWriter
	log   logrus.FieldLogger
	name  string     // ours, for the Via header; empty for none
	ns    *namespace // of the server
	stall time.Duration
	// deadline is the connection's, zero before it was set by this request.
	deadline time.Time
	status   int // 0 until something is sent
	bytes    int64

	// begun is when the request had come, and route what it is about.
	begun time.Time
	route route
	// seen is for the observer.
	seen observation

	// looking tells that content is looked for, which comes with a Cache-Status; isHead
	// that none of it is sent, and insists that the client wants the remote to be asked.
	looking, isHead, insists bool
	// tried tells that it was looked whether what is wanted is stored, and stored that it
	// was, so that nobody was asked for it.
	tried, stored bool
	// outcome is what the cache says of how it came to the answer it has given last, and
	// ofTag what it has said of a tag, whose manifest is looked up after it.
	outcome cache.Outcome
	ofTag   *cache.Answered
	// sent is the Cache-Status, and scratch what it is made in, so that neither has to be
	// allocated.
	sent    [1]string
	scratch [96]byte
	// refused tells that the request was refused by us.
	refused bool

	// repo is what the request is about, nil where that is no repository.
	repo *cache.Name

	// span is the request's; none where it is not traced.
	span tracing.Span

	// caller is who has sent it, nil where there is no access control.
	caller Caller

	// asked is the URL of a request for a list, for the link to its next page.
	asked *url.URL

	// blobSize is the length of the blob that was served, for the app's
	// notifications; 0 before.
	blobSize int64

	// manifest is the one that was looked up last; it has no bytes before.
	manifest cache.Manifest

	// freshness is that of the answer, if it is one that can change.
	freshness cache.Freshness

	failed *answer // replaces the status that the app chooses for an error
	err    error   // what it is about
}

func newExchange(w http.ResponseWriter, log logrus.FieldLogger) *exchange {
	return &exchange{ResponseWriter: w, conn: http.NewResponseController(w), log: log, stall: stall}
}

type exchangeKey struct{}

// exchangeFrom returns the exchange that ctx belongs to, nil outside of one.
func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// override makes the response to err the one that a says.
func (x *exchange) override(a answer, err error) {
	x.failed, x.err = &a, err
	x.forget()
	a.header(x.Header())
	if a.status == http.StatusInternalServerError {
		x.log.WithError(err).Error("internal error, of which the client is not told more")
	}
}

// abandon gives up a response of which a part was sent: what is the name of its
// content. Ending the connection is the only honest way to say so.
func (x *exchange) abandon(ctx context.Context, what string, err error) {
	log := x.log.WithError(err)
	if clientLeft(ctx, err) {
		err = fmt.Errorf("%w: %w", errClientLeft, err)
		log.Debugf("%s was not served to its end: the client has left", what)
	} else {
		log.Warnf("%s was not served to its end", what)
	}
	x.err = err
	panic(http.ErrAbortHandler)
}

// clientLeft tells whether err ended a response only because nobody receives it
// any more. Ctx is the request's.
func clientLeft(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	if _, ok := errors.AsType[*cache.UpstreamError](err); ok {
		return false // another connection
	}
	// Sending may fail before net/http notices and ends the context.
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// extend gives what is written next its time, up to stallSlack less. Each write has to be
// preceded by it, so that no deadline of an earlier one, or of an earlier request of the
// same connection, is left to strike.
func (x *exchange) extend() { x.extendFrom(time.Now()) }

func (x *exchange) extendFrom(now time.Time) {
	deadline := now.Add(x.stall)
	if more := deadline.Sub(x.deadline); more >= 0 && more < stallSlack {
		return
	}
	x.deadline = deadline
	// A writer that has no deadlines is no connection that could stall.
	_ = x.conn.SetWriteDeadline(deadline)
}

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if x.failed != nil && status >= 400 {
		status = x.failed.status
	}
	now := time.Now()
	if x.status == 0 && status >= 200 {
		x.status = status
		x.seen.answering = now
		x.showCache(status, now)
	}
	if x.name != "" && ofRemote(status) {
		x.Header().Set(via.Header, via.Value([]string{x.name}))
	}
	if link := x.Header().Get("Link"); link != "" && x.asked != nil {
		x.Header().Set("Link", nextPage(link, x.asked))
	}
	x.extendFrom(now)
	x.ResponseWriter.WriteHeader(status)
}

// nextPage makes the app's link to the next page of a list one to what the client
// has asked for: by the same name, in the same namespace.
func nextPage(link string, asked *url.URL) string {
	target, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	u, err := url.Parse(target)
	if !ok || err != nil {
		return link
	}
	u.Path, u.RawPath = asked.Path, asked.RawPath
	if ns := asked.Query().Get("ns"); ns != "" {
		query := u.Query()
		query.Set("ns", ns)
		u.RawQuery = query.Encode()
	}
	return "<" + u.String() + ">" + rest
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(p []byte) (int, error) {
	x.begin()
	x.extend()
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, which net/http's own writer does by
// sendfile where it can. All that src gives is one step, with one deadline: src
// must not be long, and must not have to wait.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	x.begin()
	x.extend()
	n, err := io.Copy(x.ResponseWriter, src)
	x.bytes += n
	return n, err
}

// told is how the cache came to the answer.
func (x *exchange) told() cache.Answered {
	if x.ofTag != nil {
		return *x.ofTag
	}
	return x.outcome.Answered()
}

// begin sends the header that a body implies.
func (x *exchange) begin() {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
}

// Flush implements http.Flusher.
func (x *exchange) Flush() {
	x.extend()
	_ = x.conn.Flush() // of writers that can
}

// Unwrap lets http.ResponseController find the connection's writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }
