package reloaded_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/internal/reloaded"
)

// clock is a clock that a test sets.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// pass lets the next Get look at the files.
func (c *clock) pass() { c.offset.Add(int64(reloaded.DefaultEvery)) }

// settle lets files be so old that they are not read without need.
func (c *clock) settle() { c.offset.Add(int64(time.Minute)) }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace is how programs renew files: by one that takes the place of another.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// pair joins two files that belong together: "1" and "1".
func pair(contents [][]byte) (string, error) {
	if !bytes.Equal(contents[0], contents[1]) {
		return "", fmt.Errorf("%q does not go with %q", contents[0], contents[1])
	}
	return string(contents[0]), nil
}

func TestGet(t *testing.T) {
	type step struct {
		does func(t *testing.T, a, b string)
		want string
		logs string // what is in the log after it; empty for nothing new
	}
	nothing := func(*testing.T, string, string) {}
	both := func(content string) func(*testing.T, string, string) {
		return func(t *testing.T, a, b string) {
			replace(t, a, content)
			replace(t, b, content)
		}
	}
	for name, steps := range map[string][]step{
		"nothing happens": {{nothing, "1", ""}},
		"replaced":        {{both("2"), "2", "read again"}, {nothing, "2", ""}},
		"written in place, of the same length": {{func(t *testing.T, a, b string) {
			write(t, a, "2")
			write(t, b, "2")
		}, "2", "read again"}},
		"touched": {{both("1"), "1", ""}},
		"one before the other": {
			{func(t *testing.T, a, _ string) { replace(t, a, "2") }, "1", "does not go with"},
			{nothing, "1", ""},
			{func(t *testing.T, _, b string) { replace(t, b, "2") }, "2", "read again"},
		},
		"bad, and worse, and the old one": {
			{func(t *testing.T, a, _ string) { replace(t, a, "bad") }, "1", `\"bad\" does not go`},
			{func(t *testing.T, a, _ string) { replace(t, a, "worse") }, "1", `\"worse\" does not go`},
			{both("1"), "1", "read again"},
			{both("3"), "3", "read again"},
		},
		"gone for a while": {
			{func(t *testing.T, a, _ string) { remove(t, a) }, "1", "no such file"},
			{nothing, "1", ""},
			{func(t *testing.T, a, _ string) { replace(t, a, "1") }, "1", "read again"},
		},
		"a directory": {{func(t *testing.T, a, _ string) {
			remove(t, a)
			if err := os.Mkdir(a, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "1", "no regular file"}},
		"too large": {{func(t *testing.T, a, _ string) {
			if err := os.Truncate(a, reloaded.MaxSize+1); err != nil {
				t.Fatal(err)
			}
		}, "1", "larger than 64 MiB"}},
	} {
		for _, settled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, settled %v", name, settled), func(t *testing.T) {
				a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
				write(t, a, "1")
				write(t, b, "1")
				var lines bytes.Buffer
				log := logrus.New()
				log.SetOutput(&lines)
				var c clock
				v, err := reloaded.New([]string{a, b}, pair, reloaded.Options{Log: log, Now: c.now})
				if err != nil {
					t.Fatal(err)
				}
				if settled {
					c.settle()
					v.Get()
				}
				for i, s := range steps {
					before := v.Get()
					s.does(t, a, b)
					if !settled && v.Get() != before {
						t.Errorf("step %d: the files are looked at before it is time", i)
					}
					for range 3 { // the second time there is nothing to tell
						c.pass()
						if got := v.Get(); got != s.want {
							t.Errorf("step %d: got %q, want %q", i, got, s.want)
						}
					}
					logged := lines.String()
					lines.Reset()
					if n := strings.Count(logged, "\n"); s.logs == "" && n != 0 || s.logs != "" && n != 1 || !strings.Contains(logged, s.logs) {
						t.Errorf("step %d: %d lines: %s", i, n, logged)
					}
				}
			})
		}
	}
}

// A version that is there from the start is needed.
func TestNew(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	write(t, good, "1")
	write(t, bad, "2")
	for name, paths := range map[string][]string{
		"missing":  {good, filepath.Join(dir, "none")},
		"no match": {good, bad},
		"no file":  {good, dir},
	} {
		if _, err := reloaded.New(paths, pair, reloaded.Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	none := func([][]byte) (int, error) { return 7, nil }
	if v, err := reloaded.New(nil, none, reloaded.Options{Every: 1}); err != nil || v.Get() != 7 {
		t.Errorf("of no files: %v", err)
	}
}

// What has not changed is not read.
func TestReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "1")
	var c clock
	parsed := 0
	v, err := reloaded.New([]string{path}, func([][]byte) (int, error) {
		parsed++
		return parsed, nil
	}, reloaded.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	c.settle()
	v.Get()
	for range 10 {
		c.pass()
		v.Get()
	}
	if parsed != 1 {
		t.Errorf("parsed %d times", parsed)
	}
}

// Kubernetes replaces all files of a secret at once, by a link to a directory.
func TestLinkedDirectory(t *testing.T) {
	dir := t.TempDir()
	link := func(version string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			write(t, filepath.Join(dir, version, name), version)
		}
		if err := os.Symlink(version, filepath.Join(dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("1")
	var paths []string
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(dir, name)
		if err := os.Symlink(filepath.Join("..data", name), path); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	var c clock
	v, err := reloaded.New(paths, pair, reloaded.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	c.settle()
	v.Get()
	link("2")
	c.pass()
	if got := v.Get(); got != "2" {
		t.Errorf("got %q", got)
	}
}

// Who asks while another one reads gets what there is.
func TestSlowRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "1")
	var c clock
	var reading atomic.Bool
	began, proceed := make(chan struct{}), make(chan struct{})
	v, err := reloaded.New([]string{path}, func(contents [][]byte) (string, error) {
		if string(contents[0]) == "2" {
			if reading.Swap(true) {
				return "", errors.New("two read at a time")
			}
			close(began)
			<-proceed
		}
		return string(contents[0]), nil
	}, reloaded.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	replace(t, path, "2")
	c.pass()
	var slow sync.WaitGroup
	slow.Go(func() {
		if got := v.Get(); got != "2" {
			t.Errorf("who has read gets %q", got)
		}
	})
	<-began
	var others sync.WaitGroup
	for range 10 {
		others.Go(func() {
			if got := v.Get(); got != "1" {
				t.Errorf("got %q while it is read", got)
			}
		})
	}
	others.Wait()
	close(proceed)
	slow.Wait()
	if got := v.Get(); got != "2" {
		t.Errorf("got %q", got)
	}
}

// Files are looked at also where the clock was set back by years, as it is on devices that
// have no battery.
func TestClockSetBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	write(t, path, "1")
	var c clock
	v, err := reloaded.New([]string{path}, func(contents [][]byte) (string, error) { return string(contents[0]), nil },
		reloaded.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	for i, back := range []time.Duration{0, 20 * 365 * 24 * time.Hour, time.Hour, reloaded.DefaultEvery} {
		c.offset.Add(-int64(back))
		want := fmt.Sprint(i + 2)
		replace(t, path, want)
		for range 2 { // it is looked at once for each period
			c.pass()
			v.Get()
		}
		if got := v.Get(); got != want {
			t.Errorf("after the clock was set back by %v: %s, want %s", back, got, want)
		}
	}
}
