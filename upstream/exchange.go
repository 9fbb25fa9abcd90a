package upstream

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"registry-module/cache"
	"registry-module/internal/tracing"
	"registry-module/internal/via"
)

// maxRedirects is how many redirects of one request are followed.
const maxRedirects = 10

// query is one question to the remote.
type query struct {
	// op says what is being done, for errors.
	op     string
	method string
	// repo is whom a token is asked for.
	repo string
	// url is absolute and of the remote itself.
	url    *url.URL
	header http.Header
	// validator is sent as If-Range to the host that gave it, and to no other.
	validator validator
}

// query makes a question for path, which begins with a slash, under /v2.
func (r *Remote) query(op, method, repo, path string) *query {
	return &query{
		op: op, method: method, repo: repo,
		url: &url.URL{Scheme: r.base.Scheme, Host: r.base.Host, Path: "/v2" + path},
		// Some servers compress for whom does not say that it cannot decompress.
		header: http.Header{"Accept-Encoding": {"identity"}},
	}
}

// reply is an answer. Its Body fails with errors of package cache.
type reply struct {
	*http.Response
	// url is what was asked in the end, after redirects.
	url *url.URL
	// foreign says that it is not of the remote itself but of a host that the
	// remote has redirected to, or that such a host has chosen what was asked.
	foreign bool
	// elsewhere says that it is not of the remote's own host.
	elsewhere bool
}

// drain makes the connection usable for the next request if little is left of
// the body, and lets go of it otherwise.
func (p *reply) drain() {
	// Whatever is wrong with a body that nobody wants does not matter.
	_, _ = io.CopyN(io.Discard, p.Body, 16<<10)
	_ = p.Body.Close()
}

// ask puts a question with the authorization that the remote wants. The reply
// is the remote's last word, of any status but a redirect; its Body must be
// closed.
func (r *Remote) ask(ctx context.Context, q *query) (*reply, error) {
	sent, err := r.auth.authorization(ctx, q)
	if err != nil {
		return nil, err
	}
	rep, err := r.follow(ctx, q, sent.header)
	if err != nil || rep.foreign {
		return rep, err
	}
	// A token or a log-in has run out or was revoked, or the remote wants to be asked
	// in another way than it did. Nothing is gained by the same again.
	otherwise := rep.StatusCode == http.StatusUnauthorized && r.auth.rejected(rep.Response, q, sent) ||
		rep.StatusCode == http.StatusForbidden && r.auth.doubt(sent.from)
	if !otherwise {
		return rep, nil
	}
	again, err := r.auth.authorization(ctx, q)
	if err != nil {
		rep.drain()
		return nil, err
	}
	if again.header == sent.header {
		return rep, nil
	}
	rep.drain()
	return r.follow(ctx, q, again.header)
}

// follow sends a question, and follows redirects. The authorization goes to the
// remote only, and not even there once the way has led elsewhere: then the URL
// is not the remote's choice any more.
func (r *Remote) follow(ctx context.Context, q *query, authorization string) (*reply, error) {
	u := q.url
	home := true
	var rep *reply
	for hop := range maxRedirects + 1 {
		home = home && sameOrigin(u, r.base)
		header := maps.Clone(q.header)
		header.Set("User-Agent", r.agent)
		if home && authorization != "" {
			header.Set("Authorization", authorization)
		}
		if q.validator.of(u) {
			header.Set("If-Range", q.validator.etag)
		}
		if home && r.name != "" {
			header.Set(via.Header, via.Value(append(slices.Clone(via.From(ctx)), r.name)))
		}
		trip := r.foreign
		if sameOrigin(u, r.base) {
			trip = r.own
		}
		resp, err := r.observed(ctx, attempt{op: q.op, what: q.what(), home: home, resent: hop}, trip, &http.Request{Method: q.method, URL: u, Host: u.Host, Header: header})
		if err != nil {
			return nil, err
		}
		rep = &reply{Response: resp, url: u, foreign: !home, elsewhere: trip == r.foreign}
		if !isRedirect(resp.StatusCode) {
			return rep, nil
		}
		rep.drain()
		if u, err = r.redirect(u, resp.Header.Get("Location")); err != nil {
			return nil, rep.blame(r.invalid(q.op, resp.StatusCode, "refusing a redirect: %w", err))
		}
	}
	return nil, rep.blame(r.invalid(q.op, 0, "more than %d redirects", maxRedirects))
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirect gives where location leads to from u. Its errors leave out all but
// the host: the rest may be signed.
func (r *Remote) redirect(u *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, errors.New("it does not say where to")
	}
	next, err := u.Parse(location)
	if err != nil || next.Hostname() == "" {
		return nil, errors.New("its target is not a URL")
	}
	switch {
	case next.Scheme != "https" && next.Scheme != "http":
		return nil, errors.New("its target is neither https nor http")
	case u.Scheme == "https" && next.Scheme == "http":
		return nil, errors.New("it leads from https to http, at " + r.clean(next.Host))
	}
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}

