package upstream

import (
	"encoding/base64"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Secrets are texts that must not be repeated, should somebody else repeat them: a
// registry that quotes the Authorization header in its error would have us tell the
// password to clients and to the log. What was put into them is found again in the
// forms that servers quote it in, and also where they have cut its end off.
//
// The zero value knows none. It is safe for use by several goroutines.
type Secrets struct {
	mu sync.Mutex
	// given is what we were given, and gotten are the tokens that we got for it, which
	// are many.
	given, gotten ring
	last          authn.AuthConfig // the credentials that were added last
}

const (
	// maxGiven and maxGotten are how many secrets are remembered: of some dozens of
	// log-ins; and all tokens that are kept, and as many again of which a request may
	// still be under way.
	maxGiven  = 256
	maxGotten = 2 * maxTokens
	// maxSearched is how long, in bytes, a text may be that is looked through: remotes
	// choose texts and tokens, and so what that costs.
	maxSearched = 16 << 10
	// shortSecret is below how many bytes a secret is looked for between other
	// characters than letters and digits only: else it is found in everything, and
	// what is left of the text shows what it is.
	shortSecret = 6
	// startOfSecret is how many bytes of the start of a secret are as good as all.
	startOfSecret = 16
	// redacted is what stands for a secret.
	redacted = "REDACTED"
)

// ring holds the secrets that were added to it last, each once, in all their forms.
type ring struct {
	secrets [][]string
	next    int // which is replaced next
}

func (r *ring) add(most int, forms []string) {
	switch {
	case len(forms) == 0, slices.ContainsFunc(r.secrets, func(s []string) bool { return slices.Equal(s, forms) }):
	case len(r.secrets) < most:
		r.secrets = append(r.secrets, forms)
	default:
		r.secrets[r.next] = forms
		r.next = (r.next + 1) % most
	}
}

// Add adds secrets. Empty ones are left out.
func (s *Secrets) Add(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, value := range values {
		s.given.add(maxGiven, formsOf(value))
	}
}

// AddCredentials adds all that is secret in config: not the user name by itself.
func (s *Secrets) AddCredentials(config authn.AuthConfig) {
	s.mu.Lock()
	known := s.last == config
	s.last = config
	s.mu.Unlock()
	if known {
		return
	}
	s.Add(config.Password, config.Auth, strings.TrimRight(config.Auth, "="), config.IdentityToken, config.RegistryToken)
	if config.Password != "" {
		login := []byte(config.Username + ":" + config.Password)
		s.Add(base64.RawStdEncoding.EncodeToString(login), base64.RawURLEncoding.EncodeToString(login))
	}
	if login, err := base64.StdEncoding.DecodeString(config.Auth); err == nil {
		_, password, _ := strings.Cut(string(login), ":")
		s.Add(password)
	}
}

// AddToken adds a token that a service has given out. Only the last few hundred are
// remembered, so that there may be any number.
func (s *Secrets) AddToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gotten.add(maxGotten, formsOf(token))
}

// formsOf returns the forms in which others may quote a secret, each once, in lower
// case.
func formsOf(secret string) []string {
	if secret == "" {
		return nil
	}
	quoted := strconv.Quote(secret)
	forms := []string{
		secret,
		url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("", secret).String()[1:],
		html.EscapeString(secret), quoted[1 : len(quoted)-1],
	}
	for i := range forms {
		forms[i] = lower(forms[i])
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

// lower is text with ASCII letters in lower case: hosts come so, and the digits of
// what is escaped in a URL in either case. All bytes stay where they are.
func lower(text string) string {
	b := []byte(text)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Contains reports whether text repeats a secret. It does so of a text of more than 16
// KiB, too: that is more than is looked through.
func (s *Secrets) Contains(text string) bool {
	return len(text) > maxSearched || text != "" && len(s.find(text)) > 0
}

// span is a part of a text, from the first byte to before the last one.
type span struct{ from, to int }

// find returns where secrets are in text, in order, and apart from each other. The text
// is at most maxSearched bytes long.
func (s *Secrets) find(text string) (apart []span) {
	text = lower(text)
	var marked []bool // of the bytes of text
	for key, secrets := range s.starts(text) {
		marked = mark(marked, text, key, secrets)
	}
	for i, is := range marked {
		switch last := len(apart) - 1; {
		case !is:
		case last >= 0 && apart[last].to == i:
			apart[last].to++
		default:
			apart = append(apart, span{i, i + 1})
		}
	}
	return apart
}

// starts returns the secrets of which at least the start is in text, by that start: so
// that many with the same one are looked for once.
func (s *Secrets) starts(text string) map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string][]string)
	for _, r := range []ring{s.given, s.gotten} {
		for _, forms := range r.secrets {
			for _, form := range forms {
				key := form[:min(len(form), startOfSecret)]
				if _, known := found[key]; known || strings.Contains(text, key) {
					found[key] = append(found[key], form)
				}
			}
		}
	}
	return found
}

