package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Content is a registry that only serves: the manifests, blobs and tags of images,
// as far as pulls need them (OCI distribution specification 1.1, end-1 to end-3 and
// end-8a). It reads blobs when it is asked for them, and keeps none of their bytes.
// The zero value serves nothing.
type Content struct {
	mu    sync.RWMutex
	paths map[string]item     // by path, for example "/v2/a/b/blobs/sha256:..."; guarded by mu
	sizes map[string]int64    // of blobs, by digest; guarded by mu
	tags  map[string][]string // by repository; guarded by mu
}

// item is what a path gives.
type item struct {
	mediaType string
	digest    digest.Digest
	open      func() io.ReadSeeker
}

// Add serves images from now on.
func (c *Content) Add(images ...Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paths == nil {
		c.paths, c.sizes, c.tags = map[string]item{}, map[string]int64{}, map[string][]string{}
	}
	for _, img := range images {
		base := "/v2/" + img.Repo
		if tags := c.tags[img.Repo]; !slices.Contains(tags, img.Tag) {
			c.tags[img.Repo] = append(tags, img.Tag)
		}
		for _, m := range img.Manifests {
			it := item{m.MediaType, m.Digest, func() io.ReadSeeker { return bytes.NewReader(m.Bytes) }}
			c.paths[base+"/manifests/"+m.Digest.String()] = it
			if m.Digest == img.Root().Digest {
				c.paths[base+"/manifests/"+img.Tag] = it
			}
		}
		for _, b := range img.Blobs {
			c.paths[base+"/blobs/"+b.Digest.String()] = item{"application/octet-stream", b.Digest, b.Open}
			c.sizes[b.Digest.String()] = b.Size
		}
	}
}

// Clear removes all images.
func (c *Content) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.paths)
	clear(c.sizes)
	clear(c.tags)
}

// serveTags answers end-8a of the OCI distribution specification.
func (c *Content) serveTags(w http.ResponseWriter, r *http.Request) {
	repo := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v2/"), "/tags/list")
	c.mu.RLock()
	tags := slices.Sorted(slices.Values(c.tags[repo]))
	c.mu.RUnlock()
	if tags == nil {
		Refuse(http.StatusNotFound, "NAME_UNKNOWN")(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": tags}) // an error: the client is gone
}

// Unique returns the length of the blobs that were sent, in whole or in part, in
// answers to requests, each counted once: what those had to take.
func (c *Content) Unique(requests []Request) (size int64) {
	seen := map[string]bool{}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, r := range requests {
		target, _, _ := strings.Cut(r.URI, "?")
		// The same digest in two repositories is one blob.
		if dgst := path.Base(target); (r.Kind == Blob || r.Kind == Signed) && r.Status < 300 && r.Bytes > 0 && !seen[dgst] {
			seen[dgst] = true
			size += c.sizes[dgst]
		}
	}
	return size
}

// lookup returns what a path gives.
func (c *Content) lookup(path string) (it item, found bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	it, found = c.paths[path]
	return it, found
}

// ServeHTTP implements http.Handler.
func (c *Content) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	it, found := c.lookup(r.URL.Path)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		Refuse(http.StatusMethodNotAllowed, "UNSUPPORTED")(w, r)
	case KindOf(r.URL.Path) == Ping:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}") // an error: the client is gone
	case KindOf(r.URL.Path) == Tags:
		c.serveTags(w, r)
	case found:
		it.serve(w, r)
	case KindOf(r.URL.Path) == Manifest:
		Refuse(http.StatusNotFound, "MANIFEST_UNKNOWN")(w, r)
	default:
		Refuse(http.StatusNotFound, "BLOB_UNKNOWN")(w, r)
	}
}

func (i item) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", i.mediaType)
	h.Set("Docker-Content-Digest", i.digest.String())
	h.Set("ETag", `"`+i.digest.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, i.open())
}

// Refuse answers with an error in the form of the OCI distribution specification.
// Headers are name and value in turn.
func Refuse(status int, code string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{ // an error: the client is gone
			"errors": []map[string]string{{"code": code, "message": http.StatusText(status)}},
		})
	}
}

// OriginOptions says what kind of origin to start. The zero value is an anonymous
// and fast one.
type OriginOptions struct {
	// Link is the line to it, nil for the machine's own speed.
	Link *Link
	// TokenLife is how long Bearer tokens are good for, which anybody gets. 0 is
	// an origin that wants none.
	TokenLife time.Duration
	// URLLife is how long the signed URLs are good for that GETs of blobs are
	// redirected to, at another host and port. 0 is an origin that serves blobs
	// itself.
	URLLife time.Duration
	// Canary and Name are as in [UpstreamOptions].
	Canary *Canary
	Name   string
	// Site is where it listens, nil is loopback. Its token server and its blob host
	// are on loopback in any case.
	Site *Site
}

