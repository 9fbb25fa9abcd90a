package doctor

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// secrets are texts that must not be repeated, should somebody else repeat them.
// Findings never have them by themselves: this is for the texts of servers, and of
// errors, which quote what they were given.
type secrets []string

func (s *secrets) add(values ...string) {
	for _, v := range values {
		if v == "" {
			continue
		}
		*s = append(*s, v, url.QueryEscape(v), url.PathEscape(v), url.UserPassword("", v).String()[1:])
	}
}

func (s *secrets) addLogin(user, password string) {
	if password == "" {
		return
	}
	s.add(password, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// maxText bounds, in bytes, what is repeated of a foreign text.
const maxText = 300

var foreignURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\\]+`)

// clean makes a foreign text fit to be shown: short, on one line, without control
// characters, without secrets, and its URLs without what may be one.
func (s secrets) clean(text string) string {
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, "REDACTED")
	}
	if len(text) > 16*maxText {
		text = text[:16*maxText] // more cannot be left of it; not before, for half a secret is not found
	}
	text = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || unicode.IsSpace(c) || !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	text = foreignURL.ReplaceAllStringFunc(text, withoutSecrets)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxText {
		end := maxText
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return text
}

// withoutSecrets takes from a URL the places where secrets are: before an @, and
// behind a question mark.
func withoutSecrets(raw string) string {
	scheme, rest, _ := strings.Cut(raw, "://")
	if end := strings.IndexAny(rest, "?#"); end >= 0 {
		rest = rest[:end]
	}
	host, path, slash := strings.Cut(rest, "/")
	host = host[strings.LastIndexByte(host, '@')+1:]
	if slash {
		path = "/" + path
	}
	return scheme + "://" + host + path
}
