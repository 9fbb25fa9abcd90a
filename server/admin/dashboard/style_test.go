package dashboard

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestContrast computes the contrast of the colours that are used together (WCAG 2.2,
// success criteria 1.4.3 and 1.4.11), in both themes.
func TestContrast(t *testing.T) {
	css := string(assets()["/assets/style.css"].content)
	light, dark, found := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	if !found {
		t.Fatal("there is no dark theme")
	}
	light, _, _ = strings.Cut(light, "}")
	dark, _, _ = strings.Cut(dark, "}")
	for theme, text := range map[string]string{"light": light, "dark": dark} {
		colors := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`).FindAllStringSubmatch(text, -1) {
			colors[m[1]] = luminance(t, m[2])
		}
		check := func(least float64, fore, back string) {
			a, okA := colors[fore]
			b, okB := colors[back]
			if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); !okA || !okB || ratio < least {
				t.Errorf("%s: %s on %s has a contrast of %.2f, want %.1f", theme, fore, back, ratio, least)
			}
		}
		for _, fore := range []string{"text", "muted", "accent", "good", "info", "warn", "bad"} {
			check(4.5, fore, "surface")
			check(4.5, fore, "bg")
		}
		for _, tone := range []string{"good", "info", "warn", "bad"} {
			check(4.5, tone, tone+"-bg")
			check(4.5, "text", tone+"-bg")
		}
		check(4.5, "on-accent", "accent")
		check(4.5, "bg", "text")
		for _, line := range []string{"saved", "fetched", "accent", "edge"} {
			check(3, line, "surface")
			check(3, line, "bg")
		}
	}
	// Colours are nowhere but in these, save the shade behind a dialog.
	_, rest, _ := strings.Cut(css, "* { box-sizing")
	if m := regexp.MustCompile(`#[0-9a-fA-F]{3,8}\b[^{]*;`).FindString(rest); m != "" {
		t.Errorf("there is a colour that is not compared: %s", m)
	}
}

// luminance is the relative luminance of WCAG 2.2.
func luminance(t *testing.T, hex string) float64 {
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	linear := func(c uint64) float64 {
		f := float64(c&0xff) / 255
		if f <= 0.04045 {
			return f / 12.92
		}
		return math.Pow((f+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(n>>16) + 0.7152*linear(n>>8) + 0.0722*linear(n)
}

func TestNothingFromElsewhere(t *testing.T) {
	for name, a := range assets() {
		text := strings.ReplaceAll(string(a.content), "http://www.w3.org/2000/svg", "")
		for _, not := range []string{"http:", "https:", "//cdn", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", ".style", "cookie"} {
			if strings.Contains(text, not) {
				t.Errorf("%s has %q", name, not)
			}
		}
	}
}

// TestAllWordsAreUsed keeps the vocabulary from growing old.
func TestAllWordsAreUsed(t *testing.T) {
	script := string(assets()["/assets/app.js"].content)
	made := regexp.MustCompile(`^(remote|offline|pin|image|verdict|done)\.|\.(1|n)$`) // keys that are put together
	for key := range words() {
		if !made.MatchString(key) && !strings.Contains(script, "'"+key+"'") {
			t.Errorf("the script does not use the text %q", key)
		}
	}
	for _, m := range regexp.MustCompile(`word\('([a-z.0-9]*[a-z0-9])'`).FindAllStringSubmatch(script, -1) {
		if words()[m[1]] == "" {
			t.Errorf("the script uses the text %q, and there is none", m[1])
		}
	}
}
