package synth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"registry-module/e2e/lab"
)

// Image describes an image that the registry serves.
type Image struct {
	// Repo and Tag name it.
	Repo string `json:"repo"`
	Tag  string `json:"tag"`
	// Manifest is the digest of its manifest, MediaType that one's type.
	Manifest  digest.Digest `json:"manifest"`
	MediaType string        `json:"mediaType"`
	// Layers are its layers, in the manifest's order.
	Layers []Layer `json:"layers"`
}

// Layer describes a layer. Size is in bytes.
type Layer struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Shape says what the link to the registry is like. The zero value is a link
// without limit and delay.
type Shape struct {
	// BytesPerSecond limits the bodies of all blobs together; 0 is no limit.
	BytesPerSecond int64 `json:"bytesPerSecond"`
	// Latency passes between a request and its answer.
	Latency time.Duration `json:"latency"`
}

// Counters are what the registry has been asked for.
type Counters struct {
	lab.Counts
	// UniqueBlobBytes is the length of the blobs of which at least one byte was
	// sent, each counted once.
	UniqueBlobBytes int64
}

const (
	// chunk is what a body takes from the link at a time: at 100 MB/s, a third
	// of a millisecond.
	chunk = 32 << 10
	// burst is what the link makes up for when a timer was late, as they are by
	// up to some milliseconds.
	burst = 8 * chunk
)

// Server is the registry. [NewServer] makes one.
type Server struct {
	ledger  lab.Ledger
	handler http.Handler
	limit   *rate.Limiter

	mu       sync.Mutex // guards what follows
	latency  time.Duration
	contents map[string]content // by path, for example "/v2/a/b/blobs/sha256:..."
}

// content is what a path gives.
type content struct {
	mediaType string
	digest    digest.Digest
	bytes     []byte
}

// NewServer returns a registry without images, behind a link without limits.
func NewServer() *Server {
	s := &Server{limit: rate.NewLimiter(rate.Inf, burst), contents: map[string]content{}}
	s.handler = s.ledger.Record("", http.HandlerFunc(s.serve))
	return s
}

// Add makes an image repo:tag with layers of about the given sizes in bytes,
// see [lab.NoiseImage], and serves it from then on.
func (s *Server) Add(repo, tag string, seed uint64, sizes []int64) (Image, error) {
	noise, err := lab.NoiseImage(repo, tag, seed, sizes...)
	if err != nil {
		return Image{}, fmt.Errorf("making image %s:%s: %w", repo, tag, err)
	}
	root := noise.Root()
	img := Image{Repo: repo, Tag: tag, Manifest: root.Digest, MediaType: root.MediaType}
	contents := map[string]content{}
	for _, ref := range []string{tag, root.Digest.String()} {
		contents["/v2/"+repo+"/manifests/"+ref] = content{root.MediaType, root.Digest, root.Bytes}
	}
	for i, blob := range noise.Blobs {
		raw := make([]byte, blob.Size)
		if _, err := io.ReadFull(blob.Open(), raw); err != nil {
			return Image{}, fmt.Errorf("making image %s:%s: %w", repo, tag, err)
		}
		contents["/v2/"+repo+"/blobs/"+blob.Digest.String()] = content{"application/octet-stream", blob.Digest, raw}
		if i < len(sizes) { // the config comes last
			img.Layers = append(img.Layers, Layer{blob.Digest, blob.Size})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, c := range contents {
		s.contents[p] = c
	}
	return img, nil
}

// Clear removes all images.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.contents)
}

// SetShape changes the link, for requests under way too.
func (s *Server) SetShape(shape Shape) {
	limit := rate.Inf
	if shape.BytesPerSecond > 0 {
		limit = rate.Limit(shape.BytesPerSecond)
	}
	s.limit.SetLimit(limit)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency = shape.Latency
}

// Counters returns what was counted since the last Reset.
func (s *Server) Counters() Counters {
	c := Counters{Counts: s.ledger.Counts()}
	seen := map[string]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.ledger.Requests() {
		// The same digest in two repositories is one blob.
		if dgst := path.Base(r.URI); r.Kind == lab.Blob && r.Bytes > 0 && !seen[dgst] {
			seen[dgst] = true
			c.UniqueBlobBytes += int64(len(s.contents[r.URI].bytes))
		}
	}
	return c
}

// Reset sets the counters to zero.
func (s *Server) Reset() { s.ledger.Reset() }

// ServeHTTP answers as a registry does, as far as pulls need it (OCI
// distribution specification 1.1, end-1 to end-3).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	c, found := s.contents[r.URL.Path]
	latency := s.latency
	s.mu.Unlock()
	if !pause(r.Context(), latency) {
		return
	}
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
	case r.URL.Path == "/v2/":
		_, _ = io.WriteString(w, "{}") // an error: the client is gone
	case !found && strings.Contains(r.URL.Path, "/manifests/"):
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
	case !found:
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
	default:
		h := w.Header()
		h.Set("Content-Type", c.mediaType)
		h.Set("Docker-Content-Digest", c.digest.String())
		h.Set("ETag", `"`+c.digest.String()+`"`)
		if lab.KindOf(r.URL.Path) == lab.Blob {
			w = &linkWriter{w, r.Context(), s.limit}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c.bytes))
	}
}

// linkWriter sends a body at the pace of the link. It hides the ReadFrom of
// what it wraps, which would not pass through Write.
type linkWriter struct {
	http.ResponseWriter
	ctx   context.Context // the request's; a Writer cannot be given one
	limit *rate.Limiter
}

// Write implements io.Writer.
func (w *linkWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(len(p), n+chunk)]
		if err := w.limit.WaitN(w.ctx, len(part)); err != nil {
			return n, err
		}
		k, err := w.ResponseWriter.Write(part)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// fail answers with an error in the form of the OCI distribution
// specification.
func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // an error: the client is gone
		"errors": []map[string]string{{"code": code, "message": http.StatusText(status)}},
	})
}

// pause reports whether d has passed before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
