package server_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/upstream/breaker"
	"registry-module/upstream/upstreamtest"
)

// How long an answer takes, in simulated time.
const (
	patience = 1500 * time.Millisecond // of who has a stored answer
	connect  = 5 * time.Second         // the limit for connecting, and that for TLS
	headers  = 15 * time.Second        // the limit for the beginning of an answer
	stall    = 30 * time.Second        // the limit for the next byte
)

// seen is what a client gets.
type seen struct {
	status   int
	code     string        // of the error
	retry    string        // Retry-After
	stale    bool          // there is a Warning
	attempts int           // how often the remote was asked
	took     time.Duration // 0 is at once
}

func (l *lab) see(path string) seen {
	before := l.attempts()
	w, took := l.get(path)
	a := seen{
		status: w.Code, retry: w.Header().Get("Retry-After"), stale: w.Header().Get("Warning") != "",
		attempts: l.attempts() - before, took: took,
	}
	if w.Code >= 400 {
		a.code = response{status: w.Code, header: w.Header(), body: w.Body.Bytes()}.code(l.T)
	}
	return a
}

// answers with a status is what the remote does.
func answers(status int, header ...string) func(*lab) {
	f := upstreamtest.Fault{Status: status, Header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		f.Header.Set(header[i], header[i+1])
	}
	return does(f)
}

func does(f upstreamtest.Fault) func(*lab) { return func(l *lab) { l.Script(f) } }

func dials(d func(context.Context) (net.Conn, error)) func(*lab) {
	return func(l *lab) { l.setDial(d) }
}

// begins answers with the beginning of something, and then does what end does.
func begins(l *lab, end func(*http.Request)) {
	l.instead = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		w.Header().Set("Content-Length", "400")
		if r.Method == http.MethodHead {
			return
		}
		_, _ = w.Write([]byte(`{"schema`)) // the client may be gone
		_ = http.NewResponseController(w).Flush()
		end(r)
	}
}

