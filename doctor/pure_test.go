package doctor

import (
	"testing"
	"time"
)

func TestReadQuota(t *testing.T) {
	for _, test := range []struct {
		text   string
		n      int64
		window time.Duration
		ok     bool
	}{
		{"100;w=21600", 100, 6 * time.Hour, true},
		{"100", 100, 0, true},
		{" 7 ; w=60", 7, time.Minute, true},
		{"7;w=-1", 7, 0, true},
		{"7;w=99999999999999999999", 7, 0, true},
		{"", 0, 0, false},
		{"-1;w=60", 0, 0, false},
		{"99999999999999999999", 0, 0, false},
	} {
		n, window, ok := readQuota(test.text)
		if n != test.n || window != test.window || ok != test.ok {
			t.Errorf("%q: %d, %v, %v", test.text, n, window, ok)
		}
	}
}
