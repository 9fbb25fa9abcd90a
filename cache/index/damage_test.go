package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/cache/index"
)

// populated returns the directories of an index with entries, each as another end of
// its process leaves it.
func populated(t *testing.T) (states map[string]string, entries int) {
	t.Helper()
	closed, killed := t.TempDir(), t.TempDir()
	x := open(t, closed)
	for round := range 3 { // several tables, and a log
		for i := range 500 {
			put(t, x, fmt.Sprintf("key %d %d", round, i), strings.Repeat("v", 200))
			entries++
		}
		if round == 1 {
			must(t, x.Close())
			x = open(t, closed)
		}
	}
	copyDir(t, killed, closed)
	must(t, x.Close())
	return map[string]string{"closed": closed, "killed": killed}, entries
}

// count returns how many entries are in x.
func count(t *testing.T, x *index.Index) (n int) {
	t.Helper()
	for _, err := range x.Scan(t.Context(), []byte("key"), nil) {
		must(t, err)
		n++
	}
	return n
}

func TestSound(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	if x.Sound() {
		t.Error("a new index is sound")
	}
	must(t, x.Close())
	states, entries := populated(t)
	for state, dir := range states {
		x := open(t, dir)
		if n := count(t, x); n != entries || !x.Sound() {
			t.Errorf("%s: %d entries of %d, sound: %v", state, n, entries, x.Sound())
		}
		must(t, x.Close())
		if x = open(t, dir); !x.Sound() {
			t.Errorf("%s, and closed: not sound", state)
		}
		must(t, x.Close())
	}
	m, err := index.OpenInMemory(nil)
	must(t, err)
	if m.Sound() {
		t.Error("a new index in memory is sound")
	}
	must(t, m.Close())
}

// A kill may come between making a table and listing it, or between replacing one and
// removing it: nothing is missing then.
func TestSoundAfterKillWhileMerging(t *testing.T) {
	states, entries := populated(t)
	for state, want := range map[string]bool{"closed": false, "killed": true} {
		dir := states[state]
		tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "000099.sst"), read(t, tables[0]), 0o644))
		x := open(t, dir)
		if n := count(t, x); n != entries || x.Sound() != want {
			t.Errorf("%s: %d entries of %d, sound: %v, want %v", state, n, entries, x.Sound(), want)
		}
	}
}

// What the kernel had not written yet is gone with it.
func TestSoundAfterPowerLoss(t *testing.T) {
	states, _ := populated(t)
	for state, want := range map[string]bool{"closed": true, "killed": false} {
		name := filepath.Join(states[state], "STATE")
		text := read(t, name)
		at := bytes.Index(text, []byte(`"boot":"`))
		if at < 0 {
			t.Fatalf("%s: %s", name, text)
		}
		text[at+len(`"boot":"`)] ^= 1
		must(t, os.WriteFile(name, text, 0o644))
		if x := open(t, states[state]); x.Sound() != want {
			t.Errorf("%s: sound: %v, want %v", state, x.Sound(), want)
		}
	}
}

// Any file may be missing, cut, overwritten, or of another kind: the index opens all
// the same, with what is left or empty, says if something is missing, and works.
func TestDamagedFiles(t *testing.T) {
	states, entries := populated(t)
	for state, from := range states {
		files, err := os.ReadDir(from)
		must(t, err)
		kinds := make(map[string]bool)
		for _, e := range files {
			kinds[filepath.Ext(e.Name())] = true
			for how, damage := range damages {
				t.Run(state+"/"+e.Name()+"/"+how, func(t *testing.T) {
					t.Parallel() // most of it is waiting for the disk
					dir := t.TempDir()
					copyDir(t, dir, from)
					damage(t, filepath.Join(dir, e.Name()))
					wantWorking(t, dir, entries)
				})
			}
		}
		if !kinds[".sst"] || state == "killed" && !kinds[".mem"] {
			t.Errorf("%s: the directory has only files of the kinds %v", state, kinds)
		}
		for _, name := range []string{"x", "x.sst", "x.mem", "x.vlog", "000099.sst", "00099.mem", "000099.vlog", "MANIFEST-REWRITE", "LOCK", "STATE.tmp"} {
			for how, make := range map[string]func(t *testing.T, name string){
				"garbage": func(t *testing.T, name string) {
					must(t, os.WriteFile(name, []byte("garbage of somebody else"), 0o644))
				},
				"directory": func(t *testing.T, name string) { must(t, os.MkdirAll(filepath.Join(name, "x"), 0o755)) },
			} {
				t.Run(state+"/more/"+name+"/"+how, func(t *testing.T) {
					t.Parallel() // most of it is waiting for the disk
					dir := t.TempDir()
					copyDir(t, dir, from)
					_ = os.Remove(filepath.Join(dir, name))
					make(t, filepath.Join(dir, name))
					wantWorking(t, dir, entries)
				})
			}
		}
	}
}

