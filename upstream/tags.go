package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// maxTagsBody bounds one answer with a list of tags, in bytes. It is enough for
// 60,000 tags of the greatest length.
const maxTagsBody = 8 << 20

// cursorKey names the place in a list of tags where an answer has ended.
type cursorKey struct {
	repo string
	n    int
	last string
}

// maxCursors bounds how many such places are remembered.
const maxCursors = 128

// Tags implements [cache.Upstream].
//
// By the OCI distribution specification, what follows a tag can always be asked
// for by its name. Some registries only know cursors of their own, which they
// hand out as a link; so the link at the end of an answer is kept for whom asks
// to go on from there. Links to other hosts are not followed.
//
// The error is [cache.ErrNotFound] only where the registry itself has said so.
func (r *Remote) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	op := "listing tags of " + clean(repo)
	if err := r.checkName(op, repo); err != nil {
		return nil, false, err
	}
	n = max(n, 0)
	q := r.query(op, http.MethodGet, repo, "/"+repo+"/tags/list")
	if cursor := r.takeCursor(cursorKey{repo, n, last}); cursor != nil {
		q.url = cursor
	} else {
		params := make(url.Values)
		if n > 0 {
			params.Set("n", strconv.Itoa(n))
		}
		if last != "" {
			params.Set("last", last)
		}
		q.url.RawQuery = params.Encode()
	}
	rep, err := r.ask(ctx, q)
	if err != nil {
		return nil, false, err
	}
	defer rep.drain()
	if rep.StatusCode != http.StatusOK {
		return nil, false, rep.blame(r.refusedTags(op, rep))
	}
	tags, err := r.readTags(op, rep)
	if err != nil {
		return nil, false, rep.blame(err)
	}
	if i := slices.Index(tags, last); i >= 0 && last != "" {
		tags = tags[i+1:] // it has ignored where to begin
	}
	if n > 0 && len(tags) > n {
		return tags[:n:n], true, nil
	}
	link := nextLink(rep.Header.Values("Link"))
	if link == "" || len(tags) == 0 {
		return tags, false, nil
	}
	if next, err := rep.url.Parse(link); err == nil && !rep.foreign && sameOrigin(next, r.base) && next.Path == rep.url.Path {
		next.User, next.Fragment, next.RawFragment = nil, "", ""
		r.keepCursor(cursorKey{repo, n, tags[len(tags)-1]}, next)
	}
	return tags, true, nil
}

// refusedTags is refused for a list of tags. That there is no such repository is
// believed only of a registry, by the form of its answer: a proxy in front of one that
// is down says 404 as well, and others may be asked because of it.
func (r *Remote) refusedTags(op string, rep *reply) error {
	if rep.StatusCode != http.StatusNotFound {
		return r.refused(op, rep)
	}
	text, registry := r.ociErrors(rep.Response)
	if rep.foreign || !registry { // its headers are added by proxies, too
		return r.invalid(op, rep.StatusCode, "the answer is not that of a registry: does a proxy in between say so?")
	}
	return r.refusal(op, rep, text)
}

func (r *Remote) readTags(op string, rep *reply) ([]string, error) {
	// Of a list of tags, some say that it is text.
	mediaType := rep.Header.Get("Content-Type")
	if encoded(rep.Header) {
		return nil, r.checkHeader(op, rep)
	}
	content, err := io.ReadAll(io.LimitReader(rep.Body, maxTagsBody+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxTagsBody {
		return nil, r.invalid(op, rep.StatusCode, "the answer is larger than %d bytes", maxTagsBody)
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if !isJSONObject(content) || json.Unmarshal(content, &list) != nil {
		if isPage(mediaType) {
			return nil, r.page(op, rep)
		}
		return nil, r.unlike(op, rep, content, fmt.Sprintf("the answer, of type %q, is no list of tags", r.clean(mediaType)))
	}
	return list.Tags, nil
}

// takeCursor gives the link for a place, once: it may be good for a short time
// only, and what comes after a failure is to be asked for by name.
func (r *Remote) takeCursor(key cursorKey) *url.URL {
	r.cursorsMu.Lock()
	defer r.cursorsMu.Unlock()
	cursor := r.cursors[key]
	delete(r.cursors, key)
	return cursor
}

func (r *Remote) keepCursor(key cursorKey, next *url.URL) {
	r.cursorsMu.Lock()
	defer r.cursorsMu.Unlock()
	for other := range r.cursors {
		if len(r.cursors) < maxCursors {
			break
		}
		delete(r.cursors, other) // any: the place has a name too
	}
	r.cursors[key] = next
}
