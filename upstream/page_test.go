package upstream_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// TestIntercepted has somebody answer in the remote's place.
func TestIntercepted(t *testing.T) {
	all := []string{"Manifest", "Resolve", "Blob", "StatBlob", "Tags", "Referrers"}
	withBody := []string{"Manifest", "Tags", "Referrers"}
	html := func(contentType string) ut.Fault {
		return ut.Fault{Status: 200, Body: []byte("<!DOCTYPE html><html>Log in.</html>"), Header: http.Header{"Content-Type": {contentType}}}
	}
	with := func(f ut.Fault, name, value string) ut.Fault {
		f.Header = f.Header.Clone()
		f.Header.Set(name, value)
		return f
	}
	for name, test := range map[string]struct {
		fault    ut.Fault
		redirect bool // to another host, which answers so
		asked    []string
		says     string
		not      bool // it is not taken for that
	}{
		"portal":                      {fault: ut.HTMLPage(), asked: all, says: "login page"},
		"portal, redirected":          {fault: ut.HTMLPage(), redirect: true, asked: all, says: "where the remote has redirected us, is of type \"text/html; charset=utf-8\": is there a login page"},
		"portal in XHTML":             {fault: html("application/xhtml+xml"), asked: all, says: "login page"},
		"portal, packed":              {fault: with(html("text/html"), "Content-Encoding", "gzip"), asked: all, says: "login page"},
		"page called JSON":            {fault: html("application/json"), asked: withBody, says: "but a page"},
		"page of no type":             {fault: html(""), asked: withBody, says: "but a page"},
		"511":                         {fault: ut.Fault{Status: 511, Body: []byte("<html>secret</html>")}, asked: all, says: "the network wants a log-in"},
		"511, redirected":             {fault: ut.Fault{Status: 511}, redirect: true, asked: all, says: "the network wants a log-in"},
		"text":                        {fault: ut.Fault{Status: 200, Body: []byte("Please log in.")}, asked: withBody, not: true},
		"array":                       {fault: ut.Fault{Status: 200, Body: []byte("[1]")}, asked: withBody, not: true},
		"packed":                      {fault: ut.Fault{Status: 200, Body: []byte("{}"), Header: http.Header{"Content-Encoding": {"gzip"}}}, asked: withBody, not: true},
		"page that refuses":           {fault: ut.Fault{Status: 403, Body: []byte("<html>no</html>"), Header: http.Header{"Content-Type": {"text/html"}}}, asked: all, not: true},
		"page that refuses, far away": {fault: ut.Fault{Status: 403, Body: []byte("<html>no</html>"), Header: http.Header{"Content-Type": {"text/html"}}}, redirect: true, asked: withBody, not: true},
		"page that fails":             {fault: ut.Fault{Status: 502, Body: []byte("<html>no</html>"), Header: http.Header{"Content-Type": {"text/html"}}}, asked: all, not: true},
		"blob that is a page":         {fault: with(html("text/html"), "ETag", `"x"`), asked: nil},
		"blob that is a page, digest": {fault: with(html("text/html"), "Docker-Content-Digest", "x"), asked: nil},
		"blob that is a page, ranges": {fault: with(html("text/html"), "Accept-Ranges", "bytes"), asked: nil},
	} {
		t.Run(name, func(t *testing.T) {
			reg, other := stocked(t), ut.New(t)
			if test.redirect {
				other.Script(test.fault)
				reg.Script(ut.Fault{Kinds: contentKinds, Status: 302, Header: http.Header{"Location": {other.URL() + "/login?for=secret"}}})
			} else {
				test.fault.Kinds = contentKinds
				reg.Script(test.fault)
			}
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			texts := make(map[string]string)
			for _, question := range test.asked {
				err := questions[question](t.Context(), r)
				e, ok := errors.AsType[*cache.UpstreamError](err)
				if !ok {
					t.Fatalf("%s: error is %v", question, err)
				}
				wantClean(t, err)
				texts[question] = err.Error()
				if errors.Is(err, cache.ErrIntercepted) == test.not || !test.not && (!errors.Is(err, cache.ErrInvalid) || errors.Is(err, cache.ErrUnavailable)) {
					t.Errorf("%s: error is %v", question, err)
				}
				if !test.not && e.Elsewhere {
					t.Errorf("%s: a portal counts as an answer of the remote: %v", question, err)
				}
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s: error %q does not say %q", question, err, test.says)
				}
			}
			if texts["Blob"] != texts["StatBlob"] {
				t.Errorf("GET of a blob: %q, HEAD: %q", texts["Blob"], texts["StatBlob"])
			}
			asked := len(test.asked)
			if asked == 0 {
				asked = 2
				for _, question := range []string{"Blob", "StatBlob"} {
					if err := questions[question](t.Context(), r); err != nil {
						t.Errorf("%s: %v", question, err)
					}
				}
			}
			if test.redirect && other.Requests() != asked {
				t.Errorf("%d requests at the other host, want %d", other.Requests(), asked)
			}
			if n := reg.Requests(); n != asked+1 {
				t.Errorf("%d requests, want %d", n, asked+1)
			}
		})
	}
}

// TestInterceptedPing has a portal that also says how to log in, with its status.
func TestInterceptedPing(t *testing.T) {
	reg := stocked(t)
	reg.Script(ut.Fault{Status: 511})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	for name, ask := range questions {
		if err := ask(t.Context(), r); !errors.Is(err, cache.ErrIntercepted) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: len(questions)})
}