// Origin is an upstream without a process of its own, for content that nobody
// would want to push, and for answers that no registry gives: see [Middleware]
// for what can go wrong with them.
type Origin struct {
	// Ledger has every request to the gateway, the token server and the blob
	// host.
	Ledger
	hosts
	// Content is what it serves.
	Content

	tokens, urls *leases // nil without
}

// StartOrigin starts an origin that serves images. Down ends it.
func StartOrigin(o OriginOptions, images ...Image) (_ *Origin, err error) {
	origin := new(Origin)
	origin.Tap = o.Canary.tap(o.Name)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting an origin: %w", err), origin.Down())
		}
	}()
	origin.Add(images...)
	link := o.Link
	if link == nil {
		link = new(Link)
	}
	record := func(kind Kind) Middleware {
		return func(next http.Handler) http.Handler { return origin.Record(kind, next) }
	}
	registry := http.Handler(&origin.Content)
	if o.URLLife > 0 {
		origin.urls = newLeases(o.URLLife)
		origin.BlobHost, err = NewGateway(http.HandlerFunc(origin.serveSigned), record(Signed), link.Middleware)
		if err != nil {
			return nil, err
		}
		registry = http.HandlerFunc(origin.redirect)
	}
	if o.TokenLife > 0 {
		origin.tokens = newLeases(o.TokenLife)
		if origin.Realm, err = NewGateway(http.HandlerFunc(origin.serveToken), record(Token), link.Middleware); err != nil {
			return nil, err
		}
		if registry, err = origin.authorize(registry); err != nil {
			return nil, err
		}
	}
	origin.Gateway, err = newGateway(o.Site, registry, record(""), link.Middleware)
	return origin, err
}

// scope is what a token has to be good for, as a challenge says it.
func scope(r *http.Request) string {
	if KindOf(r.URL.Path) == Ping {
		return ""
	}
	// The route and what it is about are the last two components.
	return "repository:" + strings.TrimPrefix(path.Dir(path.Dir(r.URL.Path)), "/v2/") + ":pull"
}

// authorize wants a token, which is for one repository.
func (o *Origin) authorize(next http.Handler) (http.Handler, error) {
	realm, err := realmURL(o.Realm)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if err := o.tokens.check(scope(r), token); err != nil {
			challenge := fmt.Sprintf(`Bearer realm=%q,service="origin"`, realm)
			if s := scope(r); s != "" {
				challenge += fmt.Sprintf(",scope=%q", s)
			}
			if token != "" {
				challenge += `,error="invalid_token"`
			}
			Refuse(http.StatusUnauthorized, "UNAUTHORIZED", "WWW-Authenticate", challenge)(w, r)
			return
		}
		next.ServeHTTP(w, r)
	}), nil
}

// serveToken is the realm.
func (o *Origin) serveToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // an error: the client is gone
		"token":      o.tokens.issue(r.URL.Query().Get("scope")),
		"expires_in": max(1, int(o.tokens.life.Seconds())),
	})
}

// redirect sends GETs of blobs to the blob host.
func (o *Origin) redirect(w http.ResponseWriter, r *http.Request) {
	it, found := o.lookup(r.URL.Path)
	if !found || KindOf(r.URL.Path) != Blob || r.Method != http.MethodGet {
		o.Content.ServeHTTP(w, r)
		return
	}
	query := url.Values{"blob": {r.URL.Path}, "signature": {o.urls.issue(r.URL.Path)}}
	w.Header().Set("Location", o.BlobHost.URL()+"/"+it.digest.String()+"?"+query.Encode())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// serveSigned is the blob host. As an object store does, it refuses who is
// neither signed nor signed only.
func (o *Origin) serveSigned(w http.ResponseWriter, r *http.Request) {
	blob := r.URL.Query().Get("blob")
	it, found := o.lookup(blob)
	if err := o.urls.check(blob, r.URL.Query().Get("signature")); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	switch {
	case r.Header.Get("Authorization") != "":
		http.Error(w, "only one way of authentication is allowed", http.StatusBadRequest)
	case !found || path.Base(r.URL.Path) != it.digest.String():
		http.Error(w, "no such blob", http.StatusNotFound)
	default:
		it.serve(w, r)
	}
}