// What clients get, whatever the remote does: of a tag that is stored and fresh, which is
// always the same; that is stored and stale; the same once more; and of one that is not
// stored, half a minute later.
func TestStates(t *testing.T) {
	fine := seen{status: 200}
	asked := seen{status: 200, attempts: 1}
	stale := seen{status: 200, stale: true} // and nobody was asked
	failed := seen{status: 200, stale: true, attempts: 1}
	waited := seen{status: 200, stale: true, attempts: 1, took: patience}
	away := seen{status: 503, code: "UNAVAILABLE", retry: "10", attempts: 1}
	invalid := seen{status: 502, code: "UNAVAILABLE", attempts: 1}
	denied := seen{status: 403, code: "DENIED", attempts: 1}
	missing := seen{status: 404, code: "MANIFEST_UNKNOWN", attempts: 1}
	after := func(d time.Duration, s seen) seen { s.took = d; return s }
	times := func(n int, s seen) seen { s.attempts = n; return s }
	in := func(seconds string, s seen) seen { s.retry, s.attempts = seconds, 0; return s }
	html := http.Header{"Content-Type": {"text/html"}}

	for name, tt := range map[string]struct {
		do                   func(*lab)
		stale, again, absent seen
	}{
		"nothing":  {func(*lab) {}, asked, fine, asked},
		"moved":    {func(l *lab) { l.AddRandomImage("a/b", "v1", 1, 100) }, times(2, fine), fine, asked},
		"slow":     {does(upstreamtest.Fault{Delay: 3 * time.Second}), waited, stale, after(3*time.Second, asked)},
		"no HEAD":  {does(upstreamtest.Fault{Match: isHead, Status: 405}), times(2, fine), fine, asked},
		"deleted":  {func(l *lab) { l.Untag("a/b", "v1"); l.Untag("a/b", "v2") }, times(2, missing), times(0, missing), missing},
		"404 page": {does(upstreamtest.Fault{Status: 404, Body: []byte("<html>404"), Header: html}), times(2, stale), stale, missing},

		"401":                  {answers(401), failed, stale, denied},
		"401 with a challenge": {answers(401, "WWW-Authenticate", `Basic realm="x"`), failed, stale, times(0, denied)},
		"403":                  {answers(403), failed, stale, denied},
		"418":                  {answers(418), failed, stale, invalid},
		"429":                  {answers(429), failed, stale, seen{status: 429, code: "TOOMANYREQUESTS", retry: "1", attempts: 1}},
		"429 for two minutes":  {answers(429, "Retry-After", "120"), failed, stale, in("90", seen{status: 429, code: "TOOMANYREQUESTS"})},
		"500":                  {answers(500), failed, stale, away},
		"502":                  {answers(502), failed, stale, away},
		"503":                  {answers(503), failed, stale, away},
		"503 for a minute":     {answers(503, "Retry-After", "60"), failed, stale, seen{status: 503, code: "UNAVAILABLE", retry: "60", attempts: 1}},
		"504":                  {answers(504), failed, stale, away},
		"508":                  {answers(508), failed, failed, seen{status: 508, code: "UNAVAILABLE", attempts: 1}},
		"511":                  {answers(511), failed, stale, invalid},

		"refused":       {dials(fails(syscall.ECONNREFUSED)), failed, stale, away},
		"no route":      {dials(fails(syscall.ENETUNREACH)), failed, stale, away},
		"no name":       {dials(fails(&net.DNSError{Err: "no such host", IsNotFound: true})), failed, stale, away},
		"slow DNS":      {dials(hangs(&net.DNSError{Err: "i/o timeout", IsTimeout: true})), waited, stale, after(connect, away)},
		"black hole":    {dials(hangs(os.ErrDeadlineExceeded)), waited, stale, after(connect, away)},
		"silent in TLS": {dials(silent), waited, stale, after(connect, away)},
		"hangs up":      {dials(hangUp), failed, stale, away},
		"another certificate": {func(l *lab) {
			l.certificate = upstreamtest.NewCA(l.T).ServerConfig(nil).Certificates[0]
			l.setDial(func(context.Context) (net.Conn, error) { return l.network.connect() })
		}, failed, stale, away},
		"certificate of the future": {func(l *lab) {
			// So it is to a gateway whose clock has stopped.
			l.setDial(func(context.Context) (net.Conn, error) { return l.network.connect() })
			cert, err := tls.X509KeyPair(l.ca.IssueFor(time.Now().Add(1000*time.Hour), time.Now().Add(2000*time.Hour)))
			must(l.T, err)
			l.certificate = cert
		}, failed, stale, away},
		"no headers":     {does(upstreamtest.Fault{Hang: true}), waited, stale, after(headers, away)},
		"drops":          {does(upstreamtest.Fault{Drop: true}), failed, stale, away},
		"stalls in body": {func(l *lab) { begins(l, func(r *http.Request) { <-r.Context().Done() }) }, times(2, waited), stale, after(stall, away)},
		"cuts body":      {func(l *lab) { begins(l, func(*http.Request) { panic(http.ErrAbortHandler) }) }, times(2, failed), stale, away},

		"portal":               {does(upstreamtest.HTMLPage()), failed, stale, invalid},
		"portal by redirect":   {answers(302, "Location", "http://portal.test/login"), failed, stale, invalid},
		"redirects in circles": {answers(302, "Location", "/v2/"), times(11, failed), stale, times(11, invalid)},
		"other content":        {does(upstreamtest.Fault{Corrupt: true, CorruptAt: 5}), asked, fine, invalid},
		"no JSON":              {does(upstreamtest.Fault{Status: 200, Body: []byte("hello")}), times(2, failed), stale, invalid},
		"empty":                {does(upstreamtest.Fault{Status: 200, Body: []byte{}}), times(2, failed), stale, invalid},
		"encoded":              {does(upstreamtest.Fault{Header: http.Header{"Content-Encoding": {"gzip"}}}), asked, fine, invalid},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				img := l.AddRandomImage("a/b", "v1", 1, 100)
				l.AddRandomImage("a/b", "v2", 1, 100)
				blob := "/v2/a/b/blobs/" + img.Blobs()[0].String()
				want := func(what, path string, want seen) {
					t.Helper()
					if got := l.see(path); got != want {
						t.Errorf("%s: %+v, want %+v", what, got, want)
					}
				}
				want("cold", "/v2/a/b/manifests/v1", times(2, fine)) // and how to log in
				want("cold", blob, asked)
				time.Sleep(time.Second)
				l.network.drop()
				tt.do(l)
				want("fresh", "/v2/a/b/manifests/v1", fine)
				time.Sleep(tagLifetime)
				want("stale", "/v2/a/b/manifests/v1", tt.stale)
				want("stale again", "/v2/a/b/manifests/v1", tt.again)
				want("by digest", "/v2/a/b/manifests/"+img.Digest.String(), fine)
				want("blob", blob, fine)
				time.Sleep(stall)
				want("not stored", "/v2/a/b/manifests/v2", tt.absent)
			})
		})
	}
}

