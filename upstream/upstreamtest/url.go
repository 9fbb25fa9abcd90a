package upstreamtest

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// urlSigner is how the URLs are signed that blobs are redirected to.
type urlSigner struct {
	lifetime time.Duration
	revoked  int // how often all were made bad
}

// SetURLLifetime says how long the blob host takes a URL that blobs are
// redirected to; 0, the default, is for ever. After that, requests with it are
// answered with 403 and XML, as object stores do. What was begun goes on.
func (r *Registry) SetURLLifetime(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls.lifetime = d
}

// RevokeURLs makes all URLs bad that blobs have been redirected to.
func (r *Registry) RevokeURLs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls.revoked++
}

// signURL returns the query of a URL for the blob dgst, which no log or error may
// show.
func (r *Registry) signURL(dgst digest.Digest) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var expires int64
	if r.urls.lifetime > 0 {
		expires = time.Now().Add(r.urls.lifetime).UnixNano()
	}
	return url.Values{
		"expires":   {strconv.FormatInt(expires, 10)},
		"signature": {r.urls.signature(dgst, expires)},
	}.Encode()
}

// checkURL returns why a URL with that query is refused, empty if it is not.
func (r *Registry) checkURL(dgst digest.Digest, query url.Values) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	expires, err := strconv.ParseInt(query.Get("expires"), 10, 64)
	switch {
	case err != nil || query.Get("signature") != r.urls.signature(dgst, expires):
		return "SignatureDoesNotMatch"
	case expires != 0 && time.Now().UnixNano() >= expires:
		return "AccessDenied"
	}
	return ""
}

func (u urlSigner) signature(dgst digest.Digest, expires int64) string {
	return "secret" + digest.FromString(fmt.Sprintf("%s %d %d", dgst, expires, u.revoked)).Encoded()[:16]
}
