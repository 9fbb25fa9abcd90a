package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
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

// headBlob answers a HEAD, for which nothing of the blob is read.
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
// for. After an error either nothing was sent, and no header set, or the
// response is not complete and has to be abandoned.
func serveBlob(x *exchange, r *http.Request, content *cache.Reader, dgst digest.Digest) error {
	x.stall = blobStall
	asked := r.Header.Get("Range")
	switch {
	case content.Passing(), content.Size() < 0 && asked == "":
		return passBlob(x, content, dgst)
	case content.Size() < 0, strings.Contains(asked, ","):
		// A range of a blob of unknown length needs its end. And several ranges
		// come with an end of their own, which must not follow on bytes that
		// turn out wrong.
		if err := content.Whole(); err != nil {
			return err
		}
	}
	blobHeader(x.Header(), dgst)
	bw := &blobWriter{ResponseWriter: x, content: content}
	// It knows the ranges, their conditions and If-None-Match by heart.
	http.ServeContent(bw, r, "", time.Time{}, content)
	return bw.err
}

// copyBuffer is what is copied at once where the kernel cannot do it.
const copyBuffer = 32 << 10

// passBlob sends the whole content, of which the end is not known yet or which
// can be read only once. A range may be ignored (RFC 9110, section 14.2).
func passBlob(x *exchange, content *cache.Reader, dgst digest.Digest) error {
	buf := make([]byte, copyBuffer)
	n, err := io.ReadAtLeast(content, buf, 1) // its error can still be told
	if err != nil && err != io.EOF {
		return err
	}
	blobHeader(x.Header(), dgst)
	if size := content.Size(); size >= 0 {
		x.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	x.WriteHeader(http.StatusOK)
	if _, err = x.Write(buf[:n]); err == nil {
		_, err = io.CopyBuffer(onlyWriter{x}, content, buf)
	}
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// onlyWriter hides ReadFrom, so that what has to be waited for is not sent in
// one step, see [exchange.ReadFrom].
type onlyWriter struct{ io.Writer }

// blobWriter makes http.ServeContent use the cache's own way of copying, and
// notes its errors, which ServeContent has no use for.
type blobWriter struct {
	http.ResponseWriter // an exchange
	content             *cache.Reader
	err                 error
}

// blobStep is how many bytes at most are sent in one step: with blobStall,
// who takes less than 4.6 KB/s for an hour is cut off.
const blobStep = 16 << 20

// ReadFrom implements io.ReaderFrom.
func (b *blobWriter) ReadFrom(src io.Reader) (n int64, err error) {
	if part, ok := src.(*io.LimitedReader); ok && part.R == b.content {
		for part.N > 0 && err == nil {
			var step int64
			step, err = b.content.CopyN(b.ResponseWriter, min(part.N, blobStep))
			part.N -= step
			n += step
		}
	} else { // several ranges in one response
		n, err = io.Copy(onlyWriter{b.ResponseWriter}, src)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = fmt.Errorf("sending: %w", err)
	}
	return n, err
}
