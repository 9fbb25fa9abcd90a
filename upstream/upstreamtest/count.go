package upstreamtest

import (
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Kind says what a request asks for.
type Kind string

// The kinds of request.
const (
	Ping         Kind = "ping"
	Token        Kind = "token"
	ManifestGet  Kind = "manifest GET"
	ManifestHead Kind = "manifest HEAD"
	BlobGet      Kind = "blob GET"
	BlobHead     Kind = "blob HEAD"
	Tags         Kind = "tags"
	// Referrers is the API for them; the tag for them is asked for as a manifest.
	Referrers Kind = "referrers"
	// CDNGet and CDNHead are requests of the blob host; the registry's own
	// answer, the redirect, counts as BlobGet or BlobHead.
	CDNGet  Kind = "cdn GET"
	CDNHead Kind = "cdn HEAD"
	// Other is whatever this registry does not know.
	Other Kind = "other"
)

// Request is a request as it came in.
type Request struct {
	Kind   Kind
	Method string
	// Host is the authority that was asked, the Host header.
	Host string
	// Path and Query are as they were sent.
	Path, Query string
	// Repo and Ref (tag or digest) are empty where the request has none.
	Repo, Ref string
	// ClientCert says that the client has shown a certificate.
	ClientCert bool
	// Header is a copy of the request's.
	Header http.Header
	// Body is what was sent to the token service by POST.
	Body string
}

// maxLog bounds the log of requests, for programs that run long.
const maxLog = 20_000

// counts is what was asked for and what was sent. The zero value is ready.
type counts struct {
	mu       sync.Mutex
	requests map[Kind]int
	blobGets map[digest.Digest]int
	bytes    map[digest.Digest]int64
	total    int64
	manifest int64
	log      []Request
}

func (c *counts) request(req Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests == nil {
		c.requests = make(map[Kind]int)
		c.blobGets = make(map[digest.Digest]int)
		c.bytes = make(map[digest.Digest]int64)
	}
	c.requests[req.Kind]++
	if req.Kind == BlobGet {
		c.blobGets[digest.Digest(req.Ref)]++
	}
	if len(c.log) < maxLog {
		c.log = append(c.log, req)
	}
}

func (c *counts) sent(kind Kind, ref string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch kind {
	case BlobGet, CDNGet:
		c.total += int64(n)
		c.bytes[digest.Digest(ref)] += int64(n)
	case ManifestGet:
		c.manifest += int64(n)
	}
}

// Requests returns how many requests of these kinds have come in since the
// start or the last [Registry.ResetCounts]; of all kinds where none is named.
func (r *Registry) Requests(kinds ...Kind) int {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	n := 0
	for kind, k := range r.counts.requests {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			n += k
		}
	}
	return n
}

// BlobRequests returns how many GETs have asked the registry for the blob dgst.
func (r *Registry) BlobRequests(dgst digest.Digest) int {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	return r.counts.blobGets[dgst]
}

// BlobBytes returns how many bytes of blobs have been sent, by the registry and
// by its blob host. Where digests are given, only those count. What is said where
// a blob is refused is not of a blob.
func (r *Registry) BlobBytes(dgsts ...digest.Digest) int64 {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	if len(dgsts) == 0 {
		return r.counts.total
	}
	var n int64
	for _, dgst := range dgsts {
		n += r.counts.bytes[dgst]
	}
	return n
}

// ManifestBytes returns how many bytes of manifests have been sent.
func (r *Registry) ManifestBytes() int64 {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	return r.counts.manifest
}

// Log returns the requests that have come in, the oldest first, no more than
// some thousands.
func (r *Registry) Log() []Request {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	return slices.Clone(r.counts.log)
}

// Authorizations returns the Authorization headers of the requests of these
// kinds (of all where none is named), in order, those without one left out.
func (r *Registry) Authorizations(kinds ...Kind) []string {
	var seen []string
	for _, req := range r.Log() {
		a := req.Header.Get("Authorization")
		if a != "" && (len(kinds) == 0 || slices.Contains(kinds, req.Kind)) {
			seen = append(seen, a)
		}
	}
	return seen
}

// ResetCounts sets all counters to zero and empties the log.
func (r *Registry) ResetCounts() {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	clear(r.counts.requests)
	clear(r.counts.blobGets)
	clear(r.counts.bytes)
	r.counts.total, r.counts.manifest, r.counts.log = 0, 0, nil
}
