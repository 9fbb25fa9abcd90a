package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/schedule"
	"registry-module/upstream"
	"registry-module/upstream/upstreamtest"
)

func windows(t *testing.T, text string) schedule.Windows {
	t.Helper()
	w, err := schedule.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestOfflineStatus(t *testing.T) {
	monday := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(hour int) time.Time { return monday.Add(time.Duration(hour-12) * time.Hour) }
	on, off := override{Mode: modeOn, Since: at(1)}, override{Mode: modeOff, Since: at(1)}
	damaged := override{Mode: modeOn, unread: "/data/file"}
	daytime := windows(t, "Mon 08:00-18:00")
	for name, tt := range map[string]struct {
		rules   offlineRules
		by      override
		hour    int
		offline bool
		mode    string
		says    string
		until   time.Time
	}{
		"by default":                {offlineRules{remotes: true}, override{}, 12, false, modeAuto, "neither", time.Time{}},
		"configured":                {offlineRules{remotes: true, always: true}, override{}, 12, true, modeAuto, "REGISTRY_PROXY_OFFLINE is true", time.Time{}},
		"configured, twice":         {offlineRules{remotes: true, always: true, windows: daytime}, override{}, 7, true, modeAuto, "REGISTRY_PROXY_OFFLINE is true", time.Time{}},
		"before its time":           {offlineRules{remotes: true, windows: daytime}, override{}, 7, false, modeAuto, "none of the times of REGISTRY_PROXY_OFFLINESCHEDULE", at(8)},
		"at its time":               {offlineRules{remotes: true, windows: daytime}, override{}, 8, true, modeAuto, "one of the times of REGISTRY_PROXY_OFFLINESCHEDULE", at(18)},
		"switched on":               {offlineRules{remotes: true}, on, 12, true, modeOn, "switched on", time.Time{}},
		"switched on, before":       {offlineRules{remotes: true, windows: daytime}, on, 7, true, modeOn, "switched on", time.Time{}},
		"switched off":              {offlineRules{remotes: true, always: true}, off, 12, false, modeOff, "switched off", time.Time{}},
		"switched off, at its time": {offlineRules{remotes: true, windows: daytime}, off, 12, false, modeOff, "offline auto", time.Time{}},
		"unreadable":                {offlineRules{remotes: true}, damaged, 12, true, modeOn, "cannot be read from /data/file", time.Time{}},
		"unreadable, in between":    {offlineRules{remotes: true, windows: daytime}, damaged, 7, true, modeOn, "`registry-module offline auto`", time.Time{}},
		"mirror, unreadable":        {offlineRules{}, damaged, 12, true, modeOn, "REGISTRY_PROXY_REMOTEURL", time.Time{}},
		"mirror":                    {offlineRules{}, override{}, 12, true, modeAuto, "REGISTRY_PROXY_REMOTEURL", time.Time{}},
		"mirror, switched off":      {offlineRules{}, off, 12, true, modeOff, "REGISTRY_PROXY_REMOTEURL", time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := tt.rules.status(tt.by, at(tt.hour))
			if s.Offline != tt.offline || s.Mode != tt.mode || !strings.Contains(s.Reason, tt.says) || !s.Until.Equal(tt.until) {
				t.Errorf("%+v, want offline %v, mode %s, a reason that says %q, until %v", s, tt.offline, tt.mode, tt.says, tt.until)
			}
		})
	}
}

// controlled starts an offlineControl that ends with the test. Its clock, in UTC, can be
// set by what jump returns.
func controlled(t *testing.T, dir string, rules offlineRules, log logrus.FieldLogger, jump func() time.Duration) *offlineControl {
	t.Helper()
	rules.remotes = true
	c := &offlineControl{
		rules: rules, path: overridePath(dir), contact: new(upstream.Switch), log: log,
		now: func() time.Time { return time.Now().Add(jump()).UTC() },
	}
	c.start()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func noJump() time.Duration { return 0 }

func wantContact(t *testing.T, c *offlineControl, when string, offline bool) {
	t.Helper()
	if err := c.contact.Offline(); (err != nil) != offline || err != nil && !errors.Is(err, cache.ErrOffline) {
		t.Errorf("%s: %v, want offline mode %v", when, err, offline)
	}
}

// wantLog checks which lines were written, each with the text that is wanted in it.
func wantLog(t *testing.T, hook *test.Hook, want ...string) {
	t.Helper()
	var got []string
	for _, e := range hook.AllEntries() {
		got = append(got, e.Message)
	}
	if len(got) != len(want) {
		t.Fatalf("the log is %q, want %d lines", got, len(want))
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("line %d of the log is %q, want %q in it", i, got[i], want[i])
		}
	}
}

