package lab

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Kind says what a request to a registry asks for.
type Kind string

// The kinds of request. All but [Token] and [Signed] are routes of the
// distribution API.
const (
	Ping      Kind = "ping"
	Manifest  Kind = "manifest"
	Blob      Kind = "blob"
	Tags      Kind = "tags"
	Referrers Kind = "referrers"
	Catalog   Kind = "catalog"
	Other     Kind = "other"
	// Token is a request to the token server.
	Token Kind = "token"
	// Signed is a request for a blob to the host that redirects lead to.
	Signed Kind = "signed"
)

// KindOf classifies a request by its path.
func KindOf(path string) Kind {
	switch {
	case path == "/v2/" || path == "/v2":
		return Ping
	case path == "/v2/_catalog":
		return Catalog
	case strings.HasSuffix(path, "/tags/list"):
		return Tags
	}
	// The route is the last but one component: names may hold the same words.
	segments := strings.Split(path, "/")
	switch segments[max(0, len(segments)-2)] {
	case "manifests":
		return Manifest
	case "blobs":
		return Blob
	case "referrers":
		return Referrers
	}
	return Other
}

// Request is one request that has reached an upstream.
type Request struct {
	Kind   Kind
	Method string
	// URI is the request line's target, as it was sent.
	URI    string
	Host   string // as the Host header says
	Header http.Header
	// Body is what came with the request, its first 64 KiB.
	Body string
	// Status is the answer's, 0 while there is none.
	Status int
	// Bytes is how much of the answer's body was sent.
	Bytes int64
}

// String is the request in one line.
func (r Request) String() string {
	return fmt.Sprintf("%-8s %s %s -> %d, %d bytes", r.Kind, r.Method, r.URI, r.Status, r.Bytes)
}

// Ledger records requests, from their first moment on: what is still being
// answered is in it. The zero value is empty and ready; it may be used by many
// goroutines.
type Ledger struct {
	// Tap is called with each request when it comes, before it is answered; nil is
	// nobody. Set it before the first request.
	Tap func(Request)

	mu      sync.Mutex
	entries []*entry // guarded by mu
	bodies  int      // GETs of blobs that are being answered; guarded by mu
	most    int      // of them at once; guarded by mu
}

type entry struct {
	request Request
	status  atomic.Int64
	bytes   atomic.Int64
}

// Record wraps a handler so that its requests are recorded as of the kind, or
// of the kind that their path tells where kind is empty.
func (l *Ledger) Record(kind Kind, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &entry{request: Request{
			Kind: kind, Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header.Clone(), Body: peek(r),
		}}
		if kind == "" {
			e.request.Kind = KindOf(r.URL.Path)
		}
		if l.Tap != nil {
			l.Tap(e.request)
		}
		body := r.Method == http.MethodGet && (e.request.Kind == Blob || e.request.Kind == Signed)
		l.begin(e, body)
		if body {
			defer l.end()
		}
		next.ServeHTTP(&recorder{ResponseWriter: w, entry: e}, r)
	})
}

// peek returns the beginning of a request's body, and leaves all of it to read.
func peek(r *http.Request) string {
	const most = 64 << 10
	if r.Body == nil || r.Body == http.NoBody {
		return ""
	}
	// Who reads on meets the error, too.
	head, _ := io.ReadAll(io.LimitReader(r.Body, most))
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
	return string(head)
}

func (l *Ledger) begin(e *entry, body bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, e)
	if body {
		l.bodies++
		l.most = max(l.most, l.bodies)
	}
}

func (l *Ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies--
}

// Parallel returns how many GETs of blobs were being answered at once, at the
// most, since the last Reset.
func (l *Ledger) Parallel() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}

// Reset forgets all requests.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.most = nil, l.bodies
}

// Requests returns what was recorded since the last Reset, oldest first.
func (l *Ledger) Requests() []Request {
	l.mu.Lock()
	entries := slices.Clone(l.entries)
	l.mu.Unlock()
	requests := make([]Request, 0, len(entries))
	for _, e := range entries {
		r := e.request
		r.Status, r.Bytes = int(e.status.Load()), e.bytes.Load()
		requests = append(requests, r)
	}
	return requests
}

// String is the requests, one a line, the first 40 of them.
func (l *Ledger) String() string {
	const most = 40
	var b strings.Builder
	for i, r := range l.Requests() {
		if i == most {
			b.WriteString("...\n")
			break
		}
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// Counts sums up what was recorded since the last Reset.
func (l *Ledger) Counts() Counts {
	var c Counts
	for _, r := range l.Requests() {
		c.Requests++
		head := r.Method == http.MethodHead
		switch {
		case r.Kind == Ping:
			c.Pings++
		case r.Kind == Token:
			c.Tokens++
		case r.Kind == Signed:
			c.Signed++
		case r.Kind == Manifest && head:
			c.ManifestHEAD++
		case r.Kind == Manifest:
			c.ManifestGET++
		case r.Kind == Blob && head:
			c.BlobHEAD++
		case r.Kind == Blob:
			c.BlobGET++
		default:
			c.Others++
		}
		if r.Status >= 300 {
			continue // the body is no content
		}
		switch r.Kind {
		case Manifest:
			c.ManifestBytes += r.Bytes
		case Blob, Signed:
			c.BlobBytes += r.Bytes
		}
	}
	return c
}

// Counts sums up requests to an upstream. It can be compared with ==.
type Counts struct {
	// Requests is all of them; each is in one of the fields below as well.
	Requests                          int
	Pings, Tokens                     int
	ManifestGET, ManifestHEAD         int
	BlobGET, BlobHEAD, Signed, Others int

	// ManifestBytes and BlobBytes are the bodies of good answers (2xx) in bytes,
	// those from the host that redirects lead to among them.
	ManifestBytes, BlobBytes int64
}

// String is the counts in one line.
func (c Counts) String() string {
	return fmt.Sprintf("%d requests (ping %d, token %d, manifest GET %d HEAD %d, blob GET %d HEAD %d redirected %d, other %d), %d manifest bytes, %d blob bytes",
		c.Requests, c.Pings, c.Tokens, c.ManifestGET, c.ManifestHEAD, c.BlobGET, c.BlobHEAD, c.Signed, c.Others,
		c.ManifestBytes, c.BlobBytes)
}

// recorder notes what goes through a ResponseWriter.
type recorder struct {
	http.ResponseWriter
	entry *entry
}

func (r *recorder) WriteHeader(status int) {
	if status >= 200 { // 1xx are not the answer
		r.entry.status.Store(int64(status))
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.entry.status.CompareAndSwap(0, http.StatusOK)
	if r.entry.request.Method == http.MethodHead { // net/http sends nothing then
		return r.ResponseWriter.Write(p)
	}
	// Who has received the last byte finds it counted.
	r.entry.bytes.Add(int64(len(p)))
	n, err := r.ResponseWriter.Write(p)
	r.entry.bytes.Add(int64(n - len(p)))
	return n, err
}

// Unwrap lets http.ResponseController find Flush and the like.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