// TestElsewhere has a blob fail at the registry itself, and at the host that it
// redirects to.
func TestElsewhere(t *testing.T) {
	for name, test := range map[string]struct {
		fault ut.Fault
		part  cache.BlobPart
		kind  error
		asked int // of the remote, where the other host has failed
	}{
		"400":            {fault: ut.Fault{Status: 400}, kind: cache.ErrInvalid, asked: 2},
		"403":            {fault: ut.Fault{Status: 403}, kind: cache.ErrDenied, asked: 2},
		"404":            {fault: ut.Fault{Status: 404}, kind: cache.ErrNotFound, asked: 2},
		"429":            {fault: ut.Fault{Status: 429, Header: http.Header{"Retry-After": {"60"}}}, kind: cache.ErrRateLimited, asked: 1},
		"500":            {fault: ut.Fault{Status: 500}, kind: cache.ErrUnavailable, asked: 1},
		"503":            {fault: ut.Fault{Status: 503, Header: http.Header{"Retry-After": {"60"}}}, kind: cache.ErrUnavailable, asked: 1},
		"508":            {fault: ut.Fault{Status: 508}, kind: cache.ErrLoop, asked: 1},
		"no answer":      {fault: ut.Fault{Hang: true}, kind: cache.ErrUnavailable, asked: 1},
		"dropped":        {fault: ut.Fault{Drop: true}, kind: cache.ErrUnavailable, asked: 1},
		"cut":            {fault: ut.Fault{Cut: true, CutAt: 1000}, kind: cache.ErrUnavailable, asked: 1},
		"packed":         {fault: ut.Fault{Header: http.Header{"Content-Encoding": {"gzip"}}}, kind: cache.ErrInvalid, asked: 1},
		"another part":   {fault: ut.Fault{RangeShift: 1}, part: cache.BlobPart{Offset: 100}, kind: cache.ErrInvalid, asked: 1},
		"too short":      {fault: ut.Fault{Chunked: true, Body: []byte("x"), Status: 206, Header: http.Header{"Content-Range": {"bytes 1-9/*"}}}, part: cache.BlobPart{Offset: 1}, kind: cache.ErrUnavailable, asked: 1},
		"bad redirect":   {fault: ut.Fault{Status: 302, Header: http.Header{"Location": {"file:///secret"}}}, kind: cache.ErrInvalid, asked: 1},
		"many redirects": {fault: ut.Fault{Status: 302, Header: http.Header{"Location": {"#"}}}, kind: cache.ErrInvalid, asked: 1},
	} {
		for _, redirect := range []bool{false, true} {
			t.Run(map[bool]string{false: "here, ", true: "there, "}[redirect]+name, func(t *testing.T) {
				inMemory(t, func(t *testing.T, n *memory) {
					reg := ut.NewWith(t, ut.Options{Listen: n.Listen})
					dgst := reg.AddBlob("a/b", make([]byte, 10_000))
					reg.SetRedirect(redirect)
					test.fault.Kinds = []ut.Kind{ut.BlobGet}
					if redirect {
						test.fault.Kinds = []ut.Kind{ut.CDNGet}
					}
					reg.Script(test.fault)
					r := newRemote(t, upstream.Options{URL: reg.URL(), HeaderTimeout: 100 * time.Millisecond, DialContext: n.DialContext})
					stream, err := r.Blob(t.Context(), "a/b", dgst, test.part)
					if err == nil {
						_, err = readBlob(t, stream)
					}
					if e := wantKind(t, err, test.kind); e.Elsewhere != redirect || test.fault.Header.Get("Retry-After") != "" && e.RetryAfter != time.Minute {
						t.Errorf("elsewhere is %v, want %v: %+v", e.Elsewhere, redirect, e)
					}
					if n := reg.Requests(ut.BlobGet); redirect && n != test.asked {
						t.Errorf("%d requests of the remote, want %d", n, test.asked)
					}
				})
			})
		}
	}
}

// TestElsewhereThereAndBack has the remote fail itself after another host was asked.
func TestElsewhereThereAndBack(t *testing.T) {
	reg, img := sample(t)
	reg.SetRedirect(true)
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, Status: 302, Header: http.Header{"Location": {reg.URL() + "/v2/a/b/manifests/v1"}}})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Status: 503})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	_, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{})
	if e := wantKind(t, err, cache.ErrUnavailable); e.Elsewhere || e.Status != 503 {
		t.Errorf("error is %+v", e)
	}
}

// TestElsewhereIsOff redirects all questions to where nobody is.
func TestElsewhereIsOff(t *testing.T) {
	reg := stocked(t)
	end := reg.Script(ut.Fault{Kinds: contentKinds, Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/x"}}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	for name, ask := range questions {
		if e := wantKind(t, ask(t.Context(), r), cache.ErrUnavailable); !e.Elsewhere {
			t.Errorf("%s: error is %+v", name, e)
		}
	}
	end()
	reg.Offline()
	for name, ask := range questions {
		if e := wantKind(t, ask(t.Context(), r), cache.ErrUnavailable); e.Elsewhere {
			t.Errorf("%s, off: error is %+v", name, e)
		}
	}
	if n := reg.Requests(contentKinds...); n != len(questions) {
		t.Errorf("%d requests, want one for each question", n)
	}
}

// TestElsewhereWithoutBody has the other host refuse what asks for no content.
func TestElsewhereWithoutBody(t *testing.T) {
	for _, kind := range []ut.Kind{ut.Ping, ut.BlobHead} {
		reg, other := stocked(t), ut.New(t)
		other.Script(ut.Fault{Status: 503, Header: http.Header{"Retry-After": {"60"}}})
		reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, Status: 307, Header: http.Header{"Location": {other.URL() + "/v2/"}}})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		if e := wantKind(t, questions["StatBlob"](t.Context(), r), cache.ErrUnavailable); !e.Elsewhere || e.RetryAfter != time.Minute {
			t.Errorf("%s: error is %+v", kind, e)
		}
	}
}
