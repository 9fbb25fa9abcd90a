package upstream

import (
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a remote can ask us to wait.
const maxRetryAfter = 24 * time.Hour

// parseRetryAfter reads a Retry-After header (RFC 9110 section 10.2.3), seconds
// or a date. What cannot be read, or has passed, is 0.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if allDigits(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// contentRange is a Content-Range header of a range that was satisfied.
type contentRange struct {
	first, last int64 // positions of bytes, both included
	size        int64 // of the whole, or -1
}

// parseContentRange reads a Content-Range header (RFC 9110 section 14.4).
func parseContentRange(value string) (contentRange, bool) {
	span, size, ok := cutContentRange(value)
	if !ok {
		return contentRange{}, false
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return contentRange{}, false
	}
	var cr contentRange
	if cr.first, ok = parseSize(first); !ok {
		return contentRange{}, false
	}
	// That last is not the greatest number makes the length one too.
	if cr.last, ok = parseSize(last); !ok || cr.last < cr.first || cr.last == math.MaxInt64 {
		return contentRange{}, false
	}
	if cr.size = -1; size != "*" {
		if cr.size, ok = parseSize(size); !ok || cr.size <= cr.last {
			return contentRange{}, false
		}
	}
	return cr, true
}

// parseUnsatisfied reads the size of the whole from the Content-Range header of
// a 416 answer ("bytes */1234").
func parseUnsatisfied(value string) (int64, bool) {
	span, size, ok := cutContentRange(value)
	if !ok || span != "*" {
		return 0, false
	}
	return parseSize(size)
}

func cutContentRange(value string) (span, size string, ok bool) {
	unit, rest, ok := strings.Cut(strings.TrimSpace(value), " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return "", "", false
	}
	return strings.Cut(strings.TrimSpace(rest), "/")
}

// parseSize reads a number of bytes: digits and nothing else.
func parseSize(s string) (int64, bool) {
	if !allDigits(s) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func allDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// nextLink returns the target of the first link to the next page in Link
// headers (RFC 8288), empty where there is none. It may be relative.
func nextLink(values []string) string {
	for _, value := range values {
		for value != "" {
			var target string
			var next, ok bool
			if target, next, value, ok = cutLink(value); !ok {
				break
			}
			if next {
				return target
			}
		}
	}
	return ""
}

// cutLink takes the first link off a Link header: its target, whether it is one
// to the next page, and the links that follow it.
func cutLink(value string) (target string, next bool, rest string, ok bool) {
	value = strings.TrimLeft(value, " \t,")
	value, ok = strings.CutPrefix(value, "<")
	if !ok {
		return "", false, "", false
	}
	target, value, ok = strings.Cut(value, ">")
	if !ok {
		return "", false, "", false
	}
	for {
		value = strings.TrimLeft(value, " \t")
		if value, ok = strings.CutPrefix(value, ";"); !ok {
			return strings.TrimSpace(target), next, value, true
		}
		var name, param string
		name, param, value = cutParam(value)
		if strings.EqualFold(name, "rel") {
			for rel := range strings.FieldsSeq(param) {
				next = next || strings.EqualFold(rel, "next")
			}
		}
	}
}

// cutParam takes name=value or name="value" off the start of s.
func cutParam(s string) (name, value, rest string) {
	end := strings.IndexAny(s, "=;,")
	if end < 0 || s[end] != '=' {
		if end < 0 {
			end = len(s)
		}
		return strings.TrimSpace(s[:end]), "", s[end:]
	}
	name, s = strings.TrimSpace(s[:end]), strings.TrimLeft(s[end+1:], " \t")
	quoted, isQuoted := strings.CutPrefix(s, `"`)
	if !isQuoted {
		if end = strings.IndexAny(s, ";,"); end < 0 {
			end = len(s)
		}
		return name, strings.TrimSpace(s[:end]), s[end:]
	}
	var b strings.Builder
	for i := 0; i < len(quoted); i++ {
		switch c := quoted[i]; {
		case c == '"':
			return name, b.String(), quoted[i+1:]
		case c == '\\' && i+1 < len(quoted):
			i++
			b.WriteByte(quoted[i])
		default:
			b.WriteByte(c)
		}
	}
	return name, b.String(), "" // the quote is never closed
}

// encoded reports whether a Content-Encoding header says that the body is not
// the content itself.
func encoded(h http.Header) bool {
	for _, value := range h.Values("Content-Encoding") {
		for enc := range strings.SplitSeq(value, ",") {
			if enc = strings.TrimSpace(enc); enc != "" && !strings.EqualFold(enc, "identity") {
				return true
			}
		}
	}
	return false
}

// isPage reports whether a Content-Type says that the body is for people: no
// registry has ever sent a manifest so, but captive portals and block pages of
// proxies are sent so.
func isPage(contentType string) bool {
	t := baseType(contentType)
	switch t {
	case "text/html", "application/xhtml+xml", "application/xml", "text/xml", "text/css", "text/javascript":
		return true
	}
	kind, _, _ := strings.Cut(t, "/")
	return kind == "image" || kind == "audio" || kind == "video" || kind == "font" || kind == "multipart"
}

// isHTML reports whether a Content-Type is that of a page, and not only of what pages
// are made of.
func isHTML(contentType string) bool {
	t := baseType(contentType)
	return t == "text/html" || t == "application/xhtml+xml"
}

// baseType is the media type in a Content-Type header, in lower case and without
// parameters.
func baseType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		t, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		t = strings.TrimSpace(t)
	}
	return t
}
