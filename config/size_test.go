package config

import (
	"math"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0":          0,
		"0GiB":       0,
		"20GiB":      20 << 30,
		"20 GiB":     20 << 30,
		" 20gib ":    20 << 30,
		"20G":        20e9,
		"500MB":      500e6,
		"1.5KiB":     1536,
		"7":          7,
		"8EiB":       -1,
		"16EiB":      -1,
		"1e3":        -1,
		"":           -1,
		"GiB":        -1,
		"-1":         -1,
		"1,5GiB":     -1,
		"1GiBB":      -1,
		"NaN":        -1,
		"1.2.3MB":    -1,
		"٣GiB":       -1,
		"99999999EB": -1,
	} {
		got, err := ParseSize(s)
		if want < 0 && err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
		if want >= 0 && (err != nil || got != want) {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
}

func TestParseAmount(t *testing.T) {
	const whole = 1000 << 30
	for s, want := range map[string]int64{
		"0":      0,
		"0%":     0,
		"10%":    100 << 30,
		" 10 % ": 100 << 30,
		"2.5%":   25 << 30,
		"99.9%":  999 << 30,
		"2GiB":   2 << 30,
		"100%":   -1,
		"-1%":    -1,
		"NaN%":   -1,
		"Inf%":   -1,
		"%":      -1,
		"10%%":   -1,
		"ten":    -1,
		"":       -1,
	} {
		got, err := ParseAmount(s)
		if want < 0 && err == nil {
			t.Errorf("ParseAmount(%q) = %v, want an error", s, got)
		}
		if want >= 0 && (err != nil || got.Of(whole) != want) {
			t.Errorf("ParseAmount(%q) = %v (%d bytes), %v, want %d", s, got, got.Of(whole), err, want)
		}
	}
	if got := (Amount{}).Of(whole); got != 0 {
		t.Errorf("the zero Amount is %d bytes", got)
	}
}

func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"10%", "2GiB", "0", "1.5kB", "99.99%", "1,5GB", "-1", "NaN%", "", "8EiB", "0x1p-2%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAmount(s)
		if err != nil {
			return
		}
		if a.Bytes < 0 || a.Percent < 0 || a.Percent >= 100 || a.Percent != 0 && a.Bytes != 0 {
			t.Fatalf("ParseAmount(%q) = %+v", s, a)
		}
		if of := a.Of(math.MaxInt64); of < 0 || a.Percent > 0 && of == math.MaxInt64 {
			t.Errorf("%q of everything is %d bytes", s, of)
		}
		// Bytes can be too many for the library to read back exactly.
		if again, err := ParseAmount(a.String()); err != nil || a.Bytes < 1<<53 && again != a {
			t.Errorf("ParseAmount(%q) = %v, which reads back as %v, %v", s, a, again, err)
		}
	})
}
