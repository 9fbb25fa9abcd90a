package config

import (
	"fmt"
	"testing"
)

func TestParseBandwidth(t *testing.T) {
	for s, want := range map[string]int64{
		"0":            0,
		"0/s":          0,
		"0MiB/s":       0,
		"0kbit/s":      0,
		"20MiB/s":      20 << 20,
		"20MiB":        20 << 20,
		" 20 MiB /s ":  20 << 20,
		"20MB/s":       20e6,
		"1.5MB/s":      1.5e6,
		"2048B/s":      2048,
		"1KiB/s":       1 << 10,
		"160Mbit/s":    20e6,
		"160 mbit":     20e6,
		"160MBit/s":    20e6,
		"2.5Gbit/s":    312_500_000,
		"64kbit/s":     8000,
		"64Kbit/s":     8000,
		"8192bit/s":    1 << 10,
		"20":           -1,
		"2000000":      -1,
		"20M/s":        -1,
		"20M":          -1,
		"20Mb/s":       -1, // bits to some and bytes to others
		"20mb":         -1,
		"160Mbps":      -1,
		"160Mbits/s":   -1,
		"20MiB/min":    -1,
		"20MiB/s/s":    -1,
		"20MBbit/s":    -1,
		"bit":          -1,
		"bit/s":        -1,
		"Mbit/s":       -1,
		"/s":           -1,
		"":             -1,
		"-1MiB/s":      -1,
		"1,5MiB/s":     -1,
		"NaNMB/s":      -1,
		"unlimited":    -1,
		"8EiB/s":       -1,
		"1023B/s":      -1,
		"0.1B/s":       -1,
		"1bit/s":       -1,
		"8191bit/s":    -1,
		"0.000001kbit": -1,
	} {
		got, err := ParseBandwidth(s)
		if want < 0 && err == nil {
			t.Errorf("ParseBandwidth(%q) = %d, want an error", s, got)
		}
		if want >= 0 && (err != nil || got != want) {
			t.Errorf("ParseBandwidth(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
}

func FuzzParseBandwidth(f *testing.F) {
	for _, s := range []string{"20MiB/s", "160Mbit/s", "0", "1.5 kB", "0.0bit", "1,5MB", "-1", "NaNB", "", "8EiB/s", "9bit/s", "1e9B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseBandwidth(s)
		if err != nil {
			if n != 0 {
				t.Errorf("ParseBandwidth(%q) = %d, %v", s, n, err)
			}
			return
		}
		if n < 0 || n > 0 && n < minBandwidth {
			t.Fatalf("ParseBandwidth(%q) = %d", s, n)
		}
		// Bytes can be too many for the library to read back exactly.
		if again, err := ParseBandwidth(fmt.Sprintf("%dB/s", n)); err != nil || n < 1<<53 && again != n {
			t.Errorf("ParseBandwidth(%q) = %d, which reads back as %d, %v", s, n, again, err)
		}
	})
}
