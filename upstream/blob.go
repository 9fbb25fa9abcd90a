package upstream

import (
	"context"
	"net/http"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// Blob implements [cache.Upstream]. The stream ends with ctx.
//
// The type of the answer does not matter: registries and object stores call blobs
// anything, and the digest decides. But a page of which nothing else is said is taken
// for that of a portal.
//
// Where a host refuses that the remote has redirected to, the remote is asked
// again, once: URLs are signed for a short while, and the next one may be good.
func (r *Remote) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	op := opBlob(repo, dgst)
	q, err := r.queryBlob(op, http.MethodGet, repo, dgst)
	if err != nil {
		return nil, err
	}
	if err := r.setPart(q, part); err != nil {
		return nil, err
	}
	rep, err := r.ask(ctx, q)
	if err == nil && rep.foreign && mayHaveExpired(rep.StatusCode) {
		r.log.WithFields(logrus.Fields{"host": r.clean(rep.url.Host), "status": rep.StatusCode}).Debug("a host of blobs refuses; asking the remote for another URL")
		rep.drain()
		rep, err = r.ask(ctx, q)
	}
	if err != nil {
		return nil, err
	}
	stream, err := r.openBlob(q, rep, part)
	if err != nil {
		rep.drain()
		return nil, rep.blame(err)
	}
	return stream, nil
}

// opBlob says what is being done, the same for GET and HEAD: which of them it took is
// nobody's business who asks for the blob.
func opBlob(repo string, dgst digest.Digest) string {
	return "asking for blob " + clean(repo) + "@" + clean(dgst.String())
}

// mayHaveExpired reports whether a status is one that hosts answer with to a
// signed URL whose time is over. They do not agree on one.
func mayHaveExpired(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		return true
	}
	return false
}

func (r *Remote) queryBlob(op, method, repo string, dgst digest.Digest) (*query, error) {
	if err := r.checkBlob(op, repo, dgst); err != nil {
		return nil, err
	}
	return r.query(op, method, repo, "/"+repo+"/blobs/"+dgst.String()), nil
}

// openBlob makes a stream of the answer to q, which has asked for part.
func (r *Remote) openBlob(q *query, rep *reply, part cache.BlobPart) (*cache.BlobStream, error) {
	asked := q.header.Get("Range") != ""
	if err := r.checkBlobPage(q.op, rep); err != nil {
		return nil, err
	}
	switch status := rep.StatusCode; {
	case status == http.StatusRequestedRangeNotSatisfiable && asked:
		return nil, r.unsatisfied(q.op, rep, part)
	case status != http.StatusOK && status != http.StatusPartialContent:
		return nil, r.refusedBlob(q.op, rep)
	case encoded(rep.Header):
		return nil, r.encodedAnswer(q.op, rep)
	case status == http.StatusPartialContent && !asked:
		return nil, r.invalid(q.op, status, "the answer is a part, and the whole was asked for")
	}
	stream := &cache.BlobStream{Body: rep.Body, Length: rep.ContentLength, Size: rep.ContentLength, Validator: r.validatorOf(rep)}
	if rep.StatusCode == http.StatusOK {
		return stream, nil
	}
	cr, err := r.checkPart(q, rep, part)
	if err != nil {
		return nil, err
	}
	stream.Part = true
	stream.Offset, stream.Length, stream.Size = cr.first, cr.last-cr.first+1, cr.size
	stream.Body = &exactBody{ReadCloser: rep.Body, left: stream.Length, wrong: func(kind, err error) error {
		return rep.blame(r.failure(kind, q.op, rep.StatusCode, err))
	}}
	return stream, nil
}

// StatBlob implements [cache.Upstream].
func (r *Remote) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	op := opBlob(repo, dgst)
	q, err := r.queryBlob(op, http.MethodHead, repo, dgst)
	if err != nil {
		return 0, err
	}
	rep, err := r.ask(ctx, q)
	if err != nil {
		return 0, err
	}
	defer rep.drain()
	if err := r.checkBlobPage(op, rep); err != nil {
		return 0, err
	}
	switch {
	case rep.StatusCode == http.StatusOK:
		return statSize(rep.ContentLength, dgst), nil
	case rep.StatusCode == http.StatusMethodNotAllowed,
		rep.StatusCode == http.StatusNotImplemented,
		rep.StatusCode == http.StatusForbidden && rep.foreign:
		// Signed URLs are good for one method, and often that is GET.
		return r.statByGet(ctx, op, repo, dgst)
	}
	return 0, r.refusedBlob(op, rep)
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
	if err := r.checkBlobPage(op, rep); err != nil {
		return 0, err
	}
	switch rep.StatusCode {
	case http.StatusOK:
		return statSize(rep.ContentLength, dgst), nil
	case http.StatusPartialContent:
		cr, ok := parseContentRange(rep.Header.Get("Content-Range"))
		if !ok || cr.first != 0 {
			return 0, rep.blame(r.invalid(op, rep.StatusCode, "the answer is a part, and its Content-Range %q is not that of the first byte",
				r.clean(rep.Header.Get("Content-Range"))))
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
	return 0, r.refusedBlob(op, rep)
}

// statSize is the size of the blob dgst of which the remote says that it has so
// many bytes. Some say 0 where they mean that they do not know.
func statSize(size int64, dgst digest.Digest) int64 {
	if size == 0 && dgst != dgst.Algorithm().FromString("") {
		return -1
	}
	return size
}