// Remotes are left alone at the times of the schedule, and each change is in the log
// once. In a bubble the clock begins at midnight, on a Saturday.
func TestOfflineSchedule(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, hook := test.NewNullLogger()
		c := controlled(t, dir, offlineRules{windows: windows(t, "Sat 00:10-02:00, Sun 00:00-01:00")}, log, noJump)
		wantContact(t, c, "before", false)
		time.Sleep(10*time.Minute - time.Nanosecond)
		synctest.Wait()
		wantContact(t, c, "just before", false)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantContact(t, c, "at the time", true)
		if err := c.contact.Offline(); !strings.Contains(err.Error(), "REGISTRY_PROXY_OFFLINESCHEDULE") || !strings.Contains(err.Error(), "until Sat 2000-01-01 02:00 UTC") ||
			!strings.Contains(err.Error(), "offline off") {
			t.Errorf("the error %q does not say why, until when, and what to do", err)
		}
		time.Sleep(110 * time.Minute)
		synctest.Wait()
		wantContact(t, c, "afterwards", false)
		wantLog(t, hook, "off until Sat 2000-01-01 00:10 UTC", "on until Sat 2000-01-01 02:00 UTC", "off until Sun 2000-01-02 00:00 UTC")

		if _, err := c.SetOffline(t.Context(), modeOn); err != nil {
			t.Fatal(err)
		}
		wantContact(t, c, "switched on", true)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		wantContact(t, c, "a day later", true)
		if _, err := c.SetOffline(t.Context(), modeOff); err != nil {
			t.Fatal(err)
		}
		wantContact(t, c, "switched off", false)
		time.Sleep(24 * time.Hour)
		if s, err := c.SetOffline(t.Context(), modeAuto); err != nil || s.Until.IsZero() {
			t.Errorf("%v, %v", s, err)
		}
		hook.Reset()
		time.Sleep(5 * 24 * time.Hour)
		synctest.Wait()
		wantContact(t, c, "the next week", false)
		wantLog(t, hook, "on until", "off until")
	})
}

// What is configured counts in time, too, when it counts again.
func TestOfflineAutoInTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, _ := test.NewNullLogger()
		c := controlled(t, dir, offlineRules{windows: windows(t, "Sat 00:10-02:00")}, log, func() time.Duration { return 30 * time.Second })
		if _, err := c.SetOffline(t.Context(), modeOff); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9*time.Minute + 20*time.Second)
		if _, err := c.SetOffline(t.Context(), modeAuto); err != nil {
			t.Fatal(err)
		}
		wantContact(t, c, "before", false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantContact(t, c, "at the time", true)
	})
}

// A clock that is set is noticed within a minute.
func TestOfflineClockJumps(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var jumped time.Duration
		log, _ := test.NewNullLogger()
		c := controlled(t, dir, offlineRules{windows: windows(t, "Sat 12:00-13:00")}, log, func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return jumped
		})
		for _, tt := range []struct {
			jump    time.Duration
			offline bool
		}{{12 * time.Hour, true}, {20 * time.Hour, false}, {12*time.Hour + 10*time.Minute, true}, {0, false}} {
			mu.Lock()
			jumped = tt.jump
			mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
			wantContact(t, c, tt.jump.String(), tt.offline)
		}
	})
}

// What the operator has said survives restarts, and what is damaged is in the log.
func TestOverrideIsKept(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		set    string // empty: not
		always bool   // the next time
		want   bool
	}{
		{"", false, false}, {modeOn, false, true}, {"", false, true}, {modeOff, true, false}, {"", true, false},
		{modeAuto, true, true}, {"", false, false},
	} {
		log, hook := test.NewNullLogger()
		if tt.set != "" {
			c := controlled(t, dir, offlineRules{}, log, noJump)
			if s, err := c.SetOffline(t.Context(), tt.set); err != nil || s.Mode != tt.set {
				t.Errorf("%+v, %v", s, err)
			}
		}
		wantContact(t, controlled(t, dir, offlineRules{always: tt.always}, log, noJump), tt.set, tt.want)
		for _, e := range hook.AllEntries() {
			if e.Level < logrus.InfoLevel {
				t.Errorf("the log has %q", e.Message)
			}
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v is left, %v", entries, err)
	}
}