func isHead(r upstreamtest.Request) bool { return r.Method == http.MethodHead }

// A hundred clients who want what is not stored, of a remote that does not answer, are
// told so within the limit for connecting, and it is asked once at a time; and when it
// is back it is found again soon.
func TestBlackHole(t *testing.T) {
	for name, path := range map[string]func(i int) string{
		"one name":   func(int) string { return "/v2/a/b/manifests/v2" },
		"many names": func(i int) string { return "/v2/a/b/manifests/v" + string(rune('a'+i%26)) + string(rune('a'+i/26)) },
		"blobs": func(i int) string {
			return "/v2/a/b/blobs/sha256:" + repeated(i, 64)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.AddRandomImage("a/b", "v2", 1, 100)
				l.setDial(hangs(os.ErrDeadlineExceeded))
				for range 3 {
					var all sync.WaitGroup
					for i := range 100 {
						all.Go(func() {
							if a := l.see(path(i)); a.status != 503 || a.retry == "" || a.took > connect {
								t.Errorf("%+v", a)
							}
						})
					}
					all.Wait()
				}
				if l.atOnce != 1 || l.dials > 3 {
					t.Errorf("%d attempts, %d at once", l.dials, l.atOnce)
				}
				time.Sleep(time.Hour)
				l.see("/v2/a/b/manifests/v2")
				l.setDial(nil)
				back := time.Now()
				for l.see("/v2/a/b/manifests/v2").status != 200 {
					if time.Sleep(100 * time.Millisecond); time.Since(back) > time.Minute {
						t.Fatal("it is not found again")
					}
				}
				if took := time.Since(back); took > 5*time.Second {
					t.Errorf("it is found again after %v", took)
				}
				if s := l.breaker.Status().State; s != breaker.Online {
					t.Errorf("it is %s", s)
				}
				synctest.Wait()
			})
		})
	}
}

// repeated is n as hexadecimal digits of the length.
func repeated(n, length int) string {
	digits := make([]byte, length)
	for i := range digits {
		digits[i] = "0123456789abcdef"[(n>>(4*(i%2)))&15]
	}
	return string(digits)
}

// What is stored finds a remote that is back as well, at the price of no client's time.
func TestStoredFindsRemoteAgain(t *testing.T) {
	inLab(t, func(l *lab) {
		l.AddRandomImage("a/b", "v1", 1, 100)
		l.see("/v2/a/b/manifests/v1")
		time.Sleep(tagLifetime)
		l.network.drop()
		l.setDial(hangs(os.ErrDeadlineExceeded))
		l.see("/v2/a/b/manifests/v1")
		for range 12 * 60 {
			time.Sleep(time.Minute)
			if a := l.see("/v2/a/b/manifests/v1"); !a.stale || a.took != 0 {
				t.Fatalf("%+v", a)
			}
		}
		time.Sleep(connect + time.Second) // for an attempt that is under way
		synctest.Wait()
		if l.dials > 12*60*3/4 {
			t.Errorf("%d attempts in twelve hours", l.dials)
		}
		l.setDial(nil)
		moved := l.AddRandomImage("a/b", "v1", 1, 100)
		for range 5 {
			time.Sleep(15 * time.Second)
			l.see("/v2/a/b/manifests/v1")
		}
		time.Sleep(time.Second) // for what nobody waits for
		w, _ := l.get("/v2/a/b/manifests/v1")
		if got := w.Header().Get("Docker-Content-Digest"); got != moved.Digest.String() || w.Header().Get("Warning") != "" {
			t.Errorf("after a minute and a quarter: %s, Warning %q, want %s", got, w.Header().Get("Warning"), moved.Digest)
		}
	})
}
