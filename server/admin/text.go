package admin

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds, in bytes, a text that may be of somebody else.
const maxText = 400

var (
	anyURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\\]+`)
	// aQuery is one without scheme in front, as in "Get /v2/x?token=...".
	aQuery = regexp.MustCompile(`\?[^\s"'<>\\]*=[^\s"'<>\\]*`)
	// aCredential is the value of an Authorization header (RFC 9110, section 11.4).
	aCredential = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`)
)

// cleanText makes a text fit to be shown that may come from a remote, or from a client: it
// is short, on one line, without control characters and those that turn the direction of
// writing, and URLs are without what may be a secret: user, query and fragment.
func cleanText(text string) string { return cleanTo(maxText, text) }

// cleanTo is cleanText for a text of so many bytes at most, and three dots.
func cleanTo(most int, text string) string {
	if len(text) > 16*most {
		text = text[:16*most] // more cannot be left of it
	}
	text = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	text = anyURL.ReplaceAllStringFunc(text, cleanURL)
	text = aQuery.ReplaceAllString(text, "")
	text = aCredential.ReplaceAllString(text, "$1 REDACTED")
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= most {
		return text
	}
	end := most
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "..."
}

func cleanURL(raw string) string {
	scheme, rest, _ := strings.Cut(raw, "://")
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	host, path, slash := strings.Cut(rest, "/")
	// A password can have a slash, and then what follows it looks like a path.
	if i := strings.LastIndex(rest, "@"); i > len(host) && !strings.Contains(path, "@sha256:") {
		host, path, slash = strings.Cut(rest[i+1:], "/")
	}
	host = host[strings.LastIndex(host, "@")+1:]
	if slash {
		host += "/"
	}
	return scheme + "://" + host + path
}
