package upstreamtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	cdnPrefix = "/cdn/"
	tokenPath = "/token"
)

// parse tells what a request to the registry asks for.
func parse(req *http.Request) Request {
	out := Request{
		Kind: Other, Method: req.Method, Host: req.Host,
		Path: req.URL.EscapedPath(), Query: req.URL.RawQuery, Header: req.Header.Clone(),
		ClientCert: req.TLS != nil && len(req.TLS.PeerCertificates) > 0,
	}
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		return out
	}
	if rest == "" {
		out.Kind = Ping
		return out
	}
	if repo, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		out.Kind, out.Repo = Tags, repo
		return out
	}
	if i := strings.LastIndex(rest, "/referrers/"); i > 0 {
		out.Kind, out.Repo, out.Ref = Referrers, rest[:i], rest[i+len("/referrers/"):]
		return out
	}
	head := req.Method == http.MethodHead
	if i := strings.LastIndex(rest, "/manifests/"); i > 0 {
		out.Kind, out.Repo, out.Ref = pick(head, ManifestHead, ManifestGet), rest[:i], rest[i+len("/manifests/"):]
	} else if i := strings.LastIndex(rest, "/blobs/"); i > 0 {
		out.Kind, out.Repo, out.Ref = pick(head, BlobHead, BlobGet), rest[:i], rest[i+len("/blobs/"):]
	}
	return out
}

func pick(first bool, a, b Kind) Kind {
	if first {
		return a
	}
	return b
}

// begin counts a request and does the part of its fault that comes before the
// answer. Where that was all there is to do, it returns false.
func (r *Registry) begin(w http.ResponseWriter, req *http.Request, parsed Request) (*sender, bool) {
	r.counts.request(parsed)
	fault, cut := r.fault(parsed)
	r.mu.Lock()
	latency, rate := r.latency, r.connRate
	r.mu.Unlock()
	if fault.Rate > 0 {
		rate = fault.Rate
	}

	s := &sender{ResponseWriter: w, reg: r, req: parsed, fault: fault, stop: req.Context().Done()}
	s.own.set(rate) // a connection has one answer at a time
	if fault.CutMax > 0 {
		s.link = linkOf(req)
		s.link.breakAfter(cut)
	}
	if !s.sleep(latency+fault.Delay) || fault.Drop {
		panic(http.ErrAbortHandler)
	}
	if fault.Hang {
		select {
		case <-s.stop:
		case <-r.done:
		}
		panic(http.ErrAbortHandler)
	}
	if fault.Gate != nil && fault.GateAt == 0 {
		fault.Gate.wait(s.stop, r.done)
	}
	if fault.Status == 0 {
		return s, true
	}
	body := fault.Body
	if body == nil && fault.Status >= 400 {
		s.error(fault.Status, "FAULT", "scripted fault")
		return nil, false
	}
	s.Header().Set("Content-Length", strconv.Itoa(len(body)))
	s.WriteHeader(fault.Status)
	s.body(body)
	return nil, false
}

// body writes content unless the request was a HEAD.
func (s *sender) body(content []byte) {
	if s.req.Method != http.MethodHead {
		// The client has gone if this fails; nobody is left to tell.
		_, _ = s.Write(content)
	}
}

// error answers in the form of the OCI distribution specification.
func (s *sender) error(status int, code, message string) {
	body, err := json.Marshal(map[string]any{
		"errors": []map[string]string{{"code": code, "message": message}},
	})
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	s.Header().Set("Content-Type", "application/json")
	s.Header().Set("Content-Length", strconv.Itoa(len(body)))
	s.WriteHeader(status)
	s.body(body)
}

// serveRegistry answers for the registry itself.
func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	parsed := parse(req)
	s, ok := r.begin(w, req, parsed)
	if !ok {
		return
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		s.error(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry only serves")
		return
	}
	if !r.admit(s, req) {
		return
	}
	s.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	switch parsed.Kind {
	case Ping:
		s.Header().Set("Content-Type", "application/json")
		s.Header().Set("Content-Length", "2")
		s.WriteHeader(http.StatusOK)
		s.body([]byte("{}"))
	case ManifestGet, ManifestHead:
		r.serveManifest(s)
	case BlobGet, BlobHead:
		r.serveBlob(s, req)
	case Tags:
		r.serveTags(s, req)
	case Referrers:
		r.serveReferrers(s, req)
	default:
		s.error(http.StatusNotFound, "NAME_UNKNOWN", "no such route")
	}
}