// wantWorking checks that the index in dir, which has had so many entries, can be
// used, and does not take itself for sound when it has fewer.
func wantWorking(t *testing.T, dir string, entries int) {
	t.Helper()
	log, hook := test.NewNullLogger()
	x, err := index.Open(dir, log)
	must(t, err)
	n := count(t, x)
	if n != entries && x.Sound() {
		t.Errorf("sound, with %d entries of %d", n, entries)
	}
	if !x.Sound() && !warned(hook.AllEntries()) {
		t.Error("not sound, and nothing is logged")
	}
	for i := range 5 { // becomes a table, and so a reason to merge those that are there
		changes := []cache.Change{{Key: []byte("new"), Value: []byte("v")}}
		for j := range 20 {
			changes = append(changes, cache.Change{Key: fmt.Appendf(nil, "new %d %d", i, j), Value: make([]byte, 4<<10)})
		}
		must(t, x.Apply(t.Context(), changes...))
	}
	if got, err := x.Get(t.Context(), []byte("new")); err != nil || string(got) != "v" {
		t.Errorf("new: %q, %v", got, err)
	}
	must(t, x.Close())
	x = open(t, dir)
	if again := count(t, x); again != n || !x.Sound() {
		t.Errorf("opened again: %d entries, before: %d; sound: %v", again, n, x.Sound())
	}
	must(t, x.Close())
}

func warned(entries []*logrus.Entry) bool {
	for _, e := range entries {
		if e.Level <= logrus.WarnLevel {
			return true
		}
	}
	return false
}

var damages = map[string]func(t *testing.T, name string){
	"deleted": func(t *testing.T, name string) { must(t, os.Remove(name)) },
	"empty":   func(t *testing.T, name string) { must(t, os.Truncate(name, 0)) },
	"10 bytes": func(t *testing.T, name string) {
		must(t, os.Truncate(name, min(10, int64(len(read(t, name))))))
	},
	"half": func(t *testing.T, name string) {
		must(t, os.Truncate(name, int64(len(read(t, name))/2)))
	},
	"half of the content": func(t *testing.T, name string) {
		must(t, os.Truncate(name, int64(len(bytes.TrimRight(read(t, name), "\x00"))/2)))
	},
	"one byte less": func(t *testing.T, name string) {
		must(t, os.Truncate(name, int64(max(len(bytes.TrimRight(read(t, name), "\x00"))-1, 0))))
	},
	"zeros": func(t *testing.T, name string) {
		must(t, os.WriteFile(name, make([]byte, len(read(t, name))), 0o644))
	},
	"zeros in the middle": func(t *testing.T, name string) {
		p := read(t, name)
		n := len(bytes.TrimRight(p, "\x00"))
		clear(p[n/3 : n/2])
		must(t, os.WriteFile(name, p, 0o644))
	},
	"zeros at the end": func(t *testing.T, name string) {
		p := read(t, name)
		n := len(bytes.TrimRight(p, "\x00"))
		clear(p[n/2:])
		must(t, os.WriteFile(name, p, 0o644))
	},
	"other bytes": func(t *testing.T, name string) {
		p := read(t, name)
		for i := range p {
			p[i] ^= 0x55
		}
		must(t, os.WriteFile(name, p, 0o644))
	},
	"longer": func(t *testing.T, name string) {
		must(t, os.WriteFile(name, append(read(t, name), "garbage"...), 0o644))
	},
	"a directory": func(t *testing.T, name string) {
		must(t, os.Remove(name))
		must(t, os.MkdirAll(filepath.Join(name, "x"), 0o755))
	},
	"unreadable": func(t *testing.T, name string) { must(t, os.Chmod(name, 0)) },
	"link":       func(t *testing.T, name string) { must(t, os.Remove(name)); must(t, os.Symlink("nowhere", name)) },
	"bit 1":      flip(1), "bit 2": flip(2), "bit 3": flip(3), "bit 4": flip(4), "bit 5": flip(5),
	"bit in the header": func(t *testing.T, name string) {
		p := read(t, name)
		if len(p) > 22 {
			p[22] ^= 0x80 // of a log: the length of the first key, or of its value
		}
		must(t, os.WriteFile(name, p, 0o644))
	},
}

// flip flips a bit of what is not zero at the end.
func flip(seed uint64) func(t *testing.T, name string) {
	return func(t *testing.T, name string) {
		p := read(t, name)
		if n := len(bytes.TrimRight(p, "\x00")); n > 0 {
			rnd := rand.New(rand.NewPCG(seed, 0))
			p[rnd.IntN(n)] ^= 1 << rnd.IntN(8)
		}
		must(t, os.WriteFile(name, p, 0o644))
	}
}

// Badger ends the process where it cannot write to the pages of its files.
func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	put(t, x, "k", "v")
	free := int64(10 << 20)
	index.SetFree(x, func(string) (int64, error) { return free, nil })
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("l")}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("with 10 MiB: error %v, want ENOSPC", err)
	}
	must(t, x.Apply(t.Context(), cache.Change{Key: []byte("k"), Delete: true}))
	free = 1 << 20
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k"), Delete: true}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("with 1 MiB: error %v, want ENOSPC", err)
	}
	if err := x.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("closing: error %v, want ENOSPC", err)
	}
	x = open(t, dir)
	if _, err := x.Get(t.Context(), []byte("k")); err == nil || !x.Sound() {
		t.Errorf("afterwards: error %v, sound: %v", err, x.Sound())
	}
}

// Values that Badger would put somewhere else are refused.
func TestLongValue(t *testing.T) {
	x := open(t, t.TempDir())
	put(t, x, "k", strings.Repeat("v", 64<<10-1))
	if err := x.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: make([]byte, 64<<10)}); err == nil {
		t.Error("a value of 64 KiB is accepted")
	}
}

func TestInMemory(t *testing.T) {
	x, err := index.OpenInMemory(nil)
	must(t, err)
	for i := range 1000 {
		put(t, x, fmt.Sprintf("key %d", i), "v")
	}
	if n := count(t, x); n != 1000 {
		t.Errorf("%d entries, want 1000", n)
	}
	must(t, x.Close())
	wantClosed(t, x)
}
