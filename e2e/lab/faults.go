package lab

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Blobs matches requests for blobs, at the registry and at the host that
// redirects lead to.
func Blobs(r *http.Request) bool {
	return KindOf(r.URL.Path) == Blob || strings.HasPrefix(r.URL.Path, "/sha")
}

// Each chooses a middleware for each request; nil is none.
func Each(choose func(*http.Request) Middleware) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if m := choose(r); m != nil {
				m(next).ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// errBroken ends the body of an answer.
var errBroken = errors.New("gateway: the answer breaks off here")

// Cut closes the connection of each GET that matches after some bytes of its
// body, in order: all those bytes arrive. An answer that is shorter is whole.
func Cut(match Match, after func() int64) Middleware {
	return breakOff(match, after, func(*http.Request) { panic(http.ErrAbortHandler) })
}

// Reset is as [Cut], with a reset in the place of an orderly end: the last bytes
// may be lost.
func Reset(match Match, after func() int64) Middleware {
	return breakOff(match, after, abort)
}

// Stall goes silent after some bytes of the body of each GET that matches, and
// keeps the connection open until the client closes it.
func Stall(match Match, after func() int64) Middleware {
	return breakOff(match, after, func(r *http.Request) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
}

// breakOff sends some bytes of a body, and then leaves the connection to end.
func breakOff(match Match, after func() int64, end func(*http.Request)) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !match.Gets()(r) {
				next.ServeHTTP(w, r)
				return
			}
			broken := false
			next.ServeHTTP(&bodyWriter{ResponseWriter: w, holdAt: after(), hold: func() error {
				broken = true
				return errBroken
			}}, r)
			if broken {
				end(r)
			}
		})
	}
}

// Truncate ends the body of each GET that matches after some bytes as if it were
// whole: it is sent without its length.
func Truncate(match Match, after func() int64) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match.Gets()(r) {
				w = &truncater{ResponseWriter: w, left: after()}
			}
			next.ServeHTTP(w, r)
		})
	}
}

type truncater struct {
	http.ResponseWriter
	left int64
}

func (t *truncater) WriteHeader(status int) {
	t.Header().Del("Content-Length")
	t.ResponseWriter.WriteHeader(status)
}

func (t *truncater) Write(p []byte) (int, error) {
	n, err := t.ResponseWriter.Write(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	if err != nil {
		return n, err
	}
	return len(p), nil // who writes is not to notice
}

// Unwrap lets http.ResponseController find Flush and the like.
func (t *truncater) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// IgnoreRange answers what matches as a server does that knows no ranges: with
// all.
func IgnoreRange(match Match) Middleware {
	return rewriteRange(match, func(int64, string) string { return "" })
}

// WrongRange answers GETs of a range with another one, and says so: the part
// before it, or, of a range from the first byte on, all but that byte.
func WrongRange(match Match) Middleware {
	return rewriteRange(match, func(first int64, rest string) string {
		if first == 0 {
			return "bytes=1" + rest
		}
		return fmt.Sprintf("bytes=0-%d", first-1)
	})
}

// rewriteRange has requests ask for another range than they do. Change gets the
// position of the first byte, and what follows it in the header.
func rewriteRange(match Match, change func(first int64, rest string) string) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if first, rest, ok := rangeOf(r); ok && match(r) {
				r = r.Clone(r.Context())
				r.Header.Del("If-Range")
				r.Header.Del("Range")
				if to := change(first, rest); to != "" {
					r.Header.Set("Range", to)
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// rangeOf splits the header Range of a request, as in "bytes=" first rest.
func rangeOf(r *http.Request) (first int64, rest string, ok bool) {
	spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	from, _, found := strings.Cut(spec, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	return first, strings.TrimPrefix(spec, from), ok && found && err == nil
}

// FromStart tells whether a request is for a blob from its first byte on.
func FromStart(r *http.Request) bool {
	first, _, ranged := rangeOf(r)
	return !ranged || first == 0
}
