package synth

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
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
	// ConnBytesPerSecond limits the body of each blob, of which a connection has
	// one at a time; 0 is no limit.
	ConnBytesPerSecond int64 `json:"connBytesPerSecond"`
	// Latency passes between a request and its answer.
	Latency time.Duration `json:"latency"`
	// Connect passes, beside the latency, before the first answer on a
	// connection.
	Connect time.Duration `json:"connect"`
	// NoRanges tells that the registry answers requests for a range of a blob
	// with all of it.
	NoRanges bool `json:"noRanges"`
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

	content lab.Content
	shape   atomic.Pointer[Shape]
}

// NewServer returns a registry without images, behind a link without limits.
func NewServer() *Server {
	s := &Server{limit: rate.NewLimiter(rate.Inf, burst)}
	s.shape.Store(new(Shape))
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
	for i, blob := range noise.Blobs {
		raw := make([]byte, blob.Size)
		if _, err := io.ReadFull(blob.Open(), raw); err != nil {
			return Image{}, fmt.Errorf("making image %s:%s: %w", repo, tag, err)
		}
		noise.Blobs[i].Content = bytes.NewReader(raw)
		if i < len(sizes) { // the config comes last
			img.Layers = append(img.Layers, Layer{blob.Digest, blob.Size})
		}
	}
	s.content.Add(noise)
	return img, nil
}

// Clear removes all images.
func (s *Server) Clear() { s.content.Clear() }

// SetShape changes the link; what all blobs together get changes for requests
// under way too.
func (s *Server) SetShape(shape Shape) {
	limit := rate.Inf
	if shape.BytesPerSecond > 0 {
		limit = rate.Limit(shape.BytesPerSecond)
	}
	s.limit.SetLimit(limit)
	s.shape.Store(&shape)
}

// Counters returns what was counted since the last Reset.
func (s *Server) Counters() Counters {
	return Counters{Counts: s.ledger.Counts(), UniqueBlobBytes: s.content.Unique(s.ledger.Requests())}
}

// Reset sets the counters to zero.
func (s *Server) Reset() { s.ledger.Reset() }

// ServeHTTP answers as a registry does, as far as pulls need it (OCI
// distribution specification 1.1, end-1 to end-3).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	shape := s.shape.Load()
	blob := lab.KindOf(r.URL.Path) == lab.Blob
	if blob {
		w = &linkWriter{w, r.Context(), s.limit}
	}
	handler := http.Handler(&s.content)
	if shape.NoRanges {
		handler = lab.IgnoreRange(lab.Blobs)(handler)
	}
	link := lab.Link{Latency: shape.Latency, Connect: shape.Connect}
	if blob {
		link.ConnRate = shape.ConnBytesPerSecond
	}
	link.Middleware(handler).ServeHTTP(w, r)
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
