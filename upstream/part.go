package upstream

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"

	"registry-module/cache"
)

// setPart makes q ask for part: nothing is added to it for the whole.
func (r *Remote) setPart(q *query, part cache.BlobPart) error {
	switch {
	case part.Offset < 0 || part.Length < 0:
		return r.unasked(q.op, "negative offset %d or length %d", part.Offset, part.Length)
	case part.Length > math.MaxInt64-part.Offset:
		return r.unasked(q.op, "%d bytes from byte %d on end where nothing can", part.Length, part.Offset)
	case part.Length > 0:
		q.header.Set("Range", fmt.Sprintf("bytes=%d-%d", part.Offset, part.Offset+part.Length-1))
	case part.Offset > 0:
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", part.Offset))
	default:
		return nil // and no If-Range, which is for ranges only
	}
	q.validator = parseValidator(part.Validator)
	return nil
}

// checkPart checks that an answer with a part begins where part does, goes no
// further than it, and agrees with itself. It may be shorter than what was asked
// for (RFC 9110 section 15.3.7: servers may).
func (r *Remote) checkPart(q *query, rep *reply, part cache.BlobPart) (contentRange, error) {
	invalid := func(format string, args ...any) (contentRange, error) {
		return contentRange{}, r.noPart(q.op, rep, format, args...)
	}
	if isMultipart(rep.Header) {
		return invalid("the answer has several parts, and one was asked for")
	}
	header := rep.Header.Get("Content-Range")
	cr, ok := parseContentRange(header)
	switch etag := strongETag(rep.Header); {
	case !ok:
		return invalid("the answer is a part, and its Content-Range %q does not say which", r.clean(header))
	case cr.first != part.Offset:
		return invalid("the answer begins at byte %d, and %d was asked for", cr.first, part.Offset)
	case part.Length > 0 && cr.last-cr.first >= part.Length:
		return invalid("the answer ends at byte %d, and %d bytes from byte %d on were asked for", cr.last, part.Length, part.Offset)
	case rep.ContentLength >= 0 && rep.ContentLength != cr.last-cr.first+1:
		return invalid("the answer is %d bytes long, and its Content-Range says %q", rep.ContentLength, r.clean(header))
	case etag != "" && q.validator.of(rep.url) && etag != q.validator.etag:
		// It should have sent the whole.
		return invalid("the remote has other content by now (its ETag is %q, and was %q)", r.clean(etag), r.clean(q.validator.etag))
	}
	return cr, nil
}

// unsatisfied is an answer that there is nothing where part begins.
func (r *Remote) unsatisfied(op string, rep *reply, part cache.BlobPart) error {
	size, ok := parseUnsatisfied(rep.Header.Get("Content-Range"))
	if !ok {
		return r.noPart(op, rep, "byte %d was asked for, and the remote says that there is none", part.Offset)
	}
	return r.noPart(op, rep, "byte %d was asked for, and the remote says that the blob has %d bytes", part.Offset, size)
}

// noPart is an answer with a part that cannot be used, or with none.
func (r *Remote) noPart(op string, rep *reply, format string, args ...any) error {
	return r.invalid(op, rep.StatusCode, "%w: %w", cache.ErrNoPart, fmt.Errorf(format, args...))
}

// isMultipart reports whether the body is not one part but a list of them.
func isMultipart(h http.Header) bool {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), "multipart/byteranges")
}

// exactBody is a body that has to have just as many bytes as was said of it. It
// gives no more than those.
type exactBody struct {
	io.ReadCloser
	left  int64
	wrong func(kind, err error) error
	err   error // for good
}

// Read implements io.Reader.
func (b *exactBody) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, b.end()
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = b.wrong(cache.ErrUnavailable, fmt.Errorf("the answer is shorter than its Content-Range says: %w", io.ErrUnexpectedEOF))
	}
	b.err = err
	return n, err
}

// end reads the end of a body of which all was read, so that its connection can
// be used again.
func (b *exactBody) end() error {
	n, err := b.ReadCloser.Read(make([]byte, 1))
	if n > 0 {
		err = b.wrong(cache.ErrInvalid, errors.New("the answer is longer than its Content-Range says"))
	}
	b.err = err
	return err
}

// maxETag is how long, in bytes, an ETag may be that is used. They are kept with
// what was downloaded; a hash and a date have less.
const maxETag = 256

// validator is a strong ETag with the origin that it is of. Others may have given
// the same to something else. The zero value is none.
type validator struct {
	origin, etag string
}

// validator returns what stands for the content that p is of.
func (p *reply) validator() validator {
	if etag := strongETag(p.Header); etag != "" {
		return validator{origin: origin(p.url), etag: etag}
	}
	return validator{}
}

// validatorOf returns the validator of p as callers keep it: none that repeats a
// secret, for it is written down.
func (r *Remote) validatorOf(p *reply) string {
	v := p.validator().String()
	if r.secrets.Contains(v) {
		return ""
	}
	return v
}

// of reports whether v means something to the host of u.
func (v validator) of(u *url.URL) bool { return v.etag != "" && v.origin == origin(u) }

// String is the form in which callers keep it.
func (v validator) String() string {
	if v.etag == "" {
		return ""
	}
	return v.origin + " " + v.etag
}

// parseValidator reads what String has written. What cannot be read is none.
func parseValidator(s string) validator {
	i := strings.LastIndexByte(s, ' ') // there is none in an ETag
	if i < 0 || !isStrongETag(s[i+1:]) {
		return validator{}
	}
	return validator{origin: s[:i], etag: s[i+1:]}
}

// strongETag returns the ETag in h if it is a strong one (RFC 9110 section
// 8.8.3), else nothing: weak ones do not promise the same bytes.
func strongETag(h http.Header) string {
	if values := h.Values("ETag"); len(values) == 1 && isStrongETag(values[0]) {
		return values[0]
	}
	return ""
}

// isStrongETag takes only ASCII of what the RFC allows, so that what it takes is
// text in any encoding.
func isStrongETag(s string) bool {
	if len(s) < 2 || len(s) > maxETag || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	return strings.IndexFunc(s[1:len(s)-1], func(c rune) bool { return c <= ' ' || c == '"' || c >= 0x7f }) < 0
}