// mark marks where secrets that begin with key are in text.
func mark(marked []bool, text, key string, secrets []string) []bool {
	end := 0 // of what is marked for key
	for from := 0; ; {
		i := strings.Index(text[from:], key)
		if i < 0 {
			return marked
		}
		f := span{from + i, from + i + len(key)}
		for _, secret := range secrets {
			n := len(key)
			for n < len(secret) && f.from+n < len(text) && text[f.from+n] == secret[n] {
				n++
			}
			f.to = max(f.to, f.from+n)
		}
		if len(key) >= shortSecret || standsAlone(text, f) {
			if marked == nil {
				marked = make([]bool, len(text))
			}
			for j := max(f.from, end); j < f.to; j++ {
				marked[j] = true
			}
			end = max(end, f.to)
		}
		// A secret may begin within what looks like its beginning. Not so in a long
		// one, unless somebody wants to keep us busy.
		from = f.from + 1
		if f.to-f.from >= 4*startOfSecret {
			from = f.to - startOfSecret + 1
		}
	}
}

// standsAlone reports whether there are neither letters nor digits beside f.
func standsAlone(text string, f span) bool {
	before, _ := utf8.DecodeLastRuneInString(text[:f.from])
	after, _ := utf8.DecodeRuneInString(text[f.to:])
	word := func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }
	return !word(before) && !word(after)
}

// mask puts a placeholder in the place of each secret in text.
func (s *Secrets) mask(text string) string {
	found := s.find(text)
	if len(found) == 0 {
		return text
	}
	var b strings.Builder
	end := 0
	for _, f := range found {
		b.WriteString(text[end:f.from])
		b.WriteString(redacted)
		end = f.to
	}
	b.WriteString(text[end:])
	return b.String()
}

// maxText bounds, in bytes, what is repeated of a text that a remote has made.
const maxText = 400

// Clean makes a text fit for logs and terminals that may come from a remote: it is
// short, on one line, without control characters and secrets, and its URLs are
// without what may be one: credentials, query, fragment.
func (s *Secrets) Clean(text string) string { return s.CleanTo(maxText, text) }

// CleanTo is Clean for a text of so many bytes at most, and three dots.
func (s *Secrets) CleanTo(most int, text string) string {
	// Before it is shortened or changed: half a secret is not found. What is cut off
	// here is far behind what can be left of it, and so is the start of a secret that
	// is too short to be found.
	end := min(16*most, maxSearched)
	masked := s.mask(text[:min(len(text), end)])
	if len(text) > end {
		masked = masked[:max(len(masked)-startOfSecret, 0)]
	}
	// And again afterwards: what was between the words of a secret may be spaces now.
	return s.mask(cleanTo(most, masked))
}

// clean is [Secrets.Clean] for a text that no remote has made.
func clean(text string) string { return cleanTo(maxText, text) }

var anyURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\\]+`)

func cleanTo(most int, text string) string {
	if len(text) > 16*most {
		text = text[:16*most] // more cannot be left of it; saves the work
	}
	text = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || unicode.IsSpace(c) || !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	text = anyURL.ReplaceAllStringFunc(text, cleanURL)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		end := most
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "..."
	}
	return text
}

func cleanURL(raw string) string {
	scheme, rest, _ := strings.Cut(raw, "://")
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	host, path, slash := strings.Cut(rest, "/")
	host = host[strings.LastIndex(host, "@")+1:]
	if slash {
		host += "/"
	}
	return scheme + "://" + host + path
}
