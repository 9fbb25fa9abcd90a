package schedule

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // of a machine that has none
)

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

const layout = "Mon 2006-01-02 15:04:05 MST"

// moment reads a time of Berlin, with CET or CEST at its end where there are two.
func moment(t *testing.T, loc *time.Location, text string) time.Time {
	t.Helper()
	zone := map[string]int{"CET": 3600, "CEST": 7200, "UTC": 0}
	for name, offset := range zone {
		if bare, ok := strings.CutSuffix(text, " "+name); ok {
			got, err := time.ParseInLocation("2006-01-02 15:04:05", bare, time.FixedZone(name, offset))
			if err != nil {
				t.Fatal(err)
			}
			return got.In(loc)
		}
	}
	t.Fatalf("%q has no zone", text)
	return time.Time{}
}

// In 2026, Berlin goes from 02:00 CET to 03:00 CEST on Sunday, March 29, and from 03:00
// CEST to 02:00 CET on Sunday, October 25. November 23 is a Monday.
func TestAt(t *testing.T) {
	const never = ""
	for name, tt := range map[string]struct {
		windows string
		at      string
		in      bool
		until   string
	}{
		"before":               {"Mon-Fri 08:00-18:00", "2026-11-23 07:59:59 CET", false, "2026-11-23 08:00:00 CET"},
		"begin":                {"Mon-Fri 08:00-18:00", "2026-11-23 08:00:00 CET", true, "2026-11-23 18:00:00 CET"},
		"end":                  {"Mon-Fri 08:00-18:00", "2026-11-23 18:00:00 CET", false, "2026-11-24 08:00:00 CET"},
		"over the weekend":     {"Mon-Fri 08:00-18:00", "2026-11-27 18:00:00 CET", false, "2026-11-30 08:00:00 CET"},
		"into the next day":    {"Sat 22:00-06:00", "2026-11-29 05:59:59 CET", true, "2026-11-29 06:00:00 CET"},
		"not the day before":   {"Sat 22:00-06:00", "2026-11-28 05:00:00 CET", false, "2026-11-28 22:00:00 CET"},
		"into the next week":   {"Sun 22:00-06:00", "2026-11-29 23:00:00 CET", true, "2026-11-30 06:00:00 CET"},
		"from the last week":   {"Sun 22:00-06:00", "2026-11-30 03:00:00 CET", true, "2026-11-30 06:00:00 CET"},
		"days around the week": {"Fri-Mon 10:00-11:00", "2026-11-23 11:00:00 CET", false, "2026-11-27 10:00:00 CET"},
		"daily":                {"daily 12:00-13:00", "2026-11-29 13:00:00 CET", false, "2026-11-30 12:00:00 CET"},
		"midnight at the end":  {"Mon 20:00-24:00", "2026-11-23 23:59:59 CET", true, "2026-11-24 00:00:00 CET"},
		"a whole day":          {"Mon 00:00-24:00", "2026-11-23 12:00:00 CET", true, "2026-11-24 00:00:00 CET"},
		"begin is end":         {"Mon 08:00-08:00", "2026-11-24 07:00:00 CET", true, "2026-11-24 08:00:00 CET"},
		"overlapping":          {"Mon 08:00-12:00, Mon 10:00-14:00, Mon 09:00-10:00", "2026-11-23 08:30:00 CET", true, "2026-11-23 14:00:00 CET"},
		"touching":             {"Mon 22:00-24:00, Tue 00:00-02:00", "2026-11-23 22:30:00 CET", true, "2026-11-24 02:00:00 CET"},
		"touching in circles":  {"Sun 22:00-24:00, Mon 00:00-02:00", "2026-11-29 22:30:00 CET", true, "2026-11-30 02:00:00 CET"},
		"none":                 {"", "2026-11-23 12:00:00 CET", false, never},
		"always":               {"daily 00:00-24:00", "2026-11-23 12:00:00 CET", true, never},
		"always, in pieces":    {"Mon-Wed 06:00-06:00, Thu-Sun 06:00-06:00", "2026-11-23 12:00:00 CET", true, never},

		"clock forward, outside":  {"Sun 04:00-05:00", "2026-03-29 01:00:00 CET", false, "2026-03-29 04:00:00 CEST"},
		"clock forward, inside":   {"Sat 22:00-06:00", "2026-03-28 22:00:00 CET", true, "2026-03-29 06:00:00 CEST"},
		"begin that is skipped":   {"Sun 02:30-05:00", "2026-03-29 01:00:00 CET", false, "2026-03-29 03:00:00 CEST"},
		"end that is skipped":     {"Sun 00:00-02:30", "2026-03-29 01:00:00 CET", true, "2026-03-29 03:00:00 CEST"},
		"window that is skipped":  {"Sun 02:15-02:45", "2026-03-29 01:00:00 CET", false, "2026-04-05 02:15:00 CEST"},
		"clock back, outside":     {"Sun 04:00-05:00", "2026-10-25 01:00:00 CEST", false, "2026-10-25 04:00:00 CET"},
		"clock back, inside":      {"Sat 22:00-06:00", "2026-10-24 22:00:00 CEST", true, "2026-10-25 06:00:00 CET"},
		"window that comes twice": {"Sun 02:15-02:45", "2026-10-25 02:20:00 CEST", true, "2026-10-25 02:45:00 CEST"},
		"between the two":         {"Sun 02:15-02:45", "2026-10-25 02:50:00 CEST", false, "2026-10-25 02:15:00 CET"},
		"the second time":         {"Sun 02:15-02:45", "2026-10-25 02:20:00 CET", true, "2026-10-25 02:45:00 CET"},
		"begin as the clock ends": {"Sun 02:30-03:00", "2026-10-25 02:40:00 CEST", true, "2026-10-25 02:00:00 CET"},
		"days of other lengths":   {"Sat-Sun 00:00-24:00", "2026-10-24 00:00:00 CEST", true, "2026-10-26 00:00:00 CET"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := Parse(tt.windows)
			if err != nil {
				t.Fatal(err)
			}
			loc := location(t, "Europe/Berlin")
			in, until := w.At(moment(t, loc, tt.at))
			want := time.Time{}
			if tt.until != never {
				want = moment(t, loc, tt.until)
			}
			if in != tt.in || !until.Equal(want) {
				t.Errorf("%v until %s, want %v until %s", in, until.Format(layout), tt.in, want.Format(layout))
			}
		})
	}
}

