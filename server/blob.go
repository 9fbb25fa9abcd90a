package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// blobHeader sets what both GET and HEAD of a blob answer.
func blobHeader(h http.Header, dgst digest.Digest) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", dgst.String())
	h.Set("Etag", `"`+dgst.String()+`"`)
	h.Set("Cache-Control", "max-age=31536000") // of the stock registry: a year
	// Asks nginx not to write the blob to its own disk first.
	h.Set("X-Accel-Buffering", "no")
}

// headBlob answers a HEAD without opening the blob.
func headBlob(w http.ResponseWriter, r *http.Request, d cache.Descriptor) {
	blobHeader(w.Header(), d.Digest)
	if d.Size < 0 { // the remote does not tell
		w.Header().Set("Accept-Ranges", "bytes")
		w.WriteHeader(http.StatusOK)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(nil, 0, d.Size))
}

// serveBlob answers a GET with content, or with the part of it that is asked
// for. After an error the response is not complete, and the connection must be
// closed.
func serveBlob(w http.ResponseWriter, r *http.Request, content *cache.Reader, dgst digest.Digest) error {
	blobHeader(w.Header(), dgst)
	switch {
	case content.Passing(), content.Size() < 0 && r.Header.Get("Range") == "":
		return passBlob(w, content)
	case content.Size() < 0:
		// A range of a blob of unknown length needs its end.
		if err := content.Whole(); err != nil {
			return err
		}
	}
	bw := &blobWriter{ResponseWriter: w, content: content}
	// It knows the ranges, their conditions and If-None-Match by heart.
	http.ServeContent(bw, r, "", time.Time{}, content)
	return bw.err
}

// passBlob sends the whole content, of which the end is not known yet or which
// can be read only once. A range may be ignored (RFC 9110, section 14.2).
func passBlob(w http.ResponseWriter, content *cache.Reader) error {
	if size := content.Size(); size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, content); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// blobWriter makes http.ServeContent use the cache's own way of copying, and
// notes its errors, which ServeContent has no use for.
type blobWriter struct {
	http.ResponseWriter
	content *cache.Reader
	err     error
}

// ReadFrom implements io.ReaderFrom.
func (b *blobWriter) ReadFrom(src io.Reader) (n int64, err error) {
	if part, ok := src.(*io.LimitedReader); ok && part.R == b.content {
		n, err = b.content.CopyN(b.ResponseWriter, part.N)
		part.N -= n
	} else { // several ranges in one response
		n, err = io.Copy(b.ResponseWriter, src)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = fmt.Errorf("sending: %w", err)
	}
	return n, err
}
