package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"syscall"
	"time"

	"registry-module/doctor/report"
	"registry-module/upstream"
)

const (
	// maxBody and maxHeader bound what is read of an answer, in bytes.
	maxBody   = 64 << 10
	maxHeader = 256 << 10
)

// answer is an HTTP answer.
type answer struct {
	header http.Header
	// body is its start, without white space around it.
	body string
}

// ask does GET /v2/ at the registry, as anybody does it.
func (e *examination) ask(ctx context.Context, config *tls.Config) (*answer, error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // as package upstream
	t := &http.Transport{
		Proxy: e.r.Proxy, TLSClientConfig: config, Protocols: protocols,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
	if e.Resolver != nil || e.DialContext != nil {
		t.DialContext = e.dialHost
	}
	sent := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { sent = time.Now() },
	})
	u := apiRoot(e.r.URL)
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {e.agent()}}}
	resp, err := t.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	came := time.Now()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	_ = resp.Body.Close() // all that is wanted of it was read
	e.mu.Lock()
	e.noteDate(resp.Header, sent, came)
	e.mu.Unlock()
	return &answer{resp.Header, strings.Trim(string(body), " \t\r\n\ufeff")}, err
}

// isAPI reports whether the answer says of itself that it is a registry's.
func (a *answer) isAPI() bool {
	return strings.HasPrefix(a.header.Get("Docker-Distribution-Api-Version"), "registry/2")
}

// isJSON reports whether it is in the form of a registry's: JSON, or nothing.
func (a *answer) isJSON() bool { return a.body == "" || json.Valid([]byte(a.body)) }

// isPage reports whether a person is meant to read an answer.
func isPage(x upstream.Exchange) bool {
	mediaType := strings.ToLower(x.Header.Get("Content-Type"))
	return strings.HasPrefix(mediaType, "text/html") || strings.HasPrefix(mediaType, "application/xhtml")
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// rateLimited is about an answer of 429.
func (e *examination) rateLimited(x upstream.Exchange) report.Finding {
	text := e.secrets.Clean(x.URL.Host) + " gives no more for now: too many requests (HTTP status 429)"
	wait := "some time"
	if x.RetryAfter > 0 {
		wait = report.Roughly(x.RetryAfter)
		text += "; it asks to wait for " + wait
	}
	advice := "Wait for " + wait + "."
	if e.anonymous() {
		advice += " Who logs in gets more of many registries: set " + e.passwordSettings() + "."
	}
	return report.Fail(advice, "%s", text)
}

// portal is about an answer that is not of the registry.
func (e *examination) portal(format string, args ...any) report.Finding {
	return report.Fail("Most likely a captive portal, or a proxy that blocks: log in to this network with a browser, or have "+
		e.r.URL.Hostname()+" allowed.", format, args...)
}

// unanswered is about a request that was not answered.
func (e *examination) unanswered(who string, err error) report.Finding {
	text := e.secrets.Clean(upstream.Cause(err))
	switch {
	case strings.Contains(text, "tls: ") && clientCertWanted(err):
		return e.clientCertRefused(who)
	case isTimeout(err):
		return report.Fail("Something takes the connection and keeps silent: a firewall, a transparent proxy or an overloaded server. Try again, with a larger --timeout.",
			"%s takes the request and does not answer", who)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return report.Fail("Check the port; a firewall that looks into requests may do so, too.", "%s closes the connection without an answer", who)
	case strings.Contains(text, "malformed HTTP"), strings.Contains(text, "readLoopPeekFail"): // the latter where it speaks before it is asked
		return report.Fail("Check the port: another service listens there.", "%s does not speak HTTP", who)
	default:
		return report.Fail("Check host and port, and what is in between.", "%s could not be asked: %s", who, text)
	}
}
