package upstream

import (
	"math"
	"net/http"
	"strings"
	"time"
)

// maxAge bounds how old an answer can be said to be.
const maxAge = 10 * 365 * 24 * time.Hour

// parseAge reads Age headers (RFC 9111 section 5.1): seconds, of which the first counts
// where there are several. What cannot be read is 0.
func parseAge(values []string) time.Duration {
	if len(values) == 0 {
		return 0
	}
	first, _, _ := strings.Cut(values[0], ",")
	first = strings.TrimSpace(first)
	if !allDigits(first) {
		return 0
	}
	seconds, ok := parseSize(first)
	if !ok { // too many digits
		seconds = math.MaxInt64
	}
	return time.Duration(min(seconds, int64(maxAge/time.Second))) * time.Second
}

// saysStale reports whether Warning headers say that an answer is stale (RFC 7234
// sections 5.5 and 5.5.1).
func saysStale(values []string) bool {
	for _, value := range values {
		for value != "" {
			var code string
			code, value = cutWarning(value)
			if code == "110" {
				return true
			}
		}
	}
	return false
}

// cutWarning takes the first warning off a Warning header: its code, and the warnings
// that follow it. Commas in quotes end none.
func cutWarning(value string) (code, rest string) {
	value = strings.TrimLeft(value, " \t,")
	end, quoted := len(value), false
scan:
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			end = i
			break scan
		}
	}
	code, _, _ = strings.Cut(value[:end], " ")
	return code, value[end:]
}

// ageOf is what a remote says of the age of an answer: how long ago it has had that
// confirmed, and whether it could not do so again.
func ageOf(h http.Header) (age time.Duration, stale bool) {
	return parseAge(h.Values("Age")), saysStale(h.Values("Warning"))
}