// What the operator had said and cannot be read counts as that offline mode is on, until
// something else is said.
func TestDamagedOverride(t *testing.T) {
	damaged := map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a loop":      func(path string) error { return os.Symlink(path, path) },
	}
	for name, content := range map[string]string{
		"empty": "", "zeros": "\x00\x00", "other JSON": "[]", "no mode": "{}", "auto": `{"mode":"auto"}`,
		"torn": `{"mode":"on"`, "torn off": `{"mode":"off"`, "two": `{"mode":"on"} {}`, "long": `{"mode":"off"}` + strings.Repeat(" ", maxOverride),
	} {
		damaged[name] = func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	for name, damage := range damaged {
		for mode, offline := range map[string]bool{modeAuto: false, modeOff: false, modeOn: true} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				dir := t.TempDir()
				path := overridePath(dir)
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
				log, hook := test.NewNullLogger()
				c := controlled(t, dir, offlineRules{}, log, noJump)
				wantContact(t, c, name, true)
				if s, err := c.Offline(t.Context()); err != nil || s.Mode != modeOn || !strings.Contains(s.Reason, path) || !strings.Contains(s.Reason, "`registry-module offline auto`") {
					t.Errorf("%+v, %v", s, err)
				}
				warned := slices.ContainsFunc(hook.AllEntries(), func(e *logrus.Entry) bool {
					return e.Level == logrus.WarnLevel && strings.Contains(e.Message, path)
				})
				if !warned {
					t.Error("the log has no warning")
				}
				if name == "a directory" && mode != modeAuto {
					return // a file cannot take its place
				}
				if s, err := c.SetOffline(t.Context(), mode); err != nil || s.Mode != mode {
					t.Errorf("%+v, %v", s, err)
				}
				wantContact(t, c, mode, offline)
				want := mode
				if mode == modeAuto {
					want = ""
				}
				if o, err := readOverride(path); err != nil || o.Mode != want || o.unread != "" {
					t.Errorf("%+v, %v", o, err)
				}
			})
		}
	}
}

// What cannot be kept is an error, and done where it leaves remotes alone.
func TestOverrideCannotBeKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	log, _ := test.NewNullLogger()
	c := controlled(t, dir, offlineRules{}, log, noJump)
	if _, err := c.SetOffline(t.Context(), modeOn); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "until the program ends") {
		t.Errorf("%v", err)
	}
	wantContact(t, c, "on", true)
	if _, err := c.SetOffline(t.Context(), modeOff); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	wantContact(t, c, "off, which could not be kept", true)
	if _, err := c.SetOffline(t.Context(), "maybe"); err == nil || !strings.Contains(err.Error(), `"maybe"`) {
		t.Errorf("%v", err)
	}
}

