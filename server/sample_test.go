package server

import (
	"math"
	"testing"
)

// The numbers that can be drawn are in a sample by its share.
func TestSample(t *testing.T) {
	for _, tt := range []struct {
		share     float64
		out, in   uint32 // the last that is not, the first that is
		all, none bool
	}{
		{share: 1, all: true},
		{share: 0, none: true},
		{share: 0.5, out: 1<<31 - 1, in: 1 << 31},
		{share: 0.01, out: 4252017622, in: 4252017623},
	} {
		s, err := SampleOf(tt.share)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case tt.all:
			if !s.has(0) || !s.has(math.MaxUint32) || !s.logs(200, false) {
				t.Errorf("%v is not all", tt.share)
			}
		case tt.none:
			if s.has(0) || s.has(math.MaxUint32) || s.logs(200, false) || !s.logs(500, false) || !s.logs(0, true) {
				t.Errorf("%v is not none", tt.share)
			}
		case s.has(tt.out) || !s.has(tt.in):
			t.Errorf("%v: %d and %d are on the wrong sides", tt.share, tt.out, tt.in)
		}
	}
	if _, err := SampleOf(math.NaN()); err == nil {
		t.Error("no number is a share")
	}
	if !(Sample{}).logs(200, false) {
		t.Error("the zero value is not all")
	}
}
