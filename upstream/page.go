package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"registry-module/cache"
)

// pageHint is what may be the matter where a page has come in place of an answer.
const pageHint = "is there a login page or a block page of a proxy in between?"

// intercepted is an answer that somebody else has given in the remote's place.
func (r *Remote) intercepted(op string, status int, text string) error {
	return r.failure(cache.ErrInvalid, op, status, &explained{text: text, err: cache.ErrIntercepted})
}

// page is an answer that is a page for people. That of a portal often comes by way of
// a redirect to it.
func (r *Remote) page(op string, rep *reply) error {
	who := "the answer"
	if rep.foreign {
		who += " of " + r.clean(rep.url.Host) + ", where the remote has redirected us,"
	}
	return r.intercepted(op, rep.StatusCode,
		fmt.Sprintf("%s is of type %q: %s", who, r.clean(rep.Header.Get("Content-Type")), pageHint))
}

// checkHeader refuses an answer whose header says that it is a page, or that its body
// is not what it is called.
func (r *Remote) checkHeader(op string, rep *reply) error {
	switch {
	case isPage(rep.Header.Get("Content-Type")):
		return r.page(op, rep)
	case encoded(rep.Header):
		return r.encodedAnswer(op, rep)
	}
	return nil
}

func (r *Remote) encodedAnswer(op string, rep *reply) error {
	return r.invalid(op, rep.StatusCode, "the answer is encoded (%q), which we did not ask for",
		r.clean(rep.Header.Get("Content-Encoding")))
}

// unlike is an answer with a body that is not what was asked for, as text says: it may
// be a page, whatever it is called.
func (r *Remote) unlike(op string, rep *reply, content []byte, text string) error {
	if strings.HasPrefix(http.DetectContentType(content), "text/html") {
		return r.intercepted(op, rep.StatusCode, text+", but a page: "+pageHint)
	}
	return r.invalid(op, rep.StatusCode, "%s", text)
}

// checkBlobPage refuses a page in place of a blob. A blob may be one, or be called so:
// then its host says something of the content as well, which who shows a page to
// whoever comes does not. The error is the same for GET and HEAD.
func (r *Remote) checkBlobPage(op string, rep *reply) error {
	if rep.StatusCode != http.StatusOK || !isHTML(rep.Header.Get("Content-Type")) {
		return nil
	}
	for _, name := range []string{"Docker-Content-Digest", "ETag", "Accept-Ranges"} {
		if rep.Header.Get(name) != "" {
			return nil
		}
	}
	return r.page(op, rep)
}

// blame marks an error of an answer as that of another host, where the remote itself
// has done no more than to redirect us there. Who answers in the remote's place
// redirects as well; that is no answer of the remote.
func (p *reply) blame(err error) error {
	if p.elsewhere {
		return elsewhere(err)
	}
	return err
}

func elsewhere(err error) error {
	if e, ok := errors.AsType[*cache.UpstreamError](err); ok && !errors.Is(e.Err, cache.ErrIntercepted) {
		e.Elsewhere = true
	}
	return err
}
