package dashboard

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
)

// The functions in this file have twins of the same name in assets/app.js.

// maxText is how many characters of a reason or a problem are shown.
const maxText = 600

// none is shown for what is not known.
const none = "–"

// clean makes text that does nothing to the text around it: characters that control
// something, the direction of writing among them, become visible as U+FFFD.
func clean(s string, most int) string {
	s = cut(s, most)
	return strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029') {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// cut leaves the first characters of a text.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, string(unicode.ReplacementChar))
	if len(s) <= most {
		return s
	}
	if all := []rune(s); len(all) > most {
		return string(all[:most]) + "…"
	}
	return s
}

// size is a number of bytes for people; negative is not known.
func size(n int64) string {
	if n < 0 {
		return none
	}
	return humanize.IBytes(uint64(n))
}

// count is a number with separators.
func count(n int64) string { return humanize.Comma(n) }

// percent has one digit after the point, and is 100 or 0 only for all and nothing.
func percent(part, whole int64) string {
	if whole <= 0 {
		return none
	}
	tenths := math.Floor(float64(part)/float64(whole)*1000 + 0.5)
	switch {
	case part < whole && tenths >= 1000:
		tenths = 999
	case part > 0 && tenths < 1:
		tenths = 1
	}
	return strconv.FormatFloat(tenths/10, 'f', 1, 64) + " %"
}

// duration is how long something takes, rounded down.
func duration(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return count(s) + " s"
	case s < 60*60:
		return count(s/60) + " min"
	case s < 48*60*60:
		return count(s/(60*60)) + " h"
	}
	return count(s/(24*60*60)) + " days"
}

// moment is a time, as machines and people read it, and from now; all empty but Rel for one
// that is not known.
type moment struct{ ISO, Abs, Rel string }

// minute is Abs without its seconds.
func (m moment) minute() string {
	if len(m.Abs) < 20 {
		return m.Abs
	}
	return m.Abs[:16] + m.Abs[19:]
}

// short is a digest as people compare it.
func short(digest string) string {
	algorithm, hash, found := strings.Cut(digest, ":")
	if !found {
		return clean(cut(digest, 20), 30)
	}
	return clean(algorithm+":"+hash[:min(len(hash), 12)], 30)
}
