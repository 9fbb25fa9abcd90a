package upstream

import (
	"context"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// Blob implements [cache.Upstream]. The stream ends with ctx.
//
// The type of the answer is not looked at: registries and object stores call
// blobs anything, and the digest decides.
func (r *Remote) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	offset := part.Offset
	op := "fetching blob " + clean(repo) + "@" + clean(dgst.String())
	if offset < 0 {
		return nil, r.invalid(op, 0, "negative offset %d", offset)
	}
	q, err := r.queryBlob(op, http.MethodGet, repo, dgst)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	rep, err := r.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	stream, err := r.openBlob(op, rep, offset)
	if err != nil {
		rep.drain()
		return nil, err
	}
	return stream, nil
}

func (r *Remote) queryBlob(op, method, repo string, dgst digest.Digest) (*query, error) {
	if err := r.checkBlob(op, repo, dgst); err != nil {
		return nil, err
	}
	return r.query(op, method, repo, "/"+repo+"/blobs/"+dgst.String()), nil
}

// openBlob makes a stream of an answer to a request for what is from offset on.
func (r *Remote) openBlob(op string, rep *reply, offset int64) (*cache.BlobStream, error) {
	switch {
	case rep.StatusCode == http.StatusOK:
		if encoded(rep.Header) {
			break
		}
		return &cache.BlobStream{Body: rep.Body, Length: rep.ContentLength, Size: rep.ContentLength}, nil
	case rep.StatusCode == http.StatusPartialContent && offset > 0:
		if encoded(rep.Header) {
			break
		}
		size, err := r.checkPart(op, rep, offset)
		if err != nil {
			return nil, err
		}
		return &cache.BlobStream{Body: rep.Body, Offset: offset, Length: rep.ContentLength, Size: size, Part: true}, nil
	case rep.StatusCode == http.StatusPartialContent:
		return nil, r.invalid(op, rep.StatusCode, "the answer is a part, and the whole was asked for")
	default:
		return nil, r.refused(op, rep)
	}
	return nil, r.invalid(op, rep.StatusCode, "the answer is encoded (%q), which we did not ask for",
		clean(rep.Header.Get("Content-Encoding")))
}

// checkPart checks that an answer with a part is the one from offset to the
// end, and returns the size of the whole, -1 where it is not said.
func (r *Remote) checkPart(op string, rep *reply, offset int64) (int64, error) {
	header := rep.Header.Get("Content-Range")
	cr, ok := parseContentRange(header)
	switch {
	case !ok:
		return 0, r.invalid(op, rep.StatusCode, "the answer is a part, and its Content-Range %q does not say which", clean(header))
	case cr.first != offset:
		return 0, r.invalid(op, rep.StatusCode, "the answer begins at byte %d, and %d was asked for", cr.first, offset)
	case cr.size >= 0 && cr.last != cr.size-1:
		return 0, r.invalid(op, rep.StatusCode, "the answer ends at byte %d of %d, and the rest was asked for", cr.last, cr.size)
	case rep.ContentLength >= 0 && rep.ContentLength != cr.last-cr.first+1:
		return 0, r.invalid(op, rep.StatusCode, "the answer is %d bytes long, and its Content-Range says %q", rep.ContentLength, clean(header))
	}
	return cr.size, nil
}

// StatBlob implements [cache.Upstream].
func (r *Remote) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	op := "asking for blob " + clean(repo) + "@" + clean(dgst.String())
	q, err := r.queryBlob(op, http.MethodHead, repo, dgst)
	if err != nil {
		return 0, err
	}
	rep, err := r.ask(ctx, q)
	if err != nil {
		return 0, err
	}
	defer rep.drain()
	switch {
	case rep.StatusCode == http.StatusOK:
		return statSize(rep.ContentLength, dgst), nil
	case rep.StatusCode == http.StatusMethodNotAllowed,
		rep.StatusCode == http.StatusNotImplemented,
		rep.StatusCode == http.StatusForbidden && rep.foreign:
		// Signed URLs are good for one method, and often that is GET.
		return r.statByGet(ctx, op, repo, dgst)
	}
	return 0, r.refused(op, rep)
}

// statByGet asks for a blob's first byte to learn its size.
func (r *Remote) statByGet(ctx context.Context, op, repo string, dgst digest.Digest) (int64, error) {
	q, err := r.queryBlob(op, http.MethodGet, repo, dgst)
	if err != nil {
		return 0, err
	}
	q.header.Set("Range", "bytes=0-0")
	rep, err := r.ask(ctx, q)
	if err != nil {
		return 0, err
	}
	// Not drained: where the range was ignored, this is the whole blob.
	defer rep.Body.Close()
	switch rep.StatusCode {
	case http.StatusOK:
		return statSize(rep.ContentLength, dgst), nil
	case http.StatusPartialContent:
		cr, ok := parseContentRange(rep.Header.Get("Content-Range"))
		if !ok || cr.first != 0 {
			return 0, r.invalid(op, rep.StatusCode, "the answer is a part, and its Content-Range %q is not that of the first byte",
				clean(rep.Header.Get("Content-Range")))
		}
		return cr.size, nil
	case http.StatusRequestedRangeNotSatisfiable:
		// It is there and has no first byte.
		size, ok := parseUnsatisfied(rep.Header.Get("Content-Range"))
		if !ok {
			size = -1
		}
		return statSize(size, dgst), nil
	}
	return 0, r.refused(op, rep)
}

// statSize is the size of the blob dgst of which the remote says that it has so
// many bytes. Some say 0 where they mean that they do not know.
func statSize(size int64, dgst digest.Digest) int64 {
	if size == 0 && dgst != dgst.Algorithm().FromString("") {
		return -1
	}
	return size
}
