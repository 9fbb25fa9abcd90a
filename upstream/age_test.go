package upstream

import (
	"testing"
	"time"
)

func TestParseAge(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, test := range map[string]struct {
		values []string
		want   time.Duration
	}{
		"none":            {nil, 0},
		"empty":           {[]string{""}, 0},
		"zero":            {[]string{"0"}, 0},
		"seconds":         {[]string{"86400"}, 24 * time.Hour},
		"spaces":          {[]string{" 7 "}, 7 * time.Second},
		"list":            {[]string{"7, 9"}, 7 * time.Second},
		"twice":           {[]string{"7", "9"}, 7 * time.Second},
		"bad, then good":  {[]string{"x", "9"}, 0},
		"negative":        {[]string{"-7"}, 0},
		"sign":            {[]string{"+7"}, 0},
		"fraction":        {[]string{"7.5"}, 0},
		"quoted":          {[]string{`"7"`}, 0},
		"ten years":       {[]string{"315360000"}, 10 * year},
		"more":            {[]string{"315360001"}, 10 * year},
		"too many digits": {[]string{"99999999999999999999"}, 10 * year},
	} {
		if got := parseAge(test.values); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestSaysStale(t *testing.T) {
	for name, test := range map[string]struct {
		values []string
		want   bool
	}{
		"none":             {nil, false},
		"empty":            {[]string{"", ","}, false},
		"stale":            {[]string{`110 - "Response is Stale"`}, true},
		"by name":          {[]string{`110 registry.example.com:5000 "x" "Mon, 23 Nov 2026 12:01:30 GMT"`}, true},
		"code only":        {[]string{"110"}, true},
		"another":          {[]string{`299 - "careful"`}, false},
		"longer":           {[]string{`1100 - "x"`}, false},
		"second header":    {[]string{`299 - "careful"`, `110 - "x"`}, true},
		"second of a list": {[]string{`299 - "careful", 110 - "x"`}, true},
		"behind a date":    {[]string{`299 - "x" "Mon, 23 Nov 2026 12:01:30 GMT",110 - "x"`}, true},
		"in a text":        {[]string{`299 - "an answer, 110 - years old"`}, false},
		"behind a quote":   {[]string{`299 - "an \", 110 - \\", 199 - "x"`}, false},
		"open quote":       {[]string{`299 - "x, 110 - "`}, false},
	} {
		if got := saysStale(test.values); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