func (r *Registry) serveManifest(s *sender) {
	dgst, m, ok := r.manifest(s.req.Repo, s.req.Ref)
	if !ok {
		s.error(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	content := m.content
	if s.fault.Body != nil {
		content = s.fault.Body
	}
	if m.mediaType != "" {
		s.Header().Set("Content-Type", m.mediaType)
	}
	s.Header().Set("Docker-Content-Digest", dgst.String())
	s.Header().Set("ETag", s.etag(dgst))
	if !s.fault.IgnoreIfNoneMatch && matches(s.req.Header.Values("If-None-Match"), s.etag(dgst)) {
		s.WriteHeader(http.StatusNotModified)
		return
	}
	s.Header().Set("Content-Length", strconv.Itoa(len(content)))
	s.WriteHeader(http.StatusOK)
	s.body(content)
}

// etag is the ETag of content with that digest.
func (s *sender) etag(dgst digest.Digest) string {
	return cmp.Or(s.fault.ETag, `"`+dgst.String()+`"`)
}

// matches reports whether an If-None-Match header names etag (RFC 9110 section
// 13.1.2), of which it looks at all but commas within quotes.
func matches(values []string, etag string) bool {
	for _, value := range values {
		for tag := range strings.SplitSeq(value, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == strings.TrimPrefix(etag, "W/") {
				return true
			}
		}
	}
	return false
}

func (r *Registry) serveBlob(s *sender, req *http.Request) {
	dgst := digest.Digest(s.req.Ref)
	content, ok := r.blob(s.req.Repo, dgst)
	if !ok {
		s.error(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	r.mu.Lock()
	redirect := r.redirect
	r.mu.Unlock()
	if redirect {
		s.Header().Set("Location", r.cdnURL(req)+cdnPrefix+dgst.String()+"?"+r.signURL(dgst))
		s.Header().Set("Content-Length", "0")
		s.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	s.Header().Set("Docker-Content-Digest", dgst.String())
	s.content(req, dgst, content)
}

// content answers with a blob, or with the part of it that was asked for.
func (s *sender) content(req *http.Request, dgst digest.Digest, c content) {
	if s.fault.Body != nil {
		c = bytes.NewReader(s.fault.Body)
	}
	s.Header().Set("ETag", s.etag(dgst))
	s.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(s, s.fault.ranged(req, c.Size()), "", time.Time{}, io.NewSectionReader(c, 0, c.Size()))
}

// serveCDN answers for the blob host: to whoever has a signed URL.
func (r *Registry) serveCDN(w http.ResponseWriter, req *http.Request) {
	parsed := parse(req)
	parsed.Kind = pick(req.Method == http.MethodHead, CDNHead, CDNGet)
	parsed.Ref = strings.TrimPrefix(req.URL.Path, cdnPrefix)
	s, ok := r.begin(w, req, parsed)
	if !ok {
		return
	}
	dgst := digest.Digest(parsed.Ref)
	r.mu.Lock()
	content, ok := r.blobs[dgst]
	r.mu.Unlock()
	// Object stores refuse a request that is signed twice. A blob host that is
	// no host of its own is sent the registry's credentials, rightly.
	twice := r.net.cdn != nil && req.Header.Get("Authorization") != ""
	refusal := r.checkURL(dgst, req.URL.Query())
	if !ok || twice {
		refusal = "SignatureDoesNotMatch"
	}
	if refusal != "" {
		s.Header().Set("Content-Type", "application/xml")
		s.WriteHeader(http.StatusForbidden)
		s.body([]byte("<Error><Code>" + refusal + "</Code><StringToSign>" + req.URL.RawQuery + "</StringToSign></Error>"))
		return
	}
	s.content(req, dgst, content)
}

// serveTags lists tags as the OCI distribution specification says: n at a time,
// those after last, with a Link to the rest.
func (r *Registry) serveTags(s *sender, req *http.Request) {
	tags, ok := r.tags(s.req.Repo)
	if !ok {
		s.error(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	q := req.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(tags, last)
		if found {
			i++
		}
		tags = tags[i:]
	}
	if n, err := strconv.Atoi(q.Get("n")); err == nil && n > 0 && n < len(tags) {
		tags = tags[:n]
		s.Header().Set("Link", fmt.Sprintf("</v2/%s/tags/list?last=%s&n=%d>; rel=\"next\"",
			s.req.Repo, url.QueryEscape(tags[n-1]), n))
	}
	body, err := json.Marshal(map[string]any{"name": s.req.Repo, "tags": tags})
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	if s.fault.Body != nil {
		body = s.fault.Body
	}
	s.Header().Set("Content-Type", "application/json")
	s.Header().Set("Content-Length", strconv.Itoa(len(body)))
	s.WriteHeader(http.StatusOK)
	s.body(body)
}
