package dashboard

import (
	"testing"
	"time"

	"registry-module/server/admin"
)

func TestFormats(t *testing.T) {
	w := words()
	for _, tt := range []struct{ got, want string }{
		{size(-1), "–"}, {size(0), "0 B"}, {size(1023), "1023 B"}, {size(1 << 30), "1.0 GiB"}, {size(1536), "1.5 KiB"},
		{percent(0, 0), "–"}, {percent(0, 9), "0.0 %"}, {percent(1, 1e6), "0.1 %"}, {percent(1e6-1, 1e6), "99.9 %"}, {percent(5, 5), "100.0 %"},
		{duration(-time.Second), "0 s"}, {duration(59 * time.Second), "59 s"}, {duration(time.Minute), "1 min"},
		{duration(47 * time.Hour), "47 h"}, {duration(48 * time.Hour), "2 days"},
		{cut("äöü", 2), "äö…"}, {cut("äöü", 3), "äöü"}, {cut("a\xff", 9), "a\ufffd"},
		{clean("a\u202eb\x00c\nd\u2028", 99), "a\ufffdb\ufffdc\nd\ufffd"},
		{short("sha256:0123456789abcdef"), "sha256:0123456789ab"}, {short("none"), "none"},
		{w.number(1, "images"), "1 image"}, {w.number(12345, "images"), "12,345 images"},
		{w.word("download.of", "{}", "b"), "{} of b"}, {w.word("none"), "none"}, {w.word("no such text"), ""},
		{w.at(noon.Add(-90*time.Minute), noon, none).Rel, "1 h ago"}, {w.at(noon.Add(time.Minute), noon, none).Rel, "in 1 min"},
		{w.at(noon, noon, none).Rel, "just now"}, {w.at(noon, noon, none).Abs, "2026-03-02 12:00:00 UTC"}, {w.at(noon, noon, none).minute(), "2026-03-02 12:00 UTC"}, {moment{}.minute(), ""}, {w.at(time.Time{}, noon, none).Rel, none},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestBins(t *testing.T) {
	sample := func(before time.Duration, seconds int, served int64) admin.Sample {
		return admin.Sample{At: noon.Add(-before), Seconds: seconds, Traffic: admin.Traffic{Served: served}}
	}
	for name, tt := range map[string]struct {
		history []admin.Sample
		width   int
		served  []int64
	}{
		"minutes":        {[]admin.Sample{sample(2*time.Minute, 60, 1), sample(0, 60, 2)}, 60, []int64{1, 0, 2, 0}},
		"in the future":  {[]admin.Sample{sample(0, 60, 1), sample(-3*time.Minute, 60, 2)}, 60, []int64{1, 0, 0, 2}},
		"quarters":       {[]admin.Sample{sample(0, 900, 1), sample(0, 60, 2)}, 900, []int64{3, 0}},
		"half an hour":   {[]admin.Sample{sample(29*time.Minute, 60, 1), sample(0, 60, 2)}, 60, append(append([]int64{1}, make([]int64, 28)...), 2, 0)},
		"two hours":      {[]admin.Sample{sample(110*time.Minute, 60, 1), sample(0, 60, 2)}, 300, append(append([]int64{1}, make([]int64, 21)...), 2, 0)},
		"too long a one": {[]admin.Sample{sample(400*24*time.Hour, 900, 1), sample(0, 900, 2)}, 86400, append(make([]int64, 35), 2)},
	} {
		t.Run(name, func(t *testing.T) {
			got := bins(tt.history, noon)
			if len(got) != len(tt.served) {
				t.Fatalf("got %d bins of %d s, want %d", len(got), got[0].Seconds, len(tt.served))
			}
			for i, b := range got {
				if b.Seconds != tt.width || b.Served != tt.served[i] || i > 0 && b.At.Sub(got[i-1].At) != time.Duration(tt.width)*time.Second {
					t.Errorf("bin %d is %+v, want %d bytes in %d s", i, b, tt.served[i], tt.width)
				}
			}
		})
	}
}

// TestVerdict looks at what is said at a glance.
func TestVerdict(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(*admin.State)
		verdict string
		tone    string
		notes   int
	}{
		"well":            {func(*admin.State) {}, "All is well", good, 0},
		"restart waits":   {func(s *admin.State) { s.Config.Restart = []string{"a", "b"} }, "All is well", good, 1},
		"offline by hand": {func(s *admin.State) { s.Offline = admin.Offline{On: true, Mode: "on"} }, "Works offline", info, 1},
		"held remotes": {func(s *admin.State) {
			s.Offline.On, s.Remotes = true, []admin.Remote{{Host: "a", State: "held"}}
		}, "Works offline", info, 1},
		"remote away":   {func(s *admin.State) { s.Remotes = []admin.Remote{{Host: "a", State: "offline"}} }, "Works, but look at this", warn, 1},
		"no room":       {func(s *admin.State) { s.Disk.Short = "x"; s.Seed = &admin.Seed{Failed: 1} }, "Needs attention", bad, 2},
		"bad file":      {func(s *admin.State) { s.Config.Error = "x" }, "Needs attention", bad, 1},
		"not ready":     {func(s *admin.State) { s.Ready = false }, "Not ready", bad, 1},
		"warning":       {func(s *admin.State) { s.Warnings = []string{"x"} }, "Works, but look at this", warn, 1},
		"download down": {func(s *admin.State) { s.Downloads = []admin.Download{{Failure: "x"}} }, "Works, but look at this", warn, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := empty()
			tt.change(&f.state)
			if v := newView(words(), f.state); v.Verdict != tt.verdict || v.Tone != tt.tone || len(v.Notes) != tt.notes {
				t.Errorf("got %q, %s and %v", v.Verdict, v.Tone, v.Notes)
			}
		})
	}
}