// offline runs the command and reads what it prints.
func offline(t *testing.T, args ...string) offlineStatus {
	t.Helper()
	out, _, err := command(t, append([]string{"offline", "-o", "json"}, args...)...)
	var s offlineStatus
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// Offline mode can be switched while the server runs, and while it does not. A pull that
// is under way ends, and goes on when it is off.
func TestOfflineCommand(t *testing.T) {
	quiet(t)
	dir, err := os.MkdirTemp("", "offline") // short enough for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	up := upstreamtest.New(t)
	content, err := io.ReadAll(upstreamtest.Generated(4<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	dgst := up.AddBlob("team/app", content)
	up.AddRandomImage("team/app", "v1", 1, 100)
	up.AddRandomImage("team/app", "v2", 1, 100)
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
	t.Setenv("REGISTRY_PROXY_REMOTEURL", up.URL())
	cfg := testConfig(t, dir, up.Host())
	cfg.PartialTTL = time.Hour
	stop := serving(t, cfg)
	manifest := func(tag string) (status int, body string) {
		t.Helper()
		resp := get(t, cfg.Addr, "/v2/team/app/manifests/"+tag)
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp.StatusCode, string(text)
	}
	if status, _ := manifest("v1"); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if s := offline(t); s.Offline || s.Mode != modeAuto || s.Reason == "" {
		t.Errorf("%+v", s)
	}

	gate := upstreamtest.NewGate()
	end := up.Script(upstreamtest.Fault{Kinds: []upstreamtest.Kind{upstreamtest.BlobGet}, Gate: gate, GateAt: 3 << 20})
	pull := get(t, cfg.Addr, "/v2/team/app/blobs/"+dgst.String()).Body
	if _, err := io.CopyN(io.Discard, pull, 2<<20); err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	if s := offline(t, "on"); !s.Offline || s.Mode != modeOn {
		t.Errorf("%+v", s)
	}
	if _, err := io.Copy(io.Discard, pull); err == nil {
		t.Error("the pull has ended well")
	}
	gate.Open()
	end()
	asked := up.Requests()
	if status, _ := manifest("v1"); status != http.StatusOK {
		t.Errorf("what is stored: status %d", status)
	}
	if status, body := manifest("v2"); status != http.StatusServiceUnavailable || !strings.Contains(body, "offline mode is on") || !strings.Contains(body, "offline auto") {
		t.Errorf("what is not stored: status %d\n%s", status, body)
	}
	stop()

	if s := offline(t); !s.Offline || s.Mode != modeOn {
		t.Errorf("stopped: %+v", s)
	}
	stop = serving(t, cfg)
	if status, _ := manifest("v2"); status != http.StatusServiceUnavailable {
		t.Errorf("after the restart: status %d", status)
	}
	if n := up.Requests(); n != asked {
		t.Errorf("%d requests while offline mode was on", n-asked)
	}
	out, _, err := command(t, "offline", "auto")
	if err != nil || !strings.Contains(out, "OFFLINE") || !strings.Contains(out, "auto") {
		t.Errorf("%v\n%s", err, out)
	}
	if status, _ := manifest("v2"); status != http.StatusOK {
		t.Errorf("when it is off again: status %d", status)
	}
	up.ResetCounts()
	if got, err := io.ReadAll(get(t, cfg.Addr, "/v2/team/app/blobs/"+dgst.String()).Body); err != nil || len(got) != len(content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if sent := up.BlobBytes(dgst); sent > 2<<20+cache.PartSize {
		t.Errorf("%d bytes were fetched again", sent)
	}
	stop()

	offline(t, "on")
	t.Setenv("REGISTRY_PROXY_REMOTEURL", "")
	if s := offline(t); !s.Offline || !strings.Contains(s.Reason, "no remote registry is configured") {
		t.Errorf("without a remote: %+v", s)
	}
	if s := offline(t, "auto"); s.Mode != modeAuto {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(overridePath(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

// Without a server, the command works on a directory that is there, and that no server
// without a socket has.
func TestOfflineWithoutServer(t *testing.T) {
	quiet(t)
	missing := t.TempDir() + "/missing"
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", missing)
	for _, args := range [][]string{{"offline"}, {"offline", "on"}} {
		if _, _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%v of a directory that is not there: %v", args, err)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was made")
	}
	long := t.TempDir() + strings.Repeat("/too-long", 15)
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", long)
	t.Setenv("REGISTRY_PROXY_REMOTEURL", "registry.test")
	t.Setenv("REGISTRY_PROXY_OFFLINESCHEDULE", "daily 00:00-24:00")
	stop := serving(t, testConfig(t, long, ""))
	if _, _, err := command(t, "offline", "off"); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("while a server without a socket runs: %v", err)
	}
	stop()
	out, notes, err := command(t, "offline")
	if err != nil || !strings.Contains(out, "yes") || !strings.Contains(out, "OFFLINESCHEDULE") || !strings.Contains(notes, "no running server") {
		t.Errorf("%v\n%s%s", err, out, notes)
	}
	if s := offline(t, "off"); s.Offline || s.Mode != modeOff {
		t.Errorf("%+v", s)
	}
}

func TestOfflineUsage(t *testing.T) {
	for _, args := range [][]string{{"offline", "-o", "xml"}, {"offline", "maybe"}, {"offline", "on", "off"}} {
		_, _, err := command(t, args...)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%v: %v", args, err)
		}
	}
	if out, _, err := command(t, "offline", "--help"); err != nil || !strings.Contains(out, "Examples:") {
		t.Errorf("%v, printed\n%s", err, out)
	}
}

// The server refuses what the command would not send.
func TestOfflineControlRefuses(t *testing.T) {
	quiet(t)
	dir, err := os.MkdirTemp("", "offline")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	serving(t, testConfigAt(t, testConfig(t, dir, "registry.test"), func(c *config.Config) { c.Offline = true }))
	client := newControlClient(controlPath(dir))
	if _, err := client.SetOffline(context.WithoutCancel(t.Context()), "maybe"); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("%v", err)
	}
	if s, err := client.Offline(t.Context()); err != nil || !s.Offline || s.Mode != modeAuto {
		t.Errorf("%+v, %v", s, err)
	}
}
