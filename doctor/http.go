package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxBody and maxHeader bound what is read of an answer, in bytes.
	maxBody   = 64 << 10
	maxHeader = 256 << 10
	// maxRedirects is how many redirects are followed.
	maxRedirects = 5
)

// answer is an HTTP answer, of which maxBody is enough.
type answer struct {
	url    *url.URL
	status int
	header http.Header
	body   []byte
	// took is the time from when the connection was there.
	took time.Duration
}

// trust says who may be asked.
type trust int

const (
	// verified is the registry and its token service.
	verified trust = iota
	// foreign is anybody with a proper certificate: ours is not shown.
	foreign
	// anybody is who has no proper certificate: nothing secret is sent.
	anybody
)

func (e *examination) transport(who trust) *http.Transport {
	config := e.tlsConfig("", who == verified)
	if who == anybody {
		config.InsecureSkipVerify = true
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // as package upstream
	t := &http.Transport{
		Proxy: e.r.Proxy, TLSClientConfig: config, Protocols: protocols,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
	if e.Resolver != nil || e.DialContext != nil {
		t.DialContext = e.dialHost
	}
	return t
}

// ask does one request. Redirects are answers.
func (e *examination) ask(ctx context.Context, who trust, method string, u *url.URL, header http.Header) (*answer, error) {
	req := (&http.Request{Method: method, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {e.agent()}}}).WithContext(ctx)
	for name, values := range header {
		req.Header[name] = values
	}
	return e.send(who, req)
}

func (e *examination) send(who trust, req *http.Request) (*answer, error) {
	connected := time.Now()
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected = time.Now() },
	})
	resp, err := e.transport(who).RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	came := time.Now()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	_ = resp.Body.Close() // all that is wanted of it was read
	if err != nil {
		return nil, err
	}
	if sameOrigin(req.URL, e.r.URL) {
		e.noteDate(resp.Header, connected, came)
	}
	return &answer{req.URL, resp.StatusCode, resp.Header, body, time.Since(connected)}, nil
}

// isPage reports whether a person was meant to read the answer.
func (a *answer) isPage() bool {
	mediaType := strings.ToLower(a.header.Get("Content-Type"))
	start := bytes.ToLower(bytes.TrimLeft(a.body[:min(len(a.body), 512)], " \t\r\n\ufeff"))
	return strings.HasPrefix(mediaType, "text/html") || strings.HasPrefix(mediaType, "application/xhtml") ||
		bytes.HasPrefix(start, []byte("<!doctype html")) || bytes.HasPrefix(start, []byte("<html"))
}

// isAPI reports whether the answer says of itself that it is a registry's.
func (a *answer) isAPI() bool {
	return strings.HasPrefix(a.header.Get("Docker-Distribution-Api-Version"), "registry/2")
}

func (a *answer) isRedirect() bool {
	switch a.status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// target is where a redirect leads to, nil where that is nowhere.
func (a *answer) target() *url.URL {
	u, err := a.url.Parse(a.header.Get("Location"))
	if err != nil || a.header.Get("Location") == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	return u
}

// retryAfter says how long the server asks to wait, or nothing.
func (a *answer) retryAfter(now time.Time) string {
	text := a.header.Get("Retry-After")
	if n, err := strconv.ParseInt(text, 10, 32); err == nil && n >= 0 {
		return roughly(time.Duration(n) * time.Second)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return roughly(at.Sub(now))
	}
	return ""
}

// rateLimited is about an answer of 429.
func (e *examination) rateLimited(a *answer) Finding {
	text := a.url.Host + " gives no more for now: too many requests (HTTP status 429)"
	wait := a.retryAfter(e.now())
	if wait != "" {
		text += "; it asks to wait for " + wait
	} else {
		wait = "some time"
	}
	advice := "Wait for " + wait + "."
	if e.r.anonymous() {
		advice += " Who logs in gets more of many registries: set " + e.r.Variable("USERNAME") + " and " + e.r.Variable("PASSWORD") + "."
	}
	return timed(failed(advice, "%s", text), a.took)
}

// portal is about an answer that is not of the registry.
func (e *examination) portal(format string, args ...any) Finding {
	return failed("Most likely a captive portal, or a proxy that blocks: log in to this network with a browser, or have "+
		e.r.URL.Hostname()+" allowed.", format, args...)
}

// unanswered is about a request that was not answered.
func (e *examination) unanswered(who string, err error) Finding {
	text := e.secrets.clean(withoutURL(err).Error())
	switch {
	case strings.Contains(text, "tls: ") && clientCertWanted(err):
		return e.clientCertRefused(who)
	case isTimeout(err):
		return failed("Something takes the connection and keeps silent: a firewall, a transparent proxy or an overloaded server. Try again, with a larger --timeout.",
			"%s takes the request and does not answer", who)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return failed("Check the port; a firewall that looks into requests may do so, too.", "%s closes the connection without an answer", who)
	case strings.Contains(text, "malformed HTTP"):
		return failed("Check the port: another service listens there.", "%s does not speak HTTP", who)
	default:
		return failed("Check host and port, and what is in between.", "%s could not be asked: %s", who, text)
	}
}

// withoutURL takes from an error of a client the URL, which it repeats.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// day and minute write times.
func day(t time.Time) string    { return t.UTC().Format("2006-01-02") }
func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// roughly writes a duration as people do.
func roughly(d time.Duration) string {
	switch d = d.Abs().Round(time.Second); {
	case d < 2*time.Minute:
		return plural(int(d/time.Second), "second", "seconds")
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int64(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int64(d/time.Hour))
	default:
		return fmt.Sprintf("%d days", int64(d/(24*time.Hour)))
	}
}

// reader gives the body once more.
func (a *answer) reader() io.ReadCloser { return io.NopCloser(bytes.NewReader(a.body)) }
