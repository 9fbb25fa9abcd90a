package server_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	stockauth "github.com/distribution/distribution/v3/registry/auth"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream/router"
)

// controller is an access controller as a function.
type controller func() (*stockauth.Grant, error)

func (c controller) Authorized(*http.Request, ...stockauth.Access) (*stockauth.Grant, error) {
	return c()
}

func (c controller) configure(o *server.Options) { o.Access = controlled{c} }

// Checking a password takes a while on purpose: it is done once.
func TestAccessIsCheckedOnce(t *testing.T) {
	var checks atomic.Int64
	s := newSite(t, controller(func() (*stockauth.Grant, error) {
		checks.Add(1)
		return &stockauth.Grant{}, nil
	}).configure)
	for _, path := range []string{"/v2/a/b/manifests/v1", "/v2/a/b/manifests/" + s.image.String(), "/v2/a/b/blobs/" + s.layerDigest.String()} {
		for _, state := range []string{"cold", "stored"} {
			checks.Store(0)
			if r := do(t, http.MethodGet, s.url+path); r.status != 200 || checks.Load() != 1 {
				t.Errorf("%s, %s: status %d, checked %d times", path, state, r.status, checks.Load())
			}
		}
	}
}

// entries are the lines of a log.
type entries chan *logrus.Entry

func (entries) Levels() []logrus.Level { return logrus.AllLevels }

func (c entries) Fire(e *logrus.Entry) error {
	c <- e
	return nil
}

func logTo(c entries) func(*server.Options) {
	return func(o *server.Options) {
		l := logrus.New()
		l.SetOutput(io.Discard)
		l.SetLevel(logrus.DebugLevel)
		l.AddHook(c)
		o.Log = l
	}
}

// untilRequest returns the lines up to that of the access log, which is the last.
func (c entries) untilRequest() (all []*logrus.Entry, request *logrus.Entry) {
	for e := range c {
		if e.Message == "request" {
			return all, e
		}
		all = append(all, e)
	}
	return nil, nil
}

func reason(e *logrus.Entry) string {
	if err, ok := e.Data[logrus.ErrorKey].(error); ok {
		return err.Error()
	}
	return ""
}

// Clients that leave are none of the operator's business.
func TestClientLeaves(t *testing.T) {
	log := make(entries, 100)
	s := newSite(t, logTo(log))
	feed := cachetest.NewFeed()
	s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v2/a/b/blobs/"+s.layerDigest.String(), nil)
	must(t, err)
	go func() { _ = feed.Send(s.layer[:500_000]) }() // the response tells
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	must(t, err)
	if _, err := io.CopyN(io.Discard, resp.Body, 1000); err != nil {
		t.Error(err)
	}
	cancel()
	_ = resp.Body.Close() // it is cut off
	lines, request := log.untilRequest()
	for _, e := range lines {
		if e.Level != logrus.DebugLevel {
			t.Errorf("%v: %s: %s", e.Level, e.Message, reason(e))
		}
	}
	if request.Level != logrus.InfoLevel || !strings.Contains(reason(request), "the client has left") {
		t.Errorf("%v, error %q", request.Level, reason(request))
	}
	feed.End(errors.New("the test is over"))
}

// A blob that breaks is a warning, with the reason.
func TestBrokenBlobIsLogged(t *testing.T) {
	log := make(entries, 100)
	s := newSite(t, logTo(log))
	feed := cachetest.NewFeed()
	s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
	go func() {
		_ = feed.Send(s.layer[:500_000]) // the response tells
		feed.End(errors.New("the link is down"))
	}()
	r := do(t, http.MethodGet, s.url+"/v2/a/b/blobs/"+s.layerDigest.String())
	if r.status == http.StatusOK && r.err == nil {
		t.Error("a broken blob ends well")
	}
	if _, request := log.untilRequest(); request.Level != logrus.WarnLevel || !strings.Contains(reason(request), "the link is down") {
		t.Errorf("%v, error %q", request.Level, reason(request))
	}
}

// What went wrong here is for the log: it may name local paths.
func TestInternalErrorsStayInside(t *testing.T) {
	log := make(entries, 100)
	s := newSite(t, logTo(log))
	const secret = "open /var/lib/registry/x: input/output error"
	s.up.Fail(errors.New(secret))
	for _, path := range []string{"/v2/a/b/manifests/v1", "/v2/a/b/blobs/" + s.layerDigest.String(), "/v2/a/b/tags/list"} {
		r := do(t, http.MethodGet, s.url+path)
		if r.status != 500 || r.code(t) != "UNKNOWN" || strings.Contains(string(r.body), "/var/lib") {
			t.Errorf("%s: status %d, body %s", path, r.status, r.body)
		}
		lines, request := log.untilRequest()
		logged := false
		for _, e := range lines {
			logged = logged || e.Level == logrus.ErrorLevel && strings.Contains(reason(e), secret)
		}
		if !logged || !strings.Contains(reason(request), secret) {
			t.Errorf("%s: the log has %d lines without the reason; access log: %q", path, len(lines), reason(request))
		}
	}
}

// A mistake of ours ends the request, and not unseen.
func TestPanicIsLogged(t *testing.T) {
	log := make(entries, 100)
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opts := server.Options{Cache: s.cache, Router: routes(t, router.Remote{Host: s.up.Host(), Default: true})}
	controller(func() (*stockauth.Grant, error) { panic("a mistake") }).configure(&opts)
	logTo(log)(&opts)
	h, err := server.New(ctx, opts)
	must(t, err)
	defer func() { must(t, h.Close()) }()
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("panic: %v", p)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/a/b/manifests/v1", nil))
	}()
	lines, request := log.untilRequest()
	if len(lines) != 1 || lines[0].Level != logrus.ErrorLevel || !strings.Contains(lines[0].Data["stack"].(string), "TestPanicIsLogged") {
		t.Errorf("log: %v", lines)
	}
	if request.Level != logrus.WarnLevel || !strings.Contains(reason(request), "a mistake") {
		t.Errorf("%v, error %q", request.Level, reason(request))
	}
}
