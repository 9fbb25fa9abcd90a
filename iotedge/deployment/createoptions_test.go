package deployment

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// cutEscape matches text that ends within an escape of JSON.
var cutEscape = regexp.MustCompile(`(?:^|[^\\])(?:\\\\)*(?:\\|\\u[0-9a-fA-F]{0,3})$`)

// cutPair matches text that ends between the two halves of a surrogate pair.
var cutPair = regexp.MustCompile(`(?:^|[^\\])(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}$`)

// secondHalf matches text that begins with the second half.
var secondHalf = regexp.MustCompile(`^\\u[dD][c-fC-F]`)

func TestSplit(t *testing.T) {
	for name, tt := range map[string]struct {
		text  string
		parts []int // their lengths in bytes
	}{
		"empty":                        {"", []int{0}},
		"one part":                     {strings.Repeat("a", 512), []int{512}},
		"two parts":                    {strings.Repeat("a", 513), []int{512, 1}},
		"all parts":                    {strings.Repeat("a", 4096), []int{512, 512, 512, 512, 512, 512, 512, 512}},
		"a character of two bytes":     {strings.Repeat("a", 511) + "üb", []int{511, 3}},
		"a character of four bytes":    {strings.Repeat("a", 510) + "😀", []int{510, 4}},
		"bytes count, not characters":  {strings.Repeat("ü", 300), []int{512, 88}},
		"a quote":                      {strings.Repeat("a", 511) + `\"b`, []int{511, 3}},
		"a backslash":                  {strings.Repeat("a", 509) + `\\\\b`, []int{511, 3}},
		"an escaped character":         {strings.Repeat("a", 507) + `\u00fcb`, []int{507, 7}},
		"an escaped surrogate pair":    {strings.Repeat("a", 505) + `\ud83d\ude00b`, []int{505, 13}},
		"two first halves, one second": {strings.Repeat("a", 500) + `\ud83d\ud83d\ude00b`, []int{506, 13}},
		"an escaped half of a pair":    {strings.Repeat("a", 506) + `\ud83db`, []int{512, 1}},
		"an escape that does not end":  {strings.Repeat("a", 511) + `\`, []int{512}},
		"an escape that is cut by end": {strings.Repeat("a", 510) + `\u0`, []int{510, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			parts, err := Split(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if Join(parts) != tt.text {
				t.Errorf("put together it is %q", Join(parts))
			}
			var got []int
			for _, p := range parts {
				got = append(got, len(p))
			}
			if len(got) != len(tt.parts) {
				t.Fatalf("got %v, want %v", got, tt.parts)
			}
			for i := range got {
				if got[i] != tt.parts[i] {
					t.Fatalf("got %v, want %v", got, tt.parts)
				}
			}
		})
	}
	for name, text := range map[string]string{"too long": strings.Repeat("a", 4097), "no UTF-8": "a\xff"} {
		if _, err := Split(text); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(strings.Repeat("a", 510) + `\ud83d\ude00` + strings.Repeat("ü😀", 200))
	f.Add(strings.Repeat(`\\`, 600) + `\`)
	f.Add(`{"Binds":["a:/b"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		parts, err := Split(text)
		if err != nil {
			return
		}
		if Join(parts) != text || len(parts) > MaxParts {
			t.Fatalf("%d parts of %q give %q", len(parts), text, Join(parts))
		}
		for i, p := range parts {
			last := i == len(parts)-1
			switch {
			case len(p) > MaxPart || units(p) > MaxPart:
				t.Errorf("part %d has %d bytes", i, len(p))
			case !utf8.ValidString(p):
				t.Errorf("part %d is no UTF-8", i)
			case !last && p == "":
				t.Errorf("part %d is empty", i)
			case !last && json.Valid([]byte(`"`+text+`"`)) && cutEscape.MatchString(p):
				t.Errorf("part %d ends within an escape: %q", i, p)
			case !last && cutPair.MatchString(p) && secondHalf.MatchString(parts[i+1]) && json.Valid([]byte(`"`+text+`"`)):
				t.Errorf("part %d ends within a surrogate pair: %q", i, p)
			}
		}
	})
}

// TestLongOptions has so many mounts that they need several parts, and are put together
// again by the rules.
func TestLongOptions(t *testing.T) {
	host := HostConfig{}
	for range 30 {
		host.Binds = append(host.Binds, `/etc/"a"/ü:/etc/"a"/ü:ro`)
	}
	m := Manifest{
		EdgeAgent: Module{Image: agentImage + "1"}, EdgeHub: Module{Image: hubImage + "1"},
		Modules: map[string]Module{"app": {Image: "a", Create: logged(host)}},
	}
	text, err := m.Full()
	if err != nil {
		t.Fatal(err)
	}
	if problems := Validate(text); len(problems) > 0 {
		t.Error(problems)
	}
	if !strings.Contains(string(text), `"createOptions01"`) {
		t.Errorf("it was not split:\n%s", text)
	}
	for range 300 {
		host.Binds = append(host.Binds, "/etc/a:/etc/a:ro")
	}
	m.Modules["app"] = Module{Image: "a", Create: logged(host)}
	for name, form := range map[string]func() ([]byte, error){"full": m.Full, "layered": m.Layered} {
		if _, err := form(); err == nil || !strings.Contains(err.Error(), "leave something out") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