// send does one exchange. The body of the answer fails if it stalls, and all
// errors, the body's too, are of package cache.
//
// It does not use an http.Client: that one keeps headers on redirects that are
// not for others (a Referer with the signature of a URL, an Authorization for
// another port of the host), and its errors repeat URLs.
func (r *Remote) send(ctx context.Context, op string, trip http.RoundTripper, req *http.Request) (*http.Response, error) {
	// The transport of others is used for hosts that were redirected to, and for nothing
	// else.
	blame := func(err error) error {
		if trip == r.foreign {
			return elsewhere(err)
		}
		return err
	}
	life, cancel := context.WithCancelCause(ctx)
	connected := false
	resp, err := trip.RoundTrip(req.WithContext(httptrace.WithClientTrace(life, &httptrace.ClientTrace{
		// Both are called before RoundTrip returns, once for each attempt: it makes
		// another one where a connection turns out to be dead.
		GetConn: func(string) { connected = false },
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	})))
	if err != nil {
		cancel(nil)
		err = blame(r.broken(ctx, op, 0, r.viaProxy(req.URL, err)))
		if e, ok := errors.AsType[*cache.UpstreamError](err); ok {
			e.NoConnection = !connected && ctx.Err() == nil
		}
		return nil, err
	}
	b := &body{rc: resp.Body, cancel: cancel, wait: r.stall}
	b.broken = func(err error) error {
		if errors.Is(context.Cause(life), errStalled) && ctx.Err() == nil {
			return blame(r.failure(cache.ErrUnavailable, op, resp.StatusCode, errStalled))
		}
		return blame(r.broken(ctx, op, resp.StatusCode, err))
	}
	b.timer = time.AfterFunc(r.stall, func() { cancel(errStalled) })
	b.timer.Stop()
	resp.Body = b
	return resp, nil
}

// body is the body of an answer. It is given up if a Read takes too long. The
// time between Reads does not count: that is the reader's.
type body struct {
	rc     io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer
	wait   time.Duration
	broken func(error) error
	err    error // of a Read, for good

	span tracing.Span
	came atomic.Int64 // bytes that the span tells of
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	b.timer.Reset(b.wait)
	n, err := b.rc.Read(p)
	b.timer.Stop()
	if b.span.On() {
		b.came.Add(int64(n))
	}
	if err != nil {
		if err != io.EOF {
			err = b.broken(err)
			b.span.Fail(err)
		}
		b.err = err
	}
	return n, err
}

// Close implements io.Closer. It ends a Read that is going on.
func (b *body) Close() error {
	b.timer.Stop()
	err := b.rc.Close()
	b.cancel(nil)
	if b.span.On() {
		b.span.Set(tracing.Int("http.response.body.size", b.came.Load()))
		b.span.End(nil)
	}
	return err
}
