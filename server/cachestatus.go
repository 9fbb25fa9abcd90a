package server

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"registry-module/cache"
)

// cacheStatus is the header field in which an answer says how it came to be (RFC 9211).
const cacheStatus = "Cache-Status"

// cacheName is what we call ourselves there.
const cacheName = "registry-module"

// showCache sets Cache-Status, right before the header is sent.
//
// It is about the remote and this repository alone. A blob that was not stored for this
// repository has been fetched, as far as its client can tell, whether it was or is stored for
// somebody else: so neither what the cache says of such a blob is told, nor that somebody
// else was waited with, who may have asked for it by another name. What went wrong is told
// in less words than the body has.
func (x *exchange) showCache(status int, now time.Time) {
	if !x.looking {
		return
	}
	if status < http.StatusBadRequest && x.stored && x.freshness == (cache.Freshness{}) {
		x.sent[0] = cacheName + "; hit" // what is asked for by its digest, mostly
		x.Header()[cacheStatus] = x.sent[:]
		return
	}
	m := append(member(x.scratch[:0]), cacheName...)
	if status >= http.StatusBadRequest {
		if x.err == nil || x.failed == nil || x.failed.status == http.StatusInternalServerError || refusal(x.err) {
			return // it is not about what is stored
		}
		x.tellFailure(&m)
	} else {
		x.tellSource(&m, now)
	}
	x.sent[0] = string(m)
	x.Header()[cacheStatus] = x.sent[:]
}

// tellSource says where an answer comes from.
func (x *exchange) tellSource(m *member, now time.Time) {
	told := x.told()
	source := x.source(told.Source)
	stale := x.freshness.Stale
	switch {
	case x.stored:
		m.flag("hit")
	case x.route.kind == blobRoute:
		if x.isHead && told.Source == cache.FromStore { // a manifest of the repository has told
			m.flag("hit")
			break
		}
		// Nor whether it is going to be stored: what is for somebody else needs no room.
		m.token("fwd", "uri-miss")
	case source == cache.FromStore, source == cache.FromMemory,
		source == cache.FromStaleStore && (errors.Is(stale, cache.ErrNotAsked) || errors.Is(stale, cache.ErrRevalidating)):
		m.flag("hit")
	default:
		x.tellForward(m, told, source)
	}
	if until := x.freshness.Until; !until.IsZero() {
		// One that another cache could not have confirmed is stale before its time.
		if ttl := until.Sub(now); stale == nil || ttl <= 0 {
			m.integer("ttl", int64(math.Floor(ttl.Seconds())))
		}
	}
	if stale != nil {
		m.text("detail", reasonOf(stale))
	}
}

// tellForward says why the remote was asked for what was answered well.
func (x *exchange) tellForward(m *member, told cache.Answered, source cache.Source) {
	switch {
	case x.insists:
		m.token("fwd", "request")
	case source == cache.FromRemote:
		m.token("fwd", "uri-miss")
	default:
		m.token("fwd", "stale")
	}
	m.status(x.freshness.Stale)
	if source == cache.FromRemote && told.Stored {
		m.flag("stored")
	}
	if told.Joined {
		m.flag("collapsed")
	}
}

// tellFailure says why there is no content.
func (x *exchange) tellFailure(m *member) {
	switch {
	case x.told().Source == cache.FromMemory:
		m.flag("hit")
		m.text("detail", "negative memory")
		return
	case errors.Is(x.err, cache.ErrNotAsked):
		// Neither a hit nor forwarded.
	case x.insists:
		m.token("fwd", "request")
		m.status(x.err)
	default:
		m.token("fwd", "uri-miss")
		m.status(x.err)
	}
	m.text("detail", reasonOf(x.err))
}

// reasonOf says in few words why the remote has not said what is wanted.
func reasonOf(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{cache.ErrRevalidating, "revalidating"},
		{cache.ErrOffline, "offline"},
		{cache.ErrLoop, "loop"},
		{cache.ErrNotFound, "not found"},
		{cache.ErrDenied, "denied"},
		{cache.ErrRateLimited, "rate limited"},
		{cache.ErrIntercepted, "intercepted"},
		{cache.ErrInvalid, "invalid answer"},
		{cache.ErrNotAsked, "remote away"},
		{cache.ErrUnavailable, "remote away"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "not confirmed"
}

// member is a member of a list of structured fields: a token with parameters (RFC 9651,
// sections 3.1 and 4.1). It begins as its token.
type member []byte

// flag adds a parameter that is true.
func (m *member) flag(key string) { *m = append(append(*m, "; "...), key...) }

// token adds a parameter whose value is a token.
func (m *member) token(key, value string) {
	m.flag(key)
	*m = append(append(*m, '='), value...)
}

// integer adds a parameter whose value is a number, within what RFC 9651, section 3.3.1,
// allows.
func (m *member) integer(key string, value int64) {
	const most = 999_999_999_999_999
	m.flag(key)
	*m = strconv.AppendInt(append(*m, '='), min(max(value, -most), most), 10)
}

// text adds a parameter whose value is a string. What a string cannot have in it is left
// out (RFC 9651, section 3.3.3).
func (m *member) text(key, value string) {
	m.flag(key)
	p := append(*m, '=', '"')
	for _, c := range []byte(value) {
		switch {
		case c < ' ', c > '~':
			continue
		case c == '"', c == '\\':
			p = append(p, '\\')
		}
		p = append(p, c)
	}
	*m = append(p, '"')
}

// status adds what the remote's status was, where err tells it.
func (m *member) status(err error) {
	if up, ok := errors.AsType[*cache.UpstreamError](err); ok && up.Status >= 100 && up.Status < 600 {
		m.integer("fwd-status", int64(up.Status))
	}
}
