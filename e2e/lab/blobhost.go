package lab

import (
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// signature is what a redirect to the blob host has to carry, as signed URLs
// of object stores do.
const signature = "lab-signed"

// redirect starts the blob host, and returns a handler that sends GETs of
// blobs which origin would serve there, and leaves all else to origin.
func (u *Upstream) redirect(origin http.Handler, status int, link *Link) (http.Handler, error) {
	var err error
	u.BlobHost, err = NewGateway(blobHost(u.Registry.Data), u.record(Signed), link.Middleware)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if KindOf(r.URL.Path) != Blob || r.Method != http.MethodGet {
			origin.ServeHTTP(w, r)
			return
		}
		// Whether the client may have it is origin's decision.
		head := r.Clone(r.Context())
		head.Method = http.MethodHead
		origin.ServeHTTP(&redirectWriter{
			ResponseWriter: w,
			status:         status,
			location:       u.BlobHost.URL() + "/" + path.Base(r.URL.Path) + "?sig=" + url.QueryEscape(signature),
		}, head)
	}), nil
}

// redirectWriter turns a good answer into a redirect.
type redirectWriter struct {
	http.ResponseWriter
	status   int
	location string
}

func (w *redirectWriter) WriteHeader(status int) {
	if status == http.StatusOK {
		h := w.Header()
		clear(h)
		h.Set("Location", w.location)
		h.Set("Content-Length", "0")
		status = w.status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find Flush and the like.
func (w *redirectWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// blobHost serves blobs out of a registry's data directory by digest. As an
// object store does, it refuses who is neither signed nor signed only: a
// request with credentials of its own beside the signature is 400 there.
func blobHost(data string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("sig") != signature {
			http.Error(w, "not signed", http.StatusForbidden)
			return
		}
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "only one way of authentication is allowed", http.StatusBadRequest)
			return
		}
		dgst, err := digest.Parse(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f, err := os.Open(BlobPath(data, dgst))
		if err != nil {
			http.Error(w, "no such blob", http.StatusNotFound)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		// An object store knows nothing of the blob's type, and says so.
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", info.ModTime(), f)
	})
}

// BlobPath is where the layout of the distribution project keeps a blob below
// a data directory.
func BlobPath(data string, dgst digest.Digest) string {
	return filepath.Join(data, "docker/registry/v2/blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded(), "data")
}
