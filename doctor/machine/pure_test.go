package machine

import (
	"strings"
	"testing"

	"registry-module/doctor/report"
)

func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		":8000": "127.0.0.1:8000", "0.0.0.0:8000": "127.0.0.1:8000", "[::]:8000": "[::1]:8000", "192.0.2.1:80": "192.0.2.1:80", "localhost:80": "localhost:80",
	} {
		if got := reachable("tcp", listen); got != want {
			t.Errorf("%s is reached at %s, want %s", listen, got, want)
		}
	}
	if got := reachable("unix", "/run/x"); got != "/run/x" {
		t.Errorf("a socket is reached at %s", got)
	}
}

func TestSpace(t *testing.T) {
	const gib = 1 << 30
	tenth := func(whole int64) int64 { return whole / 10 }
	for _, test := range []struct {
		name        string
		machine     Machine
		free, whole int64
		want        report.Status
		text        string
	}{
		{"enough", Machine{MinFree: tenth}, 50 * gib, 100 * gib, report.OK, "50 GiB of 100 GiB are free, of which 10 GiB stay free"},
		{"no limits", Machine{}, 50 * gib, 100 * gib, report.OK, "50 GiB of 100 GiB are free"},
		{"with a limit", Machine{MaxSize: 20 * gib}, 50 * gib, 100 * gib, report.OK, "at most 20 GiB are kept"},
		{"reserve reached", Machine{MinFree: tenth}, 9 * gib, 100 * gib, report.Failed, "9.0 GiB"},
		{"full", Machine{}, 0, 100 * gib, report.Failed, "0 B"},
		{"limit that cannot be reached", Machine{MinFree: tenth, MaxSize: 95 * gib}, 50 * gib, 100 * gib, report.Warning, "more than there can be"},
		{"little", Machine{MinFree: tenth}, 10*gib + gib/2, 100 * gib, report.Warning, "10 GiB"},
	} {
		f := test.machine.judgeSpace(test.free, test.whole)
		if f.Status != test.want || !strings.Contains(f.Text, test.text) || (f.Status == report.OK) != (f.Advice == "") {
			t.Errorf("%s: %+v", test.name, f)
		}
	}
}