// The clock that counts is that of the time's location.
func TestLocation(t *testing.T) {
	w, err := Parse("Tue 00:00-02:00")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 23, 30, 0, 0, time.UTC)
	if in, until := w.At(at); in || !until.Equal(at.Add(30*time.Minute)) {
		t.Errorf("in UTC: %v until %v", in, until)
	}
	if in, until := w.At(at.In(location(t, "Europe/Berlin"))); !in || !until.Equal(at.Add(90*time.Minute)) {
		t.Errorf("in Berlin: %v until %v", in, until)
	}
}

func TestString(t *testing.T) {
	w, err := Parse("  mon-FRI   08:00-18:00,daily 12:00-13:00 ")
	if err != nil || w.String() != "mon-FRI 08:00-18:00, daily 12:00-13:00" || w.IsZero() {
		t.Errorf("%q, %v", w, err)
	}
	if w, err := Parse(" "); err != nil || !w.IsZero() || w.String() != "" {
		t.Errorf("of nothing: %q, %v", w, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, says string }{
		"no times":        {"Mon", "not days and times"},
		"no days":         {"08:00-18:00", "not days and times"},
		"list of days":    {"Mon,Wed 08:00-18:00", `has "Mon", which is not days and times`},
		"two times":       {"Mon 08:00-09:00 10:00-11:00", "not days and times"},
		"empty":           {"Mon 08:00-09:00,", "not days and times"},
		"no day":          {"Montag 08:00-18:00", `"Montag", which is no day of the week`},
		"half a range":    {"Mon- 08:00-18:00", "no day of the week"},
		"range of three":  {"Mon-Tue-Wed 08:00-18:00", "no day of the week"},
		"range to daily":  {"Mon-daily 08:00-18:00", "no day of the week"},
		"one time":        {"Mon 08:00", "not two times"},
		"no zero":         {"Mon 8:00-18:00", "not two times"},
		"seconds":         {"Mon 08:00:00-18:00:00", "not two times"},
		"no such hour":    {"Mon 08:00-25:00", "not two times"},
		"no such minute":  {"Mon 08:60-09:00", "not two times"},
		"after midnight":  {"Mon 08:00-24:01", "not two times"},
		"begin at 24:00":  {"Mon 24:00-02:00", "begins at 00:00"},
		"negative":        {"Mon -8:00-09:00", "not two times"},
		"too long a text": {strings.Repeat("daily 08:00-09:00, ", 1000), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			if w, err := Parse(tt.text); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q, %v, want an error that says %q", w, err, tt.says)
			}
		})
	}
}

// FuzzWindows checks what At says against a clock that is looked at minute by minute.
func FuzzWindows(f *testing.F) {
	f.Add("Mon-Fri 08:00-18:00, Sat 22:00-06:00, daily 12:00-13:00", int64(1795000000), "Europe/Berlin")
	f.Add("Sun 02:15-02:45", int64(1774747000), "Europe/Berlin")
	f.Add("Sun 02:15-02:45, Sun 01:45-02:00", int64(1792886000), "Australia/Lord_Howe")
	f.Add("daily 00:00-24:00", int64(0), "Africa/Monrovia")
	f.Add("Fri-Mon 23:59-00:00", int64(-5000000000), "Pacific/Apia")
	f.Fuzz(func(t *testing.T, text string, unix int64, zone string) {
		w, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(w.String()); err != nil || again.String() != w.String() {
			t.Fatalf("%q reads back as %q, %v", w, again, err)
		}
		loc, err := time.LoadLocation(zone)
		if err != nil || unix < -1<<33 || unix > 1<<33 {
			return
		}
		at := time.Unix(unix, 0).In(loc)
		in, until := w.At(at)
		if until.IsZero() {
			if len(w.spans) > 0 && w.spans[0] != (span{0, week}) {
				t.Fatalf("%q never changes", w)
			}
			return
		}
		if !until.After(at) {
			t.Fatalf("%q at %v changes before, at %v", w, at, until)
		}
		if then, _ := w.at(until); then == in {
			t.Fatalf("%q at %v does not change at %v", w, at, until)
		}
		// No span is shorter than a minute, and the clock is changed at full ones by
		// now: what was missed shows at one of them.
		for m := at; m.Before(until) && m.Before(at.Add(2*week)); m = m.Add(time.Minute) {
			if then, _ := w.at(m); then != in {
				t.Fatalf("%q at %v changes at %v, and not at %v", w, at, m, until)
			}
		}
	})
}
