package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// serveStored answers from the store what needs no remote, as the app would, at
// a fraction of its cost. It returns false, having sent nothing, where the app
// has to take over.
func (s *Server) serveStored(x *exchange, r *http.Request, rt route) bool {
	switch rt.kind {
	case manifestRoute:
		t, err := x.storedManifest(r.Context(), rt.reference)
		if err != nil {
			return false
		}
		s.setCommonHeader(x.Header())
		if isTag(rt.reference) {
			s.show(x, tagAnswer, t.Freshness)
		}
		s.serveManifest(x, r, t.Manifest)
		x.manifest = t.Manifest
		return true
	case blobRoute:
		return s.serveStoredBlob(x, r, rt)
	default:
		return false
	}
}

// serveStoredBlob is serveStored for a blob.
func (s *Server) serveStoredBlob(x *exchange, r *http.Request, rt route) bool {
	dgst := digest.Digest(rt.reference)
	content, err := x.storedBlob(r.Context(), dgst)
	if err != nil {
		return false
	}
	defer func() { _ = content.Close() }() // it was only read
	s.setCommonHeader(x.Header())
	if r.Method == http.MethodHead {
		headBlob(x, r, cache.Descriptor{Digest: dgst, Size: content.Size()})
		return true
	}
	if err := serveBlob(x, r, content, dgst); err != nil {
		if x.status != 0 {
			x.abandon(r.Context(), blobName(rt.name, dgst), err)
		}
		s.fail(x, blobContent, err)
	}
	return true
}

// isTag tells a tag from a digest.
func isTag(reference string) bool { return !strings.Contains(reference, ":") }

// storedManifest is a manifest for which nobody has to be asked.
func (x *exchange) storedManifest(ctx context.Context, reference string) (t cache.Tagged, err error) {
	x.tried = true
	if isTag(reference) {
		t, err = x.repo.CachedTag(ctx, reference)
	} else {
		t.Manifest, err = x.repo.CachedManifest(ctx, digest.Digest(reference))
	}
	x.stored = err == nil
	return t, err
}

// storedBlob is a blob for which nobody has to be asked.
func (x *exchange) storedBlob(ctx context.Context, dgst digest.Digest) (*cache.Reader, error) {
	x.tried = true
	content, err := x.repo.CachedBlob(ctx, dgst)
	x.stored = err == nil
	return content, err
}

// serveManifest sends m with the headers of the app.
func (s *Server) serveManifest(x *exchange, r *http.Request, m cache.Manifest) {
	etag := `"` + m.Digest.String() + `"`
	if matches(r.Header["If-None-Match"], etag) {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	setAll(x.Header(),
		field{"Content-Type", m.MediaType}, field{"Content-Length", strconv.Itoa(len(m.Bytes))},
		field{"Docker-Content-Digest", m.Digest.String()}, field{"Etag", etag})
	x.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = x.Write(m.Bytes) // the client may be gone
	}
}

// matches tells whether one of the entity tags of If-None-Match is etag (RFC
// 9110, section 13.1.2), with or without quotes, as the stock registry takes it.
func matches(header []string, etag string) bool {
	for _, line := range header {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == etag || tag == "*" || `"`+tag+`"` == etag {
				return true
			}
		}
	}
	return false
}
